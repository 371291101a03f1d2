"""Dense layers on the device."""

from __future__ import annotations

import math
from typing import Any

from ...kernels.conv import POINTWISE
from ...kernels.cuda.conv.launch import Problem
from .conv import ChannelMixing


class Dense(ChannelMixing):
    """A pointwise convolution of one line of pixels."""

    def problem(self, x: Any, batch: int) -> Problem:
        places = (1, 1, batch * math.prod(x[:-1]))
        return Problem(POINTWISE, places, x[-1], places, self.layer.units, 1)
