"""Concatenating and cutting channels without copies: where tensors lie, and that it changes no result."""

import dataclasses

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.graph import plan as planning
from numbacnn.layers.base import Layer
from tests.naive import graph as naive
from tests.small_layers import Bend, Sum, Tanh
from tests.test_plan import check_placement, poison


def random_arrays(tensors, batch, seed, dtype="float64"):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, *tensor.shape)).astype(dtype) for tensor in tensors]


def randomise(model, seed):
    """Random parameters; variances stay positive."""
    rng = np.random.default_rng(seed)
    for name, array in model.parameters.items():
        array[...] = rng.uniform(0.2, 0.8, array.shape) if name.endswith("running_var") else 0.4 * rng.standard_normal(array.shape)


def predicted(model, inputs):
    """Outputs of an inference plan whose memory was full of NaN."""
    batch = len(inputs[0])
    plan = model._inference_plan(batch)
    check_placement(plan.plan)
    model.predict(inputs if len(inputs) > 1 else inputs[0], batch_size=batch)  # prepares the weights
    poison(plan)
    outputs = model.predict(inputs if len(inputs) > 1 else inputs[0], batch_size=batch)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def copies(model):
    """How many inputs of concatenations and outputs of splits a plan copies."""
    plan, count = model._inference_plan(1), 0
    for run in plan.plan.forward:
        layer = run.node.layer
        if layer.concatenates or layer.splits:
            count += len(plan._steps(run.node, layer.forward, plan._grouped(run.node, run.x), plan._outputs(run.y), {}, {}, False))
    return count


# Decisions, with layers in NumPy that insist on what they say ---------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plus(Layer):
    """Adds one. Takes dense arrays only, but for what its fields allow."""

    reads: bool = True
    writes: bool = True
    over: bool = False

    backward_reads = ()
    stem = "plus"

    @property
    def reads_views(self):
        return self.reads

    @property
    def writes_views(self):
        return self.writes

    @property
    def in_place(self):
        return self.over

    def forward(self, x, y, p, b, training):
        assert self.reads or x.flags.c_contiguous
        assert self.writes or y.flags.c_contiguous
        np.add(x, 1, out=y)


def random_decisions(seed):
    """A random graph of layers that read or write views or don't, concatenations and splits along any axis, and aliases."""
    rng = np.random.default_rng(seed)
    inputs = [nc.Input((2, 3, int(rng.integers(1, 5)))) for _ in range(rng.integers(1, 3))]
    made = list(inputs)

    def recent(count):
        return [made[int(rng.integers(max(0, len(made) - 7), len(made)))] for _ in range(count)]

    for _ in range(rng.integers(3, 24)):
        kind = rng.choice(["plus", "plus", "sum", "concatenate", "concatenate", "concatenate", "split", "bend", "tanh"])
        (x,) = recent(1)
        if kind == "plus":
            made.append(Plus(*(bool(flag) for flag in rng.random(3) < (0.8, 0.8, 0.5)))(x))
        elif kind == "tanh":
            made.append(Tanh()(x))
        elif kind == "sum":
            made.append(Sum()(x, *(t for t in recent(2) if t.shape == x.shape)))
        elif kind == "bend":
            made.append(Bend(x.shape[::-1] if rng.random() < 0.5 else x.shape)(x))
        elif kind == "concatenate":
            axis = int(rng.choice([-1, -1, -1, 0, 2]))
            others = [t for t in recent(3) if np.all(np.delete(t.shape, axis) == np.delete(x.shape, axis))]
            if sum(t.shape[axis] for t in (x, *others)) < 40:
                made.append(nc.Concatenate(axis)(x, *others))
        elif kind == "split":
            axis = int(rng.choice([-1, -1, -1, 0]))
            if x.shape[axis] > 1:
                first = int(rng.integers(1, x.shape[axis]))
                made.extend(nc.Split((first, x.shape[axis] - first), axis)(x))
    new = [tensor for tensor in made if tensor not in inputs]
    outputs = [new[k] for k in sorted({int(k) for k in rng.integers(len(new), size=rng.integers(1, 4))})]
    reached = ancestors(outputs)
    return nc.Model([t for t in inputs if t in reached], outputs, dtype="float64")


def ancestors(tensors):
    found, waiting = set(), list(tensors)
    while waiting:
        tensor = waiting.pop()
        if tensor not in found:
            found.add(tensor)
            waiting.extend(tensor.call.inputs if tensor.call else ())
    return found


