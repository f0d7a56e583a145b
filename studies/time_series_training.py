"""How the dense nets of the studies on time series were trained."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from augmentation import Augment
from fitting import training_options
from safetensors.torch import save_file
from torch import Tensor, nn


def train(
    make: Callable[[], nn.Module],
    data: Callable[[], tuple[Tensor, Tensor]],
    augment: Augment,
    evaluate: Callable[[nn.Module, str], float],
    path: Path,
    description: str,
    *,
    epochs: int,
    batches: int,
    peak: float,
    weight_decay: float,
) -> None:
    """Trains a net as the command line says and writes its weights, those of the last step.

    Args:
        make: Makes the net.
        data: Gives series `(n, channels, time)` and classes `(n,)`.
        augment: From a batch and a generator to a batch, anew in every pass.
        evaluate: Accuracy in percent of a net on a split.
        path: The safetensors file to write.
        description: First line of the help.
        epochs: Passes over the series where the command line names none.
        batches: Batches of a pass.
        peak: Highest learning rate of the one cycle.
        weight_decay: Of AdamW.
    """
    options = training_options(description, epochs)
    generator = torch.Generator().manual_seed(options.seed)
    net, (x, y) = make(), data()
    steps = options.epochs * batches
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps)
    net.train()
    for epoch in range(options.epochs):
        total = 0.0
        for part in torch.randperm(len(x), generator=generator).chunk(batches):
            logits = net(augment(x[part], generator))
            loss = nn.functional.cross_entropy(logits, y[part], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(part)
        if epoch % 25 == 24:
            print(f"epoch {epoch + 1}: loss {total / len(x):.4f}")
            sys.stdout.flush()
    net.eval()
    save_file(net.state_dict(), path)
    for split in ("selection", "test"):
        print(f"{split}: {evaluate(net, split):.2f} %")
