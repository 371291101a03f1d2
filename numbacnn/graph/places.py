"""Which tensors lie inside others, so that concatenating channels, and cutting them, copies nothing.

An input of a concatenation may be written where the concatenation wants it: it then is some channels of a wider array, a view with
dense channels and gaps between its pixels. So whoever writes it must write such views (``Layer.writes_views``), and all who read it
must read them (``Layer.reads_views``); where one does not, the tensor keeps an array of its own and is copied. In the same way
the outputs of a layer that cuts channels may stay where they are. Places nest: what a dense block of DenseNet concatenates again and
again is one array.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

from .build import Node
from .tensor import Tensor


@dataclasses.dataclass(frozen=True)
class Place:
    """The channels of ``whole`` from ``channel`` on."""

    whole: Tensor
    channel: int


def find_places(nodes: Sequence[Node], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[Tensor, Place]:
    """The places of tensors that lie inside another one, which itself lies in none. ``inputs`` and ``outputs`` of the model never do."""
    writer = {tensor: node for node in nodes for tensor in node.outputs}
    readers: dict[Tensor, list[Node]] = defaultdict(list)
    for node in nodes:
        for tensor in node.inputs:
            readers[tensor].append(node)
    apart = {*inputs, *outputs}
    places: dict[Tensor, Place] = {}

    def may_lie_inside(tensor: Tensor) -> bool:
        return tensor not in apart and tensor not in places and all(map(_reads_views, readers[tensor]))

    for node in nodes:
        if node.layer.concatenates:
            (whole,) = node.outputs
            for part, place in (*_parts(whole, _uncut(node.inputs, writer)), *_parts(whole, node.inputs)):
                if may_lie_inside(part) and _writes_views(writer[part]):
                    places[part] = place
    for node in nodes:  # after those, as what is cut may as well be copied into a concatenation
        if node.layer.splits:
            (whole,) = node.inputs
            for part, place in _parts(whole, node.outputs):
                if may_lie_inside(part):
                    places[part] = place
    return {tensor: _outermost(place, places) for tensor, place in places.items()}


def _reads_views(node: Node) -> bool:
    return node.layer.reads_views and not node.layer.alias


def _writes_views(node: Node) -> bool:
    return node.layer.writes_views and not node.layer.alias


def _parts(whole: Tensor, parts: Sequence[Tensor]) -> list[tuple[Tensor, Place]]:
    """Each part with its place in ``whole``; nothing if they lie one after the other along another axis than the channels."""
    if any(part.shape[:-1] != whole.shape[:-1] or part.dtype != whole.dtype for part in parts):
        return []
    ends = [sum(part.shape[-1] for part in parts[: k + 1]) for k in range(len(parts))]
    if ends[-1] != whole.shape[-1]:
        return []
    return [(part, Place(whole, end - part.shape[-1])) for part, end in zip(parts, ends)]


def _uncut(tensors: Sequence[Tensor], writer: Mapping[Tensor, Node]) -> list[Tensor]:
    """``tensors``, but where all parts of one that was cut follow each other, as in cross-stage partial networks, that one."""
    result: list[Tensor] = []
    for tensor in tensors:
        result.append(tensor)
        node = writer.get(tensor)
        if node is not None and node.layer.splits and _parts(node.inputs[0], node.outputs):
            count = len(node.outputs)
            if tuple(result[-count:]) == node.outputs:
                result[-count:] = node.inputs
    return result


def _outermost(place: Place, places: dict[Tensor, Place]) -> Place:
    """The same place in the array that lies in no other."""
    while place.whole in places:
        around = places[place.whole]
        place = Place(around.whole, around.channel + place.channel)
    return place
