"""Trains the dense LSTM of this study and writes `lstm.safetensors`.

    python studies/lstm_timeseries/train.py

The utterances that calibrate are left out.  A minute on one core; the last state is kept, and
nothing is selected on test utterances.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from task import Speaker, evaluate, utterances, views
from time_series_training import train

if __name__ == "__main__":
    train(
        Speaker,
        lambda: utterances("train"),
        views,
        evaluate,
        Path(__file__).with_name("lstm.safetensors"),
        __doc__.splitlines()[0],
        epochs=250,
        batches=6,
        peak=5e-3,
        weight_decay=0.1,
    )
