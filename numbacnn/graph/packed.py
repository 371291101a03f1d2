"""What inference plans derive from parameters: packed weights, and the vectors of folded layers. Plans of all batch sizes share it.

Plans that share arrays run side by side. Whoever finds that parameters have changed waits until no plan runs, and packs again before any
goes on. Locks are taken in one order: that of packing, then those of plans.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, WeakValueDictionary

import numpy as np

from .. import arrays, kernels
from . import forks
from .build import Node
from .plan import Plan
from .recording import Step, steps_of

if TYPE_CHECKING:
    from .parameters import ParameterStore


class Packed:
    """What is derived from the parameters of one node.

    ``packing``     that of the node's layer.
    ``arrays``      those of :meth:`~numbacnn.layers.base.Layer.prepared`, by name.
    ``vectors``     of what is folded into the node, likewise.
    ``sources``     names of the parameters that these are made of.
    """

    def __init__(self, node: Node, plan: Plan, store: ParameterStore):
        self.node, self.packing = node, node.layer.packing(node.shapes, plan.batch)
        self.sources = sources_of(node)
        self.arrays = {
            name: arrays.empty(plan.full_shape(buffer), buffer.dtype or plan.dtype) for name, buffer in plan.prepared[node].items()
        }
        self._derived = [(derived, derived.arrays(plan.dtype)) for derived in node.derived]
        self.vectors = {name: array for _, found in self._derived for name, array in found.items()}
        self._version: int | None = None
        store.check_kept(self.sources)
        self._parameters = {**store.views_of(node), **self.vectors}
        self._threads, self._batch = plan.threads, plan.batch

    @property
    def nbytes(self) -> int:
        """Bytes of packed weights."""
        return sum(array.nbytes for array in self.arrays.values())

    def bind(self) -> list[Step]:
        """What packs the weights."""
        if not self.arrays:
            return []
        node = self.node
        return steps_of(node, self._threads, node.layer.prepare, node.shapes, self._batch, self._parameters, self.arrays, False)

    @functools.cached_property
    def _steps(self) -> kernels.program.Program:
        return kernels.program.Program(self.bind())

    def refresh(self, store: ParameterStore, version: int) -> None:
        """Derive all of it from the parameters of that version, unless that was done."""
        if self._version == version:
            return
        store.check_kept(self.sources)
        for derived, found in self._derived:
            derived.compute(store.view_unless_released, found)
        self._steps.run()
        self._version = version


def sources_of(node: Node) -> frozenset[str]:
    """Names of the parameters of a node and of what is folded into it."""
    return frozenset(node.parameters.values()).union(*(derived.parameters.values() for derived in node.derived))


class Weights:
    """What a plan reads that is derived from parameters: ``entries``. Within a ``with`` block the plan's ``lock`` is held, and they are up
    to date."""

    def __init__(self, entries: Sequence[Packed], lock: threading.RLock, store: ParameterStore):
        self.entries, self.lock, self._store = entries, lock, store
        self.version: int | None = None
        store.packed.add(self)

    def __enter__(self) -> None:
        while True:
            self.lock.acquire()
            if self._store.current_version() == self.version:
                return
            self.lock.release()
            self._store.packed.refresh(self, self._store)

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class PackedWeights:
    """The :class:`Packed` of all nodes, for the plans of one :class:`~numbacnn.graph.parameters.ParameterStore`. Plans hold theirs; what
    none holds goes, but for what :meth:`keep_only` has kept."""

    def __init__(self) -> None:
        self._shared: WeakValueDictionary[tuple, Packed] = WeakValueDictionary()
        self._making = threading.Lock()
        self._kept: dict[str, Packed] = {}
        self._readers: WeakSet[Weights] = WeakSet()
        self._packing = threading.RLock()
        forks.tell(self)

    def begin_again(self) -> None:
        """Plans that another thread was running when this process was forked are no readers any more."""
        self._making, self._packing = threading.Lock(), threading.RLock()
        self._readers = WeakSet(weights for weights in self._readers if forks.is_free(weights.lock))

    def add(self, weights: Weights) -> None:
        """Of a new plan."""
        with self._making:
            self._readers.add(weights)

    def of(self, node: Node, plan: Plan, store: ParameterStore) -> Packed:
        """What the plan's node reads: that of another plan where its layer may share it."""
        packing = node.layer.packing(node.shapes, plan.batch)
        if packing is None:
            return Packed(node, plan, store)
        key = node.name, packing, _hashable(node.shapes), sources_of(node)
        with self._making:
            found = self._shared.get(key)
            if found is None:
                found = self._shared[key] = Packed(node, plan, store)
            return found

    def kept(self, node: Node) -> Packed | None:
        """What :meth:`keep_only` kept for the node."""
        return self._kept.get(node.name)

    def refresh(self, weights: Weights, store: ParameterStore) -> None:
        """Bring a plan's entries up to date."""
        with self._alone():
            version = store.current_version()
            for entry in weights.entries:
                entry.refresh(store, version)
            weights.version = version

    def keep_only(self, entries: Sequence[Packed], read: Collection[str], store: ParameterStore) -> None:
        """Bring ``entries`` up to date, keep them, and release all parameters but those that are ``read`` besides: each as soon as no
        entry needs it any more, so that there is never room for all parameters and all that is packed."""
        with self._alone():
            store.touch()  # so that plans from before notice
            version = store.current_version()
            self._kept = {entry.node.name: entry for entry in entries}
            last = {name: k for k, entry in enumerate(entries) for name in entry.sources}
            for k, entry in enumerate(entries):
                entry.refresh(store, version)
                store.release(name for name in entry.sources if last[name] == k and name not in read)
            store.release(name for name in store.specs if name not in last and name not in read)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Within the block no plan runs, and nobody else packs."""
        with self._packing, contextlib.ExitStack() as stack:
            with self._making:
                readers = list(self._readers)
            for weights in readers:
                stack.enter_context(weights.lock)
            yield


def _hashable(shapes: Any) -> Any:
    """A shape, or several, as a key."""
    return tuple(map(_hashable, shapes)) if isinstance(shapes, (tuple, list)) else shapes


def parameters_read(node: Node, steps: Sequence[tuple], batch: int, store: ParameterStore) -> frozenset[str]:
    """Names of the parameters that ``steps``, the node's forward call on a batch of that size, read where they lie, or that a call on
    batches of other sizes may need."""
    if node.layer.packing(node.shapes, batch) is None:
        return sources_of(node)
    given = [argument for _, arguments in steps for argument in arguments if isinstance(argument, np.ndarray)]
    return frozenset(name for name in node.parameters.values() if any(np.may_share_memory(store.view(name), array) for array in given))
