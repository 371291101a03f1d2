"""Build a small network in code, train it on handwritten digits, and look at what it says."""

import numbacnn as nc

x = nc.Input((8, 8, 1))
h = nc.Conv2D(16, 3, padding="same", activation="relu")(x)
h = nc.Conv2D(32, 3, padding="same", activation="relu")(h)
h = nc.MaxPool2D(2)(h)
h = nc.Dropout(0.3)(nc.Flatten()(h))
model = nc.Model(x, nc.Dense(10)(h), seed=0)
print(model.summary())

trainer = nc.Trainer(model, optimizer=nc.AdamW(0.003))
history = trainer.fit("digits", validation="digits", epochs=12, batch_size=32)
print(trainer.evaluate("digits"))
model.save("digits.safetensors")
