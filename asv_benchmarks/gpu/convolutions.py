"""Convolutions beside cuDNN's, through PyTorch: the three passes of single layers."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

import numbacnn as nc
from numbacnn.kernels.cuda.runtime import Replay
from tests.cuda.copied import Copied

from . import theirs, timing
from .sizes import Layer, Sizes

TIMED = "timed"  # the name of the layer
DRAWN = 99991  # numbers that repeat in an array: a prime, so that no two rows are the same

Item = dict[str, Any]


def items(sizes: Sizes) -> list[Item]:
    return [{"layer": layer.name, "precision": precision} for layer in sizes.layers for precision in sizes.precisions]


def rows(item: Item, sizes: Sizes) -> list[Item]:
    """Milliseconds and TFLOP/s of each pass, and PyTorch's in its faster layout."""
    layer, precision = next(each for each in sizes.layers if each.name == item["layer"]), item["precision"]
    works, others, found = ours(layer, precision), {}, []
    with contextlib.ExitStack() as stack:
        if theirs.there():
            try:
                stack.enter_context(theirs.computing(precision))
                others = theirs.passes(layer, precision)
            except Exception:  # our figures are worth something without
                traceback.print_exc()
        for each, work in works.items():
            timed = {timing.OURS: (work, timing.ours)}
            timed |= {layout: (other, timing.torch) for layout, other in others.get(each, {}).items()}
            row = timing.compared(timing.in_turn(timed, sizes))
            found.append({"pass": each, "TFLOP/s": layer.flops / row["ms"] / 1e9, **row})
    return found


def ours(layer: Layer, precision: str) -> dict[str, Callable[[], Any]]:
    """The three passes, each a graph of its launches. Arrays are stored as those between two layers."""
    x = nc.Input((layer.size, layer.size, layer.channels))
    if layer.depthwise:
        conv: nc.Layer = nc.DepthwiseConv2D(layer.kernel, stride=layer.stride, padding=layer.kernel // 2, bias=False)
    else:
        conv = nc.Conv2D(layer.filters, layer.kernel, stride=layer.stride, padding=layer.kernel // 2, bias=False)
    model = nc.Model(x, Copied()(conv(Copied()(x), name=TIMED))).to("cuda", precision)
    forward, to_weights = _steps(model.training_plan(layer.batch, False, device="cuda"))
    model.freeze()
    _, to_image = _steps(model.training_plan(layer.batch, True, device="cuda"))
    return {"forward": forward, "weight gradient": to_weights, "data gradient": to_image}


def _steps(plan: Any) -> tuple[Replay, Replay]:
    """What a plan launches for the convolution, forward and backward, with numbers in all arrays: what a GPU draws, and so its clock,
    depends on them."""
    numbers = np.random.default_rng(0).standard_normal(DRAWN, np.float32)
    plan.refresh()
    for array in (*plan.inputs, *plan.output_gradients):
        plan.device.upload(np.resize(numbers, array.shape), array)
    plan.forward()
    plan.backward()
    forward, backward = ([step for run, step in steps if run.node.name == TIMED] for steps in plan.steps())
    return Replay(forward), Replay(backward)
