"""Networks whose products run on tensor cores, and whose activations are stored as bfloat16."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError
from numbacnn.kernels.bfloat16 import BF16, rounded, widened
from numbacnn.plugin import registry

from ..test_all_layers import CASES, Case
from .copied import Copied
from .test_layers import BATCH, compiled, each_case, model_compiles, no_device, samples, simulated, trained  # noqa: F401

TF32, STORED = 3e-3, 2e-2  # errors, of the largest value: some steps of rounding of each factor, or of each activation


def network() -> nc.Model:
    """A convolution that tensor cores cannot take, for its input's channels, one and a Dense layer that they can, and a separable one."""
    x = nc.Input((5, 4, 3))
    h = nc.Conv2D(8, 3, padding="same", activation="relu")(x)
    h = nc.Conv2D(12, 3, padding="same", bias=False)(h)
    h = nc.SeparableConv2D(8, 3)(nc.Activation("relu")(nc.BatchNorm()(h)))
    return nc.Model(x, nc.Dense(4)(nc.Flatten()(h)), seed=4)


def residual() -> nc.Model:
    """Tensors with two readers, sums in a normalisation's ending, concatenation, and an output that others read. No activation has a kink:
    on the other side of one, a gradient is off by all of itself."""
    x = nc.Input((6, 6, 3))
    h = nc.Activation("silu")(nc.BatchNorm()(nc.Conv2D(8, 3, padding="same", bias=False)(x)))
    g = nc.BatchNorm()(nc.Conv2D(8, 3, padding="same", bias=False)(h))
    h = nc.Activation("tanh")(nc.Add()([g, h]))
    h = nc.Concatenate()([h, nc.AveragePool2D(3, stride=1, padding="same")(h), nc.DepthwiseConv2D(3, padding="same")(h)])
    first = nc.Conv2D(4, 1)(h)
    return nc.Model(x, [first, nc.Dense(5)(nc.GlobalAveragePool2D()(nc.Activation("tanh")(first)))], seed=5)


def lenet() -> nc.Model:
    """Convolutions, batch norm, pooling, dropout and Dense layers."""
    x = nc.Input((12, 12, 1))
    h = nc.MaxPool2D(2)(nc.Activation("relu")(nc.BatchNorm()(nc.Conv2D(8, 3, padding="same", bias=False)(x))))
    h = nc.MaxPool2D(2)(nc.Activation("relu")(nc.BatchNorm()(nc.Conv2D(16, 3, padding="same", bias=False)(h))))
    h = nc.Dropout(0.3)(nc.Dense(24, activation="relu")(nc.Flatten()(h)))
    return nc.Model(x, nc.Dense(10)(h), seed=6)


def distance(found: Any, expected: Any) -> float:
    """The largest difference, of the largest value."""
    return float(np.abs(found - expected).max(initial=0) / max(1e-3, np.abs(expected).max(initial=0)))


@simulated
@pytest.mark.parametrize(("precision", "error"), [("tf32", TF32), ("bf16", STORED)])
def test_results_differ_as_far_as_rounding_goes(precision: str, error: float) -> None:
    images = np.random.default_rng(0).standard_normal((2, 5, 4, 3)).astype(np.float32)
    labels = np.array([1, 3])
    model = network()
    expected, gradients = model.predict(images), nc.Trainer(model).gradients(images, labels)
    model.to("cuda", precision)
    found, on_gpu = model.predict(images), nc.Trainer(model).gradients(images, labels)
    assert distance(found, expected) < error
    for name, wanted in gradients.items():
        # A batch norm's gradient is a difference of large numbers: what lies before it is off by two steps of bfloat16 more
        assert distance(on_gpu[name], wanted) < error * (2 if precision == "bf16" else 1), name
    assert distance(found, expected) > 1e-6  # it was not float32
    assert distance(model.to("cuda").predict(images), expected) < 1e-5


# Bfloat16 in memory ------------------------------------------------------------------------------------------------------


