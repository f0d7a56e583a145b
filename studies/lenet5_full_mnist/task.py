"""LeNet-5 on full MNIST: the model, its inputs and its honest accuracy.

`mnist_archive.py`, beside this folder, reads the images and says which calibrate, select and test;
`train.py` made the weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from augmentation import TrainingInputs
from mnist_archive import archive, images, kept, moved_digits, normalise


class LeNet5(nn.Module):
    """LeNet-5 as in Caffe's `lenet.prototxt`: 431 080 parameters, one ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 1, 28, 28)` normalised images to `(n, 10)` logits."""
        x = nn.functional.max_pool2d(self.conv1(x), 2)
        x = nn.functional.max_pool2d(self.conv2(x), 2)
        return self.fc2(nn.functional.relu(self.fc1(x.flatten(1))))


def model() -> nn.Module:
    net = LeNet5()
    net.load_state_dict(load_file(Path(__file__).with_name("lenet5.safetensors")))
    return net.eval()


def calibration() -> Tensor:
    return images("calibration")[0]


def training() -> TrainingInputs:
    """Batches `(128, 1, 28, 28)` of what the model was trained on, moved."""
    return TrainingInputs(archive()["x_train"][kept()], normalise, moved_digits)


def example_inputs() -> Tensor:
    return images("calibration")[0][:1]


@torch.no_grad()
def evaluate(net: nn.Module, split: str = "selection") -> float:
    """Accuracy in percent; higher is better."""
    x, y = images(split)
    logits = torch.cat([net(part) for part in x.split(500)])
    return 100 * (logits.argmax(1) == y).double().mean().item()
