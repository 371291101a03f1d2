"""Planning: lifetimes, placement, sharing of bytes, and that none of it changes a result."""

import itertools

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.graph.plan import Block, make_plan, place
from tests.naive import graph as naive
from tests.small_layers import Affine, Bend, Gate, Halves, Noise, Product, Square, Sum, Tanh, Twice

BATCH = 3


def random_model(seed):
    """A random graph of about twenty small layers over two shapes of six elements."""
    rng = np.random.default_rng(seed)
    shapes = [(2, 3), (6,)]
    pool = {shape: [] for shape in shapes}
    inputs = [nc.Input(shapes[k % 2]) for k in range(rng.integers(1, 3))]
    for tensor in inputs:
        pool[tensor.shape].append(tensor)
    shared = {shape: Affine() for shape in shapes}
    makers = [Twice, Twice, Square, Tanh, Tanh, Gate, Sum, Product, "bend", Halves, Affine, "shared"]
    for _ in range(rng.integers(3, 22)):
        shape = shapes[rng.integers(2)] if all(pool.values()) else next(shape for shape in shapes if pool[shape])
        recent = pool[shape][-4:]
        x = recent[rng.integers(len(recent))]
        maker = makers[rng.integers(len(makers))]
        if maker == "bend":
            y = Bend(shapes[1 - shapes.index(shape)])(x)
        elif maker == "shared":
            y = shared[shape](x)
        elif maker in (Sum, Product):
            count = 2 if maker is Product else rng.integers(1, 4)
            y = maker()(x, *(recent[rng.integers(len(recent))] for _ in range(count - 1)))
        else:
            y = maker()(x)
        for tensor in y if isinstance(y, tuple) else (y,):
            pool[tensor.shape].append(tensor)
    made = [tensor for tensors in pool.values() for tensor in tensors if tensor not in inputs]
    outputs = {made[k] for k in rng.integers(len(made), size=rng.integers(1, 4))}
    reached = _ancestors(outputs)
    return nc.Model([t for t in inputs if t in reached], sorted(outputs, key=made.index), seed=seed, dtype="float64")


def _ancestors(tensors):
    found, waiting = set(), list(tensors)
    while waiting:
        tensor = waiting.pop()
        if tensor not in found:
            found.add(tensor)
            waiting.extend(tensor.call.inputs if tensor.call else ())
    return found


def arrays_for(tensors, seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((BATCH, *tensor.shape)) * 0.5 for tensor in tensors]


def poison(plan):
    """Fill all memory with what spreads when it is read before it is written."""
    plan.arena.memory.fill(0xFF)
    for slot in plan.plan.zeroed:
        plan.array(slot).fill(0)


def check_placement(plan):
    for a, b in itertools.combinations(plan.blocks, 2):
        if a.first <= b.last and b.first <= a.last:
            assert a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset
    assert all(block.offset % 64 == 0 and block.offset + block.nbytes <= plan.arena_bytes for block in plan.blocks)


@pytest.mark.parametrize("seed", range(150))
def test_random_graph_agrees_with_reference(seed):
    model = random_model(seed)
    parameters = {name: array.copy() for name, array in model.parameters.items()}
    frozen = {name for name in parameters if name.endswith(("weight", "bias")) and (len(name) + seed) % 3 == 0}
    model.store.frozen |= frozen
    inputs, seeds = arrays_for(model.graph.inputs, seed), arrays_for(model.graph.outputs, seed + 1)
    plan = model.training_plan(BATCH, input_gradients=seed % 2 == 0)
    check_placement(plan.plan)
    poison(plan)
    for round_ in range(2):
        values, buffers = naive.forward(model.graph, parameters, inputs, training=True)
        for array, given in zip(plan.inputs, inputs):
            array[...] = given
        for array, given in zip(plan.output_gradients, seeds):
            array[...] = given
        plan.forward()
        for array, tensor in zip(plan.outputs, model.graph.outputs):
            np.testing.assert_allclose(array, values[tensor], rtol=1e-12, err_msg=f"round {round_}")
        gradients, learned = naive.backward(model.graph, parameters, values, buffers, seeds)
        plan.backward()
        for name, gradient in plan.gradients.items():
            np.testing.assert_allclose(gradient, 0 if name in frozen else learned[name], rtol=1e-9, atol=1e-11, err_msg=name)
        for array, tensor in zip(plan.input_gradients or (), model.graph.inputs):
            np.testing.assert_allclose(array, gradients[tensor], rtol=1e-9, atol=1e-11)
        for array, given in zip(plan.output_gradients + plan.inputs, seeds + inputs):
            np.testing.assert_array_equal(array, given)
        for array, tensor in zip(plan.outputs, model.graph.outputs):
            np.testing.assert_allclose(array, values[tensor], rtol=1e-12)
        inputs = [array[::-1] + 0.1 for array in inputs]


@pytest.mark.parametrize("seed", range(150, 220))
def test_random_graph_inference_agrees_with_reference(seed):
    model = random_model(seed)
    inputs = arrays_for(model.graph.inputs, seed)
    values, _ = naive.forward(model.graph, dict(model.parameters), inputs)
    plan = model._inference_plan(BATCH)
    check_placement(plan.plan)
    poison(plan)
    outputs = model.predict(inputs if len(inputs) > 1 else inputs[0])
    for output, tensor in zip(outputs if isinstance(outputs, tuple) else [outputs], model.graph.outputs):
        np.testing.assert_allclose(output, values[tensor], rtol=1e-12)


