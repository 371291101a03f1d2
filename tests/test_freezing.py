"""Frozen parts of a model: they stay as they are, cost no gradient and no memory, and run as in inference."""

import numpy as np
import pytest

import numbacnn as nc


def network(dtype="float64", seed=3):
    x = nc.Input((12, 12, 3))
    h = x
    for stage, filters in (("stage1", 8), ("stage2", 12)):
        with nc.scope(stage):
            shortcut = nc.Conv2D(filters, 1, stride=2)(h)
            h = nc.Conv2D(filters, 3, padding=1, stride=2, bias=False)(h)
            h = nc.BatchNorm()(h)
            h = nc.Activation("relu")(nc.Add()(h, shortcut))
    h = nc.Dropout(0.5)(nc.Flatten()(nc.MaxPool2D(2)(h)))
    return nc.Model(x, nc.Dense(4)(h, name="head"), seed=seed, dtype=dtype)


def batch(dtype="float64"):
    generator = np.random.default_rng(0)
    return generator.normal(size=(6, 12, 12, 3)).astype(dtype), np.arange(6) % 4


def with_statistics(model):
    """Running statistics as training leaves them."""
    trainer = nc.Trainer(model, optimizer=nc.SGD(0.05))
    for _ in range(3):
        trainer.step(*batch(model.dtype))
    return model


def copies(model):
    return {name: array.copy() for name, array in model.parameters.items()}


@pytest.mark.parametrize("until", ["stage1", "stage2", "head"])
def test_what_is_frozen_stays_as_it_is(until):
    model = with_statistics(network())
    model.freeze_until(until)
    before = copies(model)
    nc.Trainer(model, optimizer=nc.Adam(0.01)).step(*batch())
    changed = {name.partition(".")[0] for name, array in model.parameters.items() if (array != before[name]).any()}
    order = ["stage1", "stage2", "head"]
    assert changed == set(order[order.index(until) :])


@pytest.mark.parametrize("until", ["stage2", "head"])
def test_gradients_are_those_of_a_network_with_fixed_statistics(until):
    """A frozen first part, rewritten as for inference, gives what the same layers give when nothing is rewritten: a plan with
    gradients for the input leaves them as they are."""
    model = with_statistics(network())
    model.freeze_until(until)
    found = {}
    for whole in (False, True):
        plan = model.training_plan(6, input_gradients=whole)
        assert any(run.node.constant for run in plan.plan.forward) != whole
        plan.inputs[0][...], labels = batch()
        plan.set_step(7)
        plan.forward()
        plan.output_gradients[0][...] = np.eye(4)[labels]
        plan.backward()
        found[whole] = plan.outputs[0].copy(), {name: array.copy() for name, array in plan.gradients.items()}
    np.testing.assert_allclose(found[False][0], found[True][0], rtol=1e-11, atol=1e-12)
    for name, gradient in found[True][1].items():
        np.testing.assert_allclose(found[False][1][name], gradient, rtol=1e-10, atol=1e-12, err_msg=name)
        assert (abs(gradient).max() > 0) == (name not in model.store.frozen)


def test_a_frozen_part_follows_its_parameters():
    """What is derived from frozen parameters is computed again after somebody has changed them."""
    model = with_statistics(network())
    model.freeze_until("head")
    trainer = nc.Trainer(model, optimizer=nc.SGD(0.0))
    first = trainer.gradients(*batch())["head.weight"]
    model.parameters["stage1.batch_norm1.running_var"][...] *= 4
    model.parameters["stage2.conv1.weight"][...] *= 1.5
    second = trainer.gradients(*batch())["head.weight"]
    assert abs(second - first).max() > 1e-3


def test_statistics_may_go_on():
    model = with_statistics(network())
    model.freeze("stage1", statistics=False)
    before = copies(model)
    nc.Trainer(model, optimizer=nc.SGD(0.01)).step(*batch())
    changed = {name for name, array in model.parameters.items() if name.startswith("stage1") and (array != before[name]).any()}
    assert changed == {"stage1.batch_norm1.running_mean", "stage1.batch_norm1.running_var"}


def test_frozen_parts_take_less_memory():
    """Neither gradients nor what only the backward pass would read."""
    sizes = []
    for until in ("stage1", "stage2", "head"):
        model = network("float32")
        model.freeze_until(until)
        sizes.append(model.memory(32) - model.store.nbytes)
        assert model.training_plan(32).nbytes == sizes[-1]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.65 * sizes[0]
    frozen = network("float32")
    frozen.freeze_until("head")
    learned = sum(size for name, size in ((n, a.size) for n, a in frozen.parameters.items()) if name.startswith("head."))
    plan = frozen.training_plan(32).plan
    assert learned * 4 <= plan.parameter_gradient_bytes < learned * 4 + 2 * 64
