"""An LSTM on Japanese Vowels: the model, its calibration inputs and its honest accuracy.

Nine speakers say two vowels; a series is 12 coefficients of linear prediction over 25 steps (Kudo
et al. 1999), and the class is who spoke.  Of the 270 utterances of the official training file 234
train and 36 calibrate, 26 and 4 of each speaker; as 36 are few, each calibrates in 15 views.  Of
the 370 of the official test file 120 select and 250 test, so that one utterance is 0.4 points.
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
from time_series import VOWELS, balanced, series, varied

SPLITS = {
    "train": ("TRAIN", slice(0, 234)),
    "calibration": ("TRAIN", slice(234, 270)),
    "selection": ("TEST", slice(0, 120)),
    "test": ("TEST", slice(120, 370)),
}
VIEWS = 15  # of an utterance that calibrates


class Speaker(nn.Module):
    """One LSTM of 128 units, the mean of its outputs, and a linear layer: 74 k parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 128, batch_first=True)
        self.fc = nn.Linear(128, 9)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 25, 12)` normalised series to `(n, 9)` logits."""
        outputs, _ = self.lstm(x)
        return self.fc(outputs.mean(1))


@cache
def utterances(split: str) -> tuple[Tensor, Tensor]:
    """Series `(n, 25, 12)` and speakers `(n,)` of one of `SPLITS`.

    Each coefficient has mean 0 and standard deviation 1 over what trains.
    """
    part, rows = SPLITS[split]
    x, y = series(VOWELS, part)
    chosen = balanced(y, np.random.default_rng(0))[rows]
    seen, speakers = series(VOWELS, "TRAIN")
    seen = seen[balanced(speakers, np.random.default_rng(0))[SPLITS["train"][1]]].double()
    mean, deviation = seen.mean((0, 2)), seen.std((0, 2))
    return ((x[chosen].mT - mean) / deviation).float(), y[chosen]


def views(x: Tensor, generator: torch.Generator) -> Tensor:
    """`(n, 25, 12)` utterances, each cut to a part, drawn out to 25 steps, and noisy."""
    return varied(x.mT, generator, shortest=0.7, noise=0.5).mT


def model() -> nn.Module:
    net = Speaker()
    net.load_state_dict(load_file(Path(__file__).with_name("lstm.safetensors")))
    return net.eval()


def calibration() -> Tensor:
    """The views of an utterance stand together: none is on both sides of what fits and judges."""
    x, _ = utterances("calibration")
    return views(x.repeat_interleave(VIEWS, 0), torch.Generator().manual_seed(0))


def training() -> TrainingInputs:
    """Batches `(39, 25, 12)` of what the model was trained on, varied."""
    return TrainingInputs(utterances("train")[0].numpy(), torch.from_numpy, views, size=39)


def example_inputs() -> Tensor:
    return utterances("calibration")[0][:1]


@torch.no_grad()
def evaluate(net: nn.Module, split: str = "selection") -> float:
    """Accuracy in percent; higher is better."""
    x, y = utterances(split)
    return 100 * (net(x).argmax(1) == y).double().mean().item()
