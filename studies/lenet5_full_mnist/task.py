"""LeNet-5 on full MNIST: the model, its inputs and its honest accuracy.

`mnist_task.py`, beside this folder, gives inputs and accuracy; `mnist_archive.py` reads the images
and says which calibrate, select and test; `train.py` made the weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from mnist_task import calibration, evaluate, example_inputs, training

__all__ = ["calibration", "evaluate", "example_inputs", "model", "training"]


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
