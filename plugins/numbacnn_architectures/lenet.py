"""LeNet-5."""

from __future__ import annotations

import numbacnn as nc

POOLINGS = {"max": "MaxPool2D", "average": "AveragePool2D"}


def lenet5(
    input_shape: tuple[int, ...] = (28, 28, 1),
    classes: int = 10,
    activation: str = "relu",
    pooling: str = "max",
    dropout: float = 0.0,
    features: bool = False,
    seed: int = 0,
    dtype: str = "float32",
) -> nc.Model:
    """LeNet-5: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86(11),
    1998. Takes ``(height, width, channels)``, gives logits ``(classes,)``; 61,706 parameters for ``(28, 28, 1)`` and 10 classes.

    Convolution 6 of 5 x 5, pool 2, convolution 16 of 5 x 5, pool 2, dense 120, dense 84, dense ``classes``. The first convolution pads
    by 2, which makes of a 28 x 28 image the paper's 32 x 32.

    What differs from the paper: ``activation`` (``"relu"``) and ``pooling`` (``"max"``; ``"tanh"`` and ``"average"`` are closer to the
    paper and learn more slowly), every filter of the second convolution sees all 6 maps, pooling has no weights, and the
    outputs are logits in place of distances to a code.

    ``dropout`` is the share of numbers dropped before each dense layer but the first (Srivastava et al., JMLR 15, 2014); 0 leaves dropout
    out. With ``features`` the outputs are those of the two poolings, ``"stage1"`` and ``"stage2"``, in place of logits.

    Raises ShapeError for images below 12 x 12 pixels, ConfigError for an unknown ``pooling``.
    """
    if pooling not in POOLINGS:
        raise nc.ConfigError(f"lenet5 has pooling {' or '.join(map(repr, POOLINGS))}, not {pooling!r}.")
    pool = getattr(nc, POOLINGS[pooling])
    x = nc.Input(input_shape)
    h = nc.Conv2D(6, 5, padding=2, activation=activation)(x, name="conv1")
    first = pool(2)(h, name="pool1")
    h = nc.Conv2D(16, 5, activation=activation)(first, name="conv2")
    second = pool(2)(h, name="pool2")
    if features:
        return nc.Model(x, {"stage1": first, "stage2": second}, seed=seed, dtype=dtype, name="lenet5")
    h = nc.Flatten()(second, name="flatten")
    h = nc.Dense(120, activation=activation)(h, name="dense1")
    h = nc.Dropout(dropout)(h, name="dropout1") if dropout else h
    h = nc.Dense(84, activation=activation)(h, name="dense2")
    h = nc.Dropout(dropout)(h, name="dropout2") if dropout else h
    y = nc.Dense(classes)(h, name="dense3")
    return nc.Model(x, y, seed=seed, dtype=dtype, name="lenet5")
