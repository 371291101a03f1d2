"""Activations: values, gradients, NaN, kinks, names, and functions of one's own."""

import dataclasses
import math
import os
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest

import numbacnn as nc
from numbacnn import kernels
from numbacnn.errors import ConfigError, UnknownNameError
from numbacnn.kernels import jit, scalar
from numbacnn.layers.activation import (
    ELU,
    GELU,
    Activation,
    LeakyReLU,
    LogSoftmax,
    PReLU,
    ReLU,
    Softmax,
    activation,
    resolve,
)
from numbacnn.plugin import registry
from numbacnn.simd import where
from tests.naive import activation as naive

compiled = pytest.mark.skipif(jit.JIT_DISABLED, reason="about compiled code")
ELEMENTWISE = sorted({*registry.names("activation")} - {"prelu", "softmax", "log_softmax", "identity", "swish"})
SIZE = 1009  # a prime: every loop has a remainder


def run(layer, x, dy=None):
    """``y`` and ``dx`` of a layer without parameters, with what backward does not read left out."""
    y, dx = np.full_like(x, 7), np.full_like(x, 7)
    layer.forward(x, y, {}, {}, True)
    reads = layer.backward_reads
    layer.backward(x if "x" in reads else None, y if "y" in reads else None, np.ones_like(x) if dy is None else dy, dx, {}, {}, {})
    return y, dx


