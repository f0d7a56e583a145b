"""Trains the dense LeNet-300-100 of this study and writes `lenet300.safetensors`.

    MNIST_NPZ=path/to/mnist.npz python studies/lenet300_mnist/train.py

AdamW, one cycle of 40 epochs, images moved by up to two pixels; one thread.  The 5 000 training
images on which the study calibrates and selects are left out; the last state is kept, so that
nothing is selected on any split.  It took two minutes on a busy machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from mnist_training import train
from task import LeNet300

if __name__ == "__main__":
    train(LeNet300, 40, Path(__file__).with_name("lenet300.safetensors"), __doc__.splitlines()[0])
