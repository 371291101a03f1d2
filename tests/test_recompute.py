"""Recomputation: plans that keep less give the same bits, and need less memory."""

import itertools

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError
from numbacnn.graph import plan as planner
from numbacnn.graph import recompute
from numbacnn.graph.plan import Forward
from tests.test_plan import BATCH, arrays_for, check_placement, poison, random_model


def passes(model, recompute, seed):
    """The plan, and all that two rounds of it give, from memory full of NaN."""
    plan = model.training_plan(BATCH, input_gradients=seed % 2 == 0, recompute=recompute)
    check_placement(plan.plan)
    poison(plan)
    found = []
    for round_ in range(2):
        for array, given in zip(plan.inputs, arrays_for(model.graph.inputs, seed + round_)):
            array[...] = given
        plan.forward()
        for array, given in zip(plan.output_gradients, arrays_for(model.graph.outputs, seed + 2)):
            array[...] = given
        plan.backward()
        arrays = [*plan.inputs, *plan.outputs, *plan.output_gradients, *(plan.input_gradients or ())]
        found += [array.copy() for array in (*arrays, *plan.gradients.values(), *model.parameters.values())]
    return plan.plan, found


def anything(seed):
    """In place of the choices of a mode: whether each value is kept is left to chance."""

    def choices(flow, mode):
        rng = np.random.default_rng(seed)
        values = [value for index, able in enumerate(flow.repeatable) if able for value in recompute._droppable(flow, index)]
        dropped = frozenset(value for value in values if rng.random() < 0.7)
        return [recompute.Choice(dropped, frozenset(value for value in dropped if rng.random() < 0.5))]

    return choices


def test_random_graphs_give_the_same_bits(monkeypatch):
    """Layers in place, aliases, several outputs, sharing, freezing, buffers that are made again, and state that moves once a step."""
    again, saved = 0, 0
    for seed in range(60):
        results = []
        for mode in (None, "cheap" if seed % 2 else "blocks", "anything"):
            monkeypatch.setattr(planner, "choices", anything(seed) if mode == "anything" else recompute.choices)
            model = random_model(seed)
            model.store.frozen |= {name for name in model.parameters if name.endswith("weight") and (len(name) + seed) % 3 == 0}
            results.append(passes(model, "blocks" if mode == "anything" else mode, seed))
        (whole, expected), *others = results
        for plan, found in others:
            for array, wanted in zip(found, expected, strict=True):
                np.testing.assert_array_equal(array, wanted, err_msg=f"graph {seed}")
            again += sum(isinstance(run, Forward) for run in plan.backward)
        saved += whole.arena_bytes - others[0][0].arena_bytes
    assert again > 80
    assert saved > 0


def residual(x):
    h = nc.Conv2D(8, 3, padding="same")(x)
    for _ in range(6):
        branch = nc.Activation("relu")(nc.BatchNorm()(nc.Conv2D(8, 3, padding="same", bias=False)(h)))
        branch = nc.BatchNorm()(nc.Conv2D(8, 3, padding="same", bias=False)(branch))
        h = nc.Activation("relu")(nc.Add()(h, nc.StochasticDepth(0.3)(branch)))
    return nc.Dense(4)(nc.Dropout(0.3)(nc.GlobalAveragePool2D()(nc.MaxPool2D(2)(h))))


def dense(x):
    """Concatenations of concatenations, a layer that is called three times, and two outputs."""
    h, shared = nc.Conv2D(4, 3, padding="same")(x), nc.Conv2D(4, 3, padding="same", bias=False)
    for _ in range(4):
        bottleneck = nc.Conv2D(4, 1, bias=False)(nc.Activation("relu")(nc.BatchNorm()(h)))
        h = nc.Concatenate()(h, shared(nc.Activation("relu")(nc.BatchNorm()(bottleneck))))
    return [nc.Dense(4)(nc.Flatten()(nc.MaxPool2D(2)(h))), nc.Dense(4)(nc.GlobalAveragePool2D()(h))]


@pytest.mark.parametrize(("network", "cheap", "blocks"), [(residual, 0.8, 0.6), (dense, 0.8, 0.75)])
def test_training_gives_the_same_bits_in_less_memory(network, cheap, blocks):
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((6, 12, 12, 3)).astype(np.float32), rng.integers(0, 4, 6)
    results, sizes = {}, {}
    for mode in (None, *recompute.MODES):
        x = nc.Input((12, 12, 3))
        model = nc.Model(x, network(x), seed=1)
        model.freeze("conv2", "batch_norm2")  # in the middle
        trainer = nc.Trainer(model, optimizer=nc.SGD(0.05, momentum=0.9), recompute=mode)
        losses = [trainer.step(images, labels) for _ in range(3)]
        results[mode] = losses, trainer.gradients(images, labels), {name: np.array(array) for name, array in model.parameters.items()}
        sizes[mode] = model.training_plan(6, recompute=mode).plan.arena_bytes
        assert model.memory(6, recompute=mode) == model.store.nbytes + model.training_plan(6, recompute=mode).plan.nbytes
    for mode in recompute.MODES:
        assert results[mode][0] == results[None][0]
        for found, expected in zip(results[mode][1:], results[None][1:]):
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array, err_msg=f"{mode}, {name}")
    assert sizes["cheap"] < cheap * sizes[None]
    assert sizes["blocks"] < blocks * sizes[None]


def test_memory_and_operations_of_a_deep_network():
    model = nc.create("resnet20", input_shape=(32, 32, 3))
    whole, *less = (model._training_plan(8, False, 2, mode) for mode in (None, *recompute.MODES))
    assert less[0].arena_bytes < 0.7 * whole.arena_bytes
    assert less[1].arena_bytes < 0.4 * whole.arena_bytes
    operations = [sum(run.node.layer.flops(run.node.shapes) for run in runs if isinstance(run, Forward)) for runs in
                  (less[0].backward, less[1].backward, whole.forward)]  # fmt: skip
    assert operations[0] < 0.03 * operations[2]
    assert operations[1] < operations[2]  # nothing with much arithmetic runs a third time


def test_minimum_cuts_against_all_cuts():
    rng = np.random.default_rng(0)
    for _ in range(40):
        inner = list(range(6))
        edges = {(a, b): int(rng.integers(1, 9)) for a, b in itertools.permutations([recompute._SOURCE, *inner, recompute._SINK], 2)
                 if a is not recompute._SINK and b is not recompute._SOURCE and rng.random() < 0.4}  # fmt: skip
        network = recompute._Network()
        for (a, b), capacity in edges.items():
            network.join(a, b, capacity)
        found = network.near_sink()

        def cost(beyond, edges=edges):
            return sum(capacity for (a, b), capacity in edges.items() if a not in beyond and b in beyond)

        subsets = (set(some) for count in range(7) for some in itertools.combinations(inner, count))
        assert cost(found) == min(cost({*some, recompute._SINK}) for some in subsets)


def test_an_unknown_mode():
    model = nc.Model(x := nc.Input((3,)), nc.Dense(2)(x))
    for use in (lambda: nc.Trainer(model, recompute="all"), lambda: model.training_plan(2, recompute="all")):
        with pytest.raises(ConfigError, match="recompute is 'all'; it takes None, 'cheap' or 'blocks'"):
            use()