def planned(model, training=True, **options):
    graph = model.graph
    return make_plan(
        graph.nodes, graph.inputs, graph.outputs, graph.specs, batch=2, training=training, threads=1, dtype="float32", **options
    )


def chain(*layers, shape=(4, 8)):
    x = nc.Input(shape)
    h = x
    for layer in layers:
        h = layer(h)
    return nc.Model(x, h)


def test_inference_of_a_chain_needs_one_array_when_all_is_in_place():
    plan = planned(chain(Twice(), Square(), Tanh(), Twice()), training=False)
    assert plan.arena_bytes == 2 * 4 * 8 * 4


def test_training_keeps_what_backward_reads():
    def values(*layers):
        return {id(slot.block) for run in planned(chain(Affine(), *layers)).forward for slot in run.y}

    assert len(values(Twice(), Twice())) == 1  # nobody reads: all share the first output
    assert len(values(Tanh())) == 1  # over the input, which nobody reads
    assert len(values(Tanh(), Twice())) == 2  # Tanh reads its own output
    assert len(values(Square())) == 2  # Square reads its input
    assert len(values(Bend((32,)), Twice(), Bend((4, 8)), Twice())) == 1  # an alias reads nothing


def test_several_readers_prevent_in_place_but_for_the_last():
    x = nc.Input((4,))
    h = Affine()(x)
    first, second = Twice()(h), Twice()(h)
    plan = planned(nc.Model(x, Sum()(first, second)), training=False)
    affine, one, two, _ = plan.forward
    assert one.y[0].block is not affine.y[0].block
    assert two.y[0].block is affine.y[0].block


def test_scratch_shares_bytes_with_what_lives_at_other_times():
    single = planned(chain(Affine(), Gate()), training=False).arena_bytes
    triple = planned(chain(Affine(), Gate(), Gate(), Gate()), training=False).arena_bytes
    assert single == triple


def test_inputs_get_no_gradient_unless_asked():
    model = chain(Affine(), Affine())
    steps = planned(model).backward
    assert steps[-1].dx == [None]
    assert steps[0].dx != [None]
    assert planned(model, input_gradients=True).backward[-1].dx != [None]


def test_nothing_runs_backward_above_frozen_layers():
    model = chain(Affine(), Affine(), Affine())
    model.freeze("affine1", "affine2")
    steps = planned(model, frozen=model.store.frozen).backward
    assert [step.node.name for step in steps] == ["affine3"]
    assert steps[0].dx == [None]
    model.freeze("affine3.weight")
    assert list(planned(model, frozen=model.store.frozen).backward[0].dp) == ["bias"]
    model.freeze("*")
    assert planned(model, frozen=model.store.frozen).backward == []
    model.unfreeze("affine1.bias")
    assert [list(step.dp) for step in planned(model, frozen=model.store.frozen).backward] == [[], [], ["bias"]]


def test_frozen_middle_passes_gradients_on():
    model = chain(Affine(), Affine(), Affine())
    model.freeze("affine2")
    assert [list(step.dp) for step in planned(model, frozen=model.store.frozen).backward] == [["weight", "bias"], [], ["weight", "bias"]]


def test_unused_output_counts_as_zero_gradient():
    x = nc.Input((4,))
    left, _right = Halves()(Affine()(x))
    model = nc.Model(x, left, dtype="float64")
    plan = model.training_plan(1)
    plan.inputs[0][...] = 1
    plan.output_gradients[0][...] = 1
    for _ in range(2):
        plan.forward()
        plan.backward()
        np.testing.assert_array_equal(plan.gradients["affine1.bias"], 0.5)


@pytest.mark.parametrize("training", [False, True])
def test_place_never_overlaps_and_beats_no_reuse(training):
    rng = np.random.default_rng(training)
    for _ in range(30):
        starts = rng.integers(0, 40, 60)
        blocks = [Block(int(size) * 64, int(a), int(a + n)) for size, a, n in zip(rng.integers(1, 50, 60), starts, rng.integers(0, 9, 60))]
        total = place(blocks)
        for a, b in itertools.combinations(blocks, 2):
            if a.first <= b.last and b.first <= a.last:
                assert a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset
        peak = max(sum(block.nbytes for block in blocks if block.first <= time <= block.last) for time in range(50))
        assert peak <= total <= 1.3 * peak
    assert place([]) == 0


def test_random_stream_follows_seed_name_and_step():
    def outputs(seed, step, batch=2):
        x = nc.Input((1,))
        plan = nc.Model(x, [Noise()(x), Noise()(x)], seed=seed).training_plan(batch)
        plan.inputs[0][...] = 0
        plan.set_step(step)
        plan.forward()
        return [float(array[0, 0]) for array in plan.outputs]

    first = outputs(0, 0)
    assert first == outputs(0, 0)
    assert first == outputs(0, 0, batch=5)
    assert first[0] != first[1]
    assert first != outputs(1, 0)
    assert np.allclose(np.subtract(outputs(0, 7), first), 7000)
