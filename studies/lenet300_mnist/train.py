"""Trains the dense LeNet-300-100 of this study and writes `lenet300.safetensors`.

    MNIST_NPZ=path/to/mnist.npz python studies/lenet300_mnist/train.py

AdamW, one cycle of 40 epochs, images moved by up to two pixels; one thread.  The 5 000 training
images on which the study calibrates and selects are left out; the last state is kept, so that
nothing is selected on any split.  It took two minutes on a busy machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from fitting import fit
from mnist_archive import archive, kept, moved_digits, normalise
from task import LeNet300, evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    net = LeNet300()
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
    save_file(net.state_dict(), Path(__file__).with_name("lenet300.safetensors"))
    for split in ("calibration", "selection", "test"):
        print(f"{split}: {evaluate(net, split):.2f} %")


if __name__ == "__main__":
    main()
