"""How fast the GPU is: launches, convolutions and whole networks, beside PyTorch where it is installed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

import numbacnn as nc
from numbacnn.cli.warming import Use, warmed
from numbacnn.errors import NumbacnnError
from numbacnn.kernels.cuda import launch, memory, pointwise, runtime

ROUNDS = 7
NETWORKS = (  # name, input shape, batch of training, batch of inference
    ("resnet50", (224, 224, 3), 64, 64),
    ("resnet18", (224, 224, 3), 128, 128),
    ("lenet5", (28, 28, 1), 64, 64),
    ("mobilenet_v2", (224, 224, 3), 64, 64),
    ("vgg16", (224, 224, 3), 32, 32),
    ("convnext_tiny", (224, 224, 3), 32, 32),
)
CLASSES = 1000
OURS = ("float32", "tf32", "bf16")  # precisions
TORCH = ("float32", "tf32", "bf16")

Left = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution, with padding that keeps the size at stride 1."""

    name: str
    batch: int
    size: int
    channels: int
    filters: int
    kernel: int
    stride: int = 1
    depthwise: bool = False

    @property
    def flops(self) -> float:
        """Of one pass."""
        places = self.batch * (-(-self.size // self.stride)) ** 2
        return 2.0 * places * self.filters * self.kernel**2 * (1 if self.depthwise else self.channels)


LAYERS = (
    Layer("resnet stem", 64, 224, 3, 64, 7, 2),
    Layer("resnet 56", 64, 56, 64, 64, 3),
    Layer("resnet 28", 64, 28, 128, 128, 3),
    Layer("resnet 14", 64, 14, 256, 256, 3),
    Layer("resnet 7", 64, 7, 512, 512, 3),
    Layer("bottleneck 56, 1x1", 64, 56, 64, 256, 1),
    Layer("bottleneck 14, 1x1", 64, 14, 1024, 256, 1),
    Layer("strided 28", 64, 28, 256, 256, 3, 2),
    Layer("vgg 224", 16, 224, 64, 64, 3),
    Layer("vgg 56", 16, 56, 256, 256, 3),
    Layer("depthwise 56", 64, 56, 144, 144, 3, 1, True),
    Layer("depthwise 14", 64, 14, 576, 576, 3, 1, True),
)


def compilation(left: Left) -> list[dict[str, Any]]:
    """All kernels of the networks below, for this device, and for the CPU those that the proofs compare with."""
    capability = runtime.device().capability
    uses = [Use(name, shape, CLASSES, batch, True, None, capability) for name, shape, batch, _ in NETWORKS]
    on_cpu = [Use("resnet18", (32, 32, 1), 10, 64, True, None), Use("lenet5", (28, 28, 1), 10, 64, True, None)]
    rows = []
    for what, some in (("gpu", uses), ("cpu", on_cpu)):
        start = time.perf_counter()
        found = warmed(some, os.cpu_count() or 1, show=False)
        seconds = time.perf_counter() - start
        slowest = max(found.compiled, key=lambda build: build.seconds, default=None)
        rows.append({"for": what, "kernels": len(found.compiled), "found": found.found, "processes": found.processes, "seconds": seconds})
        if slowest is not None:
            rows[-1] |= {"slowest": slowest.name, "its seconds": slowest.seconds}
    return rows


def _median_ms(work: Callable[[], Any]) -> float:
    """Milliseconds of the device for some work, between two events; the median of rounds of some ten milliseconds each."""
    device = runtime.device()
    work()
    device.synchronize()
    start = device.event()
    work()
    once = device.elapsed(start, device.event())
    repeats = max(1, min(1000, round(10 / max(once, 1e-3))))
    times = []
    for _ in range(ROUNDS):
        start = device.event()
        for _ in range(repeats):
            work()
        times.append(device.elapsed(start, device.event()) / repeats)
    return statistics.median(times)


def launches(left: Left) -> list[dict[str, Any]]:
    """Microseconds per launch of a kernel that does next to nothing: from Python one by one, and within a captured graph."""
    x = memory.zeros((32,), np.float32)
    device, count = runtime.device(), 100

    def one_by_one() -> None:
        for _ in range(count):
            pointwise.add(x, x)

    rows = []
    with launch.record() as steps:
        one_by_one()

    def recorded() -> None:
        for step in steps:
            step()

    recorded()
    device.synchronize()
    graph = device.captured(recorded)
    for what, work in (("called", one_by_one), ("recorded", recorded), ("graph", graph)):
        rows.append({"launch": what, "microseconds": 1e3 * _median_ms(work) / count})
    return rows


# Convolutions --------------------------------------------------------------------------------------------------------


def convolutions(left: Left) -> list[dict[str, Any]]:
    """Milliseconds and TFLOP/s of the three passes of single layers, and the ratio to PyTorch's best (cuDNN) in the same precision."""
    rows: list[dict[str, Any]] = []
    ratios: dict[str, list[float]] = {}
    for layer in LAYERS:
        if left() < 0:
            break
        for precision in OURS:
            ours = _our_layer(layer, precision)
            theirs = _torch_layer(layer, precision) if find_spec("torch") else {}
            for name, ms in ours.items():
                row: dict[str, Any] = {"layer": layer.name, "precision": precision, "pass": name, "ms": ms}
                row["TFLOP/s"] = layer.flops / ms / 1e9
                if name in theirs:
                    row |= {"torch ms": theirs[name], "ratio": theirs[name] / ms}
                    ratios.setdefault(precision, []).append(theirs[name] / ms)
                rows.append(row)
    rows += [{"layer": "geometric mean", "precision": name, "ratio": statistics.geometric_mean(found)} for name, found in ratios.items()]
    return rows


def _our_layer(layer: Layer, precision: str) -> dict[str, float]:
    x = nc.Input((layer.size, layer.size, layer.channels))
    padding = layer.kernel // 2
    if layer.depthwise:
        y = nc.DepthwiseConv2D(layer.kernel, stride=layer.stride, padding=padding, bias=False)(x)
    else:
        y = nc.Conv2D(layer.filters, layer.kernel, stride=layer.stride, padding=padding, bias=False)(x)
    model = nc.Model(x, y).to("cuda", precision)
    weights = model.training_plan(layer.batch, False, device="cuda")
    weights.refresh()
    found = {"forward": _median_ms(lambda: weights.device.run(weights._forward_steps))}
    found["weight gradient"] = _median_ms(lambda: weights.device.run(weights._backward_steps))
    model.freeze()
    data = model.training_plan(layer.batch, True, device="cuda")
    found["data gradient"] = _median_ms(lambda: data.device.run(data._backward_steps))
    return found


def _torch_layer(layer: Layer, precision: str) -> dict[str, float]:
    import torch

    with _torch_precision(precision) as autocast:
        conv = torch.nn.Conv2d(
            layer.channels, layer.filters, layer.kernel, layer.stride, layer.kernel // 2,
            groups=layer.channels if layer.depthwise else 1, bias=False, device="cuda",
        ).to(memory_format=torch.channels_last)  # fmt: skip
        x = torch.randn(layer.batch, layer.channels, layer.size, layer.size, device="cuda").to(memory_format=torch.channels_last)
        with autocast():
            dy = torch.randn_like(conv(x))
        wanted = {"forward": None, "weight gradient": (False, True), "data gradient": (True, False)}
        found = {}
        for name, needs in wanted.items():
            x.requires_grad_(needs is not None and needs[0])
            conv.weight.requires_grad_(needs is not None and needs[1])

            def forward() -> Any:
                with autocast():
                    return conv(x)

            if needs is None:
                found[name] = _torch_ms(forward)
            else:
                y, leaf = forward(), x if needs[0] else conv.weight
                found[name] = _torch_ms(lambda: torch.autograd.grad(y, leaf, dy, retain_graph=True))
        return found


@contextlib.contextmanager
def _torch_precision(precision: str) -> Iterator[Callable[[], contextlib.AbstractContextManager]]:
    """PyTorch told to compute so; what is given makes a context for the computation."""
    import torch

    torch.backends.cudnn.benchmark = True
    allowed = precision != "float32"
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        if precision == "bf16":
            yield lambda: torch.autocast("cuda", torch.bfloat16)
        else:
            yield contextlib.nullcontext
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _torch_ms(work: Callable[[], Any]) -> float:
    """As :func:`_median_ms`."""
    import torch

    for _ in range(3):
        work()
    torch.cuda.synchronize()
    times = []
    for _ in range(ROUNDS):
        repeats = 5
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            work()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / repeats)
    return statistics.median(times)


# Networks ------------------------------------------------------------------------------------------------------------


def networks(left: Left) -> list[dict[str, Any]]:
    """Images per second of training steps (SGD with momentum, data on the device) and of inference."""
    rows = []
    for name, shape, training, inference in NETWORKS:
        if left() < 0:
            break
        modes = (("training", training, _our_step, _torch_step), ("inference", inference, _our_forward, _torch_forward))
        for mode, batch, ours, theirs in modes:
            row: dict[str, Any] = {"network": name, "mode": mode, "batch": batch}
            try:
                for precision in OURS:
                    row[f"numbacnn {precision}"] = 1e3 * batch / ours(name, shape, batch, precision)
                for precision in TORCH if find_spec("torchvision") and hasattr(_torchvision(), name) else ():
                    row[f"torch {precision}"] = 1e3 * batch / theirs(name, shape, batch, precision)
            except NumbacnnError as error:
                row |= {"ok": False, "why": str(error)}
            for precision in OURS:
                if f"torch {precision}" in row:
                    row[f"ratio {precision}"] = row[f"numbacnn {precision}"] / row[f"torch {precision}"]
            rows.append(row)
    return rows


def _torchvision() -> Any:
    import torchvision

    return torchvision.models


def _batch(shape: tuple[int, ...], batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, *shape), np.float32), rng.integers(0, CLASSES, batch)


