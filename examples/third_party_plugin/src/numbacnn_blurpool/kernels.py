"""The loops of BlurPool2D. A kernel fills arrays that it is given; each row of the result is written by one task."""

import numbacnn as nc
from numbacnn.kernels.tasks import next_task


@nc.inline
def clamp(position, length):
    """The nearest position in an axis: the border repeats outwards."""
    return min(max(position, 0), length - 1)


@nc.kernel(parallel=True)
def forward(x, y, taps, stride, queue, thread):
    """``y`` (N, OH, OW, C) from ``x`` (N, H, W, C): the filter ``taps`` x ``taps``, centred on every ``stride``-th pixel."""
    samples, height, width, channels = y.shape
    before = (taps.size - 1) // 2
    while True:
        row = next_task(queue, thread, samples * height)
        if row == samples * height:
            break
        n, i = row // height, row % height
        for j in range(width):
            for c in range(channels):
                y[n, i, j, c] = 0
            for a in range(taps.size):
                r = clamp(i * stride + a - before, x.shape[1])
                for b in range(taps.size):
                    q = clamp(j * stride + b - before, x.shape[2])
                    for c in range(channels):
                        y[n, i, j, c] += taps[a] * taps[b] * x[n, r, q, c]


@nc.kernel(parallel=True)
def backward(dy, dx, taps, stride, queue, thread):
    """``dx`` (N, H, W, C) from ``dy`` (N, OH, OW, C): every output hands its gradient to the inputs that it has read."""
    samples, height, width, channels = dx.shape
    before = (taps.size - 1) // 2
    while True:
        row = next_task(queue, thread, samples * height)
        if row == samples * height:
            break
        n, r = row // height, row % height
        for q in range(width):
            for c in range(channels):
                dx[n, r, q, c] = 0
        for i in range(dy.shape[1]):
            for a in range(taps.size):
                if clamp(i * stride + a - before, height) != r:
                    continue
                for j in range(dy.shape[2]):
                    for b in range(taps.size):
                        q = clamp(j * stride + b - before, width)
                        for c in range(channels):
                            dx[n, r, q, c] += taps[a] * taps[b] * dy[n, i, j, c]
