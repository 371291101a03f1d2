"""Run a layer alone: give it the arrays that its methods ask for, as the planner would."""

from __future__ import annotations

import numpy as np


def shapes(arrays):
    """Shape(s) without the batch axis."""
    return tuple(a.shape[1:] for a in arrays) if isinstance(arrays, tuple) else arrays.shape[1:]


def parameters(layer, shape, dtype, rng):
    """Random parameters of the layer, by name."""
    return {name: rng.standard_normal(p.shape).astype(dtype) for name, p in layer.parameters(shape).items()}


def arrays(layer, shape, batch, dtype, threads, training):
    """Buffers, scratch and prepared arrays, filled with rubbish."""
    wanted = {**layer.scratch(shape, batch, threads, training), **layer.prepared(shape, training)}
    if training:
        wanted |= layer.buffers(shape)
    return {name: np.full(((batch,) if b.per_sample else ()) + b.shape, 77, b.dtype or dtype) for name, b in wanted.items()}


def forward_backward(layer, x, p, dy=None, threads=2):
    """``y, dx, dp`` of a layer in training; ``dy`` defaults to ones."""
    shape = shapes(x)
    batch, dtype = (x[0] if isinstance(x, tuple) else x).shape[0], (x[0] if isinstance(x, tuple) else x).dtype
    b = arrays(layer, shape, batch, dtype, threads, True)
    y = np.full((batch, *layer.output_shape(shape)), np.nan, dtype)
    layer.prepare(shape, p, b, True)
    layer.forward(x, y, p, b, True)
    dy = np.ones_like(y) if dy is None else dy
    dx = tuple(np.full_like(a, np.nan) for a in x) if isinstance(x, tuple) else np.full_like(x, np.nan)
    dp = {name: np.full_like(p[name], np.nan) for name, spec in layer.parameters(shape).items() if spec.trainable}
    reads = layer.backward_reads
    layer.backward(x if "x" in reads else None, y if "y" in reads else None, dy, dx, p, dp, b)
    return y, dx, dp
