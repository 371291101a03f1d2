"""Checks for authors of layers and architectures; numbacnn's own layers go through the same.

    from numbacnn.testing import check_layer, gradient_check

    def test_my_layer():
        check_layer(MyLayer(units=4), (7, 5, 3))                      # everything below, on one input shape
        check_layer(MyMerge(), [(4, 4, 3), (4, 4, 2)])                # a layer with two inputs
        gradient_check(MyLayer(units=4), (7, 5, 3), tolerance=1e-7)   # gradients alone
        check_layer(MyTable(rows=9), (7,), sample=whole(9))           # a layer that takes whole numbers

A check that fails raises AssertionError with a sentence: which check, which layer, which shapes, and what differs. Arrays
that a layer is to fill are handed over full of NaN, and lie between guards that show a write out of bounds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConfigError, ShapeError
from .layers.base import Buffer, Layer, Shape

Sampler = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""Draws an input: ``(generator, shape with the batch axis) -> array``."""

STEP = 1e-6  # of central differences, in float64: their error is near 1e-9 for functions of order one
GUARD = 64  # elements before and after each array
GUARD_BYTE = 0xA5
GAPS = (3, 5)  # channels before and after those of a view
PRIME_BATCH = 5


def distinct(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """The default of all checks: numbers between -4 and 4 in random order, far enough from each other and from whole numbers that
    central differences meet no kink of a maximum or an activation."""
    size = math.prod(shape)
    offset = generator.uniform(0.27, 0.35)  # so that two inputs are distinct as well
    return ((generator.permutation(size) + offset) / size * 8 - 4).reshape(shape)


def whole(limit: int) -> Sampler:
    """Draws whole numbers from 0 to ``limit - 1``, for layers that take such."""
    return lambda generator, shape: generator.integers(0, limit, shape)


# One layer, run outside any graph --------------------------------------------------------------------------------------


class Trial:
    """A layer with arrays of its own, for one batch of inputs drawn from ``seed``. An ``activation`` that the layer carries is
    left to the graph, as in training.

    ``x`` are the inputs, ``dy`` random gradients of the outputs, ``p`` random parameters near the layer's initial values
    (all float64 values rounded to float32, so that trials of both types start alike). Whole numbers as inputs get no gradient."""

    def __init__(
        self,
        layer: Layer,
        shapes: Sequence[Shape],
        batch: int = 2,
        dtype: str = "float64",
        seed: int = 0,
        training: bool = True,
        sample: Sampler = distinct,
    ):
        self.layer, self.shapes, self.batch, self.dtype, self.training = layer, tuple(shapes), batch, np.dtype(dtype), training
        self.given: Any = self.shapes[0] if layer.arity == 1 else self.shapes
        self.output_shapes = _output_shapes(layer, self.given)
        self.random, self.first = np.array([seed + 17, 3], np.uint64), np.zeros(1, np.int64)
        self._guarded: list[tuple[np.ndarray, np.ndarray]] = []  # memory, and which elements of it are nobody's
        generator = np.random.default_rng(seed)
        self.specs = layer.parameters(self.given)
        self.x = [self._input(sample(generator, (batch, *shape))) for shape in self.shapes]
        self.dy = [self._rounded(generator.standard_normal((batch, *shape))) for shape in self.output_shapes]
        self.p = {name: self._rounded(_parameter(spec, generator)) for name, spec in self.specs.items()}
        self.state = self.p
        self._b: dict[str, np.ndarray] = {}

    def forward(self, in_place: int | None = None, x_views: bool = False, y_views: bool = False) -> list[np.ndarray]:
        """Outputs for ``x``, over the input number ``in_place`` if one is given. Non-trainable parameters as they are afterwards are
        left in ``state``; ``p`` stays as it is. With ``x_views`` the layer is given inputs that are some channels of wider arrays, with
        ``y_views`` outputs."""
        x = [self._copy(array, x_views) for array in self.x]
        y = [self._filled((self.batch, *shape), None, y_views) for shape in self.output_shapes] if in_place is None else [x[in_place]]
        self.state = {name: self._copy(array) for name, array in self.p.items()}
        if self.layer.alias:
            y[0][...] = x[0].reshape(y[0].shape)
        else:
            self._b = self._arrays()
            self.layer.prepare(self.given, self.batch, self.state, self._b, self.training)
            self.layer.forward(self._inputs(x), self._outputs(y), self.state, self._b, self.training)
            self._check_guards("forward")
            for number, (array, before) in enumerate(zip(x, self.x)):
                _require(number == in_place or _same(array, before), "forward changes its input, which others may need")
        self._x_seen, self._y_seen = x, y
        return y

    def backward(
        self,
        in_place: int | None = None,
        wanted: Sequence[bool] | None = None,
        frozen: Sequence[str] = (),
        onto: np.ndarray | None = None,
    ) -> tuple[list[np.ndarray | None], dict[str, np.ndarray]]:
        """``(dx, dp)`` for ``dy``, after :meth:`forward`. The gradient of the input number ``in_place``, if one is given, lies over ``dy``;
        ``wanted`` says which inputs get a gradient; a layer that adds its gradient adds it to ``onto``."""
        dy = [self._copy(array) for array in self.dy]
        wanted = [True] * len(self.x) if wanted is None else wanted
        wanted = [want and self.layer.input_dtype is None for want in wanted]
        dx: list[np.ndarray | None] = [self._filled((self.batch, *shape)) if w else None for shape, w in zip(self.shapes, wanted)]
        if in_place is not None:
            dx[in_place] = dy[0]
        dp = {name: self._filled(spec.shape) for name, spec in self.specs.items() if spec.trainable and name not in frozen}
        if self.layer.alias:
            if dx[0] is not None:
                dx[0][...] = dy[0].reshape(dx[0].shape)
            return dx, dp
        reads = self.layer.backward_reads
        x = self._inputs(self._x_seen) if "x" in reads else None
        y = self._outputs(self._y_seen) if "y" in reads else None
        b = {**self._arrays(), **{name: self._b[name] for name in self._kept()}}
        options: dict[str, Any] = {}
        if onto is not None and dx[0] is not None:
            dx[0][...] = onto
            options["adds"] = True
        self.layer.backward(x, y, self._outputs(dy), self._inputs(dx), self.state, dp, b, **options)
        self._check_guards("backward")
        for array, before in zip(dy, self.dy):
            _require(in_place is not None or _same(array, before), "backward changes dy, which others may need")
        return dx, dp

    def forward_again(self) -> list[np.ndarray]:
        """Outputs as recomputation makes them, after :meth:`forward`, from the inputs, buffers and parameters that it has left. Only a
        layer that defines ``forward_again`` finds the buffers filled. :meth:`backward` then goes on from here."""
        layer, buffers = self.layer, self.layer.buffers(self.given)
        own = type(layer).forward_again is not Layer.forward_again
        kept = {name: self._b[name] for name in self._kept() if own or name not in buffers}
        self._b = {**self._arrays(), **kept}
        self._y_seen = [self._filled((self.batch, *shape)) for shape in self.output_shapes]
        layer.prepare(self.given, self.batch, self.state, self._b, True)
        layer.forward_again(self._inputs(self._x_seen), self._outputs(self._y_seen), self.state, self._b)
        self._check_guards("forward_again")
        return self._y_seen

    def _kept(self) -> list[str]:
        """Names of what lasts from forward to backward; scratch does not."""
        names = [*self._prepared()] if not self.layer.prepared_for_forward else []
        if self.training:
            names += [*self.layer.buffers(self.given), *(["random", "first"] if self.layer.random else [])]
        return names

    def _prepared(self) -> dict[str, Buffer]:
        from .kernels import jit

        return self.layer.prepared(self.given, self.batch, jit.num_threads(), self.training)

    def _arrays(self) -> dict[str, np.ndarray]:
        from .kernels import jit

        layer, arrays = self.layer, {}
        wanted: dict[str, Buffer] = dict(layer.scratch(self.given, self.batch, jit.num_threads(), self.training))
        if self.training:
            wanted.update(layer.buffers(self.given))
        wanted.update(self._prepared())
        for name, buffer in wanted.items():
            arrays[name] = self._filled((self.batch, *buffer.shape) if buffer.per_sample else buffer.shape, buffer.dtype)
        if layer.random and self.training:
            arrays["random"], arrays["first"] = self.random.copy(), self.first.copy()
        return arrays

    def _inputs(self, arrays: Sequence[Any]) -> Any:
        return arrays[0] if self.layer.arity == 1 else tuple(arrays)

    def _outputs(self, arrays: Sequence[Any]) -> Any:
        return arrays[0] if len(self.output_shapes) == 1 else tuple(arrays)

    def _input(self, values: np.ndarray) -> np.ndarray:
        return self._rounded(values) if self.layer.input_dtype is None else self._copy(np.asarray(values, self.layer.input_dtype))

    def _rounded(self, values: np.ndarray) -> np.ndarray:
        return self._copy(np.asarray(values, np.float32))

    def _copy(self, values: np.ndarray, view: bool = False) -> np.ndarray:
        """A copy, in the type of the trial but for whole numbers."""
        array = self._filled(values.shape, None if values.dtype.kind == "f" else values.dtype, view)
        array[...] = values
        return array

    def _filled(self, shape: Sequence[int], dtype: Any = None, view: bool = False) -> np.ndarray:
        """An array full of NaN, or of a large number where there is no NaN, between guards; with ``view``, of some channels, the others
        of which are guards too."""
        dtype = np.dtype(dtype or self.dtype)
        around = (*shape[:-1], shape[-1] + sum(GAPS)) if view else tuple(shape)
        size = math.prod(around)

        def inside(memory: np.ndarray) -> np.ndarray:
            array = memory[GUARD : GUARD + size].reshape(around)
            return array[..., GAPS[0] : -GAPS[1]] if view else array

        memory = np.full((size + 2 * GUARD) * dtype.itemsize, GUARD_BYTE, np.uint8).view(dtype)
        outside = np.ones(memory.size, bool)
        inside(outside)[...] = False
        self._guarded.append((memory, outside))
        array = inside(memory)
        if dtype.kind == "f":
            array[...] = np.nan
        return array

    def _check_guards(self, method: str) -> None:
        for memory, outside in self._guarded:
            raw = memory.view(np.uint8).reshape(memory.size, -1)
            _require((raw[outside] == GUARD_BYTE).all(), f"{method} writes outside of an array")
        self._guarded.clear()


def _output_shapes(layer: Layer, given: Any) -> list[Shape]:
    shapes = layer.output_shape(given)
    return [tuple(shape) for shape in shapes] if isinstance(shapes, list) else [tuple(shapes)]


def _parameter(spec: Any, generator: np.random.Generator) -> np.ndarray:
    """Values near the initial ones, but no zeros; running statistics stay positive."""
    from .layers import initializers

    values = initializers.resolve(spec.initializer)(spec.shape, generator, np.float64)
    spread = 0.3 * generator.standard_normal(spec.shape) if spec.trainable else generator.uniform(0.05, 0.5, spec.shape)
    return values + spread


def _shapes(input_shape: Any) -> tuple[Shape, ...]:
    """A shape or a sequence of shapes as a tuple of shapes."""
    if isinstance(input_shape, int):
        return ((input_shape,),)
    if not input_shape or isinstance(input_shape[0], int):
        return (tuple(input_shape),)
    return tuple(tuple(shape) for shape in input_shape)


# Comparing -----------------------------------------------------------------------------------------------------------


def _require(holds: Any, sentence: str) -> None:
    """As ``assert``, which ``python -O`` leaves out."""
    if not holds:
        raise AssertionError(sentence)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal, bit for bit but for the sign of zero."""
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=True))


def _assert_same(a: np.ndarray, b: np.ndarray, what: str) -> None:
    if _same(a, b):
        return
    _require(a.shape == b.shape, f"{what}: shapes {a.shape} and {b.shape}")
    different = (a != b) & ~(np.isnan(a) & np.isnan(b))
    at = tuple(int(k) for k in np.argwhere(different)[0])
    raise AssertionError(f"{what}: {int(different.sum())} of {a.size} elements differ, first at {at}: {a[at]!r} and {b[at]!r}")


def _assert_close(a: np.ndarray, b: np.ndarray, tolerance: float, what: str) -> None:
    """``|a - b| <= tolerance * max(1, max |b|)`` everywhere, NaN in neither."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    _require(a.shape == b.shape, f"{what}: shapes {a.shape} and {b.shape}")
    if not a.size:
        return
    error = np.abs(a - b)
    worst = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), a.shape)
    limit = tolerance * max(1.0, float(np.max(np.abs(b))))
    at = tuple(int(k) for k in worst)
    _require(error[worst] <= limit, f"{what}: {a[worst]:.9g} against {b[worst]:.9g} at {at}, allowed difference {limit:.2g}")


