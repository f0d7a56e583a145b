"""A small VGG on Fashion-MNIST: the model, its inputs and its honest accuracy.

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
from augmentation import TrainingInputs, mirrored_and_moved
from fashion_mnist import images, kept, normalise, raw


def convolution(inputs: int, outputs: int) -> list[nn.Module]:
    """A 3x3 convolution, batch norm and ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]


class SmallVGG(nn.Module):
    """VGG-11 (Simonyan and Zisserman 2015, table 1) made small: four convolutions, two linear
    layers, 984 938 parameters and 15 million multiply-adds for an image of 28x28 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(*convolution(1, 32), nn.MaxPool2d(2)),
            *(*convolution(32, 64), nn.MaxPool2d(2)),
            *(*convolution(64, 128), *convolution(128, 128), nn.MaxPool2d(2)),
        )
        self.fc1 = nn.Linear(1152, 640)
        self.fc2 = nn.Linear(640, 10)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 1, 28, 28)` normalised images to `(n, 10)` logits."""
        x = nn.functional.relu(self.fc1(self.features(x).flatten(1)))
        return self.fc2(nn.functional.dropout(x, 0.5, self.training))


def model() -> nn.Module:
    net = SmallVGG()
    net.load_state_dict(load_file(Path(__file__).with_name("vgg_small.safetensors")))
    return net.eval()


def calibration() -> Tensor:
    return images("calibration")[0]


def training() -> TrainingInputs:
    """Batches `(128, 1, 28, 28)` of what the model was trained on, mirrored and moved."""
    return TrainingInputs(raw("train")[0][kept()], normalise, mirrored_and_moved)


def example_inputs() -> Tensor:
    return images("calibration")[0][:1]


@torch.no_grad()
def evaluate(net: nn.Module, split: str = "selection") -> float:
    """Accuracy in percent; higher is better."""
    x, y = images(split)
    logits = torch.cat([net(part) for part in x.split(250)])
    return 100 * (logits.argmax(1) == y).double().mean().item()
