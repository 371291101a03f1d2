"""The arithmetic of sliding windows: padding, output sizes, and what is wrong when a window does not fit.

See V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning" (2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError, ShapeError
from .checks import is_integer

Pairs = tuple[tuple[int, int], ...]
MODES = ("valid", "same", "full", "causal")


def per_axis(value: int | Sequence[int], axes: int, what: str, minimum: int = 1) -> tuple[int, ...]:
    """``value`` for each of ``axes`` axes; ConfigError unless every entry is an integer of at least ``minimum``."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * axes
    if len(values) != axes or not all(is_integer(v, minimum) for v in values):
        raise ConfigError(f"{what} is {value!r}; it takes an integer of at least {minimum}, or {axes} of them.")
    return values


def check_padding(padding: Any, axes: int) -> None:
    """ConfigError unless ``padding`` is one of the forms that :func:`resolve_padding` takes."""
    if isinstance(padding, str):
        if padding not in MODES:
            raise ConfigError(f"padding is {padding!r}; it takes {', '.join(map(repr, MODES))}, an integer, or one entry per axis.")
        if padding == "causal" and axes != 1:
            raise ConfigError('padding "causal" is for layers with one axis (time).')
        return
    entries = tuple(padding) if isinstance(padding, Sequence) else (padding,) * axes
    if len(entries) != axes:
        raise ConfigError(f"padding is {padding!r}; it takes one entry per axis, {axes} here.")
    for entry in entries:
        pair = tuple(entry) if isinstance(entry, Sequence) else (entry, entry)
        if len(pair) != 2 or not all(is_integer(p, 0) for p in pair):
            raise ConfigError(f"padding is {padding!r}; each axis takes an integer of at least 0 or a pair (before, after).")


def resolve_padding(padding: Any, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Pairs:
    """``(before, after)`` per axis for an input of ``size``.

    - an integer, or one per axis: that much on both sides; a pair per axis: as given;
    - ``"valid"``: none;
    - ``"same"``: the output has ``ceil(size / stride)`` places and an odd rest goes behind, as in TensorFlow and ONNX SAME_UPPER;
    - ``"full"``: every place where window and input overlap, ``dilation * (kernel - 1)`` on both sides;
    - ``"causal"``: that much in front only, so that no output sees a later input.
    """
    axes = len(size)
    check_padding(padding, axes)
    if isinstance(padding, str):
        return tuple(_mode_padding(padding, *axis) for axis in zip(size, kernel, stride, dilation))
    entries = tuple(padding) if isinstance(padding, Sequence) else (padding,) * axes
    return tuple((entry[0], entry[1]) if isinstance(entry, Sequence) else (entry, entry) for entry in entries)


def _mode_padding(mode: str, size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    reach = dilation * (kernel - 1)
    if mode == "full":
        return reach, reach
    if mode == "causal":
        return reach, 0
    if mode == "same":
        total = max(0, (-(-size // stride) - 1) * stride + reach + 1 - size)
        return total // 2, total - total // 2
    return 0, 0


def window_places(
    given: Sequence[int], size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], padding: Pairs
) -> tuple[int, ...]:
    """Places of a window along each axis, ``(size + padding - dilation * (kernel - 1) - 1) // stride + 1``.

    ShapeError where the window is larger than the padded input; ``given`` is the whole shape, for the message."""
    places = []
    for n, k, s, d, (before, after) in zip(size, kernel, stride, dilation, padding):
        extent = d * (k - 1) + 1
        if n + before + after < extent:
            raise ShapeError(
                f"given shape {tuple(given)}, needs at least {extent - before - after} along each axis "
                f"that a window of {extent} slides over: a kernel of {k} with dilation {d} "
                f"and padding ({before}, {after}) does not fit into {n}."
            )
        places.append((n + before + after - extent) // s + 1)
    return tuple(places)
