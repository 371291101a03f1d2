"""In training, a residual sum and an activation after a normalisation are part of it: the same numbers, with less to keep."""

import numpy as np
import pytest

import numbacnn as nc
from numbacnn import arrays
from numbacnn.graph import passes
from numbacnn.kernels import streaming
from numbacnn.layers.norm import FusedNorm

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((3, 5, 7, 6)) * 2 + 0.5
NORMS = {
    "batch": nc.BatchNorm(),
    "batch, bare": nc.BatchNorm(scale=False, center=False),
    "batch, frozen": nc.BatchNorm(frozen=True),
    "group": nc.GroupNorm(2),
    "instance": nc.InstanceNorm(affine=True),
}
ACTIVATIONS = ["relu", "silu", "leaky_relu"]  # by the result, by dual numbers, and with a number of its own


def trained(norm, activation, images=IMAGES):
    """Layers of the plan, outputs, and gradients of a convolution, a normalisation and an activation, in training."""
    x = nc.Input(images.shape[1:])
    after = nc.Activation(activation) if isinstance(activation, str) else activation()
    y = after(norm(nc.Conv2D(6, 3, bias=False)(x)))
    model = nc.Model(x, y, seed=3, dtype="float64")
    rng = np.random.default_rng(1)
    for name, array in model.parameters.items():
        if array.ndim == 1:
            model.parameters[name] = rng.uniform(0.5, 1.5, array.shape)
    plan = model.training_plan(len(images), input_gradients=True)
    plan.inputs[0][...] = images
    plan.forward()
    plan.output_gradients[0][...] = np.random.default_rng(2).standard_normal(plan.outputs[0].shape)
    plan.backward()
    layers = [run.node.layer for run in plan.plan.forward]
    return layers, [plan.outputs[0].copy(), plan.input_gradients[0].copy(), *(array.copy() for array in plan.gradients.values())]


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_same_numbers_as_apart(monkeypatch, norm, activation):
    layers, together = trained(norm, activation)
    assert isinstance(layers[-1], FusedNorm)
    monkeypatch.setattr(passes, "fuse_norms", lambda nodes, outputs: nodes)
    layers, apart = trained(norm, activation)
    assert not any(isinstance(layer, FusedNorm) for layer in layers)
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def block(kind, x):
    """Two layers that are added up, at least one of them a normalisation."""
    narrow = nc.Conv2D(6, 3, padding=1, bias=False)(x)
    if kind == "of the input":  # which wants no gradient
        return [nc.BatchNorm()(narrow), x]
    if kind == "before a convolution":  # the normalised input wants none
        return [narrow, nc.BatchNorm()(x)]
    if kind == "of two normalisations":
        return [nc.BatchNorm()(narrow), nc.GroupNorm(3)(nc.Conv2D(6, 1)(x))]
    frozen = nc.BatchNorm(frozen=True)(narrow)
    return [nc.Activation("relu")(nc.BatchNorm()(nc.Conv2D(6, 1)(frozen))), nc.InstanceNorm()(frozen)]


@pytest.mark.parametrize("activation", ["relu", "silu", None])
@pytest.mark.parametrize("kind", ["of the input", "before a convolution", "of two normalisations", "of what others read"])
def test_same_numbers_as_apart_with_a_residual_sum(monkeypatch, kind, activation):
    x = nc.Input(IMAGES.shape[1:])
    total = nc.Add()(*block(kind, x))
    y = total if activation is None else nc.Activation(activation)(total)
    found = []
    for fuses in (True, False):
        if not fuses:
            monkeypatch.setattr(passes, "fuse_norms", lambda nodes, outputs: nodes)
        model = nc.Model(x, [y, nc.MaxPool2D(2)(y)], seed=3, dtype="float64")
        plan = model.training_plan(3)
        assert any(isinstance(run.node.layer, FusedNorm) and run.node.layer.residual for run in plan.plan.forward) is fuses
        plan.inputs[0][...] = IMAGES
        for _ in range(2):
            plan.forward()
            for seed, gradient in enumerate(plan.output_gradients):
                gradient[...] = np.random.default_rng(seed).standard_normal(gradient.shape)
            plan.backward()
        found.append([*plan.outputs, *plan.gradients.values(), *model.parameters.values()])
    for together, apart in zip(*found, strict=True):
        np.testing.assert_allclose(together, apart, rtol=1e-10, atol=1e-12)


def outcome_of_a_residual_block(activation):
    """Outputs and gradients of a model whose lines of channels are whole cache lines."""
    x = nc.Input((9, 7, 32))
    inner = nc.Activation(activation)(nc.BatchNorm()(nc.Conv2D(32, 1, bias=False)(x)))
    y = nc.Activation(activation)(nc.Add()(nc.BatchNorm()(nc.Conv2D(32, 1, bias=False)(inner)), inner))
    plan = nc.Model(x, y, seed=3, dtype="float64").training_plan(3)
    plan.inputs[0][...] = np.random.default_rng(0).standard_normal(plan.inputs[0].shape)
    plan.forward()
    plan.output_gradients[0][...] = np.random.default_rng(1).standard_normal(plan.outputs[0].shape)
    plan.backward()
    return [plan.outputs[0].copy(), *(array.copy() for array in plan.gradients.values())]


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_large_arrays_are_written_past_the_caches_with_the_same_bits(monkeypatch, activation):
    expected = outcome_of_a_residual_block(activation)
    chosen, past_caches = [], streaming.past_caches
    monkeypatch.setattr(streaming, "LARGE", 0)
    monkeypatch.setattr(streaming, "past_caches", lambda array: chosen.append(past_caches(array)) or chosen[-1])
    found = outcome_of_a_residual_block(activation)
    assert chosen
    assert all(chosen)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_written_past_the_caches():
    memory = arrays.empty((streaming.LARGE // 64 + 2, 16), np.float32)
    assert streaming.past_caches(memory)
    assert not streaming.past_caches(memory[:-3])  # too small
    assert not streaming.past_caches(memory.reshape(-1)[4:-12].reshape(-1, 16))  # begins within a cache line
    assert not streaming.past_caches(memory.reshape(-1, 8)[:, None])  # two pixels share a cache line


def test_functions_of_ones_own():
    bent = nc.activation("bent", lambda x: x * abs(x) + 0.1 * x)
    layers, (_, gradient, *_) = trained(nc.BatchNorm(), bent)
    assert isinstance(layers[-1], FusedNorm)
    assert np.isfinite(gradient).all()


def test_what_others_read_stays():
    """A normalised array that another layer or the caller reads must be there."""
    x = nc.Input((4, 4, 3))
    z = nc.BatchNorm()(x)
    y = nc.Activation("relu")(z)
    for outputs in (nc.Add()(y, z), [y, z]):
        plan = nc.Model(x, outputs).training_plan(2)
        assert not any(isinstance(run.node.layer, FusedNorm) for run in plan.plan.forward)


def test_activations_with_parameters_stay():
    x = nc.Input((4, 4, 3))
    plan = nc.Model(x, nc.PReLU()(nc.BatchNorm()(x))).training_plan(2)
    assert not any(isinstance(run.node.layer, FusedNorm) for run in plan.plan.forward)


def test_inference_is_the_same():
    x = nc.Input(IMAGES.shape[1:])
    model = nc.Model(x, nc.Activation("relu")(nc.BatchNorm()(nc.Conv2D(4, 1)(x))), dtype="float64")
    model.training_plan(3)
    (run,) = model._inference_plan(3).plan.forward
    assert run.node.layer.folded
