"""All that is checked of a layer."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, ShapeError
from ..layers.base import Layer, Shape
from .comparing import assert_close, assert_finite, assert_same, by_name, named, require, same
from .gradients import check_direct_gradients, check_model_gradients
from .models import model_around, predictions, set_parameters
from .trial import Sampler, Trial, distinct, output_shapes, shapes_of

PRIME_BATCH = 5


@dataclasses.dataclass(frozen=True)
class LayerCase:
    """A layer, the input shape(s) to check it on, and what is particular about it.

    ``sample`` draws the inputs; ``tolerance`` is that of the gradient check, ``precision`` that between float32 and float64,
    relative to the largest value. ``smallest_batch`` is that of a layer which trains on nothing less."""

    layer: Layer
    input_shape: Any
    sample: Sampler = distinct
    batch: int = 2
    tolerance: float = 1e-6
    precision: float = 2e-5
    smallest_batch: int = 1

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return shapes_of(self.input_shape)

    def trial(self, batch: int | None = None, dtype: str = "float64", seed: int = 0, training: bool = True) -> Trial:
        """The layer with arrays for this case."""
        return Trial(self.layer, self.shapes, batch or self.batch, dtype, seed, training, self.sample)

    def __str__(self) -> str:
        return f"{self.layer!r} on {self.input_shape}"


def _check_shapes(case: LayerCase) -> None:
    """Shapes and configuration are plain, and arithmetic on shapes gives the same twice."""
    layer = case.layer
    given = case.shapes[0] if layer.arity == 1 else case.shapes
    for shape in output_shapes(layer, given):
        require(shape and all(isinstance(n, int) and n > 0 for n in shape), f"output_shape gives {shape}")
    require(layer.output_shape(given) == layer.output_shape(given), "output_shape gives two answers")
    flops = layer.flops(given)
    require(flops >= 0 and flops == int(flops), f"flops gives {flops!r}")
    window = layer.window(given)
    require(window is None or len(window) == 3, f"window gives {window!r}; (extent, stride, padding) per axis is needed")
    require(set(layer.backward_reads) <= {"x", "y"}, f"backward_reads is {layer.backward_reads!r}")
    names = [*layer.parameters(given), *layer.buffers(given), *layer.scratch(given, 2, 2, True), *layer.prepared(given, 2, 2, True)]
    require(len(set(names)) == len(names), f"two arrays have one name: {sorted(names)}")


def _check_messages(case: LayerCase) -> None:
    """An input of the wrong shape meets ShapeError (or ConfigError), whatever its number of axes."""
    layer = case.layer
    for shape in [(1,), (3,), (1, 1), (3, 2), (1, 1, 1), (2, 3, 1), (1, 2, 1, 3), (1, 1, 1, 1, 1), (2, 1, 3, 1, 2)]:
        given = shape if layer.arity == 1 else (shape,) * (layer.arity or 2)
        with contextlib.suppress(ShapeError, ConfigError):
            for function in (layer.output_shape, layer.parameters, layer.buffers, layer.flops, layer.window):
                function(given)


def _check_config(case: LayerCase) -> None:
    """The fields make an equal layer, directly and through the text of a saved model."""
    from ..graph.build import Graph
    from ..graph.config import from_config, to_config
    from ..graph.tensor import Input

    layer = case.layer
    require(dataclasses.is_dataclass(layer), "a layer is a frozen dataclass")
    require(type(layer)(**layer.config()) == layer, "its config() does not make an equal layer")
    require(dataclasses.replace(layer) == layer, "dataclasses.replace does not make an equal layer")  # type: ignore[type-var]
    require(type(layer).__name__ in repr(layer), "its repr does not show its class")
    if not _registered(layer):
        return
    inputs = [Input(shape, dtype=layer.input_dtype) for shape in case.shapes]
    outputs = layer(*inputs, name="layer")
    graph = Graph(inputs, outputs if isinstance(outputs, tuple) else (outputs,))
    rebuilt_inputs, rebuilt_outputs = from_config(json.loads(json.dumps(to_config(graph))))
    rebuilt = Graph(rebuilt_inputs, rebuilt_outputs)
    require([node.layer for node in rebuilt.nodes] == [node.layer for node in graph.nodes], "a saved configuration gives another layer")
    require([t.shape for t in rebuilt.outputs] == [t.shape for t in graph.outputs], "a saved configuration gives other shapes")


def _check_overwrites(case: LayerCase) -> None:
    """Every element of outputs and gradients is written, from arrays full of NaN, whatever else is wanted or frozen."""
    for batch in (case.smallest_batch, PRIME_BATCH):
        trial = case.trial(batch)
        y = trial.forward()
        assert_finite({"y": y[0]} if len(y) == 1 else {f"y[{k}]": array for k, array in enumerate(y)}, "forward")
        full = by_name(*trial.backward())
        assert_finite(full, "backward")
        inputs = len(trial.x)
        asked: list[dict[str, Any]] = [{"wanted": [k == only for k in range(inputs)]} for only in range(inputs)] if inputs > 1 else []
        if trial.specs:
            asked += [{"wanted": [False] * inputs}, {"frozen": list(trial.specs)}]
            asked += [{"frozen": [name]} for name in trial.specs if len(trial.specs) > 1]
        for options in asked:
            for name, gradient in by_name(*trial.backward(**options)).items():
                assert_same(gradient, full[name], f"{name} depends on which other gradients are wanted ({options})")


def _check_inference(case: LayerCase) -> None:
    """In inference each sample's outputs are its own: batch 1 and a prime batch agree."""
    trial = case.trial(PRIME_BATCH, training=False)
    whole = [array.copy() for array in trial.forward()]
    assert_finite({f"y[{k}]": array for k, array in enumerate(whole)}, "forward in inference")
    for name, array in trial.state.items():
        assert_same(array, trial.p[name], f"inference changes the parameter {name!r}")
    single = case.trial(1, training=False)
    single.p = trial.p
    for sample in (0, PRIME_BATCH - 1):
        single.x = [array[sample : sample + 1].copy() for array in trial.x]
        for alone, together in zip(single.forward(), whole):
            assert_close(alone[0], together[sample], 1e-12, f"sample {sample} alone against within a batch of {PRIME_BATCH}")


