"""Trains the dense 1-D CNN of this study and writes `cnn1d.safetensors`.

    python studies/cnn1d_timeseries/train.py

It sees the 67 days of the official training file and no others.  A quarter of a minute on one
core; the last state is kept, and nothing is selected on test days.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from task import SeasonCNN, days, evaluate, noisy
from time_series_training import train

if __name__ == "__main__":
    train(
        SeasonCNN,
        lambda: days("train"),
        noisy,
        evaluate,
        Path(__file__).with_name("cnn1d.safetensors"),
        __doc__.splitlines()[0],
        epochs=200,
        batches=2,
        peak=3e-3,
        weight_decay=0.05,
    )
