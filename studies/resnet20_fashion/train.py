"""Trains the dense ResNet-20 of this study and writes `resnet20.safetensors`.

    python studies/resnet20_fashion/train.py

The 5 000 training images on which the study calibrates and selects are left out.  Mixed precision
(bfloat16) on a CPU that has it; it took 25 minutes on two busy cores.  The last checkpoint is
kept, whatever its test accuracy: nothing is selected on test images.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from augmentation import mirrored_and_moved
from fashion_mnist import kept, normalise, raw
from task import ResNet20, evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=22)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    x, y = raw("train")
    train_x, train_y = normalise(x[kept()]), torch.from_numpy(y[kept()].astype(np.int64))
    print(f"{len(train_x)} training images")

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    net = ResNet20().to(options.device, memory_format=torch.channels_last)
    batch = 128
    steps = options.epochs * (len(train_x) // batch)
    optimiser = torch.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.2, total_steps=steps)
    started = time.perf_counter()
    for epoch in range(options.epochs):
        net.train()
        total = 0.0
        order = torch.randperm(len(train_x), generator=generator)
        for part in order[: len(order) // batch * batch].split(batch):
            inputs = mirrored_and_moved(train_x[part], generator).to(options.device)
            with torch.autocast(options.device.split(":")[0], torch.bfloat16):
                logits = net(inputs.contiguous(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(logits.float(), train_y[part].to(options.device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        elapsed = time.perf_counter() - started
        print(f"epoch {epoch + 1}: loss {total / (steps // options.epochs):.4f}, {elapsed:.0f} s")
        sys.stdout.flush()
        net.eval()
        weights = {k: v.cpu().contiguous() for k, v in net.state_dict().items()}
        save_file(weights, Path(__file__).with_name("resnet20.safetensors"))

    final = ResNet20()
    final.load_state_dict(weights)
    final.eval()
    for split in ("calibration", "selection", "test"):
        print(f"{split}: {evaluate(final, split):.2f} %")


if __name__ == "__main__":
    main()
