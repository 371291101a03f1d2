"""Losses against the slow reference, against PyTorch, and against bad input."""

from __future__ import annotations

import numpy as np
import pytest

from numbacnn.errors import ConfigError, DataError, ShapeError, UnknownNameError
from numbacnn.training import losses
from numbacnn.training.losses import BinaryCrossEntropy, Huber, MeanAbsoluteError, MeanSquaredError, MultiClassHinge, SoftmaxCrossEntropy
from tests.naive import loss as naive

TOLERANCE = {"float32": 2e-6, "float64": 1e-12}
SHAPES = [(1, 1), (1, 10), (64, 10), (7, 17), (3, 4, 5, 33), (700, 37)]
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def logits(shape, dtype="float64", seed=0):
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def labels_for(shape, seed=1):
    return np.random.default_rng(seed).integers(0, shape[-1], shape[:-1])


def distributions(shape, dtype="float64", seed=2):
    p = np.random.default_rng(seed).random(shape)
    return (p / p.sum(-1, keepdims=True)).astype(dtype)


def class_weights(classes):
    return tuple(np.linspace(0.5, 2.0, classes))


def check(loss, outputs, targets, expected, tolerance=None):
    tolerance = tolerance or TOLERANCE[str(outputs.dtype)]
    value, gradient = loss.value_and_gradient(outputs, targets)
    assert value == pytest.approx(expected[0], rel=tolerance, abs=tolerance)
    assert gradient.dtype == outputs.dtype
    np.testing.assert_allclose(
        gradient, expected[1], rtol=20 * tolerance, atol=tolerance * max(1 / outputs.size, np.abs(expected[1]).max())
    )


@dtypes
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_cross_entropy_with_labels(shape, smoothing, dtype):
    outputs, labels = logits(shape, dtype), labels_for(shape)
    weights = class_weights(shape[-1])
    ignored = int(labels.flat[0])
    check(SoftmaxCrossEntropy(smoothing), outputs, labels, naive.softmax_cross_entropy(outputs, labels, smoothing))
    expected = naive.softmax_cross_entropy(outputs, labels, smoothing, weights, ignored)
    check(SoftmaxCrossEntropy(smoothing, weights, ignored), outputs, labels, expected)


@dtypes
@pytest.mark.parametrize("shape", SHAPES)
def test_softmax_cross_entropy_with_soft_targets(shape, dtype):
    outputs, targets = logits(shape, dtype), distributions(shape, dtype)
    weights = class_weights(shape[-1])
    check(SoftmaxCrossEntropy(), outputs, targets, naive.softmax_cross_entropy(outputs, targets))
    check(SoftmaxCrossEntropy(0.2, weights), outputs, targets, naive.softmax_cross_entropy(outputs, targets, 0.2, weights))


@dtypes
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_multi_class_hinge(shape, squared, average, dtype):
    outputs, labels = logits(shape, dtype), labels_for(shape)
    options = dict(margin=0.7, squared=squared, class_weights=class_weights(shape[-1]), average_classes=average)
    check(MultiClassHinge(**options), outputs, labels, naive.multi_class_hinge(outputs, labels, **options))


@dtypes
@pytest.mark.parametrize("shape", [*SHAPES, (3, 5, 1)])
def test_binary_cross_entropy(shape, dtype):
    outputs, targets = logits(shape, dtype), np.random.default_rng(3).random(shape).astype(dtype)
    check(BinaryCrossEntropy(), outputs, targets, naive.binary_cross_entropy(outputs, targets))
    check(BinaryCrossEntropy(2.5), outputs, targets, naive.binary_cross_entropy(outputs, targets, 2.5))
    weights = class_weights(shape[-1])
    check(BinaryCrossEntropy(weights), outputs, targets, naive.binary_cross_entropy(outputs, targets, weights))


@dtypes
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loss", [MeanSquaredError(), MeanAbsoluteError(), Huber(), Huber(2.5)], ids=str)
def test_regression(shape, loss, dtype):
    outputs, targets = logits(shape, dtype), logits(shape, dtype, seed=5)
    targets.flat[0] = outputs.flat[0]
    name = {"MeanSquaredError": "mean_squared_error", "MeanAbsoluteError": "mean_absolute_error", "Huber": "huber"}[loss.name]
    options = {"delta": loss.delta} if name == "huber" else {}
    check(loss, outputs, targets, getattr(naive, name)(outputs, targets, **options))


