"""What the suites share."""

from __future__ import annotations

import numpy as np


def api():
    """The package; skips the benchmark on commits without it."""
    try:
        import numbacnn
    except ImportError:
        raise NotImplementedError from None
    return numbacnn


def need(*names):
    """The named public objects; skips the benchmark on commits that lack one."""
    nc = api()
    try:
        return tuple(getattr(nc, name) for name in names)
    except AttributeError:
        raise NotImplementedError from None


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


class Training:
    """A training plan of a one-layer model, run once so that everything is compiled. Its backward pass computes the gradients of the
    layer's parameters if ``weights``, and of its input if ``inputs``."""

    def __init__(self, layer, shape, batch, weights=True, inputs=True):
        Input, Model = need("Input", "Model")
        x = Input(shape)
        self.model = Model(x, layer(x), seed=0)
        if not weights:
            self.model.freeze("*")
        self.plan = self.model.training_plan(batch, input_gradients=inputs)
        assert self.plan.plan.backward, f"the backward pass of {layer} has nothing to run"
        self.plan.inputs[0][...] = normal(batch, *shape)
        self.plan.output_gradients[0][...] = normal(*self.plan.output_gradients[0].shape)
        self.plan.forward()
        self.plan.backward()