def _our_step(name: str, shape: tuple[int, ...], batch: int, precision: str) -> float:
    model = nc.create(name, input_shape=shape, classes=CLASSES).to("cuda", precision)
    trainer = nc.Trainer(model, optimizer=nc.SGD(1e-3, momentum=0.9))
    trainer.step(*_batch(shape, batch))
    (bound,) = trainer._batches.values()
    return _median_ms(bound.replay)


def _our_forward(name: str, shape: tuple[int, ...], batch: int, precision: str) -> float:
    model = nc.create(name, input_shape=shape, classes=CLASSES).to("cuda", precision)
    model.predict(_batch(shape, batch)[0], batch)
    plan = model._inference_plan(batch)
    return _median_ms(plan.replay)


def _torch_model(name: str) -> Any:
    import torch

    return getattr(_torchvision(), name)(weights=None, num_classes=CLASSES).cuda().to(memory_format=torch.channels_last)


def _torch_images(shape: tuple[int, ...], batch: int) -> tuple[Any, Any]:
    import torch

    images, labels = _batch(shape, batch)
    x = torch.from_numpy(np.moveaxis(images, -1, 1)).cuda().contiguous(memory_format=torch.channels_last)
    return x, torch.from_numpy(labels).cuda()


def _torch_step(name: str, shape: tuple[int, ...], batch: int, precision: str) -> float:
    import torch

    model, (x, labels) = _torch_model(name).train(), _torch_images(shape, batch)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    with _torch_precision(precision) as autocast:

        def step() -> None:
            optimizer.zero_grad()
            with autocast():
                loss = torch.nn.functional.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()

        return _torch_ms(step)


def _torch_forward(name: str, shape: tuple[int, ...], batch: int, precision: str) -> float:
    import torch

    model, (x, _) = _torch_model(name).eval(), _torch_images(shape, batch)
    with _torch_precision(precision) as autocast, torch.inference_mode():

        def forward() -> None:
            with autocast():
                model(x)

        return _torch_ms(forward)
