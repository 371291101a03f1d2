"""Optimizers against the slow reference, against torch.optim, and against bad options; schedules."""

from __future__ import annotations

import numpy as np
import pytest

from numbacnn.errors import ConfigError, UnknownNameError
from numbacnn.graph.parameters import ParameterStore
from numbacnn.layers.base import Parameter
from numbacnn.training import optimizers
from numbacnn.training.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop, Updater
from tests.naive import optim as naive

SPECS = {
    "conv1.weight": Parameter((3, 3, 1, 7), "he_normal"),
    "conv1.bias": Parameter((7,), "he_normal", decay=False),
    "norm1.running_mean": Parameter((7,), trainable=False),
    "dense1.weight": Parameter((210, 101), "he_normal"),
    "dense1.bias": Parameter((1,), "ones", decay=False),
    "norm1.weight": Parameter((7,), "ones", decay=False),
}
CASES = [
    SGD(0.1),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01, decoupled=True),
    Adam(0.01, weight_decay=0.1, l1=0.01),
    Adam(0.01, betas=(0.8, 0.95), epsilon=1e-3),
    AdamW(0.01, weight_decay=0.1),
    RMSprop(0.01),
    RMSprop(0.01, alpha=0.9, momentum=0.5, weight_decay=0.1),
    RMSprop(0.01, centered=True, momentum=0.9),
    RMSprop(0.01, centered=True),
    Adagrad(0.05, rate_decay=0.1, initial_sum=0.2, weight_decay=0.1),
    Adagrad(0.05),
]
NAIVE = {"SGD": naive.sgd, "Adam": naive.adam, "AdamW": naive.adam, "RMSprop": naive.rmsprop, "Adagrad": naive.adagrad}
OWN = ("momentum", "nesterov", "dampening", "betas", "epsilon", "alpha", "centered", "rate_decay", "initial_sum")


def make_store(dtype="float64", seed=0):
    return ParameterStore(SPECS, seed, dtype)


def random_gradients(store, step):
    """A flat array with gradients, and views of it by name. Gaps between parameters are zero, as in a plan."""
    flat = np.zeros_like(store.trainable)
    views = {name: store.view(name, flat) for name, spec in store.specs.items() if spec.trainable}
    generator = np.random.default_rng(step)
    for view in views.values():
        view[...] = generator.standard_normal(view.shape)
    return flat, views


def run(optimizer, store, steps, factor=1.0, start=0):
    updater = Updater(optimizer, store)
    gradients, _ = random_gradients(store, 0)
    bound = updater.bind(gradients)
    for step in range(start, start + steps):
        fresh, _ = random_gradients(store, step)
        gradients[...] = fresh
        updater.apply(bound, factor)
    return updater


def run_naive(optimizer, store, steps, factor=1.0):
    values = {name: store.view(name).astype(np.float64) for name, spec in store.specs.items() if spec.trainable}
    states = {name: {} for name in values}
    own = {name: getattr(optimizer, name) for name in OWN if hasattr(optimizer, name)}
    for step in range(steps):
        _, gradients = random_gradients(store, step)
        gradients = {name: g.astype(np.float64) for name, g in gradients.items() if name not in store.frozen}
        gradients = naive.clipped(gradients, optimizer.clip_norm, optimizer.clip_value)
        for name, g in gradients.items():
            rate, weight_decay, l1 = optimizers._group_of(optimizer, name, store.specs[name].decay)
            p, decayed = naive.decayed(values[name], g, rate * factor, weight_decay, l1, optimizer.decoupled)
            values[name] = NAIVE[optimizer.name](p, decayed, states[name], step + 1, rate * factor, **own)
    return values


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", CASES, ids=str)
def test_against_the_reference(optimizer, dtype):
    store = make_store(dtype)
    expected = run_naive(optimizer, store, 12, 0.7)
    run(optimizer, store, 12, 0.7)
    tolerance = 2e-5 if dtype == "float32" else 1e-10
    for name, values in expected.items():
        np.testing.assert_allclose(store.view(name), values, rtol=tolerance, atol=tolerance, err_msg=name)
    assert not store.state.any()


@pytest.mark.parametrize(
    "options", [dict(clip_norm=3.0), dict(clip_value=0.5), dict(clip_norm=1.0, clip_value=0.1), dict(clip_norm=1e9)], ids=str
)
def test_clipping(options):
    store, optimizer = make_store(), SGD(0.1, momentum=0.9, **options)
    store.frozen.add("conv1.weight")
    expected = run_naive(optimizer, store, 4)
    run(optimizer, store, 4)
    for name, values in expected.items():
        np.testing.assert_allclose(store.view(name), values, rtol=1e-10, err_msg=name)


def test_clipped_norm_bounds_the_whole_step():
    store = make_store("float32")
    before = store.trainable.copy()
    run(SGD(1.0, clip_norm=0.25), store, 1)
    assert np.linalg.norm(store.trainable - before) == pytest.approx(0.25, rel=1e-4)


