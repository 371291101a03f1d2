"""A graph run node by node, with a fresh array for everything: nothing is shared, aliased, reused or left out."""

import numpy as np


def forward(graph, parameters, inputs, training=False):
    """Values of all tensors, and each node's buffers. ``parameters`` maps names in the model to arrays."""
    values = dict(zip(graph.inputs, inputs))
    buffers = {}
    for node in graph.nodes:
        given = [values[tensor].copy() for tensor in node.inputs]
        batch, dtype = len(given[0]), given[0].dtype
        outputs = [np.full((batch, *tensor.shape), np.nan, dtype) for tensor in node.outputs]
        buffers[node] = _arrays(node.layer.buffers(node.shapes), batch, dtype) if training else {}
        scratch = _arrays(node.layer.scratch(node.shapes, batch, 1, training), batch, dtype)
        if node.layer.alias:
            outputs[0][...] = given[0].reshape(outputs[0].shape)
        else:
            p = {local: parameters[full] for local, full in node.parameters.items()}
            node.layer.forward(_inputs(node, given), _outputs(outputs), p, {**buffers[node], **scratch}, training)
        values.update(zip(node.outputs, outputs))
    return values, buffers


def backward(graph, parameters, values, buffers, output_gradients):
    """Gradients of all tensors and all parameters."""
    gradients = {tensor: np.zeros_like(value) for tensor, value in values.items()}
    learned = {name: np.zeros_like(array) for name, array in parameters.items()}
    for tensor, gradient in zip(graph.outputs, output_gradients):
        gradients[tensor] += gradient
    for node in reversed(graph.nodes):
        x = [values[tensor].copy() for tensor in node.inputs]
        y = [values[tensor].copy() for tensor in node.outputs]
        dy = [gradients[tensor].copy() for tensor in node.outputs]
        dx = [np.full_like(array, np.nan) for array in x]
        p = {local: parameters[full] for local, full in node.parameters.items()}
        dp = {local: np.full_like(array, np.nan) for local, array in p.items()}
        if node.layer.alias:
            dx[0][...] = dy[0].reshape(dx[0].shape)
        else:
            scratch = _arrays(node.layer.scratch(node.shapes, len(x[0]), 1, True), len(x[0]), x[0].dtype)
            b = {**buffers[node], **scratch}
            reads = node.layer.backward_reads
            x_read, y_read = _inputs(node, x) if "x" in reads else None, _outputs(y) if "y" in reads else None
            node.layer.backward(x_read, y_read, _outputs(dy), _inputs(node, dx), p, dp, b)
        for tensor, gradient in zip(node.inputs, dx):
            gradients[tensor] += gradient
        for local, full in node.parameters.items():
            learned[full] += dp[local]
    return gradients, learned


def _arrays(buffers, batch, dtype):
    return {name: np.zeros((batch,) * b.per_sample + tuple(b.shape), b.dtype or dtype) for name, b in buffers.items()}


def _inputs(node, arrays):
    return arrays[0] if node.layer.arity == 1 else tuple(arrays)


def _outputs(arrays):
    return arrays[0] if len(arrays) == 1 else tuple(arrays)
