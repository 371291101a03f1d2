"""What the architectures have in common: how a network is put together from its stages and its head, and the blocks that many use.

A family is a function ``body(x, ...) -> {"stem": tensor, "stage1": tensor, ...}`` of symbolic tensors and a function
``head(h, classes, ...) -> logits``; :func:`architecture` makes of the two, and of a variant's numbers, what a user creates.

Beside its stages a body may give outputs within them, by dotted names such as ``"stage2.block1"``: auxiliary heads look there.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numbacnn as nc

Stages = dict[str, nc.Tensor]
Body = Callable[..., Stages]
Head = Callable[..., nc.Tensor]
Norm = Callable[[], nc.Layer]

INITIALIZER = nc.VarianceScaling(2.0, "out", "normal")
"""Of convolutions before a rectifier: K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", ICCV 2015."""
DEPTHWISE_INITIALIZER = nc.VarianceScaling(2.0, "in", "normal")
"""The same where each output channel has one input channel: the outputs that an input takes part in are those of its own kernel."""


# Putting together ----------------------------------------------------------------------------------------------------


def architecture(
    name: str,
    body: Body,
    head: Head,
    *,
    input_shape: tuple[int, ...] = (224, 224, 3),
    input_dtype: str | None = None,
    classes: int = 1000,
    auxiliary_heads: Mapping[str, tuple[str, Head]] | None = None,
    **recipe: Any,
) -> Callable[..., nc.Model]:
    """The function that creates the variant ``name`` of a family. ``recipe`` holds what it gives to ``body`` and ``head``, by the
    names of their parameters; who creates a network may give others. ``input_dtype`` is as of nc.Input. ``auxiliary_heads`` are, by
    the names of their outputs, heads that ``auxiliary=True`` adds, each with the name of what it gets of the body's."""
    heads = dict(auxiliary_heads or {})
    known = frozenset().union(*map(_parameters, (body, head, *(each for _, each in heads.values()))))
    known |= {"auxiliary"} if heads else set()

    def create(
        input_shape: tuple[int, ...] = input_shape,
        classes: int = classes,
        dropout: float | None = None,
        drop_path: float = 0.0,
        features: bool = False,
        seed: int = 0,
        dtype: str = "float32",
        **options: Any,
    ) -> nc.Model:
        if dropout is not None:
            options["dropout"] = dropout
        if drop_path:
            options["drop_path"] = drop_path
        for option, value in options.items():
            if option not in known:
                raise nc.ConfigError(f"{name} was given {option}={value!r}; it takes {', '.join(sorted(known | COMMON))}.")
        options = {**recipe, **options}
        auxiliary = options.pop("auxiliary", False)
        if features and auxiliary:
            raise nc.ConfigError(f"{name} was given features=True and auxiliary=True; a model of features has no heads.")
        x = nc.Input(input_shape, dtype=input_dtype)
        stages = body(x, **_for(body, options))
        if features:
            outputs: Any = {key: h for key, h in stages.items() if "." not in key}
        else:
            outputs = _attached(head, "head", list(stages.values())[-1], classes, options)
        if auxiliary:
            others = {key: _attached(each, key, stages[place], classes, options) for key, (place, each) in heads.items()}
            outputs = {"logits": outputs, **others}
        return nc.Model(x, outputs, seed=seed, dtype=dtype, name=name)

    create.__name__ = create.__qualname__ = name
    create.__module__ = body.__module__
    create.__doc__ = f"{name}: {inspect.getdoc(body)}\n\n{DOCUMENTATION}"
    return create


def _attached(head: Head, name: str, h: nc.Tensor, classes: int, options: Mapping[str, Any]) -> nc.Tensor:
    """The logits of a head in a scope of its own."""
    with nc.scope(name):
        return head(h, classes, **_for(head, options))


COMMON = {"input_shape", "classes", "features", "seed", "dtype"}
DOCUMENTATION = """Args:
    input_shape: shape of an image without the batch axis, channels last.
    classes: number of logits.
    dropout: share of the features that the head drops in training; None takes the variant's own.
    drop_path: probability of dropping the last residual branch in training (stochastic depth, Huang et al. 2016); it grows
        linearly from 0 at the first one.
    features: give the outputs of the stages, by name, in place of logits.
    seed, dtype: as of nc.Model.

Raises ShapeError for an ``input_shape`` that the mathematics does not allow, ConfigError for an option that the family lacks."""


