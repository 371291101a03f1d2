"""Transfer learning: rates that fall from the head to the first layers, and layers that join the training one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, UnknownNameError
from .callbacks import Callback

if TYPE_CHECKING:
    from .trainer import Trainer


def group_names(model: Any) -> list[str]:
    """The groups of a model's layers, from the inputs to the outputs: its outermost scopes (``stem``, ``stage1``... ``head``), and layers
    outside of all scopes, as far as they have parameters."""
    names = (node.name for node in model.graph.nodes if node.parameters)
    return list(dict.fromkeys(name.partition(".")[0] for name in names))


def layer_groups(model: Any, decay: float = 0.5) -> list[tuple[str, dict[str, float]]]:
    """Groups for an optimizer that give the head its full rate and each group of layers before it ``decay`` times the rate of the next:
    discriminative fine-tuning, J. Howard, S. Ruder, "Universal Language Model Fine-tuning for Text Classification", ACL 2018::

        optimizer = nc.SGD(0.01, momentum=0.9, groups=nc.layer_groups(model, decay=0.5))

    Groups are those of the outermost scopes, see :func:`group_names`. Raises ConfigError unless ``decay`` is above 0 and at most 1.
    """
    if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 < decay <= 1:
        raise ConfigError(f"layer_groups was given decay={decay!r}; it takes a number above 0 and at most 1.")
    groups = []
    for k, name in enumerate(reversed(group_names(model))):
        groups.append((f"{name}.*", {"rate_factor": decay**k}))
    return groups


@dataclasses.dataclass(frozen=True)
class ProgressiveUnfreezing(Callback):
    """Train the head alone at first; after every ``every`` epochs the group of layers before it joins, from the top to the bottom
    (gradual unfreezing, Howard & Ruder 2018).

    ``groups`` are names of layers or scopes from the inputs to the head; None takes the outermost scopes (see :func:`group_names`).
    What is before the first of them is never trained. Raises UnknownNameError for a group that the model lacks.
    """

    every: int = 1
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ConfigError(f"ProgressiveUnfreezing was given every={self.every!r}; it takes a whole number of epochs of at least 1.")
        if self.groups is not None and (isinstance(self.groups, str) or not self.groups):
            raise ConfigError(
                f"ProgressiveUnfreezing was given groups={self.groups!r}; it takes names of layers or scopes, from the first on."
            )

    def on_train_begin(self, trainer: Trainer) -> None:
        known = {name for node in trainer.model.graph.nodes for name in _with_scopes(node.name)}
        for group in self._groups(trainer):
            if group not in known:
                raise UnknownNameError("layer or scope", group, known)

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        groups = self._groups(trainer)
        joined = 1 + (epoch - 1) // self.every
        trainer.model.freeze_until(groups[max(0, len(groups) - joined)])

    def _groups(self, trainer: Trainer) -> Sequence[str]:
        return group_names(trainer.model) if self.groups is None else self.groups


def _with_scopes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]
