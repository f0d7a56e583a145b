"""ResNet-20 on Fashion-MNIST: the model, its calibration inputs and its honest accuracy.

`fashion_mnist.py`, beside this folder, reads the data set and says which images calibrate, select
and test; `train.py` made the weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from fashion_mnist import images


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes (ResNet, B)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """`(n, inputs, h, w)` to `(n, outputs, h / stride, w / stride)`."""
        y = nn.functional.relu(self.bn1(self.conv1(x)))
        return nn.functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet20(nn.Module):
    """ResNet-20 of He et al. (2016), section 4.2, for 28x28 grey images: 22 weight layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.stage1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.stage2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.stage3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 1, 28, 28)` normalised images to `(n, 10)` logits."""
        x = nn.functional.relu(self.bn(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(x.mean((2, 3)))


def model() -> nn.Module:
    net = ResNet20()
    net.load_state_dict(load_file(Path(__file__).with_name("resnet20.safetensors")))
    return net.eval()


def calibration() -> Tensor:
    return images("calibration")[0]


def example_inputs() -> Tensor:
    return images("calibration")[0][:1]


@torch.no_grad()
def evaluate(net: nn.Module, split: str = "selection") -> float:
    """Accuracy in percent; higher is better."""
    x, y = images(split)
    logits = torch.cat([net(part) for part in x.split(250)])
    return 100 * (logits.argmax(1) == y).double().mean().item()
