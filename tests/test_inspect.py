"""Summaries and receptive fields, against figures worked out by hand and against what the network really sees."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.inspect.receptive_field import receptive_fields
from numbacnn.inspect.summary import quantity, summarize
from numbacnn.layers.conv import Conv1D, Conv1DTranspose, Conv2D
from numbacnn.layers.dense import Dense
from numbacnn.layers.merge import Add, Concatenate
from numbacnn.layers.pool import AveragePool1D, GlobalAveragePool2D, MaxPool1D, MaxPool2D
from numbacnn.layers.resize import Upsample
from numbacnn.layers.shape import Crop, DepthToSpace, Flatten, Slice, SpaceToDepth, ZeroPad


def lenet() -> nc.Model:
    x = nc.Input((28, 28, 1))
    h = MaxPool2D(2)(Conv2D(6, 5, padding=2)(x))
    h = MaxPool2D(2)(Conv2D(16, 5)(h))
    h = Dense(84)(Dense(120)(Flatten()(h)))
    return nc.Model(x, Dense(10)(h), name="lenet")


def fields(x, y):
    """The receptive field of ``y``, whose first axis is the only spatial one."""
    model = nc.Model(x, y)
    return receptive_fields(model.graph.inputs, model.graph.nodes)[model.graph.outputs[0]]


def test_counts_of_a_classic_network():
    summary = lenet().summary()
    parameters = [156, 0, 2416, 0, 0, 48120, 10164, 850]
    assert [row.parameters for row in summary.rows] == parameters
    assert summary.parameters == summary.trainable == sum(parameters)
    multiply_adds = [28 * 28 * 6 * 25, 10 * 10 * 16 * 25 * 6, 400 * 120, 120 * 84, 84 * 10]
    assert [row.flops for row in summary.rows if row.parameters] == [2 * count for count in multiply_adds]
    assert summary.flops == sum(row.flops for row in summary.rows)
    assert summary.rows[0].output_shape == (28, 28, 6)
    assert summary.rows[0].activation_bytes == 28 * 28 * 6 * 4
    assert [row.name for row in summary.rows[:2]] == ["conv1", "max_pool1"]
    assert summary.rows[0].layer == "Conv2D"


def test_receptive_fields_of_a_classic_network():
    found = [row.receptive_field for row in lenet().summary().rows]
    assert [f.size for f in found[:4]] == [(5, 5), (6, 6), (14, 14), (16, 16)]
    assert [f.stride for f in found[:4]] == [(1, 1), (2, 2), (2, 2), (4, 4)]
    assert [f.centre for f in found[:4]] == [(0, 0), (0.5, 0.5), (4.5, 4.5), (5.5, 5.5)]
    assert all(f.size == (32, 32) and f.stride == (0, 0) for f in found[4:])


@pytest.mark.parametrize(
    "layers",
    [
        [Conv1D(1, 3, padding=1), Conv1D(1, 3, stride=2), MaxPool1D(2)],
        [Conv1D(1, 3, dilation=3, padding="same"), AveragePool1D(3, stride=1)],
        [Conv1D(1, 2, padding="causal", dilation=4), Conv1D(1, 2, padding="causal")],
        [Conv1D(1, 3, stride=2), Conv1DTranspose(1, 4, stride=2, padding=1)],
        [Conv1DTranspose(1, 3, stride=3), Conv1D(1, 3)],
        [ZeroPad(((2, 1),)), Conv1D(1, 3), Crop(2), Slice(axis=0, start=3, stop=-1)],
        [SpaceToDepth(3), Conv1D(4, 3), DepthToSpace(4)],
        [Upsample(3), Conv1D(1, 2), MaxPool1D(2)],
        [Upsample(2, mode="linear"), Conv1D(1, 3)],
        [Upsample(size=35, mode="linear", align_corners=True)],
        [Upsample(1.5)],
    ],
)
def test_receptive_fields_are_what_the_network_sees(layers):
    """Change one place of the input at a time and look which outputs change."""
    length, x = 24, nc.Input((24, 1))
    h = x
    for layer in layers:
        h = layer(h)
    model = nc.Model(x, h, dtype="float64")
    for name, array in model.parameters.items():
        model.parameters[name] = np.abs(array) + 0.1
    field = fields(x, h)
    images = 1 + np.linspace(0, 0.1, length).reshape(1, length, 1) + np.zeros((length + 1, 1, 1))
    for place in range(length):
        images[place + 1, place] += 5
    outputs = model.predict(images)[..., 0]
    sees = np.abs(outputs[1:] - outputs[0]) > 1e-9
    for k in range(outputs.shape[1]):
        centre, reach = field.centre[0] + k * field.stride[0], (field.size[0] - 1) / 2
        seen = np.flatnonzero(sees[:, k])
        assert seen.min() >= centre - reach - 1e-9
        assert seen.max() <= centre + reach + 1e-9
    middle = outputs.shape[1] // 2
    extents = [np.ptp(np.flatnonzero(sees[:, k])) + 1 for k in (middle - 1, middle, middle + 1) if 0 <= k < outputs.shape[1]]
    slack = 3 if isinstance(layers[0], SpaceToDepth) else 1  # of fractional strides: a place of the coarsest tensor
    assert field.size[0] - slack <= max(extents) <= field.size[0]


def test_where_branches_meet_the_field_covers_all_of_them():
    x = nc.Input((20, 1))
    h = Add()(Conv1D(1, 3, padding="same")(x), Conv1D(1, 7, padding="same")(x))
    assert fields(x, h).size == (7,)
    ahead, behind = Conv1D(1, 3, padding=((0, 2),))(x), Conv1D(1, 3, padding=((2, 0),))(x)
    field = fields(x, Concatenate()(ahead, behind))
    assert (field.size, field.centre) == ((5,), (0,))


def test_a_global_layer_sees_everything():
    x = nc.Input((9, 7, 1))
    field = fields(x, GlobalAveragePool2D()(Conv2D(2, 3, padding="same")(x)))
    assert (field.size, field.stride) == ((11, 9), (0, 0))
    assert fields(x, Dense(2)(GlobalAveragePool2D()(x))).size == (9, 7)


def test_a_vector_has_no_receptive_field():
    x = nc.Input((5,))
    summary = nc.Model(x, Dense(2)(x)).summary()
    assert summary.receptive_field.size == ()
    assert "receptive field  " not in str(summary).splitlines()[-1]


def test_shared_weights_count_once_and_work_twice():
    x = nc.Input((8, 8, 3))
    shared = Conv2D(3, 3, padding="same")
    summary = summarize(nc.Model(x, shared(shared(x))))
    first, second = summary.rows
    assert (first.parameters, second.parameters, summary.parameters) == (84, 0, 84)
    assert first.flops == second.flops > 0
    assert (first.shared, second.shared) == (False, True)
    assert "shared" in str(summary)


def test_frozen_parameters_are_not_trainable():
    model = lenet()
    model.freeze("conv1", "*.bias")
    summary = model.summary()
    assert summary.rows[0].trainable == 0
    assert summary.trainable == summary.parameters - 156 - 16 - 120 - 84 - 10
    assert f"{summary.trainable:,} trainable" in str(summary)


def test_running_statistics_are_no_parameters():
    x = nc.Input((4, 4, 3))
    model = nc.Model(x, nc.PReLU()(nc.BatchNorm()(Conv2D(5, 3, bias=False)(x))))
    summary = model.summary()
    assert [(row.parameters, row.trainable, row.state) for row in summary.rows] == [(135, 135, 0), (10, 10, 10), (5, 5, 0)]
    data = summary.to_dict()
    assert (data["parameters"], data["trainable"], data["state"]) == (150, 150, 10)
    assert data["rows"][1]["state"] == 10
    assert "parameters       150\nstate            10 (running statistics)\n" in str(summary)
    assert "150 parameters" in repr(model)
    model.freeze("batch_norm1")
    assert (model.summary().parameters, model.summary().trainable) == (150, 140)
    assert "150 (140 trainable, 10 frozen)" in str(model.summary())


def test_an_activation_counts_the_same_as_a_field_and_as_a_layer():
    x = nc.Input((6, 6, 3))
    for name in ("relu", "softmax", "prelu"):
        model = nc.Model(x, Conv2D(4, 3, activation=name)(x))
        apart = nc.Model(x, model.graph.nodes[0].activation(Conv2D(4, 3)(x)))
        assert model.summary().flops == apart.summary().flops == 2 * 27 * 64 + model.graph.nodes[0].activation.flops((4, 4, 4))
        assert model.summary().parameters == apart.summary().parameters


def test_totals_say_where_the_receptive_field_lies():
    x = nc.Input((24, 24, 1))
    summary = nc.Model(x, MaxPool2D(2)(Conv2D(1, 5, padding=2)(x))).summary()
    assert str(summary).splitlines()[-1] == "receptive field  6x6, stride 2x2, first centre at 0.5x0.5"
    assert str(lenet().summary()).splitlines()[-1] == "receptive field  32x32, first centre at 13.5x13.5"
    assert summary.to_dict()["receptive_field"] == {"size": (6, 6), "stride": (2, 2), "centre": (0.5, 0.5)}
    assert summary.to_dict()["rows"][0]["receptive_field"] == {"size": (5, 5), "stride": (1, 1), "centre": (0, 0)}


def test_float64_activations_take_twice_the_bytes():
    x = nc.Input((4, 4, 1))
    y = Conv2D(2, 3)(x)
    assert nc.Model(x, y, dtype="float64").summary().activation_bytes == 2 * nc.Model(x, y).summary().activation_bytes


def test_the_table_is_aligned_and_complete():
    summary = lenet().summary()
    lines = str(summary).splitlines()
    assert lines[0] == "lenet, input 28 x 28 x 1"
    assert {len(line) for line in lines if set(line) == {"-"}} == {max(map(len, lines[1:-4]))}
    assert len(lines) == 4 + len(summary.rows) + 1 + 4
    for row, line in zip(summary.rows, lines[4:]):
        assert line.startswith(row.name)
    assert "61,706" in str(summary)


def test_data_and_pictures_of_a_summary():
    from rich.console import Console

    summary = lenet().summary()
    data = json.loads(json.dumps(summary.to_dict()))
    assert data["parameters"] == summary.parameters
    assert data["receptive_field"]["size"] == [32, 32]
    assert [row["name"] for row in data["rows"]] == [row.name for row in summary.rows]
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary)
    assert "conv1" in console.export_text()
    page = summary._repr_html_()
    assert page.count("<tr>") == len(summary.rows) + 1
    x = nc.Input((3,))
    assert "<b>" not in nc.Model(x, Dense(1)(x), name="<b>").summary()._repr_html_()


@pytest.mark.parametrize(
    ("value", "base", "text"),
    [
        (0, 1000, "0 "),
        (999, 1000, "999 "),
        (1000, 1000, "1.00 k"),
        (4089284608, 1000, "4.09 G"),
        (1536, 1024, "1.50 Ki"),
        (150e3, 1000, "150 k"),
    ],
)
def test_quantities(value, base, text):
    assert quantity(value, base) == text


def test_a_summary_needs_no_numba():
    code = (
        "import sys, numbacnn as nc; x = nc.Input((8, 8, 3))\n"
        "y = nc.Dense(2)(nc.Flatten()(nc.MaxPool2D(2)(nc.Conv2D(4, 3, activation='relu')(x))))\n"
        "str(nc.Model(x, y).summary()); sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
