"""The convolutional network of the textbooks."""

from __future__ import annotations

import numbacnn as nc


def cnn(
    input_shape: tuple[int, ...] = (28, 28, 1),
    classes: int = 10,
    dropout: float = 0.0,
    features: bool = False,
    seed: int = 0,
    dtype: str = "float32",
) -> nc.Model:
    """Convolution 32 of 3 x 3, pool 2, convolution 64 of 3 x 3, pool 2, dense 64, dense ``classes``, with ReLU between them.

    Takes images ``(height, width, channels)`` from 4 x 4 pixels on, gives logits ``(classes,)``; 220,234 parameters for ``(28, 28, 1)`` and
    10 classes. Convolutions pad to keep the size. ``dropout`` is the share of numbers dropped before each dense layer (Srivastava
    et al., JMLR 15, 2014); 0 leaves dropout out. With ``features`` the outputs are those of the two poolings, ``"stage1"`` and
    ``"stage2"``, in place of logits.

    Raises ShapeError for smaller images.
    """
    x = nc.Input(input_shape)
    h = nc.Conv2D(32, 3, padding="same", activation="relu")(x, name="conv1")
    first = nc.MaxPool2D(2)(h, name="pool1")
    h = nc.Conv2D(64, 3, padding="same", activation="relu")(first, name="conv2")
    second = nc.MaxPool2D(2)(h, name="pool2")
    if features:
        return nc.Model(x, {"stage1": first, "stage2": second}, seed=seed, dtype=dtype, name="cnn")
    h = nc.Flatten()(second, name="flatten")
    h = nc.Dropout(dropout)(h, name="dropout1") if dropout else h
    h = nc.Dense(64, activation="relu")(h, name="dense1")
    h = nc.Dropout(dropout)(h, name="dropout2") if dropout else h
    y = nc.Dense(classes)(h, name="dense2")
    return nc.Model(x, y, seed=seed, dtype=dtype, name="cnn")
