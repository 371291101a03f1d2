"""The parameters of a model: all trainable ones in one flat array, all others in a second."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np

from .. import arrays
from ..errors import ConfigError, ShapeError, UnknownNameError, WeightsError
from ..layers.base import Parameter
from ..layers.initializers import resolve, stream
from .build import Node
from .packed import PackedWeights


class ParameterStore:
    """Parameters of a graph, by name.

    ``trainable``  one flat array of all that is learned; ``state`` one of the rest (running statistics). Each parameter
                   starts at a multiple of 64 bytes; the elements between two are zero. Where a device has newer values they are
                   copied from there first.
    ``slices``     name → ``(start, stop)`` in the flat array that the parameter lies in.
    ``specs``      name → :class:`~numbacnn.layers.base.Parameter`.
    ``version``    another number after every change; :meth:`touch` says that there was one.
    ``frozen``     names of parameters that training leaves as they are at present.
    ``released``   names of parameters whose memory was given back (:meth:`release`). Where there are any, :meth:`view` refuses.
    ``packed``     what inference plans derive from the parameters.

    Values are taken from ``start`` where it has a parameter of the same name and shape; the others are drawn from ``seed``.
    """

    def __init__(self, specs: Mapping[str, Parameter], seed: int, dtype: Any, start: ParameterStore | None = None):
        self.specs = dict(specs)
        self.dtype = np.dtype(dtype)
        self.slices: dict[str, tuple[int, int]] = {}
        self.frozen: set[str] = set()
        self.released: set[str] = set()
        self.packed = PackedWeights()
        self._versions = itertools.count(1)  # two threads that count at once still get two numbers
        self.version = 0
        self._trainable = arrays.zeros(self._lay_out(True), self.dtype)
        self._state = arrays.zeros(self._lay_out(False), self.dtype)
        self._newer: Any = None
        self._handed_out: weakref.WeakSet[_Holder] = weakref.WeakSet()
        self._watching = False
        self._digest: tuple[bytes, bytes] | None = None
        for name, spec in self.specs.items():
            if start is not None and name in start.specs and start.specs[name].shape == spec.shape:
                self.view(name)[...] = start.view(name)
            else:
                self.draw(name, seed)

    def _lay_out(self, trainable: bool) -> int:
        """Place the (non-)trainable parameters one after the other; the number of elements in all."""
        end = 0
        for name, spec in self.specs.items():
            if spec.trainable == trainable:
                self.slices[name] = (end, end + math.prod(spec.shape))
                end += arrays.aligned_size(math.prod(spec.shape), self.dtype.itemsize)
        return end

    @property
    def trainable(self) -> np.ndarray:
        """One flat array of all that is learned."""
        self.catch_up()
        return self._trainable

    @property
    def state(self) -> np.ndarray:
        """One flat array of the rest."""
        self.catch_up()
        return self._state

    def left_behind(self, newer: Any) -> None:
        """A device has newer values of all parameters (None: it has not any more): ``newer.fetch(trainable, state)`` is called before
        anybody reads them here."""
        self._newer = newer

    def catch_up(self) -> None:
        """Have the newest values here."""
        newer = self._newer
        if newer is not None:
            newer.fetch(self._trainable, self._state)  # after which it is None; of several threads one fetches, the others wait

    def draw(self, name: str, seed: int) -> None:
        """Give a parameter the values that it starts from."""
        spec = self.specs[name]
        self.view(name)[...] = resolve(spec.initializer)(spec.shape, stream(seed, name), self.dtype)
        self.touch()

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters that were not released."""
        return self.trainable.nbytes + self.state.nbytes - sum(self._view(name).nbytes for name in self.released)

    def view(self, name: str, flat: np.ndarray | None = None) -> np.ndarray:
        """The array of a parameter, for use within numbacnn: whoever writes into it calls :meth:`touch`. With ``flat``,
        the same part of another array that is laid out like ``trainable`` (gradients, momentum)."""
        if flat is None:
            self.check_kept(self.specs)
        return self._view(name, flat)

    def _view(self, name: str, flat: np.ndarray | None = None) -> np.ndarray:
        spec = self.specs[name]
        start, stop = self.slices[name]
        if flat is None:
            flat = self.trainable if spec.trainable else self.state
        return flat[start:stop].reshape(spec.shape)

    def views_of(self, node: Node) -> dict[str, np.ndarray]:
        """Of a node, by its layer's names, what :meth:`view_unless_released` gives."""
        return {local: self.view_unless_released(full) for local, full in node.parameters.items()}

    def view_unless_released(self, name: str) -> np.ndarray:
        """The array of a parameter that prediction may read. In place of a released one stands an array of NaN, which takes no memory."""
        view = self._view(name)
        return np.broadcast_to(np.array(np.nan, view.dtype), view.shape) if name in self.released else view

    def release(self, names: Iterable[str]) -> None:
        """Give the memory of parameters back. Nobody may hold arrays of them."""
        for name in names:
            arrays.discard(self._view(name))
            self.released.add(name)

    def check_kept(self, names: Collection[str]) -> None:
        """Raise ConfigError where any of these was released."""
        if not self.released.isdisjoint(names):
            raise ConfigError(
                "The model has released its parameters (Model.release_parameters): it can predict, but not train, save, or show or change "
                "parameters."
            )

    @property
    def handed_out(self) -> bool:
        """Whether anybody holds an array of :meth:`watched_view`."""
        return bool(len(self._handed_out))

    def watched_view(self, name: str) -> np.ndarray:
        """The array of a parameter, for the outside: as long as it is alive, :meth:`current_version` looks for changes
        that were made through it."""
        holder = _Holder(self.view(name))
        if not self._watching:
            self._watching, self._digest = True, None
        self._handed_out.add(holder)
        return np.asarray(holder)

    def touch(self) -> None:
        """Parameters were changed: what was derived from them is stale."""
        self.version = next(self._versions)

    def current_version(self) -> int:
        """``version`` of the newest values, after a look at the contents if somebody may have written into them unnoticed."""
        self.catch_up()
        if self._watching:
            from .. import kernels

            self._watching = self.handed_out  # asked before looking, so that the last change is seen
            found = (kernels.digest.digest(self.trainable), kernels.digest.digest(self.state))
            if found != self._digest:
                self.touch()
            self._digest = found
        return self.version


