"""Whole networks: prediction, a training step, and memory."""

from __future__ import annotations

import numpy as np

from .common import need, normal

SHAPES = {"lenet5": (28, 28, 1), "cnn": (32, 32, 3)}


class Prediction:
    params = [list(SHAPES), [1, 64]]
    param_names = ["network", "batch"]

    def setup(self, network, batch):
        (create,) = need("create")
        self.model = create(network, input_shape=SHAPES[network], classes=10, seed=0)
        self.images = normal(batch, *SHAPES[network])
        self.model.predict(self.images)

    def time_predict(self, network, batch):
        self.model.predict(self.images)


class Training:
    params = [list(SHAPES), [32, 64]]
    param_names = ["network", "batch"]

    def setup(self, network, batch):
        create, Trainer, SGD = need("create", "Trainer", "SGD")
        self.model = create(network, input_shape=SHAPES[network], classes=10, seed=0)
        self.trainer = Trainer(self.model, optimizer=SGD(0.01, momentum=0.9))
        self.images = normal(batch, *SHAPES[network])
        self.labels = np.arange(batch) % 10
        self.trainer.step(self.images, self.labels)

    def time_step(self, network, batch):
        self.trainer.step(self.images, self.labels)

    def track_planned_bytes(self, network, batch):
        return self.model.memory(batch, training=True)

    track_planned_bytes.unit = "bytes"

    def peakmem_step(self, network, batch):
        self.trainer.step(self.images, self.labels)


class Empty:
    """What a process takes that has imported NumPy and nothing else: the reference of the peak-memory figures."""

    def peakmem_reference(self):
        pass
