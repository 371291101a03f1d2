"""Checks for authors of layers and architectures; numbacnn's own layers go through the same.

    from numbacnn.testing import check_layer, gradient_check

    def test_my_layer():
        check_layer(MyLayer(units=4), (7, 5, 3))                      # everything below, on one input shape
        check_layer(MyMerge(), [(4, 4, 3), (4, 4, 2)])                # a layer with two inputs
        gradient_check(MyLayer(units=4), (7, 5, 3), tolerance=1e-7)   # gradients alone
        check_layer(MyTable(rows=9), (7,), sample=whole(9))           # a layer that takes whole numbers

A check that fails raises AssertionError with a sentence: which check, which layer, which shapes, and what differs. Arrays
that a layer is to fill are handed over full of NaN, and lie between guards that show a write out of bounds.
"""

from .architectures import check_architecture
from .checks import CHECKS, LayerCase, check_layer
from .gradients import gradient_check
from .trial import Sampler, Trial, distinct, whole

__all__ = ["CHECKS", "LayerCase", "Sampler", "Trial", "check_architecture", "check_layer", "distinct", "gradient_check", "whole"]