def test_decay_spares_biases_and_normalisation():
    updates = {}
    for decay_all in (False, True):
        store = make_store()
        before = {name: store.view(name).copy() for name in SPECS}
        updater = Updater(SGD(0.1, weight_decay=0.5, l1=0.1, decay_all=decay_all), store)
        updater.apply(updater.bind(np.zeros_like(store.trainable)))
        updates[decay_all] = {name: np.abs(store.view(name) - before[name]).max() > 0 for name in SPECS}
    decayed = {"conv1.weight", "dense1.weight"}
    assert {name for name, moved in updates[False].items() if moved} == decayed
    assert {name for name, moved in updates[True].items() if moved} == set(SPECS) - {"norm1.running_mean"}


def test_groups():
    optimizer = SGD(0.1, weight_decay=0.2, groups=[("dense1.*", {"rate": 0.0}), ("*.bias", {"rate": 0.5, "weight_decay": 0.3})])
    tasks, groups = optimizers.partition(optimizer, make_store())
    assert tasks[:, 1].max() <= make_store().trainable.size
    assert {tuple(group) for group in groups} == {(0.1, 0.2, 0.0), (0.5, 0.3, 0.0), (0.0, 0.2, 0.0), (0.0, 0.0, 0.0), (0.1, 0.0, 0.0)}
    store = make_store()
    before = {name: store.view(name).copy() for name in SPECS}
    expected = run_naive(optimizer, store, 3)
    run(optimizer, store, 3)
    assert np.array_equal(store.view("dense1.weight"), before["dense1.weight"])
    for name, values in expected.items():
        np.testing.assert_allclose(store.view(name), values, rtol=1e-10, err_msg=name)


def test_parameters_of_one_group_make_few_tasks():
    tasks, groups = optimizers.partition(SGD(0.1), make_store())
    assert len(groups) == 1
    assert len(tasks) == 2  # 21,294 elements, pieces of 16,384


def test_frozen_parameters_do_not_move():
    store = make_store()
    before = store.view("dense1.weight").copy()
    store.frozen.add("dense1.weight")
    run(SGD(0.1, momentum=0.9, weight_decay=0.1), store, 3)
    assert np.array_equal(store.view("dense1.weight"), before)
    store.frozen = {name for name, spec in SPECS.items() if spec.trainable}
    frozen = store.trainable.copy()
    run(Adam(clip_norm=1.0), store, 2)
    assert np.array_equal(store.trainable, frozen)


def test_the_same_bits_with_any_number_of_threads():
    from numbacnn.kernels import jit

    before, results = jit.num_threads(), []
    if before == 1:
        pytest.skip("this machine has one thread")
    try:
        for threads in (1, before):
            jit.set_num_threads(threads)
            store = ParameterStore({"dense.weight": Parameter((600, 401), "he_normal")}, 0, "float32")
            run(Adam(clip_norm=2.0, weight_decay=0.1), store, 3)
            results.append(store.trainable.copy())
    finally:
        jit.set_num_threads(before)
    assert np.array_equal(results[0], results[-1])


def test_state_carries_a_run_on():
    whole = make_store("float32")
    run(AdamW(), whole, 6)
    first = make_store("float32")
    half = run(AdamW(), first, 3)
    second = make_store("float32", seed=1)
    second.trainable[...] = first.trainable
    updater = Updater(AdamW(), second)
    updater.steps = half.steps
    for name, array in half.arrays().items():
        updater.arrays()[name][...] = array
    gradients, _ = random_gradients(second, 0)
    bound = updater.bind(gradients)
    for step in range(3, 6):
        gradients[...] = random_gradients(second, step)[0]
        updater.apply(bound)
    assert np.array_equal(whole.trainable, second.trainable)


def test_an_update_is_noticed_by_plans():
    store = make_store()
    version = store.version
    run(SGD(), store, 1)
    assert store.version > version


def test_an_author_writes_an_optimizer_in_numpy():
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Signs(optimizers.Optimizer):
        rate: float = 0.5

        def update(self, parameters, gradients, state, tasks, groups, numbers):
            parameters -= self.rate * numbers[0] * np.sign(gradients)

    store = make_store()
    before = store.view("dense1.bias").copy()
    run(Signs(), store, 1)
    assert abs(store.view("dense1.bias") - before) == pytest.approx(0.5)