EVERY_LOSS = [
    (SoftmaxCrossEntropy(0.1, class_weights(6)), labels_for((9, 6))),
    (SoftmaxCrossEntropy(0.1, class_weights(6)), distributions((9, 6))),
    (MultiClassHinge(), labels_for((9, 6))),
    (MultiClassHinge(squared=True), labels_for((9, 6))),
    (BinaryCrossEntropy(class_weights(6)), np.random.default_rng(0).random((9, 6))),
    (MeanSquaredError(), logits((9, 6), seed=3)),
    (MeanAbsoluteError(), logits((9, 6), seed=3)),
    (Huber(), logits((9, 6), seed=3)),
]


@pytest.mark.parametrize(("loss", "targets"), EVERY_LOSS, ids=lambda v: getattr(v, "name", ""))
def test_gradient_is_the_slope_of_the_loss(loss, targets):
    outputs, step = logits((9, 6)), 1e-6
    gradient = loss.value_and_gradient(outputs, targets)[1]
    numeric = np.zeros_like(outputs)
    for index in np.ndindex(outputs.shape):
        up, down = outputs.copy(), outputs.copy()
        up[index] += step
        down[index] -= step
        numeric[index] = (loss(up, targets) - loss(down, targets)) / (2 * step)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("loss", "targets"), EVERY_LOSS, ids=lambda v: getattr(v, "name", ""))
def test_scale_multiplies_loss_and_gradient(loss, targets):
    outputs = logits((9, 6))
    gradient, scaled = np.empty_like(outputs), np.empty_like(outputs)
    total, scaled_total = np.zeros(2), np.zeros(2)
    targets = loss.targets(targets, outputs.shape, outputs.dtype)
    loss.compute(outputs, targets, gradient, total)
    loss.compute(outputs, targets, scaled, scaled_total, 0.25)
    assert scaled_total[0] == pytest.approx(total[0] / 4, rel=1e-14)
    assert scaled_total[1] == total[1]
    np.testing.assert_allclose(scaled, gradient / 4, rtol=1e-13)


def test_the_same_bits_with_any_number_of_threads():
    from numbacnn.kernels import jit

    outputs, labels = logits((9000, 19), "float32"), labels_for((9000, 19))
    cases = [(SoftmaxCrossEntropy(0.1), labels), (MultiClassHinge(), labels), (MeanSquaredError(), outputs[::-1])]
    before = jit.num_threads()
    if before == 1:
        pytest.skip("this machine has one thread")
    results = []
    try:
        for threads in (1, before):
            jit.set_num_threads(threads)
            results.append([loss.value_and_gradient(outputs, targets) for loss, targets in cases])
    finally:
        jit.set_num_threads(before)
    for one, other in zip(results[0], results[-1]):
        assert one[0] == other[0]
        assert np.array_equal(one[1], other[1])


def test_extreme_logits_stay_finite():
    outputs = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4]], np.float32)
    value, gradient = SoftmaxCrossEntropy().value_and_gradient(outputs, np.array([1, 2]))
    assert value == pytest.approx((2e4 + np.log(3)) / 2)
    np.testing.assert_allclose(gradient, [[0.5, -0.5, 0], [1 / 6, 1 / 6, -1 / 3]], atol=1e-7)
    value, gradient = BinaryCrossEntropy().value_and_gradient(np.array([[200.0, -200.0, 0.0]], np.float32), np.array([[0.0, 1.0, 1.0]]))
    assert value == pytest.approx((400 + np.log(2)) / 3)
    np.testing.assert_allclose(gradient, [[1 / 3, -1 / 3, -1 / 6]], rtol=1e-6)


def test_nan_reaches_the_loss():
    outputs = logits((4, 20), "float32")
    outputs[2, 17] = np.nan
    for loss in (SoftmaxCrossEntropy(), MultiClassHinge()):
        assert np.isnan(loss(outputs, np.zeros(4, int)))
    for loss in (MeanSquaredError(), MeanAbsoluteError(), Huber(), BinaryCrossEntropy()):
        assert np.isnan(loss(outputs, np.zeros((4, 20))))


def test_a_batch_of_ignored_labels_has_loss_zero():
    value, gradient = SoftmaxCrossEntropy(ignore_index=255).value_and_gradient(logits((2, 3)), np.full(2, 255))
    assert value == 0
    assert not gradient.any()


def test_names():
    assert losses.resolve("softmax_cross_entropy") == SoftmaxCrossEntropy()
    assert losses.resolve("multi_class_hinge") == MultiClassHinge()
    with pytest.raises(UnknownNameError, match="huber"):
        losses.resolve("hubber")
    with pytest.raises(ConfigError, match="not a loss"):
        losses.resolve(3)


