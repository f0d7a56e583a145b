"""Trains the dense LeNet-5 of this study and writes `lenet5.safetensors`.

    MNIST_NPZ=path/to/mnist.npz python studies/lenet5_full_mnist/train.py

AdamW, one cycle of 20 epochs, images moved by up to two pixels; one thread.  The 5 000 training
images on which the study calibrates and selects are left out; the last state is kept, so that
nothing is selected on any split.  It took 12 minutes on a busy machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from mnist_training import train
from task import LeNet5

if __name__ == "__main__":
    train(LeNet5, 20, Path(__file__).with_name("lenet5.safetensors"), __doc__.splitlines()[0])
