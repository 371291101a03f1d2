"""One layer, run outside any graph, on arrays between guards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..layers.base import Buffer, Layer, Shape
from .comparing import require, same

Sampler = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""Draws an input: ``(generator, shape with the batch axis) -> array``."""

GUARD = 64  # elements before and after each array
GUARD_BYTE = 0xA5
GAPS = (3, 5)  # channels before and after those of a view


def distinct(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """The default of all checks: numbers between -4 and 4 in random order, far enough from each other and from whole numbers that
    central differences meet no kink of a maximum or an activation."""
    size = math.prod(shape)
    offset = generator.uniform(0.27, 0.35)  # so that two inputs are distinct as well
    return ((generator.permutation(size) + offset) / size * 8 - 4).reshape(shape)


def whole(limit: int) -> Sampler:
    """Draws whole numbers from 0 to ``limit - 1``, for layers that take such."""
    return lambda generator, shape: generator.integers(0, limit, shape)


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
        self.output_shapes = output_shapes(layer, self.given)
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
                require(number == in_place or same(array, before), "forward changes its input, which others may need")
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
            require(in_place is not None or same(array, before), "backward changes dy, which others may need")
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
        from ..kernels import jit

        return self.layer.prepared(self.given, self.batch, jit.num_threads(), self.training)

    def _arrays(self) -> dict[str, np.ndarray]:
        from ..kernels import jit

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
            require((raw[outside] == GUARD_BYTE).all(), f"{method} writes outside of an array")
        self._guarded.clear()


def output_shapes(layer: Layer, given: Any) -> list[Shape]:
    shapes = layer.output_shape(given)
    return [tuple(shape) for shape in shapes] if isinstance(shapes, list) else [tuple(shapes)]


def _parameter(spec: Any, generator: np.random.Generator) -> np.ndarray:
    """Values near the initial ones, but no zeros; running statistics stay positive."""
    from ..layers import initializers

    values = initializers.resolve(spec.initializer)(spec.shape, generator, np.float64)
    spread = 0.3 * generator.standard_normal(spec.shape) if spec.trainable else generator.uniform(0.05, 0.5, spec.shape)
    return values + spread


def shapes_of(input_shape: Any) -> tuple[Shape, ...]:
    """A shape or a sequence of shapes as a tuple of shapes."""
    if isinstance(input_shape, int):
        return ((input_shape,),)
    if not input_shape or isinstance(input_shape[0], int):
        return (tuple(input_shape),)
    return tuple(tuple(shape) for shape in input_shape)