@pytest.mark.parametrize("seed", range(400))
def test_random_decisions_agree_with_reference(seed):
    model, batch = random_decisions(seed), 1 + 2 * (seed % 2)
    inputs = random_arrays(model.graph.inputs, batch, seed)
    values, _ = naive.forward(model.graph, {}, inputs)
    for output, tensor in zip(predicted(model, inputs), model.graph.outputs, strict=True):
        np.testing.assert_allclose(output, values[tensor], rtol=1e-12)


def test_a_concatenation_of_what_may_lie_in_it_copies_nothing():
    x = nc.Input((2, 2, 3))
    model = nc.Model(x, nc.Concatenate()(Plus()(x), Plus()(x)))
    assert copies(model) == 0
    whole = model._inference_plan(1).outputs[0]
    assert whole.flags.c_contiguous
    first, second, _ = model._inference_plan(1).plan.forward
    assert (first.y[0].channel, first.y[0].width, second.y[0].channel) == (0, 6, 3)


def test_nested_concatenations_are_one_array():
    x = nc.Input((2, 2, 3))
    h = Plus()(x)
    for _ in range(5):
        h = nc.Concatenate()(h, Plus()(h))
    model = nc.Model(x, Plus(reads=False)(h))
    assert copies(model) == 0
    forward = model._inference_plan(1).plan.forward
    assert len({id(run.y[0].block) for run in forward[:-1]}) == 1


@pytest.mark.parametrize(("reads", "writes"), [(False, True), (True, False)])
def test_what_needs_dense_arrays_is_copied(reads, writes):
    x = nc.Input((2, 2, 3))
    left, right = Plus(writes=writes)(x), Plus()(x)
    model = nc.Model(x, [nc.Concatenate()(left, right), Plus(reads=reads)(left)])
    assert copies(model) == 1


def test_inputs_outputs_and_repeated_tensors_are_copied():
    x = nc.Input((2, 2, 3))
    h = Plus()(x)
    assert copies(nc.Model(x, nc.Concatenate()(x, h))) == 1
    assert copies(nc.Model(x, [h, nc.Concatenate()(h, Plus()(x))])) == 1
    assert copies(nc.Model(x, nc.Concatenate()(h, h))) == 1
    inner = nc.Concatenate()(h, Plus()(h))
    assert copies(nc.Model(x, [inner, nc.Concatenate()(inner, Plus()(inner))])) == 1


def test_a_tensor_lies_in_one_of_two_concatenations():
    x = nc.Input((2, 2, 3))
    h = Plus()(x)
    model = nc.Model(x, [nc.Concatenate()(h, Plus()(x)), nc.Concatenate()(Plus()(x), h)])
    assert copies(model) == 1


class Claiming(Bend):
    """An alias that says what no alias can do."""

    reads_views = writes_views = True


def test_other_axes_and_aliases_are_copied():
    x = nc.Input((2, 2, 3))
    assert copies(nc.Model(x, nc.Concatenate(0)(Plus()(x), Plus()(x)))) == 2
    assert copies(nc.Model(x, nc.Concatenate(2)(Plus()(x), Plus()(x)))) == 0  # the channels
    h = Plus()(x)
    for alias in (Bend, Claiming):
        assert copies(nc.Model(x, [nc.Concatenate()(h, Plus()(x)), alias((12,))(h)])) == 1  # h has no other shape with gaps in it
        assert copies(nc.Model(x, nc.Concatenate()(alias((2, 2, 3))(h), Plus()(x)))) == 1


@pytest.mark.parametrize("over", [False, True])
def test_split(over):
    x = nc.Input((2, 2, 6))
    left, right = nc.Split(2)(Plus()(x))
    assert copies(nc.Model(x, [Plus(over=over)(left), Plus(over=over)(right)])) == 0
    assert copies(nc.Model(x, [Plus(over=over)(left), Plus(reads=False, over=over)(right)])) == 1
    assert copies(nc.Model(x, [left, Plus(over=over)(right)])) == 1


def test_parts_of_a_split_that_are_concatenated_again_are_not_copied():
    """As in cross-stage partial networks (C.-Y. Wang et al., 2020)."""
    x = nc.Input((2, 2, 6))
    left, right = nc.Split(2)(Plus()(x))
    third = Plus()(right)
    model = nc.Model(x, Plus()(nc.Concatenate()(left, right, third, Plus()(third))))
    assert copies(model) == 0