def _check_in_place(case: LayerCase) -> None:
    """A layer that says so gives the same when y is x and dx is dy; of several inputs, when it is any one of them."""
    layer = case.layer
    if layer.alias:
        trial = case.trial()
        require(len(trial.output_shapes) == 1 and layer.arity == 1, "an alias layer has one input and one output")
        require(math.prod(trial.output_shapes[0]) == math.prod(trial.shapes[0]), "an alias layer keeps the number of elements")
    if not layer.in_place or layer.alias:
        return
    trial = case.trial()
    y = [array.copy() for array in trial.forward()]
    gradients = by_name(*trial.backward())
    for number in (k for k, shape in enumerate(trial.shapes) if shape == trial.output_shapes[0]):
        where = f"in place of input {number}"
        for array, expected in zip(trial.forward(in_place=None if "x" in layer.backward_reads else number), y):
            assert_same(array, expected, f"forward {where} against apart")
        for name, gradient in by_name(*trial.backward(in_place=number)).items():
            assert_same(gradient, gradients[name], f"backward {where} against apart, {name}")
        assert_same(trial.forward(in_place=number)[0], y[0], f"forward {where} against apart")


def _check_adds(case: LayerCase) -> None:
    """A layer that says so adds its gradient to what is there, and does everything else as always."""
    layer = case.layer
    if not layer.adds_gradients:
        return
    require(layer.arity == 1, "a layer that adds its gradient has one input")
    trial = case.trial(PRIME_BATCH)
    trial.forward()
    expected = by_name(*trial.backward())
    if "dx" not in expected:
        return
    there = np.linspace(-1, 1, trial.x[0].size).reshape(trial.x[0].shape)
    expected["dx"] = expected["dx"] + there
    for name, gradient in by_name(*trial.backward(onto=there)).items():
        assert_close(gradient, expected[name], 1e-12, f"{name} of backward that adds")