def surrounded(name: str, case: Case) -> nc.Model:
    """A layer whose inputs and outputs are not those of the model, which are float32."""
    layer = registry.load("layer", name)(**case.fields)
    shapes = case.shape if isinstance(case.shape, list) else [case.shape]
    inputs = [nc.Input(shape, dtype=layer.input_dtype) if layer.input_dtype else nc.Input(shape) for shape in shapes]
    found = layer(*(tensor if layer.input_dtype else Copied()(tensor) for tensor in inputs))
    model = nc.Model(inputs, [Copied()(tensor) for tensor in (found if isinstance(found, (tuple, list)) else [found])], seed=3)
    rng = np.random.default_rng(5)
    for parameter, array in model.parameters.items():
        model.parameters[parameter] = array + rng.uniform(0.1, 0.5, array.shape)
    return model


@simulated
@each_case
def test_every_layer(name: str, case: Case, pytestconfig: pytest.Config) -> None:
    """Inputs and gradients are such that nothing is lost when they are stored, so that both sides have the same largest of several."""
    if case is not CASES[name][0] and not pytestconfig.getoption("--nightly"):
        pytest.skip("only with --nightly")
    rng = np.random.default_rng(7)
    model = surrounded(name, case)
    inputs = [widened(rounded(x)) if x.dtype == np.float32 else x for x in samples(model, case, rng)]
    slopes = [widened(rounded(rng.standard_normal((BATCH, *tensor.shape)))) for tensor in model.graph.outputs]
    given: Any = tuple(inputs) if len(inputs) > 1 else inputs[0]
    expected, on_cpu = model.predict(given), trained(model, inputs, slopes, "cpu")
    model = surrounded(name, case).to("cuda", "bf16")
    found = model.predict(given)
    for got, wanted in zip(found, expected) if isinstance(expected, tuple) else [(found, expected)]:
        assert distance(got, wanted) < STORED
    on_gpu = trained(model, inputs, slopes, "cuda")
    for what, got, wanted in zip(("output", "gradient of an input", "gradient", "running statistics"), on_gpu, on_cpu):
        for entry in wanted if isinstance(wanted, dict) else range(len(wanted)):
            assert distance(got[entry], wanted[entry]) < STORED, f"{what} {entry}"


@simulated
def test_two_outputs_one_of_which_is_read() -> None:
    images = np.random.default_rng(0).standard_normal((3, 6, 6, 3)).astype(np.float32)
    slopes = [np.random.default_rng(1).standard_normal(shape).astype(np.float32) for shape in ((3, 6, 6, 4), (3, 5))]
    model = residual()
    expected, on_cpu = model.predict(images), trained(model, [images], slopes, "cpu")
    model = residual().to("cuda", "bf16")
    for got, wanted in zip(model.predict(images), expected):
        assert distance(got, wanted) < STORED
    outputs, input_gradients, gradients, state = trained(model, [images], slopes, "cuda")
    for got, wanted in zip((*outputs, *state), (*on_cpu[0], *on_cpu[3])):
        assert distance(got, wanted) < STORED
    for got, wanted in ((input_gradients[0], on_cpu[1][0]), *((gradients[name], on_cpu[2][name]) for name in gradients)):
        assert distance(got, wanted) < STORED
    assert model.predict(images)[0].dtype == np.float32


@simulated
def test_training_steps() -> None:
    """Some steps end near those of the CPU: with the same losses, and parameters that have moved the same way."""
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((4, 12, 12, 1)).astype(np.float32), np.array([1, 3, 9, 0])
    losses, moved = {}, {}
    for device in ("cpu", "cuda"):
        model = lenet() if device == "cpu" else lenet().to("cuda", "bf16")
        before = {name: array.copy() for name, array in model.parameters.items()}
        trainer = nc.Trainer(model, optimizer=nc.SGD(0.02, momentum=0.9))
        losses[device] = [trainer.step(images, labels) for _ in range(3)]
        moved[device] = {name: array - before[name] for name, array in model.parameters.items()}
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=STORED)
    assert losses["cuda"][-1] < losses["cuda"][0]
    for name, expected in moved["cpu"].items():
        assert np.linalg.norm(moved["cuda"][name] - expected) < 5 * STORED * np.linalg.norm(expected), name


@simulated
def test_recomputed_activations_have_the_same_bits() -> None:
    images, labels = np.random.default_rng(0).standard_normal((4, 12, 12, 1)).astype(np.float32), np.array([1, 3, 9, 0])
    model = lenet().to("cuda", "bf16")
    kept, again = (nc.Trainer(model, recompute=mode).gradients(images, labels) for mode in (None, "cheap"))
    for name, gradient in kept.items():
        np.testing.assert_array_equal(again[name], gradient)