def numbers(size=SIZE, dtype=np.float64, scale=3.0, seed=0):
    return (np.random.default_rng(seed).normal(size=size) * scale).astype(dtype)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values_and_slopes(name):
    """float64 against the written-out function and its central differences; float32 against float64."""
    layer, function = Activation(name), getattr(naive, name)
    x = numbers()
    x = x[np.min(abs(x[:, None] - [-3, 0, 3, 6]), 1) > 1e-3]  # central differences need no kink near
    y, dx = run(layer, x)
    h = 1e-6
    np.testing.assert_allclose(y, function(x), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(dx, (function(x + h) - function(x - h)) / (2 * h), rtol=1e-6, atol=1e-8)
    y32, dx32 = run(layer, x.astype(np.float32))
    np.testing.assert_allclose(y32, y, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(dx32, dx, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_far_out_and_not_a_number(name):
    """NaN goes through; numbers far out give finite values and slopes, as in the written-out function."""
    x = np.array([np.nan, -3e4, -300, -90, 90, 300, 3e4], np.float32)
    y, dx = run(Activation(name), x)
    assert np.isnan(y[0])
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(y[1:], getattr(naive, name)(x[1:].astype(np.float64)), rtol=1e-6, atol=1e-6)
    assert np.isfinite(dx[1:]).all()
    assert abs(dx).max(where=~np.isnan(dx), initial=0) < 2


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_infinities(name):
    """The limits, but where a function is a product with one factor that becomes zero."""
    y, _ = run(Activation(name), np.array([-np.inf, np.inf, -1e30, 1e30], np.float32))
    limits = np.where(abs(y[2:]) > 1e20, np.copysign(np.inf, y[2:]), y[2:])
    if name in ("gelu", "gelu_tanh", "hard_swish", "mish", "silu"):
        limits[0] = np.nan
    np.testing.assert_array_equal(y[:2], limits)


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_in_place_and_threads(name):
    """The same bits in place, and with one thread."""
    layer = Activation(name)
    x, dy = numbers(20011, np.float32), numbers(20011, np.float32, seed=1)
    y, dx = run(layer, x, dy)
    z, dz = x.copy(), dy.copy()
    layer.forward(z, z, {}, {}, True)
    reads = layer.backward_reads
    threads = jit.num_threads()
    jit.set_num_threads(1)
    try:
        layer.backward(x if "x" in reads else None, z if "y" in reads else None, dz, dz, {}, {}, {})
    finally:
        jit.set_num_threads(threads)
    assert np.array_equal(y, z)
    assert np.array_equal(dx, dz)


def test_relu_like_layers_read_the_output_only():
    for name in ("relu", "relu6", "leaky_relu", "elu", "selu", "sigmoid", "tanh", "softplus", "hard_sigmoid"):
        assert Activation(name).backward_reads == ("y",)
    assert Activation("gelu").backward_reads == ("x",)
    assert Activation("linear").backward_reads == ()
    assert LeakyReLU(-0.5).backward_reads == ("x",)  # its sign does not tell that of x


@pytest.mark.parametrize("layer", [LeakyReLU(-0.5), LeakyReLU(0.2), ELU(-0.3), ELU(1.7), GELU("tanh")])
def test_parameters_of_activations(layer):
    x = numbers(57)
    y, dx = run(layer, x)
    expected = {"LeakyReLU": naive.leaky_relu, "ELU": naive.elu}.get(type(layer).__name__, naive.gelu_tanh)
    arguments = [layer.alpha] if hasattr(layer, "alpha") else []
    np.testing.assert_allclose(y, expected(x, *arguments), rtol=1e-12)
    h = 1e-6
    np.testing.assert_allclose(dx, (expected(x + h, *arguments) - expected(x - h, *arguments)) / (2 * h), rtol=1e-6, atol=1e-8)


# Softmax -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 10), (2, 5, 7, 33), (2, 1000)])
def test_softmax(name, shape):
    x, dy = numbers(shape), numbers(shape, seed=1)
    y, dx = run(resolve(name), x, dy)
    np.testing.assert_allclose(y, getattr(naive, name)(x), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(dx, getattr(naive, name + "_backward")(dy, y), rtol=1e-12, atol=1e-12)
    y32, dx32 = run(resolve(name), x.astype(np.float32), dy.astype(np.float32))
    np.testing.assert_allclose(y32, y, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(dx32, dx, rtol=1e-4, atol=1e-5)


def test_softmax_of_large_numbers_and_infinities():
    x = np.array([[1e4, 0, -1e4, -np.inf], [-np.inf, 5, -np.inf, 5], [np.nan, 1, 2, 3]], np.float32)
    y, _ = run(Softmax(), x)
    np.testing.assert_array_equal(y[:2], [[1, 0, 0, 0], [0, 0.5, 0, 0.5]])
    assert np.isnan(y[2]).all()
    z, _ = run(LogSoftmax(), x)
    np.testing.assert_allclose(z[:2], [[0, -1e4, -2e4, -np.inf], [-np.inf, -np.log(2), -np.inf, -np.log(2)]], rtol=1e-6)


def test_softmax_in_place():
    for layer in (Softmax(), LogSoftmax()):
        x, dy = numbers((7, 37), np.float32), numbers((7, 37), np.float32, seed=1)
        y, dx = run(layer, x, dy)
        layer.forward(x, x, {}, {}, True)
        layer.backward(None, x, dy, dy, {}, {}, {})
        assert np.array_equal(x, y)
        assert np.array_equal(dy, dx)


# PReLU ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 20, 11, 37), (600, 3)])
def test_prelu(shared, shape):
    layer = PReLU(shared=shared)
    x, dy = numbers(shape), numbers(shape, seed=1)
    parameters = layer.parameters(shape[1:])
    weight = numbers(parameters["weight"].shape, seed=2)
    scratch = {name: np.full(buffer.shape, np.nan) for name, buffer in layer.scratch(shape[1:], shape[0], 2, True).items()}
    y, dweight = np.empty_like(x), np.empty_like(weight)
    layer.forward(x, y, {"weight": weight}, {}, True)
    np.testing.assert_allclose(y, naive.prelu(x, weight))
    expected = naive.prelu_weight_gradient(dy, x, shared)
    dx = naive.prelu_backward(dy, x, weight)
    layer.backward(x, None, dy, dy, {"weight": weight}, {"weight": dweight}, scratch)  # in place
    np.testing.assert_allclose(dy, dx)
    np.testing.assert_allclose(dweight, expected, rtol=1e-12)


# Names ---------------------------------------------------------------------------------------------------------------


def test_resolve():
    relu = ReLU()
    assert resolve(None) is None
    assert resolve("relu") == relu
    assert resolve(relu) is relu
    assert resolve(ReLU) == relu
    assert resolve("softmax") == Softmax()
    assert resolve("gelu_tanh") == GELU("tanh")
    with pytest.raises(UnknownNameError, match="Did you mean 'relu'"):
        resolve("rellu")
    with pytest.raises(ConfigError, match="3 was given as an activation"):
        resolve(3)


def test_activation_by_name():
    assert Activation("leaky_relu", alpha=0.2).scalar() is LeakyReLU(0.2).scalar()
    assert Activation().function == "relu"
    assert Activation(**Activation("elu", alpha=0.5).config()) == Activation("elu", alpha=0.5)
    with pytest.raises(ConfigError, match="'relu' has no alpha"):
        Activation("relu", alpha=1.0)
    with pytest.raises(ConfigError, match="isn't elementwise"):
        Activation("softmax")
    with pytest.raises(UnknownNameError):
        Activation("nope")


def test_bad_numbers():
    with pytest.raises(ConfigError, match="LeakyReLU: alpha is nan; it takes a finite number"):
        LeakyReLU(math.nan)
    with pytest.raises(ConfigError, match="approximate='erf'"):
        GELU("erf")


# Functions of one's own ----------------------------------------------------------------------------------------------


def cube(x):
    return x * x * x


def halves(x):
    if x > 0:
        return x
    return 0.5 * x


def sums(x):
    total = 0.0
    for k in range(3):
        total = total + x / (k + 1)
    return total


def swish(beta):
    return lambda x: x / (1 + math.exp(-beta * x))


FACTOR = 0.3
OWN = {
    "numpy": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "closure": swish(1.5),
    "global": lambda x: FACTOR * math.sin(x),
    "helper": lambda x: cube(x) - abs(x) + max(x, -1.0),
    "where": lambda x: x * where(x > 0, 1.0, 0.1),
    "powers": lambda x: (1 + x**2) ** 0.5 + 2**x,
    "public": lambda x: nc.where(x > 0, x, nc.where(x < -2.0, -0.4, 0.2 * x)),
    "branch": halves,
    "loop": sums,
    "ufunc": np.arctan,
}


@pytest.mark.parametrize("name", OWN)
def test_own_function(name):
    function = OWN[name]
    layer = activation("own", function)()
    x = numbers(203)
    x = x[np.min(abs(x[:, None] - [-1, 0]), 1) > 1e-3]
    h = 1e-5
    y, dx = run(layer, x.astype(np.float32))
    np.testing.assert_allclose(y, [function(v) for v in x], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(dx, [(function(v + h) - function(v - h)) / (2 * h) for v in x], rtol=2e-5, atol=2e-5)


@compiled
def test_tiles_go_through_unbranched_functions(tmp_path, monkeypatch):
    """Functions that a Tile can go through really do, and only others are called element by element."""
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path))  # with compiled code at hand, nothing would be typed

    def kinds(function):
        fresh = types.FunctionType(function.__code__, function.__globals__, closure=function.__closure__)
        kernels.pointwise.forward(fresh).bind(np.ones((1, 3), np.float32), np.ones((1, 3), np.float32))
        cells = scalar.compiled(fresh).py_func.__closure__
        return {type(signature[0]).__name__ for cell in cells for signature in cell.cell_contents.overloads}

    for name in ("numpy", "closure", "helper", "where", "powers"):
        assert kinds(OWN[name]) == {"Tile"}, name
    assert kinds(halves) == kinds(sums) == {"Float"}


def test_given_derivative_is_used():
    layer = activation("own", lambda x: x, derivative=lambda x: where(x > 0, 2.0, 3.0))()
    _, dx = run(layer, np.array([-1.0, 1.0]))
    np.testing.assert_array_equal(dx, [3, 2])


def test_own_layer_is_a_layer():
    Own = activation("own", cube)
    assert dataclasses.is_dataclass(Own)
    assert Own.__name__ == "own"
    assert Own.__module__ == __name__
    assert Own() == Own()
    assert Own() == resolve(Own)
    assert Own().scalar() is cube
    assert Own().elementwise


@compiled
def test_own_function_errors():
    with pytest.raises(ConfigError, match="must take one number"):
        activation("own", lambda x, y: x)
    with pytest.raises(ConfigError, match="needs a function"):
        activation("own", 3)
    with pytest.raises(ConfigError, match="name"):
        activation("my own", cube)
    layer = activation("own", lambda x: undefined(x))()  # noqa: F821
    with pytest.raises(ConfigError, match="cannot be compiled") as caught:
        run(layer, np.ones(3))
    assert "\n" not in str(caught.value)


SCRIPT = """
    import math, sys, numpy as np
    from numbacnn.kernels import disk_cache
    from numbacnn.layers.activation import activation
    from numba.core.dispatcher import Dispatcher
    def made(beta):
        return lambda x: x * math.tanh(beta * x)
    layer = activation("own", made({beta}))()
    x = np.linspace(-1, 1, 50, dtype=np.float32)
    y, dx = np.empty_like(x), np.empty_like(x)
    compiled = []
    save = disk_cache.DiskCache.save_overload
    disk_cache.DiskCache.save_overload = lambda self, *given: (compiled.append(1), save(self, *given))
    layer.forward(x, y, {{}}, {{}}, True)
    layer.backward(x, None, np.ones_like(x), dx, {{}}, {{}}, {{}})
    np.testing.assert_allclose(y, x * np.tanh({beta} * x), rtol=1e-5)
    print(len(compiled))
"""


@compiled
def test_own_function_is_found_by_the_next_process(tmp_path):
    """Compiled once; another number in the closure is another kernel."""

    def compilations(beta):
        environment = os.environ | {"NUMBACNN_CACHE_DIR": str(tmp_path)}
        script = textwrap.dedent(SCRIPT).format(beta=beta)
        path = tmp_path / "script.py"
        path.write_text(script)
        return int(subprocess.run([sys.executable, str(path)], env=environment, check=True, capture_output=True, text=True).stdout)

    assert [compilations(2.0), compilations(2.0), compilations(3.0)] == [2, 0, 2]


# PyTorch -------------------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_like_torch(name):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    functions = {
        "linear": lambda x: x * 1, "hard_swish": f.hardswish, "hard_sigmoid": f.hardsigmoid, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
        "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"),
    }  # fmt: skip
    function = functions.get(name) or getattr(f, name)
    given = np.concatenate([numbers(5000, np.float32), np.array([0, -0.0, 1e-30, -1e-30, 50, -50, 200, -200], np.float32)])
    dy = numbers(given.size, np.float32, seed=1)
    x = torch.tensor(given, requires_grad=True)
    y = function(x)
    y.backward(torch.tensor(dy))
    mine, dx = run(Activation(name), given, dy)
    np.testing.assert_allclose(mine, y.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dx, x.grad.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.oracle
def test_softmax_and_prelu_like_torch():
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    given, dy = numbers((4, 6, 21), np.float32), numbers((4, 6, 21), np.float32, seed=1)
    for layer, function in ((Softmax(), f.softmax), (LogSoftmax(), f.log_softmax)):
        x = torch.tensor(given, requires_grad=True)
        y = function(x, dim=-1)
        y.backward(torch.tensor(dy))
        mine, dx = run(layer, given, dy)
        np.testing.assert_allclose(mine, y.detach().numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(dx, x.grad.numpy(), rtol=1e-5, atol=1e-5)
    x = torch.tensor(given, requires_grad=True)
    weight = torch.full((21,), 0.25, requires_grad=True)
    y = f.prelu(x.movedim(-1, 1), weight).movedim(1, -1)
    y.backward(torch.tensor(dy))
    layer = PReLU()
    p, dp = {"weight": np.full(21, 0.25, np.float32)}, {"weight": np.empty(21, np.float32)}
    mine, dx, scratch = np.empty_like(given), np.empty_like(given), {"partial": np.empty((1, 21), np.float32)}
    layer.forward(given, mine, p, {}, True)
    layer.backward(given, None, dy, dx, p, dp, scratch)
    np.testing.assert_allclose(mine, y.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(dx, x.grad.numpy(), rtol=1e-6)
    np.testing.assert_allclose(dp["weight"], weight.grad.numpy(), rtol=1e-5, atol=1e-5)
