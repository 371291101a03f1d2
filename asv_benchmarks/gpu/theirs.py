"""PyTorch's side of the comparisons: on the GPU, or on the CPU where ours is simulated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from numbacnn.kernels.cuda.driver import SIMULATED

from ..peers.networks import peer_of, peers, twins
from .sizes import Layer, Network

RATE, MOMENTUM = 1e-3, 0.9

Work = Callable[[], Any]


def there() -> bool:
    """Whether PyTorch is installed, for the device that we compute on."""
    if find_spec("torch") is None:
        return False
    import torch

    return SIMULATED or torch.cuda.is_available()


def on_gpu() -> bool:
    """Whether it computes on the GPU."""
    return not SIMULATED


def place() -> str:
    """PyTorch's name of the device."""
    return "cuda" if on_gpu() else "cpu"


@contextlib.contextmanager
def computing(precision: str) -> Iterator[Callable[[], contextlib.AbstractContextManager]]:
    """PyTorch told to compute in float32, with TF32, or with bf16 autocast; what is given makes a context for the computation."""
    import torch

    torch.backends.cudnn.benchmark = True
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    try:
        if precision == "bf16":
            yield lambda: torch.autocast(place(), torch.bfloat16)
        else:
            yield contextlib.nullcontext
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


# Networks ------------------------------------------------------------------------------------------------------------


def lacks(network: Network) -> str | None:
    """Why there is nothing to compare a network with, in a word or two; None where there is."""
    if not there():
        return "no PyTorch"
    if network.name in twins():
        return None
    library = peers()[network.name][0].library
    return None if library == "pytorch" or find_spec(library) else f"no {library}"


def module_of(network: Network) -> Any:
    """PyTorch's module, channels-last, with its own initial weights."""
    import torch

    return peer_of(network.name, network.shape).to(place()).to(memory_format=torch.channels_last)


def batch_of(images: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    """A batch, channels last in memory, on the device."""
    import torch

    x = torch.from_numpy(images).to(place()).movedim(-1, 1)
    return x, torch.from_numpy(labels).to(place())


def training(network: Network, images: np.ndarray, labels: np.ndarray, autocast: Callable) -> tuple[Work, Work]:
    """A training step on a batch that is on the device; and one of images and labels on the host, which gives the loss as a number."""
    import torch

    module, (x, y) = module_of(network).train(), batch_of(images, labels)
    optimizer = torch.optim.SGD(module.parameters(), RATE, momentum=MOMENTUM)

    def step(x: Any = x, y: Any = y) -> Any:
        optimizer.zero_grad()
        with autocast():
            loss = torch.nn.functional.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, lambda: float(step(*batch_of(images, labels)).detach())


def inference(network: Network, images: np.ndarray, labels: np.ndarray, autocast: Callable) -> tuple[Work, Work]:
    """As :func:`training`, of the forward pass: to the logits on the device, and to those on the host."""
    import torch

    module, (x, _) = module_of(network).eval(), batch_of(images, labels)

    def forward(x: Any = x) -> Any:
        with torch.inference_mode(), autocast():
            return module(x)

    return forward, lambda: forward(batch_of(images, labels)[0]).float().cpu()


def forget_peak() -> None:
    """Begin to look for the most memory in use."""
    if on_gpu():
        import torch

        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int | None:
    """The most that tensors took since; None on the CPU, where nobody counts."""
    if not on_gpu():
        return None
    import torch

    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


# Convolutions --------------------------------------------------------------------------------------------------------


def passes(layer: Layer, precision: str) -> dict[str, dict[str, Work]]:
    """The three passes of a convolution, in both layouts. For bf16 all is stored so, which is faster than autocast."""
    import torch

    layouts = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
    made = {name: _passes(layer, torch.bfloat16 if precision == "bf16" else torch.float32, layout) for name, layout in layouts.items()}
    return {each: {name: works[each] for name, works in made.items()} for each in ("forward", "weight gradient", "data gradient")}


def _passes(layer: Layer, dtype: Any, layout: Any) -> dict[str, Work]:
    import torch

    conv = torch.nn.Conv2d(
        layer.channels, layer.filters, layer.kernel, layer.stride, layer.kernel // 2,
        groups=layer.channels if layer.depthwise else 1, bias=False, device=place(), dtype=dtype,
    ).to(memory_format=layout)  # fmt: skip
    x = torch.randn(layer.batch, layer.channels, layer.size, layer.size, device=place(), dtype=dtype).to(memory_format=layout)
    dy = torch.randn_like(conv(x))
    image = x.clone(memory_format=layout).requires_grad_()
    to_weight, to_image = conv(x), torch.nn.functional.conv2d(
        image, conv.weight.detach(), None, layer.stride, layer.kernel // 2, 1, layer.channels if layer.depthwise else 1
    )  # fmt: skip

    def forward() -> Any:
        with torch.inference_mode():
            return conv(x)

    return {
        "forward": forward,
        "weight gradient": lambda: torch.autograd.grad(to_weight, conv.weight, dy, retain_graph=True),
        "data gradient": lambda: torch.autograd.grad(to_image, image, dy, retain_graph=True),
    }
