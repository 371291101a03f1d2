"""A convolutional network for sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numbacnn as nc

from .common import Stages, architecture


def body(
    x: nc.Tensor,
    *,
    vocabulary: int = 20_000,
    width: int = 300,
    windows: Sequence[int] = (3, 4, 5),
    filters: int = 100,
    padding_index: int | None = None,
) -> Stages:
    """Y. Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014.

    Sentences are ``(length,)`` ids of words below ``vocabulary``, ``padding_index`` where a sentence is over. Each word becomes a vector of
    ``width`` numbers. For each of ``windows``, ``filters`` convolutions over as many words, of which each gives its largest value in the
    sentence. The vectors start at random (the paper's CNN-rand); assign those that are known to ``parameters["embedding.weight"]``, and
    freeze ``"embedding"`` to keep them (CNN-static). The paper also bounds the norm of the last weights, which is left out.
    """
    h = nc.Embedding(vocabulary, width, padding_index=padding_index, initializer=nc.Uniform(0.25))(x, name="embedding")
    found = []
    for size in windows:
        with nc.scope(f"window{size}"):
            window = nc.Conv1D(filters, size)(h, name="conv")
            window = nc.Activation("relu")(window, name="activation")
            found.append(nc.GlobalMaxPool1D()(window, name="pool"))
    return {"embedding": h, "windows": nc.Concatenate()(*found, name="windows")}


def head(h: nc.Tensor, classes: int, *, dropout: float = 0.5) -> nc.Tensor:
    """Dropout, and one dense layer."""
    if dropout:
        h = nc.Dropout(dropout)(h, name="dropout")
    return nc.Dense(classes)(h, name="logits")


text_cnn = architecture("text_cnn", body, head, input_shape=(64,), input_dtype="int64", classes=2)


def names(model: nc.Model) -> dict[str, list[tuple[str, str]]]:
    """As networks of this kind are usually written in PyTorch: a list of convolutions."""
    windows = [node.name.partition(".")[0] for node in model.graph.nodes if isinstance(node.layer, nc.Conv1D)]
    convolutions = [(f"{window}.conv", f"convs.{number}") for number, window in enumerate(windows)]
    return {"pytorch": [*convolutions, ("head.logits", "fc")]}


NAMES = names
