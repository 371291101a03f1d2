"""Every registered layer on the GPU, over the table of ``tests/test_all_layers.py``.

With ``NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1`` kernels run as Python, and results are compared with the CPU's; without, every kernel
that a layer would launch is compiled for two generations of GPUs, and must keep all of its numbers in registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numba.core import config

import numbacnn as nc
from numbacnn.plugin import registry

from ..test_all_layers import CASES, Case

SIMULATED = bool(config.ENABLE_CUDASIM)
BATCH = 3
CAPABILITIES = ((8, 0), (9, 0))
PAIRS = [(name, case) for name, cases in CASES.items() for case in cases]

simulated = pytest.mark.skipif(not SIMULATED, reason="needs NUMBA_ENABLE_CUDASIM=1")
compiled = pytest.mark.skipif(SIMULATED or find_spec("numba_cuda") is None, reason="needs numba-cuda, and no simulator")
each_case = pytest.mark.parametrize(("name", "case"), PAIRS, ids=[f"{name}-{case}" for name, case in PAIRS])


def model_of(name: str, case: Case) -> nc.Model:
    layer = registry.load("layer", name)(**case.fields)
    shapes = case.shape if isinstance(case.shape, list) else [case.shape]
    inputs = [nc.Input(shape, dtype=layer.input_dtype) if layer.input_dtype else nc.Input(shape) for shape in shapes]
    outputs = layer(*inputs)
    model = nc.Model(inputs, outputs, seed=3)
    rng = np.random.default_rng(5)
    for parameter, array in model.parameters.items():
        model.parameters[parameter] = array + rng.uniform(0.1, 0.5, array.shape)  # no ones and zeros, which hide mistakes
    return model


def samples(model: nc.Model, case: Case, rng: np.random.Generator) -> list[np.ndarray]:
    draw = case.options.get("sample", lambda rng, shape: rng.standard_normal(shape))
    return [draw(rng, (BATCH, *tensor.shape)).astype(tensor.dtype or "float32") for tensor in model.graph.inputs]


def trained(model: nc.Model, inputs: list[np.ndarray], slopes: list[np.ndarray], device: str) -> tuple[list, list, dict, list]:
    """Outputs, gradients of inputs and parameters, and running statistics, of a forward and a backward pass in training."""
    plan = model.training_plan(BATCH, True, device=device)
    if device != "cpu":
        plan.refresh()
    plan.set_step(4)
    for array, given in zip(plan.inputs, inputs):
        plan.device.upload(given, array)
    plan.forward()
    outputs = plan.device.copies(plan.outputs)
    for array, given in zip(plan.output_gradients, slopes):
        plan.device.upload(given, array)
    plan.backward()
    gradients = dict(zip(plan.gradients, plan.device.copies(plan.gradients.values())))
    return outputs, plan.device.copies(plan.input_gradients), gradients, [model.store.state.copy()]


def assert_close(found: Any, expected: Any, what: str) -> None:
    scale = max(1e-3, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale, err_msg=what)


@simulated
@each_case
def test_same_results_as_on_the_cpu(name: str, case: Case) -> None:
    rng = np.random.default_rng(7)
    model = model_of(name, case)
    inputs = samples(model, case, rng)
    slopes = [rng.standard_normal((BATCH, *tensor.shape)).astype("float32") for tensor in model.graph.outputs]
    given: Any = tuple(inputs) if len(inputs) > 1 else inputs[0]
    expected = model.predict(given)
    on_cpu = trained(model, inputs, slopes, "cpu")
    model = model_of(name, case).to("cuda")
    found = model.predict(given)
    for got, wanted in zip(found, expected) if isinstance(expected, tuple) else [(found, expected)]:
        assert_close(got, wanted, "inference")
    on_gpu = trained(model, inputs, slopes, "cuda")
    for what, got, wanted in zip(("output", "gradient of an input", "gradient", "running statistics"), on_gpu, on_cpu):
        entries = wanted if isinstance(wanted, dict) else range(len(wanted))
        assert len(got) == len(wanted)
        for entry in entries:
            assert_close(got[entry], wanted[entry], f"{what} {entry}")


@pytest.fixture(scope="module")
def no_device() -> Iterator[Any]:
    from numbacnn.kernels.cuda import runtime

    with runtime.pretended(runtime.Blueprint((9, 0))) as blueprint:
        yield blueprint


def compiles(name: str, case: Case, no_device: Any, capabilities: tuple[tuple[int, int], ...] = CAPABILITIES) -> None:
    """Assert that all kernels of a layer compile, and keep their numbers in registers."""
    model_compiles(model_of(name, case).to("cuda"), case, no_device, capabilities)


def model_compiles(model: nc.Model, case: Case, no_device: Any, capabilities: tuple[tuple[int, int], ...]) -> None:
    """The same for a model, which takes the inputs of that case."""
    no_device.wanted.clear()
    rng = np.random.default_rng(7)
    inputs = samples(model, case, rng)
    model.predict(tuple(inputs) if len(inputs) > 1 else inputs[0])
    model.training_plan(BATCH, True, device="cuda")
    for kernel, kinds in no_device.wanted:
        for capability in capabilities:
            code = kernel.machine_code(kinds, capability)
            assert code.spilled == 0, f"{kernel.function.__qualname__} for {capability} spills {code.spilled} bytes"
            assert code.stack == 0, f"{kernel.function.__qualname__} for {capability} keeps {code.stack} bytes of arrays in memory"


@compiled
@each_case
def test_kernels_compile_without_spills(name: str, case: Case, no_device: Any, pytestconfig: pytest.Config) -> None:
    if case is not CASES[name][0] and not pytestconfig.getoption("--nightly"):
        pytest.skip("only with --nightly")
    compiles(name, case, no_device)