def _check_precision(case: LayerCase) -> None:
    """float32 agrees with float64."""
    results = []
    for dtype in ("float32", "float64"):
        trial = case.trial(dtype=dtype)
        y = trial.forward()
        results.append({**{f"y[{k}]": array for k, array in enumerate(y)}, **by_name(*trial.backward())})
    for name, array in results[0].items():
        assert_close(array, results[1][name], case.precision, f"{name} in float32 against float64")


def _check_views(case: LayerCase) -> None:
    """In inference, a layer that says that it reads or writes views gives on them what it gives on dense arrays."""
    reads, writes = case.layer.reads_views, case.layer.writes_views
    trial = case.trial(PRIME_BATCH, "float32", training=False)
    expected = trial.forward()
    for x_views, y_views in {(reads, False), (False, writes), (reads, writes)} - {(False, False)}:
        what = f"forward with x_views={x_views} and y_views={y_views} against dense arrays"
        for array, wanted in zip(trial.forward(x_views=x_views, y_views=y_views), expected):
            assert_close(array, wanted, case.precision, what)


def _check_threads(case: LayerCase) -> None:
    """The same bits with one thread and with two, and when run again."""
    from ..kernels import jit

    def run() -> dict[str, np.ndarray]:
        trial = case.trial(PRIME_BATCH, "float32")
        y = trial.forward()
        kept = {**{f"y[{k}]": array for k, array in enumerate(y)}, **{f"state[{k!r}]": array for k, array in trial.state.items()}}
        return {**kept, **by_name(*trial.backward())}

    before = jit.num_threads()
    try:
        expected = run()
        for threads in (1, 2):
            if threads <= before:
                jit.set_num_threads(threads)
                for name, array in run().items():
                    assert_same(array, expected[name], f"{name} with {threads} thread(s) against {before}")
    finally:
        jit.set_num_threads(before)


def _check_random(case: LayerCase) -> None:
    """A random layer draws by key and step alone: again the same, and something else at the next step."""
    if not case.layer.random:
        return
    trial = case.trial(PRIME_BATCH)
    first = [array.copy() for array in trial.forward()]
    for again, array in zip(trial.forward(), first):
        assert_same(again, array, "the same key and step, drawn twice")
    drawn = []
    for _ in range(20):
        trial.random[1] += 1
        drawn.append(all(same(a, b) for a, b in zip(trial.forward(), first)))
    require(not all(drawn), "twenty further steps draw the same numbers")
    model = model_around(case.layer, case.shapes, "float64")
    plan = model.training_plan(PRIME_BATCH)
    outputs = []
    for step in (5, 6, 5):
        plan.set_step(step)
        for slot, x in zip(plan.inputs, trial.x):
            slot[...] = x
        plan.forward()
        outputs.append([np.array(array) for array in plan.outputs])
    for a, b in zip(outputs[0], outputs[2]):
        assert_same(a, b, "step 5 of a plan, run twice")


def _check_again(case: LayerCase) -> None:
    """A layer that may run forward again in the same step gives the same outputs and gradients then, and changes nothing else."""
    trial = case.trial(PRIME_BATCH)
    if case.layer.alias or not case.layer.repeatable(trial.given):
        return
    expected = [array.copy() for array in trial.forward()]
    gradients, state = by_name(*trial.backward()), {name: array.copy() for name, array in trial.state.items()}
    for array, before in zip(trial.forward_again(), expected):
        assert_same(array, before, "forward_again against forward")
    for name, array in trial.state.items():
        require(same(array, state[name]), f"forward_again changes the parameter {name!r}")
    for name, gradient in by_name(*trial.backward()).items():
        assert_same(gradient, gradients[name], f"{name} after forward_again")


