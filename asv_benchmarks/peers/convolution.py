"""The three passes of convolution beside PyTorch, on the layers of ResNet-50: python -m asv_benchmarks.peers.convolution

PyTorch runs in both memory layouts, and the better one counts. Packing the weights is part of the data gradient's time, as it is of a
training step; for the forward pass it is timed apart, since inference packs once.
"""

from __future__ import annotations

import math

import click
import numpy as np
import torch

from numbacnn.kernels import conv, jit

from .rounds import interleave, milliseconds, ratio, write

LAYERS = [  # size, channels, filters, kernel, stride
    (224, 3, 64, 7, 2),
    (56, 64, 64, 1, 1), (56, 64, 64, 3, 1), (56, 64, 256, 1, 1), (56, 256, 64, 1, 1), (56, 256, 512, 1, 2), (56, 128, 128, 3, 2),
    (28, 512, 128, 1, 1), (28, 128, 128, 3, 1), (28, 128, 512, 1, 1), (28, 512, 1024, 1, 2), (28, 256, 256, 3, 2),
    (14, 1024, 256, 1, 1), (14, 256, 256, 3, 1), (14, 256, 1024, 1, 1), (14, 1024, 2048, 1, 2), (14, 512, 512, 3, 2),
    (7, 2048, 512, 1, 1), (7, 512, 512, 3, 1), (7, 512, 2048, 1, 1),
]  # fmt: skip


class Layer:
    """One convolution here and in PyTorch, with the same numbers."""

    def __init__(self, batch, size, channels, filters, kernel, stride, exact=False):
        self.exact = exact
        rng = np.random.default_rng(0)
        padding = kernel // 2
        places = (size + 2 * padding - kernel) // stride + 1
        self.stride, self.padding = stride, padding
        self.flops = 2 * batch * places**2 * filters * channels * kernel**2
        self.window = conv.Window((1, kernel, kernel), (1, stride, stride), (1, 1, 1), (0, padding, padding))
        self.x = rng.standard_normal((batch, 1, size, size, channels), dtype="f4")
        self.w = rng.standard_normal((kernel, kernel, channels, filters), dtype="f4") * np.float32((kernel**2 * channels) ** -0.5)
        self.bias = rng.standard_normal(filters, dtype="f4")
        self.dy = rng.standard_normal((batch, 1, places, places, filters), dtype="f4")
        self.y, self.dx, self.dw = np.zeros_like(self.dy), np.zeros_like(self.x), np.zeros_like(self.w)
        self.ours = self._bind()
        self.theirs = {name: self._peer(name) for name in ("channels_last", "contiguous")}

    def _bind(self):
        threads = jit.num_threads()
        size, channels, places, filters = self.x.shape[1:4], self.x.shape[4], self.dy.shape[1:4], self.dy.shape[4]
        shapes = self.window, size, channels, places, filters, self.x.shape[0]
        forward, backward, weights = (kind(*shapes, self.exact) for kind in (conv.Forward, conv.DataGradient, conv.WeightGradient))
        packed, transposed = np.zeros(forward.packed_elements, "f4"), np.zeros(backward.packed_elements, "f4")
        elements = [method.scratch_elements(threads) for method in (forward, backward, weights)]
        scratch = np.zeros((threads, max(*elements, forward.packing_elements)), "f4")
        ones, none = np.ones(max(channels, filters), "f4"), np.zeros(channels, "f4")

        def data_gradient():
            backward.pack(self.w, ones, transposed, scratch)
            backward.run(self.dy, transposed, none, self.dx, scratch)

        passes = {
            "pack": lambda: forward.pack(self.w, ones, packed, scratch),
            "forward": lambda: forward.run(self.x, packed, self.bias, self.y, scratch),
            "data gradient": data_gradient,
            "weight gradient": lambda: weights.run(self.x, self.dy, self.dw, scratch),
        }
        return {name: _recorded(function) for name, function in passes.items()}

    def _peer(self, layout):
        last = layout == "channels_last"
        x, dy = (torch.from_numpy(a[:, 0]).permute(0, 3, 1, 2) for a in (self.x, self.dy))
        w = torch.from_numpy(self.w).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        if not last:
            x, dy = x.contiguous(), dy.contiguous()
        bias, stride, padding = torch.from_numpy(self.bias), [self.stride] * 2, [self.padding] * 2

        def backward(mask):
            return torch.ops.aten.convolution_backward(dy, x, w, None, stride, padding, [1, 1], False, [0, 0], 1, mask)

        return {
            "forward": lambda: torch.conv2d(x, w, bias, stride, padding),
            "data gradient": lambda: backward([True, False, False])[0],
            "weight gradient": lambda: backward([False, True, False])[1],
        }

    def largest_difference(self):
        """Between our results and PyTorch's, relative to the largest value."""
        for function in self.ours.values():
            function()
        theirs = {name: function() for name, function in self.theirs["channels_last"].items()}
        pairs = [
            (self.y[:, 0], theirs["forward"].permute(0, 2, 3, 1)),
            (self.dx[:, 0], theirs["data gradient"].permute(0, 2, 3, 1)),
            (self.dw, theirs["weight gradient"].permute(2, 3, 1, 0)),
        ]
        return max(float(np.abs(a - b.numpy()).max() / np.abs(b.numpy()).max()) for a, b in pairs)


def _recorded(function):
    with jit.record() as steps:
        function()
    return lambda: jit.run(steps)


@click.command(epilog="Example: python -m asv_benchmarks.peers.convolution --batch 1 --batch 8 --json convolution.json")
@click.option("--batch", "batches", multiple=True, type=int, default=(1, 8), show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--exact", is_flag=True, help="Leave out Winograd's minimal filtering.")
@click.option("--json", "path", help="Write the figures to this file.")
def main(batches, rounds, exact, path):
    """Time forward pass, data gradient and weight gradient of ResNet-50's convolutions beside PyTorch."""
    torch.set_num_threads(jit.num_threads())
    rows, ratios = [], {}
    with torch.inference_mode():
        for batch in batches:
            for shape in LAYERS:
                layer = Layer(batch, *shape, exact=exact)
                difference = layer.largest_difference()
                if difference > 1e-4:
                    raise SystemExit(f"{shape}: the results differ by {difference:.1e}")
                pack = milliseconds(interleave({"pack": layer.ours["pack"]}, rounds)["pack"])
                for name in ("forward", "data gradient", "weight gradient"):
                    work = {"ours": layer.ours[name], **{peer: functions[name] for peer, functions in layer.theirs.items()}}
                    times = interleave(work, rounds)
                    speed = ratio(times, "ours", list(layer.theirs))
                    ratios.setdefault((batch, name), []).append(speed)
                    row = {key: milliseconds(values) for key, values in times.items()}
                    rows.append({"batch": batch, "layer": shape, "pass": name, "ratio": speed, "pack": pack, **row})
                    figures = "  ".join(f"{key} {value:8.3f} ms" for key, value in row.items())
                    print(f"batch {batch} {shape!s:24} {name:15} {figures}  ratio {speed:.2f}", flush=True)
    means = {f"batch {batch}, {name}": math.exp(np.mean(np.log(values))) for (batch, name), values in ratios.items()}
    for name, value in means.items():
        print(f"geometric mean, {name}: {value:.2f}")
    print(f"geometric mean of all: {math.exp(np.mean(np.log([value for values in ratios.values() for value in values]))):.2f}")
    write(path, {"rows": rows, "geometric means": means, "threads": jit.num_threads(), "torch": torch.__version__})


if __name__ == "__main__":
    main()
