"""Sections: where networks are cut, in which groups a batch walks through them, and that the results are the same."""

import itertools

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.graph import measure, sections
from numbacnn.graph.run import InferencePlan, Walk
from numbacnn.kernels import jit
from tests.naive import graph as naive
from tests.test_plan import BATCH, arrays_for, check_placement, random_model

IMAGES = np.random.default_rng(0).standard_normal((7, 40, 40, 3)).astype(np.float32)


@pytest.fixture
def small_cache(monkeypatch):
    """Makes cuts and small groups worth it for networks of a test's size."""
    monkeypatch.setattr(sections, "CACHE_BYTES", 256 << 10)
    monkeypatch.setattr(sections, "LAUNCH_BYTES", 0)
    monkeypatch.setattr(sections, "CUT_BYTES", 0)


def network():
    """Large maps and few weights first, small maps and many weights last."""
    x = nc.Input(IMAGES.shape[1:])
    h = nc.Conv2D(12, 3, padding="same", activation="relu")(x)
    h = nc.Add()(nc.Conv2D(12, 3, padding="same")(h), h)
    h = nc.Conv2D(24, 3, stride=8, activation="relu")(h)
    h = nc.BatchNorm()(nc.Conv2D(64, 3, bias=False)(h))
    return nc.Model(x, nc.Dense(10)(nc.Flatten()(h)), seed=1)


def groups(model, batch):
    return [section.group for section in model._sections(batch, 1)]


def test_groups_grow_as_maps_shrink(small_cache):
    found = network()._sections(7, 1)
    assert [section.group for section in found] == sorted(section.group for section in found)
    assert found[0].group < found[-1].group == 7
    for before, behind in itertools.pairwise(found):
        (tensor,) = before.outputs
        assert behind.inputs == (tensor,)
        assert before.between[-1] is behind.between[0] is tensor


def test_cuts_are_where_one_tensor_goes_on():
    """Not beside a residual sum, nor next to what lies in place in a concatenation, nor after an output of the model."""
    x = nc.Input((8, 8, 4))
    alone = nc.MaxPool2D(2)(x, name="alone")
    left, right = nc.MaxPool2D(1)(alone, name="left"), nc.AveragePool2D(1)(alone, name="right")
    total = nc.Add()(left, right, name="total")
    joined = nc.Concatenate()(nc.MaxPool2D(1)(total, name="first"), nc.AveragePool2D(1)(total, name="second"), name="joined")
    out = nc.AveragePool2D(2)(joined, name="out")
    head = nc.GlobalAveragePool2D()(nc.MaxPool2D(2)(out, name="behind"), name="head")

    def cuts(*outputs):
        model = nc.Model(x, outputs)
        nodes, results = model._inference_nodes()
        return [nodes[count - 1].name for count in sections._cuts(nodes, model.graph.inputs, results)]

    assert cuts(head) == ["alone", "total", "out", "behind"]
    assert cuts(out, head) == ["alone", "total"]


def test_one_section_where_all_fits():
    model = network()
    assert groups(model, 7) == [7]
    assert isinstance(model._inference_plan(7), InferencePlan)


def test_single_images_are_not_cut(small_cache):
    assert groups(network(), 1) == [1]


@pytest.mark.parametrize("batch", range(1, 8))
def test_every_batch_gives_the_same(small_cache, batch):
    """Also those that no group divides, where some images are computed twice."""
    model = network()
    wanted = np.concatenate([model.predict(image[None]) for image in IMAGES[:batch]])
    assert batch < 3 or isinstance(model._inference_plan(batch), Walk)
    for _ in range(2):
        np.testing.assert_allclose(model.predict(IMAGES[:batch]), wanted, rtol=1e-4, atol=1e-5)


def test_changed_weights_are_seen(small_cache):
    model = network()
    before = model.predict(IMAGES)
    for name in model.parameters:
        model.parameters[name] = model.parameters[name] * np.float32(0.5) + np.float32(0.01)
    other = network()
    for name in other.parameters:
        other.parameters[name] = model.parameters[name]
    assert abs(model.predict(IMAGES) - before).max() > 0
    np.testing.assert_array_equal(model.predict(IMAGES), other.predict(IMAGES))


def test_memory_figure_is_what_is_allocated(small_cache):
    model = network()
    walk = model._inference_plan(7)
    assert model.memory(7, training=False) == model.store.nbytes + walk.nbytes
    assert walk.nbytes > walk.arena.memory.nbytes > 0


def test_walking_takes_less_memory():
    model = nc.create("mobilenet_v2")
    assert model._walk(16, 2).arena_bytes < model._plan(16, False, False, 2).arena_bytes / 3


def test_no_group_holds_more_than_it_gains():
    """Where one image alone does not fit a cache, the bytes that come from memory are the same for groups of all sizes."""
    x = nc.Input((256, 256, 3))
    h = nc.Conv2D(64, 3, padding="same")(nc.Conv2D(64, 3, padding="same")(x))
    model = nc.Model(x, nc.GlobalAveragePool2D()(nc.Conv2D(512, 3, stride=8)(h)))
    assert model._walk(16, 1).arena_bytes < model._plan(16, False, False, 1).arena_bytes / 4


@pytest.fixture
def many_cuts(monkeypatch):
    """Makes short sections with groups of any size the cheapest."""
    monkeypatch.setattr(sections, "CUT_BYTES", 0)
    monkeypatch.setattr(sections._Costs, "section", lambda self, start, end, group: (end - start) ** 2 + (start + group) % 2)


@pytest.mark.parametrize("seed", range(150, 220))
def test_random_graphs_agree_with_reference(many_cuts, seed):
    model = random_model(seed)
    inputs = arrays_for(model.graph.inputs, seed)
    values, _ = naive.forward(model.graph, dict(model.parameters), inputs)
    plan = model._inference_plan(BATCH)
    for part in plan.parts if isinstance(plan, Walk) else [plan]:
        check_placement(part.plan)
    plan.arena.memory.fill(0xFF)
    outputs = model.predict(inputs if len(inputs) > 1 else inputs[0])
    for output, tensor in zip(outputs if isinstance(outputs, tuple) else [outputs], model.graph.outputs):
        np.testing.assert_allclose(output, values[tensor], rtol=1e-12)


def test_random_graphs_are_cut(many_cuts):
    """So that the test above says something."""
    found = [random_model(seed)._sections(BATCH, 1) for seed in range(150, 220)]
    assert sum(len(each) > 1 for each in found) > 20
    assert len({section.group for each in found for section in each}) > 1


def test_optimize_measures_groups(small_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path))
    model = network()
    sizes = {}

    def times(self, group, share):
        sizes[group.nodes[0].name] = group.batch
        return dict.fromkeys(group.methods.layers, 1.0)

    monkeypatch.setattr(measure.Measurement, "_times", times)
    model.optimize(IMAGES)
    wanted = {node.name: section.group for section in model._sections(7, jit.num_threads()) for node in section.nodes}
    assert len(set(sizes.values())) > 1
    assert all(size == wanted[name] for name, size in sizes.items())