class _Holder:
    """Owner of the memory of a view, as NumPy sees it: alive as long as any array made from the view."""

    def __init__(self, array: np.ndarray):
        self._array = array
        self.__array_interface__ = array.__array_interface__


class Parameters(MutableMapping[str, np.ndarray]):
    """What ``model.parameters`` is: name → array. An array that is got can be written into; setting copies."""

    def __init__(self, store: ParameterStore):
        self._store = store

    def __getitem__(self, name: str) -> np.ndarray:
        self._check(name)
        return self._store.watched_view(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._check(name)
        target = self._store.view(name)
        try:
            value = np.asarray(value, self._store.dtype)
        except (TypeError, ValueError):
            raise WeightsError(f"Parameter {name!r} was given {value!r:.60}; it takes numbers of shape {target.shape}.") from None
        if value.shape != target.shape:
            raise ShapeError(f"Parameter {name!r} has shape {target.shape}; an array of shape {value.shape} was given.")
        target[...] = value
        self._store.touch()

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            return default
        return self[name]

    def __delitem__(self, name: str) -> None:
        raise TypeError("Parameters belong to the model's layers; they can be set, not deleted.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.specs)

    def __len__(self) -> int:
        return len(self._store.specs)

    def __contains__(self, name: object) -> bool:
        return name in self._store.specs

    def __repr__(self) -> str:
        lines = (f"  {name}: {spec.shape}{'' if spec.trainable else ' (not trainable)'}" for name, spec in self._store.specs.items())
        return "\n".join((f"{len(self)} parameters", *lines))

    def _check(self, name: str) -> None:
        if name not in self._store.specs:
            raise UnknownNameError("parameter", str(name), self._store.specs)
