"""What the tasks on full MNIST have in common: inputs, images to train on, accuracy."""

from __future__ import annotations

import torch
from augmentation import TrainingInputs
from mnist_archive import archive, images, kept, moved_digits, normalise
from torch import Tensor, nn


def calibration() -> Tensor:
    return images("calibration")[0]


def training() -> TrainingInputs:
    """Batches `(128, 1, 28, 28)` of what the models were trained on, moved."""
    return TrainingInputs(archive()["x_train"][kept()], normalise, moved_digits)


def example_inputs() -> Tensor:
    return images("calibration")[0][:1]


@torch.no_grad()
def evaluate(net: nn.Module, split: str = "selection") -> float:
    """Accuracy in percent; higher is better."""
    x, y = images(split)
    logits = torch.cat([net(part) for part in x.split(500)])
    return 100 * (logits.argmax(1) == y).double().mean().item()