def plans(model: nc.Model, precision: str, batch: int) -> tuple[Any, Any]:
    """For inference and training."""
    model.to("cuda", precision)
    return model._inference_plan(batch).plan, model.training_plan(batch, device="cuda").plan


@compiled
def test_activations_take_half_the_memory(no_device: Any) -> None:  # noqa: F811
    x = nc.Input((32, 32, 16))
    h = x
    for _ in range(6):
        h = nc.Activation("relu")(nc.BatchNorm()(nc.Conv2D(32, 3, padding="same")(h)))
    model = nc.Model(x, nc.Dense(10)(nc.GlobalAveragePool2D()(h)))
    image = math.prod(x.shape) * 8 * 4  # which stays as it is, until inference has read it
    for wide, narrow in zip(plans(model, "float32", 8), plans(model, "bf16", 8)):
        assert (narrow.arena_bytes - image) / (wide.arena_bytes - image) < 0.51


@compiled
def test_what_is_stored_how(no_device: Any) -> None:  # noqa: F811
    for model in (network(), residual(), lenet()):
        _, plan = plans(model, "bf16", 4)
        assert {slot.dtype for slot in (*plan.inputs, *plan.outputs, *plan.output_gradients)} == {np.dtype("f4")}
        ends = {slot.block for slot in (*plan.inputs, *plan.outputs)}
        inner = {tensor: slot.block not in ends for run in plan.forward for tensor, slot in zip(run.node.outputs, run.y)}
        for run in plan.forward:
            for slot in (*run.x, *run.y):
                assert (slot.dtype == BF16) == (slot.block not in ends)
        for run in plan.backward:
            for tensor, slot in zip((*run.node.inputs, *run.node.outputs), (*run.dx, *run.dy)):
                assert slot is None or (slot.dtype == BF16) == inner.get(tensor, True)  # that of an alias too
        prepared = [buffer.dtype for buffers in plan.prepared.values() for buffer in buffers.values()]
        assert prepared
        assert set(prepared) == {BF16}


@compiled
def test_aliases_of_inputs_and_outputs_are_float32(no_device: Any) -> None:  # noqa: F811
    x = nc.Input((4, 4, 8))
    h = nc.Conv2D(8, 3)(nc.Reshape((4, 4, 8))(nc.Reshape((8, 4, 4))(x)))
    model = nc.Model(x, nc.Flatten()(nc.Reshape((4, 8))(h)))
    for plan in plans(model, "bf16", 2):
        (run,) = plan.forward
        assert {slot.dtype for slot in (*run.x, *run.y)} == {np.dtype("f4")}


@compiled
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_tensor_cores_are_used_where_they_can_be(precision: str, no_device: Any) -> None:  # noqa: F811
    no_device.wanted.clear()
    model = network().to("cuda", precision)
    model.training_plan(2, True, device="cuda")
    on_tensor_cores = [kernel for kernel, _ in no_device.wanted if f".{precision}" in kernel.function.__module__]
    assert len(on_tensor_cores) >= 3  # one for each pass


@compiled
def test_eights_of_channels_are_copied_as_they_are(no_device: Any) -> None:  # noqa: F811
    no_device.wanted.clear()
    lenet().to("cuda", "bf16").training_plan(2, True, device="cuda")
    names = {kernel.function.__name__ for kernel, _ in no_device.wanted}
    assert {"bf16_stored_convolution", "bf16_stored_weight_gradient"} <= names


@compiled
@each_case
def test_kernels_compile_without_spills(name: str, case: Case, no_device: Any, pytestconfig: pytest.Config) -> None:  # noqa: F811
    if case is not CASES[name][0] and not pytestconfig.getoption("--nightly"):
        pytest.skip("only with --nightly")
    model_compiles(surrounded(name, case).to("cuda", "bf16"), case, no_device, ((9, 0),))


@compiled
def test_precisions_that_there_are_not(no_device: Any) -> None:  # noqa: F811
    model = network()
    with pytest.raises(ConfigError, match="'fp8' was given as a precision; it is one of 'float32', 'tf32', 'bf16'"):
        model.to("cuda", "fp8")
    with pytest.raises(ConfigError, match="was given for the CPU"):
        model.to("cpu", "bf16")
    assert (model.device, model.precision) == ("cpu", "float32")
