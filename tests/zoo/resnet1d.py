"""The residual network for time series, which neither torchvision nor timm has."""

from typing import Any

import pytest

from . import Peer


def peer() -> Any:
    """The same network in PyTorch, for series of one channel and two classes."""
    torch = pytest.importorskip("torch")
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, inputs: int, filters: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv1d(inputs, filters, 8, bias=False)
            self.bn1 = nn.BatchNorm1d(filters)
            self.conv2 = nn.Conv1d(filters, filters, 5, padding=2, bias=False)
            self.bn2 = nn.BatchNorm1d(filters)
            self.conv3 = nn.Conv1d(filters, filters, 3, padding=1, bias=False)
            self.bn3 = nn.BatchNorm1d(filters)
            project = nn.Identity() if inputs == filters else nn.Conv1d(inputs, filters, 1, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm1d(filters))

        def forward(self, x: Any) -> Any:
            h = functional.relu(self.bn1(self.conv1(functional.pad(x, (3, 4)))))
            h = functional.relu(self.bn2(self.conv2(h)))
            return functional.relu(self.bn3(self.conv3(h)) + self.downsample(x))

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1, self.layer2, self.layer3 = Block(1, 64), Block(64, 128), Block(128, 128)
            self.fc = nn.Linear(128, 2)

        def forward(self, x: Any) -> Any:
            return self.fc(torch.mean(self.layer3(self.layer2(self.layer1(x))), dim=2))

    return ResNet()


PEERS = {"resnet1d": [Peer("pytorch", peer, size=500, odd=77, small=32, shape=lambda size: (size, 1))]}
REDUCED = {"resnet1d": {"input_shape": (24, 1), "width": 8}}
