"""How the dense nets of the studies on full MNIST were trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from fitting import fit, training_options
from mnist_archive import archive, kept, moved_digits, normalise
from mnist_task import evaluate
from safetensors.torch import save_file
from torch import nn


def train(make: Callable[[], nn.Module], epochs: int, path: Path, description: str) -> None:
    """Trains a net as the command line says and writes its weights.

    AdamW, one cycle, images moved by up to two pixels.

    Args:
        make: Makes the net.
        epochs: Passes over the images where the command line names none.
        path: The safetensors file to write.
        description: First line of the help.
    """
    options = training_options(description, epochs)
    net = make()
    fit(
        net,
        normalise(archive()["x_train"][kept()]),
        torch.from_numpy(archive()["y_train"][kept()]).long(),
        moved_digits,
        torch.optim.AdamW(net.parameters(), weight_decay=0.05),
        peak=2e-3,
        epochs=options.epochs,
        seed=options.seed,
        held_out=lambda: evaluate(net, "selection"),
    )
    save_file(net.state_dict(), path)
    for split in ("calibration", "selection", "test"):
        print(f"{split}: {evaluate(net, split):.2f} %")
