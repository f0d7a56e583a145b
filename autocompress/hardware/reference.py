"""A small residual net with made-up weights, to judge a device when no study is at hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm and a residual addition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm1(self.conv1(x)).relu()
        y = x + self.norm2(self.conv2(y))
        return y.relu()


class ReferenceNet(nn.Module):
    """Stem, two stages and a classifier: what a small vision model is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.first = Block(32)
        self.down = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.second = Block(64)
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 3, 32, 32)` images to `(n, 10)` logits."""
        x = self.first(self.stem(x).relu())
        x = self.second(self.down(x).relu())
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def reference_model() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The net and one input; times do not depend on the weights."""
    return ReferenceNet().eval(), (torch.zeros(1, 3, 32, 32),)