def _assert_finite(arrays: Mapping[str, np.ndarray], method: str) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            at = tuple(int(k) for k in np.argwhere(~np.isfinite(array))[0])
            raise AssertionError(
                f"{method} leaves {array[at]} in {name} at {at}: not every element is overwritten, or the result is not finite"
            )


def _gradients(dx: Sequence[np.ndarray | None], dp: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those that there are, by name."""
    names = ["dx"] if len(dx) == 1 else [f"dx[{k}]" for k in range(len(dx))]
    of_inputs = {name: array for name, array in zip(names, dx) if array is not None}
    return {**of_inputs, **{f"dp[{name!r}]": array for name, array in dp.items()}}


# Gradients -----------------------------------------------------------------------------------------------------------


def gradient_check(
    layer: Layer,
    input_shape: Any,
    batch: int = 2,
    seed: int = 0,
    tolerance: float = 1e-6,
    sample: Sampler = distinct,
    elements: int = 100,
    projections: int = 3,
) -> None:
    """Compare a layer's ``backward`` with central differences of its ``forward``, in float64.

    The function is ``sum(dy * y)`` with random ``dy``; its slope along random directions, and along each element of arrays of
    at most ``elements`` elements, must agree within ``tolerance * max(1, |slope|)``. Runs the layer directly, then within a model.
    Raises AssertionError."""
    with _named("gradient_check", layer, input_shape):
        _check_direct_gradients(layer, _shapes(input_shape), batch, seed, tolerance, sample, elements, projections)
        _check_model_gradients(layer, _shapes(input_shape), batch, seed, tolerance, sample, projections)


def _check_direct_gradients(
    layer: Layer, shapes: tuple[Shape, ...], batch: int, seed: int, tolerance: float, sample: Sampler, elements: int, projections: int
) -> None:
    trial = Trial(layer, shapes, batch, "float64", seed, sample=sample)
    trial.forward()
    gradients = _gradients(*trial.backward())
    _assert_finite(gradients, "backward")
    learned = trial.x if layer.input_dtype is None else []
    arrays = [*learned, *(trial.p[name] for name, spec in trial.specs.items() if spec.trainable)]

    def loss() -> float:
        return sum(float(np.vdot(y, dy)) for y, dy in zip(trial.forward(), trial.dy))

    generator = np.random.default_rng(seed + 1)
    for array, (name, gradient) in zip(arrays, gradients.items()):
        _compare_slopes(loss, array, gradient, name, tolerance, generator, elements, projections)


def _compare_slopes(
    loss: Callable[[], float], array: np.ndarray, gradient: np.ndarray, name: str, tolerance: float,
    generator: np.random.Generator, elements: int, projections: int,
) -> None:  # fmt: skip
    if 0 < array.size <= elements:
        slopes = np.empty(array.shape)
        for at in np.ndindex(array.shape):
            direction = np.zeros(array.shape)
            direction[at] = 1
            slopes[at] = _slope(loss, array, direction)
        _assert_close(gradient, slopes, tolerance, f"{name}, element by element, against central differences")
    for _ in range(projections):
        direction = generator.standard_normal(array.shape)
        expected = np.array([_slope(loss, array, direction)])
        given = np.array([np.vdot(gradient, direction)])
        _assert_close(given, expected, tolerance, f"{name}, along a random direction, against central differences")


def _slope(loss: Callable[[], float], array: np.ndarray, direction: np.ndarray) -> float:
    origin = array.copy()
    array[...] = origin + STEP * direction
    above = loss()
    array[...] = origin - STEP * direction
    below = loss()
    array[...] = origin
    return (above - below) / (2 * STEP)


def _check_model_gradients(
    layer: Layer, shapes: tuple[Shape, ...], batch: int, seed: int, tolerance: float, sample: Sampler, projections: int
) -> None:
    """Gradients of a model made of a Scale per input that is learned from, in whose place the layer may work, and the layer."""
    trial = Trial(layer, shapes, batch, "float64", seed, sample=sample)
    model = _model(layer, shapes, "float64", scaled=True)
    _set_parameters(model, trial)
    plan = model.training_plan(batch)
    for slot, x in zip(plan.inputs, trial.x):
        slot[...] = x
    plan.set_step(3)

    def loss() -> float:
        plan.forward()
        return sum(float(np.vdot(y, dy)) for y, dy in zip(plan.outputs, trial.dy))

    state = {name: np.array(array) for name, array in model.parameters.items()}
    loss()
    for slot, dy in zip(plan.output_gradients, trial.dy):
        slot[...] = dy
    plan.backward()
    gradients = {name: np.array(array) for name, array in plan.gradients.items()}
    generator = np.random.default_rng(seed + 1)
    for name, gradient in gradients.items():
        for _ in range(projections):
            direction = generator.standard_normal(gradient.shape)
            values = []
            for sign in (1, -1):
                for other, array in state.items():
                    model.parameters[other] = array + (sign * STEP * direction if other == name else 0)
                values.append(loss())
            given, expected = np.vdot(gradient, direction), (values[0] - values[1]) / (2 * STEP)
            _assert_close(np.array([given]), np.array([expected]), tolerance, f"gradient of {name} in a model, against central differences")


# A model around a layer ----------------------------------------------------------------------------------------------


def _model(layer: Layer, shapes: tuple[Shape, ...], dtype: str, scaled: bool = False, seed: int = 0) -> Any:
    from .graph.tensor import Input
    from .model import Model

    inputs = [Input(shape, dtype=layer.input_dtype) for shape in shapes]
    tensors: list[Any] = inputs
    if scaled and layer.input_dtype is None:
        from .layers.shape import Scale

        tensors = [Scale()(tensor) for tensor in inputs]
    outputs = layer(*tensors, name="layer")
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    return Model(inputs if len(inputs) > 1 else inputs[0], outputs if len(outputs) > 1 else outputs[0], seed=seed, dtype=dtype)


def _set_parameters(model: Any, trial: Trial) -> None:
    for name, array in trial.p.items():
        model.parameters[f"layer.{name}"] = array


def _predict(model: Any, x: Sequence[np.ndarray]) -> list[np.ndarray]:
    result = model.predict(list(x) if len(x) > 1 else x[0])
    return [np.array(array) for array in (result if isinstance(result, (list, tuple)) else [result])]


# Checks of one layer on one shape --------------------------------------------------------------------------------------


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
        return _shapes(self.input_shape)

    def trial(self, batch: int | None = None, dtype: str = "float64", seed: int = 0, training: bool = True) -> Trial:
        """The layer with arrays for this case."""
        return Trial(self.layer, self.shapes, batch or self.batch, dtype, seed, training, self.sample)

    def __str__(self) -> str:
        return f"{self.layer!r} on {self.input_shape}"


def _check_shapes(case: LayerCase) -> None:
    """Shapes and configuration are plain, and arithmetic on shapes gives the same twice."""
    layer = case.layer
    given = case.shapes[0] if layer.arity == 1 else case.shapes
    for shape in _output_shapes(layer, given):
        _require(shape and all(isinstance(n, int) and n > 0 for n in shape), f"output_shape gives {shape}")
    _require(layer.output_shape(given) == layer.output_shape(given), "output_shape gives two answers")
    flops = layer.flops(given)
    _require(flops >= 0 and flops == int(flops), f"flops gives {flops!r}")
    window = layer.window(given)
    _require(window is None or len(window) == 3, f"window gives {window!r}; (extent, stride, padding) per axis is needed")
    _require(set(layer.backward_reads) <= {"x", "y"}, f"backward_reads is {layer.backward_reads!r}")
    names = [*layer.parameters(given), *layer.buffers(given), *layer.scratch(given, 2, 2, True), *layer.prepared(given, 2, 2, True)]
    _require(len(set(names)) == len(names), f"two arrays have one name: {sorted(names)}")


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
    from .graph.build import Graph
    from .graph.config import from_config, to_config
    from .graph.tensor import Input

    layer = case.layer
    _require(dataclasses.is_dataclass(layer), "a layer is a frozen dataclass")
    _require(type(layer)(**layer.config()) == layer, "its config() does not make an equal layer")
    _require(dataclasses.replace(layer) == layer, "dataclasses.replace does not make an equal layer")  # type: ignore[type-var]
    _require(type(layer).__name__ in repr(layer), "its repr does not show its class")
    if not _registered(layer):
        return
    inputs = [Input(shape, dtype=layer.input_dtype) for shape in case.shapes]
    outputs = layer(*inputs, name="layer")
    graph = Graph(inputs, outputs if isinstance(outputs, tuple) else (outputs,))
    rebuilt_inputs, rebuilt_outputs = from_config(json.loads(json.dumps(to_config(graph))))
    rebuilt = Graph(rebuilt_inputs, rebuilt_outputs)
    _require([node.layer for node in rebuilt.nodes] == [node.layer for node in graph.nodes], "a saved configuration gives another layer")
    _require([t.shape for t in rebuilt.outputs] == [t.shape for t in graph.outputs], "a saved configuration gives other shapes")


def _check_overwrites(case: LayerCase) -> None:
    """Every element of outputs and gradients is written, from arrays full of NaN, whatever else is wanted or frozen."""
    for batch in (case.smallest_batch, PRIME_BATCH):
        trial = case.trial(batch)
        y = trial.forward()
        _assert_finite({"y": y[0]} if len(y) == 1 else {f"y[{k}]": array for k, array in enumerate(y)}, "forward")
        full = _gradients(*trial.backward())
        _assert_finite(full, "backward")
        inputs = len(trial.x)
        asked: list[dict[str, Any]] = [{"wanted": [k == only for k in range(inputs)]} for only in range(inputs)] if inputs > 1 else []
        if trial.specs:
            asked += [{"wanted": [False] * inputs}, {"frozen": list(trial.specs)}]
            asked += [{"frozen": [name]} for name in trial.specs if len(trial.specs) > 1]
        for options in asked:
            for name, gradient in _gradients(*trial.backward(**options)).items():
                _assert_same(gradient, full[name], f"{name} depends on which other gradients are wanted ({options})")


def _check_inference(case: LayerCase) -> None:
    """In inference each sample's outputs are its own: batch 1 and a prime batch agree."""
    trial = case.trial(PRIME_BATCH, training=False)
    whole = [array.copy() for array in trial.forward()]
    _assert_finite({f"y[{k}]": array for k, array in enumerate(whole)}, "forward in inference")
    for name, array in trial.state.items():
        _assert_same(array, trial.p[name], f"inference changes the parameter {name!r}")
    single = case.trial(1, training=False)
    single.p = trial.p
    for sample in (0, PRIME_BATCH - 1):
        single.x = [array[sample : sample + 1].copy() for array in trial.x]
        for alone, together in zip(single.forward(), whole):
            _assert_close(alone[0], together[sample], 1e-12, f"sample {sample} alone against within a batch of {PRIME_BATCH}")


def _check_in_place(case: LayerCase) -> None:
    """A layer that says so gives the same when y is x and dx is dy; of several inputs, when it is any one of them."""
    layer = case.layer
    if layer.alias:
        trial = case.trial()
        _require(len(trial.output_shapes) == 1 and layer.arity == 1, "an alias layer has one input and one output")
        _require(math.prod(trial.output_shapes[0]) == math.prod(trial.shapes[0]), "an alias layer keeps the number of elements")
    if not layer.in_place or layer.alias:
        return
    trial = case.trial()
    y = [array.copy() for array in trial.forward()]
    gradients = _gradients(*trial.backward())
    for number in (k for k, shape in enumerate(trial.shapes) if shape == trial.output_shapes[0]):
        where = f"in place of input {number}"
        for array, expected in zip(trial.forward(in_place=None if "x" in layer.backward_reads else number), y):
            _assert_same(array, expected, f"forward {where} against apart")
        for name, gradient in _gradients(*trial.backward(in_place=number)).items():
            _assert_same(gradient, gradients[name], f"backward {where} against apart, {name}")
        _assert_same(trial.forward(in_place=number)[0], y[0], f"forward {where} against apart")


def _check_adds(case: LayerCase) -> None:
    """A layer that says so adds its gradient to what is there, and does everything else as always."""
    layer = case.layer
    if not layer.adds_gradients:
        return
    _require(layer.arity == 1, "a layer that adds its gradient has one input")
    trial = case.trial(PRIME_BATCH)
    trial.forward()
    expected = _gradients(*trial.backward())
    if "dx" not in expected:
        return
    there = np.linspace(-1, 1, trial.x[0].size).reshape(trial.x[0].shape)
    expected["dx"] = expected["dx"] + there
    for name, gradient in _gradients(*trial.backward(onto=there)).items():
        _assert_close(gradient, expected[name], 1e-12, f"{name} of backward that adds")


def _check_precision(case: LayerCase) -> None:
    """float32 agrees with float64."""
    results = []
    for dtype in ("float32", "float64"):
        trial = case.trial(dtype=dtype)
        y = trial.forward()
        results.append({**{f"y[{k}]": array for k, array in enumerate(y)}, **_gradients(*trial.backward())})
    for name, array in results[0].items():
        _assert_close(array, results[1][name], case.precision, f"{name} in float32 against float64")


def _check_views(case: LayerCase) -> None:
    """In inference, a layer that says that it reads or writes views gives on them what it gives on dense arrays."""
    reads, writes = case.layer.reads_views, case.layer.writes_views
    trial = case.trial(PRIME_BATCH, "float32", training=False)
    expected = trial.forward()
    for x_views, y_views in {(reads, False), (False, writes), (reads, writes)} - {(False, False)}:
        what = f"forward with x_views={x_views} and y_views={y_views} against dense arrays"
        for array, wanted in zip(trial.forward(x_views=x_views, y_views=y_views), expected):
            _assert_close(array, wanted, case.precision, what)


def _check_threads(case: LayerCase) -> None:
    """The same bits with one thread and with two, and when run again."""
    from .kernels import jit

    def run() -> dict[str, np.ndarray]:
        trial = case.trial(PRIME_BATCH, "float32")
        y = trial.forward()
        kept = {**{f"y[{k}]": array for k, array in enumerate(y)}, **{f"state[{k!r}]": array for k, array in trial.state.items()}}
        return {**kept, **_gradients(*trial.backward())}

    before = jit.num_threads()
    try:
        expected = run()
        for threads in (1, 2):
            if threads <= before:
                jit.set_num_threads(threads)
                for name, array in run().items():
                    _assert_same(array, expected[name], f"{name} with {threads} thread(s) against {before}")
    finally:
        jit.set_num_threads(before)


def _check_random(case: LayerCase) -> None:
    """A random layer draws by key and step alone: again the same, and something else at the next step."""
    if not case.layer.random:
        return
    trial = case.trial(PRIME_BATCH)
    first = [array.copy() for array in trial.forward()]
    for again, array in zip(trial.forward(), first):
        _assert_same(again, array, "the same key and step, drawn twice")
    drawn = []
    for _ in range(20):
        trial.random[1] += 1
        drawn.append(all(_same(a, b) for a, b in zip(trial.forward(), first)))
    _require(not all(drawn), "twenty further steps draw the same numbers")
    model = _model(case.layer, case.shapes, "float64")
    plan = model.training_plan(PRIME_BATCH)
    outputs = []
    for step in (5, 6, 5):
        plan.set_step(step)
        for slot, x in zip(plan.inputs, trial.x):
            slot[...] = x
        plan.forward()
        outputs.append([np.array(array) for array in plan.outputs])
    for a, b in zip(outputs[0], outputs[2]):
        _assert_same(a, b, "step 5 of a plan, run twice")


def _check_again(case: LayerCase) -> None:
    """A layer that may run forward again in the same step gives the same outputs and gradients then, and changes nothing else."""
    trial = case.trial(PRIME_BATCH)
    if case.layer.alias or not case.layer.repeatable(trial.given):
        return
    expected = [array.copy() for array in trial.forward()]
    gradients, state = _gradients(*trial.backward()), {name: array.copy() for name, array in trial.state.items()}
    for array, before in zip(trial.forward_again(), expected):
        _assert_same(array, before, "forward_again against forward")
    for name, array in trial.state.items():
        _require(_same(array, state[name]), f"forward_again changes the parameter {name!r}")
    for name, gradient in _gradients(*trial.backward()).items():
        _assert_same(gradient, gradients[name], f"{name} after forward_again")


def _check_predict(case: LayerCase) -> None:
    """A model takes inputs in any memory layout, and gives what the layer gives."""
    trial = case.trial(PRIME_BATCH, "float32", training=False)
    model = _model(case.layer, case.shapes, "float32")
    _set_parameters(model, trial)
    expected = _activated(case.layer, trial.forward(), model)
    for layout, arrange in (("dense", np.ascontiguousarray), ("strided", _strided), ("transposed", _transposed)):
        x = [arrange(array) for array in trial.x]
        for array, wanted in zip(_predict(model, x), expected):
            _assert_close(array, wanted, case.precision, f"predict on {layout} input against forward")


def _activated(layer: Layer, outputs: list[np.ndarray], model: Any) -> list[np.ndarray]:
    """Outputs after the activation that the layer carries, if any, with its parameters in the model."""
    from .graph.tensor import ACTIVATION
    from .layers.activation import resolve

    activation = resolve(getattr(layer, "activation", None))
    if activation is None:
        return outputs
    trial = Trial(activation, [outputs[0].shape[1:]], len(outputs[0]), str(outputs[0].dtype), training=False)
    trial.x = outputs
    trial.p = {name: np.array(model.parameters[f"layer.{ACTIVATION}{name}"]) for name in trial.p}
    return trial.forward()


def _registered(layer: Layer) -> bool:
    """Whether a plugin registers the layer's class; a model can only be loaded with those that are."""
    from .plugin import registry

    return registry.origin("layer", layer).distribution is not None


def _strided(array: np.ndarray) -> np.ndarray:
    wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan if array.dtype.kind == "f" else -1, array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def _transposed(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.T).T


def _check_save(case: LayerCase) -> None:
    """A saved and loaded model has the same layers and parameters, and predicts the same bits."""
    from .model import load

    if not _registered(case.layer):
        return
    trial = case.trial(dtype="float32", training=False)
    model = _model(case.layer, case.shapes, "float32")
    _set_parameters(model, trial)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        loaded = load(path)
        left = [p.name for p in Path(folder).iterdir()]
    _require(left == ["model.safetensors"], f"saving leaves other files: {left}")
    _require(list(loaded.parameters) == list(model.parameters), "a loaded model has other parameters")
    for name, array in model.parameters.items():
        _assert_same(loaded.parameters[name], array, f"the loaded parameter {name}")
    for array, expected in zip(_predict(loaded, trial.x), _predict(model, trial.x)):
        _assert_same(array, expected, "predictions of the loaded model")


def _check_gradients(case: LayerCase) -> None:
    """Gradients agree with central differences in float64 (see :func:`gradient_check`)."""
    from .kernels import jit

    few = jit.JIT_DISABLED  # each evaluation is slow then
    elements, projections = (0, 1) if few else (40, 2)
    _check_direct_gradients(case.layer, case.shapes, case.batch, 0, case.tolerance, case.sample, elements, projections)
    _check_model_gradients(case.layer, case.shapes, case.batch, 0, case.tolerance, case.sample, 1)


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
            with _named(name, layer, input_shape):
                check(case)


@contextlib.contextmanager
def _named(check: str, layer: Any, shape: Any) -> Iterator[None]:
    """Puts the check, the layer and the shape in front of what goes wrong."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"check {check!r} fails for {layer!r} on input shape {shape}: {error}") from error
    except Exception as error:
        raise AssertionError(f"check {check!r} fails for {layer!r} on input shape {shape}: {type(error).__name__}: {error}") from error


# Architectures -------------------------------------------------------------------------------------------------------


def check_architecture(
    name: str, input_shape: Shape = (32, 32, 3), classes: int = 10, batch: int = 2, sample: Sampler | None = None, **options: Any
) -> None:
    """Check a registered architecture: it builds, twice the same from one seed, predicts finite numbers of the right shape, changes every
    trained parameter in two steps on random images (or what ``sample`` draws), with finite losses, and is saved and loaded. Raises
    AssertionError."""
    from .model import create, load
    from .training.optimizers import SGD
    from .training.trainer import Trainer

    generator = np.random.default_rng(0)
    shape = (batch, *input_shape)
    images = generator.standard_normal(shape).astype(np.float32) if sample is None else sample(generator, shape)
    labels = generator.integers(0, classes, batch)
    with _named("architecture", name, input_shape):
        model = create(name, input_shape=input_shape, classes=classes, seed=0, **options)
        twin = create(name, input_shape=input_shape, classes=classes, seed=0, **options)
        for parameter, array in model.parameters.items():
            _assert_same(array, twin.parameters[parameter], f"{parameter} of two models of one seed")
        logits = model.predict(images)
        _require(logits.shape == (batch, classes), f"predict gives shape {logits.shape}, {(batch, classes)} is needed")
        _require(np.isfinite(logits).all(), "predict gives numbers that are not finite")
        trainer = Trainer(model, optimizer=SGD(0.01))
        before = {parameter: np.array(array) for parameter, array in model.parameters.items()}
        losses = [trainer.step(images, labels) for _ in range(2)]
        _require(np.isfinite(losses).all(), f"the first losses are {losses}")
        still = [p for p, spec in model.graph.specs.items() if spec.trainable and _same(before[p], model.parameters[p])]
        _require(not still, f"a training step leaves {', '.join(still[:4])} as before")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            model.save(path)
            _assert_same(load(path).predict(images), model.predict(images), "predictions of the saved and loaded model")
