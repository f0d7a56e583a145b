"""LeNet-300-100 on full MNIST: the model, its inputs and its honest accuracy.

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


class LeNet300(nn.Module):
    """LeNet-300-100 (LeCun et al. 1998): 266 610 parameters in three linear layers, two ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 1, 28, 28)` normalised images to `(n, 10)` logits."""
        x = nn.functional.relu(self.fc1(x.flatten(1)))
        return self.fc3(nn.functional.relu(self.fc2(x)))


def model() -> nn.Module:
    net = LeNet300()
    net.load_state_dict(load_file(Path(__file__).with_name("lenet300.safetensors")))
    return net.eval()
