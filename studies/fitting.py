"""The training loop of several studies, and the options of its command.

One cycle; nothing is selected on test images.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from augmentation import Augment
from torch import Tensor, nn

BATCH = 128


def training_options(description: str, epochs: int) -> argparse.Namespace:
    """Reads `--epochs`, `--seed` and `--threads`, and sets the latter two.

    Args:
        description: First line of the help.
        epochs: Passes over the images where none are named.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    return options


def fit(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    augment: Augment,
    optimiser: torch.optim.Optimizer,
    *,
    peak: float,
    epochs: int,
    seed: int,
    held_out: Callable[[], float],
    label_smoothing: float = 0.0,
    bfloat16: bool = False,
) -> None:
    """Trains `net` in place; after the last epoch it is as it is, whatever its accuracy.

    Args:
        net: In evaluation mode afterwards.
        x: `(n, 1, 28, 28)` normalised images.
        y: `(n,)` class numbers.
        augment: From a batch and a generator to a batch.
        optimiser: Over the parameters of `net`.
        peak: Highest learning rate of the cycle.
        epochs: Passes over the images, without what does not fill a batch.
        seed: Of order and augmentation.
        held_out: Accuracy in percent on images that are not in `x`, to print only.
        label_smoothing: Of the cross-entropy.
        bfloat16: Mixed precision, for processors that have it.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=epochs * batches)
    started = time.perf_counter()
    for epoch in range(epochs):
        net.train()
        total = 0.0
        order = torch.randperm(len(x), generator=generator)
        for part in order[: batches * BATCH].split(BATCH):
            inputs = augment(x[part], generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = net(inputs.contiguous(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(
                logits.float(), y[part], label_smoothing=label_smoothing
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        net.eval()
        print(
            f"epoch {epoch + 1}: loss {total / batches:.4f}, held out {held_out():.2f} %, "
            f"{time.perf_counter() - started:.0f} s"
        )
        sys.stdout.flush()