def _check_predict(case: LayerCase) -> None:
    """A model takes inputs in any memory layout, and gives what the layer gives."""
    trial = case.trial(PRIME_BATCH, "float32", training=False)
    model = model_around(case.layer, case.shapes, "float32")
    set_parameters(model, trial)
    expected = _activated(case.layer, trial.forward(), model)
    for layout, arrange in (("dense", np.ascontiguousarray), ("strided", _strided), ("transposed", _transposed)):
        x = [arrange(array) for array in trial.x]
        for array, wanted in zip(predictions(model, x), expected):
            assert_close(array, wanted, case.precision, f"predict on {layout} input against forward")


def _activated(layer: Layer, outputs: list[np.ndarray], model: Any) -> list[np.ndarray]:
    """Outputs after the activation that the layer carries, if any, with its parameters in the model."""
    from ..graph.tensor import ACTIVATION
    from ..layers.activation import resolve

    activation = resolve(getattr(layer, "activation", None))
    if activation is None:
        return outputs
    trial = Trial(activation, [outputs[0].shape[1:]], len(outputs[0]), str(outputs[0].dtype), training=False)
    trial.x = outputs
    trial.p = {name: np.array(model.parameters[f"layer.{ACTIVATION}{name}"]) for name in trial.p}
    return trial.forward()


def _registered(layer: Layer) -> bool:
    """Whether a plugin registers the layer's class; a model can only be loaded with those that are."""
    from ..plugin import registry

    return registry.origin("layer", layer).distribution is not None


def _strided(array: np.ndarray) -> np.ndarray:
    wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan if array.dtype.kind == "f" else -1, array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def _transposed(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.T).T


def _check_save(case: LayerCase) -> None:
    """A saved and loaded model has the same layers and parameters, and predicts the same bits."""
    from ..model import load

    if not _registered(case.layer):
        return
    trial = case.trial(dtype="float32", training=False)
    model = model_around(case.layer, case.shapes, "float32")
    set_parameters(model, trial)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        loaded = load(path)
        left = [p.name for p in Path(folder).iterdir()]
    require(left == ["model.safetensors"], f"saving leaves other files: {left}")
    require(list(loaded.parameters) == list(model.parameters), "a loaded model has other parameters")
    for name, array in model.parameters.items():
        assert_same(loaded.parameters[name], array, f"the loaded parameter {name}")
    for array, expected in zip(predictions(loaded, trial.x), predictions(model, trial.x)):
        assert_same(array, expected, "predictions of the loaded model")


def _check_gradients(case: LayerCase) -> None:
    """Gradients agree with central differences in float64 (see :func:`gradient_check`)."""
    from ..kernels import jit

    few = jit.JIT_DISABLED  # each evaluation is slow then
    elements, projections = (0, 1) if few else (40, 2)
    check_direct_gradients(case.layer, case.shapes, case.batch, 0, case.tolerance, case.sample, elements, projections)
    check_model_gradients(case.layer, case.shapes, case.batch, 0, case.tolerance, case.sample, 1)


CHECKS: dict[str, Callable[[LayerCase], None]] = {
    "shapes": _check_shapes,
    "messages": _check_messages,
    "config": _check_config,
    "overwrites": _check_overwrites,
    "inference": _check_inference,
    "in place": _check_in_place,
    "adds": _check_adds,
    "gradients": _check_gradients,
    "precision": _check_precision,
    "views": _check_views,
    "threads": _check_threads,
    "random": _check_random,
    "again": _check_again,
    "predict": _check_predict,
    "save": _check_save,
}
"""What :func:`check_layer` runs, in this order."""


def check_layer(layer: Layer, input_shape: Any, skip: Sequence[str] = (), **options: Any) -> None:
    """Run every check of :data:`CHECKS`, but for those in ``skip``, for a layer on input shape(s) without the batch axis.

    Saving and loading is checked for layers that a plugin registers.
    ``options`` are the fields of :class:`LayerCase`. Raises AssertionError at the first check that fails."""
    case = LayerCase(layer, input_shape, **options)
    unknown = set(skip) - set(CHECKS)
    if unknown:
        raise ConfigError(f"skip names {sorted(unknown)}; the checks are {', '.join(map(repr, CHECKS))}.")
    for name, check in CHECKS.items():
        if name not in skip:
            with named(name, layer, input_shape):
                check(case)
