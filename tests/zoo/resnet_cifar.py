"""The residual networks for CIFAR-10, which neither torchvision nor timm has."""

from typing import Any

import pytest

from . import Peer


def option_a(depth: int) -> Any:
    """The ResNet of that depth for CIFAR in PyTorch, its layers named as PyTorch networks for CIFAR name them."""
    torch = pytest.importorskip("torch")
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, inputs: int, filters: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, filters, 3, stride=filters // inputs, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(filters)
            self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(filters)

        def forward(self, x: Any) -> Any:
            step, missing = self.conv1.stride[0], self.conv1.out_channels - self.conv1.in_channels
            kept = functional.pad(x[:, :, ::step, ::step], (0, 0, 0, 0, missing // 2, missing // 2))
            h = functional.relu(self.bn1(self.conv1(x)))
            return functional.relu(self.bn2(self.conv2(h)) + kept)

    def layer(inputs: int, filters: int) -> Any:
        return nn.Sequential(Block(inputs, filters), *(Block(filters, filters) for _ in range((depth - 2) // 6 - 1)))

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            self.layer1, self.layer2, self.layer3 = layer(16, 16), layer(16, 32), layer(32, 64)
            self.linear = nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            h = functional.relu(self.bn1(self.conv1(x)))
            return self.linear(torch.mean(self.layer3(self.layer2(self.layer1(h))), dim=(2, 3)))

    return ResNet()


def cifar(depth: int) -> Peer:
    return Peer("pytorch", lambda: option_a(depth), size=32, odd=29, small=16)


PEERS = {
    "resnet20": [cifar(20)],
    "resnet32": [cifar(32)],
    "resnet44": [cifar(44)],
    "resnet56": [cifar(56)],
    "resnet110": [cifar(110)],
}
REDUCED = {name: {"input_shape": (16, 16, 3), "width": 8} for name in PEERS}
