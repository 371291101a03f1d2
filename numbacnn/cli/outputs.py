"""What the outputs of a saved classifier mean: logits, or probabilities by a softmax or sigmoid at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import DataError

if TYPE_CHECKING:
    import numpy as np

SMALLEST, LARGEST = 1e-38, 1 - 2**-25  # probabilities, as near to 0 and 1 as float32 has them


def only(outputs: Any) -> np.ndarray:
    """The array that predict gives for a model with one output, which may have a name."""
    return next(iter(outputs.values())) if isinstance(outputs, dict) else outputs


def logits(model: Any, outputs: Any) -> np.ndarray:
    """The numbers whose softmax (or sigmoid, where there is one per sample, or where the model ends in one) are the probabilities."""
    import numpy as np

    last = _last_layer(model)
    if not _is_softmax(last) and not _is_sigmoid(last):
        return outputs
    clipped = outputs.astype(np.float64).clip(SMALLEST, LARGEST)
    return np.log(clipped) if _is_softmax(last) else np.log(clipped) - np.log1p(-clipped)


def probabilities(model: Any, outputs: Any) -> np.ndarray:
    """``(N, classes)``. One output is the probability of the second of two classes; several sigmoids are independent of each other."""
    import numpy as np

    numbers = logits(model, outputs).astype(np.float64)
    if outputs.shape[-1] == 1 or _is_sigmoid(_last_layer(model)):
        share = 0.5 * (1.0 + np.tanh(0.5 * numbers))
        return np.concatenate([1.0 - share, share], axis=-1) if outputs.shape[-1] == 1 else share
    powers = np.exp(numbers - numbers.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def loss(model: Any) -> Any:
    """The loss by which a classifier is measured, of its :func:`logits`. Raises DataError for a model that is none."""
    from ..training.losses import BinaryCrossEntropy, SoftmaxCrossEntropy

    if len(model.graph.outputs) != 1 or not model.graph.outputs[0].shape:
        raise DataError(f"Only models with one output can be measured here; this one has {len(model.graph.outputs)}.")
    if model.graph.outputs[0].shape[-1] == 1:
        return BinaryCrossEntropy()
    if _is_sigmoid(_last_layer(model)):
        raise DataError("The model's outputs are sigmoids, which say yes or no each for itself; this command measures one class per image.")
    return SoftmaxCrossEntropy()


def _last_layer(model: Any) -> Any:
    """The layer (or activation of a layer) that computes the output, seen through those that change no number."""
    makers = {tensor: node for node in model.graph.nodes for tensor in node.outputs}
    node = makers.get(model.graph.outputs[0])
    while node is not None and node.activation is None and (node.layer.alias or node.layer.inference_identity):
        node = makers.get(node.inputs[0])
    return None if node is None else node.activation or node.layer


def _is_softmax(layer: Any) -> bool:
    """Not its logarithm, whose numbers are logits as good as any."""
    from ..layers.activation import LogSoftmax, Softmax

    return isinstance(layer, Softmax) and not isinstance(layer, LogSoftmax)


def _is_sigmoid(layer: Any) -> bool:
    from .. import kernels

    return getattr(layer, "elementwise", False) and layer.scalar() is kernels.activations.sigmoid