@pytest.mark.parametrize(
    ("loss", "labels", "error", "message"),
    [
        (SoftmaxCrossEntropy(), np.array([0, 10]), DataError, "label 10; the model has 10 outputs, for labels 0 to 9"),
        (SoftmaxCrossEntropy(), np.array([-1, 1]), DataError, "label -1"),
        (SoftmaxCrossEntropy(ignore_index=-1), np.array([-1, -2]), DataError, "label -2"),
        (SoftmaxCrossEntropy(), np.array([0, 1, 2]), ShapeError, r"shape \(3,\).*integers of shape \(2,\)"),
        (SoftmaxCrossEntropy(), np.array([0.0, 1.0]), DataError, "integer class labels.*float64"),
        (SoftmaxCrossEntropy(class_weights=(1, 2)), np.array([0, 1]), ShapeError, "2 class_weights; the model has 10 outputs"),
        (MultiClassHinge(), np.array([0, 11]), DataError, "label 11"),
        (MultiClassHinge(), np.zeros((2, 10)), ShapeError, "integers of shape"),
        (BinaryCrossEntropy(), np.full((2, 10), 2), DataError, "from 0 to 1; these go from 2 to 2"),
        (MeanSquaredError(), np.zeros((2, 9)), ShapeError, r"targets of shape \(2, 9\).*outputs have shape \(2, 10\)"),
    ],
)
def test_wrong_targets(loss, labels, error, message):
    with pytest.raises(error, match=message):
        loss(np.zeros((2, 10), np.float32), labels)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SoftmaxCrossEntropy(label_smoothing=1.0),
        lambda: SoftmaxCrossEntropy(class_weights=(1, -1)),
        lambda: MultiClassHinge(margin=0),
        lambda: Huber(delta=-1),
        lambda: BinaryCrossEntropy(positive_weight=float("nan")),
    ],
)
def test_wrong_options(make):
    with pytest.raises(ConfigError):
        make()


# PyTorch -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def torch_result(torch, function, outputs, targets, channels_last=False):
    x = torch.tensor(outputs, requires_grad=True)
    value = function(x.movedim(-1, 1) if channels_last else x, torch.tensor(targets))
    value.backward()
    return value.item(), x.grad.numpy()


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [(5, 10), (2, 3, 4, 7)])
def test_torch_cross_entropy(torch, shape):
    outputs, labels = logits(shape), labels_for(shape)
    weights = class_weights(shape[-1])
    f = torch.nn.functional
    for smoothing in (0.0, 0.15):
        for w in (None, weights):
            tw = None if w is None else torch.tensor(w, dtype=torch.float64)
            expected = torch_result(
                torch, lambda x, t: f.cross_entropy(x, t, weight=tw, ignore_index=1, label_smoothing=smoothing), outputs, labels, True
            )
            check(SoftmaxCrossEntropy(smoothing, w, 1), outputs, labels, expected)
            soft = distributions(shape)
            expected = torch_result(
                torch, lambda x, t: f.cross_entropy(x, t.movedim(-1, 1), weight=tw, label_smoothing=smoothing), outputs, soft, True
            )
            check(SoftmaxCrossEntropy(smoothing, w), outputs, soft, expected)


@pytest.mark.oracle
def test_torch_other_losses(torch):
    f = torch.nn.functional
    outputs, labels, targets = logits((8, 11)), labels_for((8, 11)), logits((8, 11), seed=4)
    probabilities = np.random.default_rng(0).random((8, 11))
    weights = class_weights(11)
    tw = torch.tensor(weights, dtype=torch.float64)
    for power in (1, 2):
        expected = torch_result(torch, lambda x, t: f.multi_margin_loss(x, t, p=power, margin=0.5, weight=tw), outputs, labels)
        check(MultiClassHinge(0.5, power == 2, weights, average_classes=True), outputs, labels, expected)
    expected = torch_result(torch, lambda x, t: f.binary_cross_entropy_with_logits(x, t, pos_weight=tw), outputs, probabilities)
    check(BinaryCrossEntropy(weights), outputs, probabilities, expected)
    check(MeanSquaredError(), outputs, targets, torch_result(torch, f.mse_loss, outputs, targets))
    check(MeanAbsoluteError(), outputs, targets, torch_result(torch, f.l1_loss, outputs, targets))
    check(Huber(1.5), outputs, targets, torch_result(torch, lambda x, t: f.huber_loss(x, t, delta=1.5), outputs, targets))