@functools.cache
def _parameters(function: Callable) -> frozenset[str]:
    """Names of the options that a body or head takes."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def _for(function: Callable, options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in _parameters(function)}


# Blocks --------------------------------------------------------------------------------------------------------------


def conv_norm(
    h: nc.Tensor,
    filters: int,
    size: int | tuple[int, ...] = 1,
    stride: int | tuple[int, ...] = 1,
    *,
    groups: int = 1,
    dilation: int = 1,
    padding: Any = None,
    activation: Any = "relu",
    norm: Norm = nc.BatchNorm,
    number: int | str = "",
) -> nc.Tensor:
    """Convolution without bias, batch norm, activation (None for none), called ``conv``, ``norm`` and ``activation`` and a ``number``.
    Padding keeps the size, at stride 1, unless given."""
    convolution = {2: nc.Conv1D, 3: nc.Conv2D, 4: nc.Conv3D}[len(h.shape)]
    if padding is None:
        padding = size_keeping(size, dilation)
    layer = convolution(
        filters, size, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False, initializer=INITIALIZER
    )
    return norm_activation(layer(h, name=f"conv{number}"), activation=activation, norm=norm, number=number)


def depthwise_norm(
    h: nc.Tensor,
    size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    *,
    dilation: int = 1,
    padding: Any = None,
    activation: Any = "relu",
    norm: Norm = nc.BatchNorm,
    number: int | str = "",
) -> nc.Tensor:
    """As :func:`conv_norm`, with a kernel per channel in place of one over all channels."""
    convolution = {2: nc.DepthwiseConv1D, 3: nc.DepthwiseConv2D, 4: nc.DepthwiseConv3D}[len(h.shape)]
    if padding is None:
        padding = size_keeping(size, dilation)
    layer = convolution(size, stride=stride, padding=padding, dilation=dilation, bias=False, initializer=DEPTHWISE_INITIALIZER)
    return norm_activation(layer(h, name=f"conv{number}"), activation=activation, norm=norm, number=number)


def size_keeping(size: int | tuple[int, ...], dilation: int = 1) -> int | tuple[int, ...]:
    """The padding in front and behind with which a window of odd ``size`` and stride 1 gives as many places as there are."""
    return tuple(dilation * (n // 2) for n in size) if isinstance(size, tuple) else dilation * (size // 2)


def norm_activation(h: nc.Tensor, *, activation: Any = "relu", norm: Norm = nc.BatchNorm, number: int | str = "") -> nc.Tensor:
    """A normalisation, which ``norm()`` makes, and activation (None for none), called ``norm`` and ``activation`` and a ``number``."""
    h = norm()(h, name=f"norm{number}")
    return h if activation is None else activate(h, activation, name=f"activation{number}")


def activate(h: nc.Tensor, activation: Any, name: str = "activation") -> nc.Tensor:
    """An activation by its registered name, or as a layer."""
    return (nc.Activation(activation) if isinstance(activation, str) else activation)(h, name=name)


def residual(branch: nc.Tensor, shortcut: nc.Tensor, drop_path: float = 0.0) -> nc.Tensor:
    """Sum of a branch, which training drops with probability ``drop_path``, and its shortcut."""
    if drop_path:
        branch = nc.StochasticDepth(drop_path)(branch, name="drop_path")
    return nc.Add()(branch, shortcut, name="add")


def drop_rates(blocks: int, last: float) -> list[float]:
    """Of each residual branch the probability that it is dropped: from 0, linearly, to ``last``."""
    return [last * k / max(1, blocks - 1) for k in range(blocks)]


def pooled_head(h: nc.Tensor, classes: int, *, dropout: float = 0.0) -> nc.Tensor:
    """Mean over all places, dropout, and one dense layer."""
    h = {2: nc.GlobalAveragePool1D, 3: nc.GlobalAveragePool2D, 4: nc.GlobalAveragePool3D}[len(h.shape)]()(h, name="pool")
    if dropout:
        h = nc.Dropout(dropout)(h, name="dropout")
    return nc.Dense(classes)(h, name="logits")


def dense_head(h: nc.Tensor, classes: int, *, places: int, hidden: int = 4096, dropout: float = 0.5) -> nc.Tensor:
    """Mean to ``places`` along each axis, and three dense layers: two ``hidden`` ones, dropout behind each, and the logits."""
    h = nc.AdaptiveAveragePool2D(places)(h, name="pool")
    h = nc.Flatten()(h, name="flatten")
    for k in (1, 2):
        h = nc.Dense(hidden, activation="relu", initializer="he_normal")(h, name=f"dense{k}")
        if dropout:
            h = nc.Dropout(dropout)(h, name=f"dropout{k}")
    return nc.Dense(classes)(h, name="logits")
