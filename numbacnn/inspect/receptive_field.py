"""Receptive fields: which part of the input an element of a tensor depends on.

Each tensor has, per spatial axis of the input, a *size* (how many input places its elements see), a *stride* (how far the view moves
from one element to the next) and a *centre* (the middle of the first element's view, where input place 0 has its middle at 0 and
padding lies below it). A sliding layer with window extent ``e = dilation * (kernel - 1) + 1``, stride ``s`` and leading padding
``p`` makes of them

    size   <- size + (e - 1) * stride
    centre <- centre + ((e - 1) / 2 - p) * stride
    stride <- stride * s

(V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", 2016; A. Araujo, W. Norris and J. Sim,
"Computing receptive fields of convolutional neural networks", Distill 2019). Where branches of different reach meet, the result is
the smallest interval that covers all of them: the largest of the branches when they have one centre. Sizes are those of the
arithmetic: they count padding, and may exceed the image. Behind layers that enlarge (a stride below one) elements do not all see
equally much; size is then a bound, at most one place of the coarsest tensor too large. What normalisation sees through its
statistics does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

Number = int | float | Fraction


@dataclass(frozen=True)
class ReceptiveField:
    """Per spatial axis of the input, in input places. ``stride`` is 0 where the tensor has no spatial axes any more,
    because each element has seen all places."""

    size: tuple[int, ...]
    stride: tuple[float, ...]
    centre: tuple[float, ...]

    def __str__(self) -> str:
        return "x".join(map(str, self.size)) if self.size else "-"


@dataclass(frozen=True)
class Span:
    """Along one input axis, element ``k`` sees the places ``first + k * stride`` to ``last + k * stride``."""

    first: Fraction
    last: Fraction
    stride: Fraction

    def slide(self, extent: Number, stride: Number, padding: Number) -> Span:
        """Seen through a window of ``extent`` elements."""
        first = self.first - Fraction(padding) * self.stride
        return Span(first, first + self.last - self.first + (Fraction(extent) - 1) * self.stride, self.stride * Fraction(stride))

    def whole(self, length: int) -> Span:
        """Seen by something that reads all ``length`` elements."""
        return Span(self.first, self.last + (length - 1) * self.stride, Fraction(0))


Spans = tuple[Span, ...]


def receptive_fields(inputs: Sequence[Any], nodes: Sequence[Any]) -> dict[Any, ReceptiveField]:
    """Receptive field of every tensor of a graph. ``nodes`` come in an order in which they can run."""
    spans: dict[Any, Spans] = {t: tuple(Span(Fraction(0), Fraction(0), Fraction(1)) for _ in _places(t)) for t in inputs}
    for node in nodes:
        window = node.layer.window(node.shapes)
        for output in node.outputs:
            spans[output] = _merge([_through(window, spans[t], _places(t), _places(output)) for t in node.inputs])
    return {tensor: _field(span) for tensor, span in spans.items()}


def _places(tensor: Any) -> Sequence[int]:
    """Lengths of the spatial axes: all but the channels, which whole numbers don't have."""
    return tensor.shape[:-1] if tensor.dtype is None else tensor.shape


def _through(window: tuple | None, spans: Spans, places: Sequence[int], places_out: Sequence[int]) -> Spans:
    """Spans after a layer. One without a window that keeps the places works point by point; one that does not (Flatten,
    Reshape, Dense on a vector) counts as reading everything."""
    if len(places) != len(spans):  # an earlier layer has merged the axes
        return spans
    if window is not None:
        spans = tuple(span.slide(*axis) for span, axis in zip(spans, zip(*window)))
        return spans if len(places_out) == len(places) else tuple(Span(s.first, s.last, Fraction(0)) for s in spans)
    if places == places_out:
        return spans
    return tuple(span.whole(length) for span, length in zip(spans, places))


def _merge(branches: list[Spans]) -> Spans:
    axes = max(map(len, branches))
    branches = [spans for spans in branches if len(spans) == axes]
    return tuple(Span(min(s.first for s in along), max(s.last for s in along), max(s.stride for s in along)) for along in zip(*branches))


def _field(spans: Spans) -> ReceptiveField:
    return ReceptiveField(
        size=tuple(ceil(s.last - s.first) + 1 for s in spans),
        stride=tuple(_plain(s.stride) for s in spans),
        centre=tuple(_plain((s.first + s.last) / 2) for s in spans),
    )


def _plain(value: Fraction) -> float:
    return int(value) if value.denominator == 1 else float(value)
