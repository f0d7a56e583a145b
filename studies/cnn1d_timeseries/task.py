"""A 1-D CNN on Italy Power Demand: the model, its calibration inputs and its honest accuracy.

A series is one day's demand for electricity by the hour; the class is whether the day is between
October and March or between April and September (Keogh et al. 2006).  The 67 days of the official
training file train; of the 1 029 of the official test file 329 calibrate, without labels, 200
select and 500 test, so that one day is 0.2 points.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from augmentation import TrainingInputs
from time_series import ITALY, balanced, series, varied

SPLITS = {
    "train": ("TRAIN", slice(0, 67)),
    "calibration": ("TEST", slice(0, 329)),
    "selection": ("TEST", slice(329, 529)),
    "test": ("TEST", slice(529, 1029)),
}


def convolution(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Convolution that keeps the length, batch norm, ReLU."""
    layer = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [layer, nn.BatchNorm1d(outputs), nn.ReLU()]


class SeasonCNN(nn.Module):
    """Three convolutions, the mean over time, a linear layer (after the FCN of Wang et al. 2017,
    1611.06455, half as wide): 67 k parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(*convolution(1, 64, 7))
        self.block2 = nn.Sequential(*convolution(64, 128, 5))
        self.block3 = nn.Sequential(*convolution(128, 64, 3))
        self.fc = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 1, 24)` series of mean 0 and standard deviation 1 to `(n, 2)` logits."""
        return self.fc(self.block3(self.block2(self.block1(x))).mean(2))


@cache
def days(split: str) -> tuple[Tensor, Tensor]:
    """Series `(n, 1, 24)` and seasons `(n,)` of one of `SPLITS`."""
    part, rows = SPLITS[split]
    x, y = series(ITALY, part)
    chosen = balanced(y, np.random.default_rng(0))[rows]
    return x[chosen], y[chosen]


def noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    """Series with noise; hours stay what they are."""
    return varied(x, generator, shortest=1.0, noise=0.2)


def model() -> nn.Module:
    net = SeasonCNN()
    net.load_state_dict(load_file(Path(__file__).with_name("cnn1d.safetensors")))
    return net.eval()


def calibration() -> Tensor:
    return days("calibration")[0]


def training() -> TrainingInputs:
    """Batches `(33, 1, 24)` of what the model was trained on, with noise."""
    return TrainingInputs(days("train")[0].numpy(), torch.from_numpy, noisy, size=33)


def example_inputs() -> Tensor:
    return days("calibration")[0][:1]


@torch.no_grad()
def evaluate(net: nn.Module, split: str = "selection") -> float:
    """Accuracy in percent; higher is better."""
    x, y = days(split)
    return 100 * (net(x).argmax(1) == y).double().mean().item()