def test_names():
    assert optimizers.resolve("adamw") == AdamW()
    with pytest.raises(UnknownNameError, match="rmsprop"):
        optimizers.resolve("rmsprob")
    with pytest.raises(ConfigError, match="not an optimizer"):
        optimizers.resolve(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(-0.1), "SGD: rate must be a number of at least 0; -0.1"),
        (lambda: SGD("fast"), "rate must be a number"),
        (lambda: SGD(0.1, nesterov=True), "nesterov needs a momentum"),
        (lambda: Adam(betas=(0.9, 1.0)), "betas must be two numbers"),
        (lambda: Adam(epsilon=0.0), "epsilon must be a positive number"),
        (lambda: Adam(clip_norm=0.0), "clip_norm must be a positive number or None"),
        (lambda: RMSprop(alpha=1.5), "alpha must be a number of at least 0 and below 1"),
        (lambda: Adagrad(weight_decay=float("nan")), "weight_decay must be"),
        (lambda: SGD(groups=["conv*"]), "groups are pairs"),
        (lambda: SGD(groups=[(3, {"rate": 1.0})]), "groups are pairs"),
        (lambda: SGD(groups=[("conv*", {"rate": "x"})]), "rate of the group 'conv\\*' must be a number of at least 0; 'x'"),
        (lambda: SGD(clip_norm="1"), "clip_norm must be a positive number or None; '1'"),
        (lambda: SGD(clip_value=True), "clip_value must be a positive number"),
        (lambda: Adam(betas=0.9), "betas must be two numbers.*; 0.9 was given"),
        (lambda: Adam(betas=("a", "b")), "betas must be two numbers"),
        (lambda: RMSprop(epsilon=None), "epsilon must be a positive number; None"),
        (lambda: SGD(groups=[("conv*", {"rate": -1})]), "rate of the group 'conv\\*' must be a number of at least 0"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_numbers_of_numpy_are_numbers():
    made = SGD(np.float32(0.25), momentum=np.float64(0.5), groups=[("conv*", {"rate": np.float32(0.5)})], clip_norm=np.float32(2))
    assert made == SGD(0.25, momentum=0.5, groups=[("conv*", {"rate": 0.5})], clip_norm=2.0)
    assert type(made.rate) is float
    assert Adam(betas=np.array([0.5, 0.75])) == Adam(betas=(0.5, 0.75))


def test_wrong_groups():
    with pytest.raises(UnknownNameError, match="'weight_decay'"):
        SGD(groups=[("conv*", {"weight_decoy": 1})])
    with pytest.raises(UnknownNameError, match=r"conv1.weight"):
        Updater(SGD(groups=[("conv1.wait", {"rate": 1})]), make_store())


def test_groups_match_names_as_they_are_written(monkeypatch):
    monkeypatch.setattr("os.path.normcase", str.lower)  # as on Windows
    with pytest.raises(UnknownNameError, match=r"Conv1"):
        Updater(SGD(groups=[("Conv1.*", {"rate": 1})]), make_store())


# PyTorch -------------------------------------------------------------------------------------------------------------


def torch_optimizer(torch, optimizer, parameters):
    options = dict(lr=optimizer.rate, weight_decay=optimizer.weight_decay)
    if optimizer.name == "SGD":
        return torch.optim.SGD(
            parameters, momentum=optimizer.momentum, nesterov=optimizer.nesterov, dampening=optimizer.dampening, **options
        )
    if optimizer.name in ("Adam", "AdamW"):
        return getattr(torch.optim, optimizer.name)(parameters, betas=optimizer.betas, eps=optimizer.epsilon, **options)
    if optimizer.name == "RMSprop":
        return torch.optim.RMSprop(
            parameters, alpha=optimizer.alpha, eps=optimizer.epsilon, momentum=optimizer.momentum, centered=optimizer.centered, **options
        )
    return torch.optim.Adagrad(
        parameters, lr_decay=optimizer.rate_decay, initial_accumulator_value=optimizer.initial_sum, eps=optimizer.epsilon, **options
    )


TORCH_CASES = [
    SGD(0.1, momentum=0.9, dampening=0.3, weight_decay=0.01, decay_all=True),
    SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01, decay_all=True, clip_norm=2.0),
    Adam(0.01, weight_decay=0.1, decay_all=True),
    AdamW(0.01, weight_decay=0.1, decay_all=True, clip_value=0.3),
    RMSprop(0.01, alpha=0.9, momentum=0.5, weight_decay=0.1, decay_all=True),
    RMSprop(0.01, centered=True),
    Adagrad(0.05, rate_decay=0.1, initial_sum=0.2, weight_decay=0.1, decay_all=True),
]


@pytest.mark.oracle
@pytest.mark.parametrize("optimizer", TORCH_CASES, ids=str)
def test_against_torch(optimizer):
    torch = pytest.importorskip("torch")
    store = make_store()
    names = [name for name, spec in SPECS.items() if spec.trainable]
    tensors = {name: torch.tensor(store.view(name), requires_grad=True) for name in names}
    theirs = torch_optimizer(torch, optimizer, list(tensors.values()))
    for step in range(25):
        _, views = random_gradients(store, step)
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(views[name])
        if optimizer.clip_norm:
            torch.nn.utils.clip_grad_norm_(tensors.values(), optimizer.clip_norm)
        if optimizer.clip_value:
            torch.nn.utils.clip_grad_value_(tensors.values(), optimizer.clip_value)
        theirs.step()
    run(optimizer, store, 25)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(store.view(name), tensor.detach().numpy(), rtol=1e-9, atol=1e-12, err_msg=name)