def test_overwriting_waits_for_readers_of_parts_and_of_the_whole():
    x = nc.Input((2, 2, 3))
    part = Plus()(x)
    whole = nc.Concatenate()(part, Plus()(x))
    alone = nc.Model(x, Plus(over=True)(whole))
    *_, joined, over = alone._inference_plan(1).plan.forward
    assert over.y[0].block is joined.y[0].block
    both = nc.Model(x, [Plus(over=True)(whole), Plus()(part)])  # part is read after whole would be overwritten
    assert copies(both) == 0
    given = random_arrays([x], 2, 0, "float32")
    np.testing.assert_array_equal(predicted(both, given)[0], np.concatenate([given[0] + 2] * 2, -1))
    np.testing.assert_array_equal(predicted(both, given)[1], given[0] + 2)


def test_what_has_a_place_is_not_written_over_an_input():
    x = nc.Input((2, 2, 3))
    assert copies(nc.Model(x, nc.Concatenate()(Plus(over=True)(Plus()(x)), Plus()(x)))) == 0


def test_parts_are_not_overwritten():
    """A dense output over an input with gaps would overwrite pixels that another thread has not read yet."""
    x = nc.Input((2, 2, 6))
    model = nc.Model(x, [Plus(over=True)(part) for part in nc.Split(2)(Plus()(x))])
    assert copies(model) == 0
    whole, _, *over = model._inference_plan(1).plan.forward
    assert all(run.x[0].block is whole.y[0].block and run.y[0].block is not whole.y[0].block for run in over)


def test_training_copies():
    x = nc.Input((2, 2, 3))
    model = nc.Model(x, nc.Concatenate()(nc.Dense(2)(x), nc.Dense(2)(x)))
    assert all(slot.width is None for run in model.training_plan(1).plan.forward for slot in (*run.x, *run.y))
    assert copies(model) == 0


# Kernels -------------------------------------------------------------------------------------------------------------


def random_network(seed):
    """A random graph of the layers that networks with concatenations are made of, on two sizes of images."""
    rng = np.random.default_rng(seed)
    image = nc.Input((6, 4, 3))
    made = {(6, 4): [image], (3, 2): []}

    def recent(size, count=1):
        tensors = made[size]
        return [tensors[int(rng.integers(max(0, len(tensors) - 5), len(tensors)))] for _ in range(count)]

    def convolved(x):
        options = [{"activation": "relu"}, {}, {"size": 1, "activation": "relu"}, {"size": 1}]
        return nc.Conv2D(int(rng.integers(1, 9)), **{"size": 3, "padding": "same", **options[rng.integers(4)]})(x)

    def residual(x):
        return nc.Activation("relu")(nc.Add()(nc.Conv2D(x.shape[-1], int(rng.choice([1, 3])), padding="same")(x), x))

    def concatenated(x):
        return nc.Concatenate()(x, *recent(size, int(rng.integers(0, 4))))

    def squeezed(x):
        return nc.Multiply()(x, nc.GlobalAveragePool2D(keepdims=True)(x))

    makers = {
        "conv": convolved,
        "residual": residual,
        "transposed": lambda x: nc.Conv2DTranspose(3, 3, padding="same")(x),
        "depthwise": lambda x: nc.DepthwiseConv2D(3, padding="same", activation="relu")(x),
        "dense": lambda x: nc.Dense(4)(x),
        "max": lambda x: nc.MaxPool2D(3, stride=1, padding=1)(x),
        "average": lambda x: nc.AveragePool2D(3, stride=1, padding=1)(x),
        "norm": lambda x: nc.BatchNorm()(x),
        "group": lambda x: nc.GroupNorm(1)(x),
        "relu": lambda x: nc.Activation("relu")(x),
        "prelu": lambda x: nc.PReLU()(x),
        "softmax": lambda x: nc.Softmax()(x),
        "shuffle": lambda x: nc.ChannelShuffle(1)(x),
        "squeezed": squeezed,
        "concatenated": concatenated,
        "flat": lambda x: nc.Reshape(x.shape)(nc.Flatten()(x)),
    }
    chances = np.array([6, 2, 1, 2, 1, 1, 1, 2, 1, 2, 1, 1, 1, 1, 12, 1])
    for _ in range(rng.integers(4, 22)):
        size = (3, 2) if made[3, 2] and rng.random() < 0.5 else (6, 4)
        (x,) = recent(size)
        if rng.random() < 0.08:
            size = (3, 2) if size == (6, 4) else (6, 4)
            made[size].append(nc.AveragePool2D(2)(x) if size == (3, 2) else nc.Upsample(2)(x))
        elif rng.random() < 0.1 and x.shape[-1] > 1:
            first = int(rng.integers(1, x.shape[-1]))
            made[size].extend(nc.Split((first, x.shape[-1] - first))(x))
        elif x.shape[-1] < 60:
            made[size].append(makers[rng.choice(list(makers), p=chances / chances.sum())](x))
    new = [tensor for tensors in made.values() for tensor in tensors if tensor is not image]
    outputs = [new[k] for k in sorted({int(k) for k in rng.integers(len(new), size=rng.integers(1, 4))} | {len(new) - 1})]
    outputs = [tensor for tensor in outputs if image in ancestors([tensor])]
    return nc.Model(image, outputs, seed=seed, dtype="float64" if seed % 3 == 0 else "float32")


