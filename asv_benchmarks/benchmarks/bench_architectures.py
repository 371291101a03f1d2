"""Architectures at full size: creating one, planning it, its first compilation-free prediction, and memory."""

from __future__ import annotations

from .common import need, normal

NETWORKS = ["resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "densenet121", "vgg16"]


class Architecture:
    """Compilation happens in setup."""

    params = [NETWORKS]
    param_names = ["network"]
    timeout = 300

    def setup(self, network):
        (self.create,) = need("create")
        self.model = self.create(network)
        self.image = normal(1, *self.model.graph.inputs[0].shape)
        self.model.predict(self.image)

    def time_create(self, network):
        self.create(network)

    def time_predict(self, network):
        self.model.predict(self.image)

    def time_plan(self, network):
        self.model.memory(1, training=False)

    def peakmem_predict(self, network):
        self.model.predict(self.image)

    def track_parameters(self, network):
        return self.model.summary().parameters

    track_parameters.unit = "parameters"