@pytest.mark.parametrize("seed", range(120))
def test_random_network_agrees_with_copies(seed, monkeypatch):
    model, batch = random_network(seed), 1 + 2 * (seed % 2)
    randomise(model, seed)
    inputs = random_arrays(model.graph.inputs, batch, seed, model.dtype)
    outputs = predicted(model, inputs)
    monkeypatch.setattr(planning, "find_places", lambda *_: {})
    twin = random_network(seed)
    randomise(twin, seed)
    for output, expected in zip(outputs, predicted(twin, inputs), strict=True):
        tolerance = 1e-11 if output.dtype == np.float64 else 1e-4
        np.testing.assert_allclose(output, expected, rtol=tolerance, atol=tolerance * max(1, abs(expected).max()))


# Networks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["densenet121", "googlenet", "inception_v3", "squeezenet1_1", "text_cnn"])
def test_architectures_copy_nothing(name):
    options = {
        "densenet121": {"depths": (2, 3, 4, 2), "growth": 8, "width": 16},
        "googlenet": {"width": 0.25},
        "inception_v3": {"width": 0.25},
        "text_cnn": {"input_shape": (20,)},
    }
    model = nc.create(name, classes=3, **{"input_shape": (80, 80, 3), **options.get(name, {})})
    assert copies(model) == 0


def test_dense_block_agrees_with_numpy():
    """A dense block written down in NumPy, with weights of the model."""
    x = nc.Input((5, 4, 3))
    h = nc.Conv2D(5, 1)(x, name="conv0")
    for k in range(1, 4):
        new = nc.Conv2D(3, 1)(nc.Activation("relu")(nc.BatchNorm()(h, name=f"norm{k}")), name=f"conv{k}")
        h = nc.Concatenate()(h, new)
    model = nc.Model(x, h, dtype="float64")
    randomise(model, 0)
    (given,) = random_arrays([x], 3, 1)
    p = model.parameters

    def conv(value, k):
        return value @ p[f"conv{k}.weight"][0, 0] + p[f"conv{k}.bias"]

    expected = conv(given, 0)
    for k in range(1, 4):
        norm = {name: p[f"norm{k}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")}
        normed = (expected - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5) * norm["weight"] + norm["bias"]
        expected = np.concatenate([expected, conv(np.maximum(normed, 0), k)], -1)
    np.testing.assert_allclose(predicted(model, [given])[0], expected, rtol=1e-10, atol=1e-12)
    assert copies(model) == 0


def test_encoder_and_decoder_copy_nothing():
    """U-Net (O. Ronneberger et al., 2015): what the encoder hands over waits in the decoder's array."""
    x = nc.Input((8, 8, 3))
    first = nc.Conv2D(4, 3, padding="same", activation="relu")(x)
    second = nc.Conv2D(8, 3, padding="same", activation="relu")(nc.MaxPool2D(2)(first))
    h = nc.Conv2D(8, 3, padding="same", activation="relu")(nc.MaxPool2D(2)(second))
    h = nc.Conv2D(8, 3, padding="same")(nc.Concatenate()(second, nc.Upsample(2)(h)))
    h = nc.Concatenate()(nc.Conv2DTranspose(4, 2, stride=2)(h), first)
    assert copies(nc.Model(x, nc.Conv2D(2, 1)(h))) == 0
