"""An LSTM on Japanese Vowels: accuracy, splits, views."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import packaged
import pytest
import time_series
import torch

from autocompress.model.task import load_task
from autocompress.study.config import load_study

STUDY = Path(packaged.__file__).parent / "lstm_timeseries"


def need_data() -> None:
    if packaged.package_folder("aeon") is None:
        pytest.skip(f"time series: {time_series.COMMAND}")


def test_the_study_loads_without_its_data() -> None:
    study = load_study(STUDY)
    assert {"size", "latency", "quality"} <= set(study.budget)
    net = study.task.model()
    assert sum(p.numel() for p in net.parameters()) == 73_865
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert net(torch.zeros(2, 25, 12)).shape == (2, 9)


def test_the_original_is_as_accurate_as_said() -> None:
    need_data()
    task = load_task(STUDY)
    assert task.evaluate(task.model(), "selection") >= 93.0
    assert task.evaluate(task.model(), "test") >= 97.0


def test_splits_share_no_utterance_and_hold_every_speaker() -> None:
    need_data()
    task: Any = sys.modules[load_task(STUDY).make_model.__module__]
    parts = {split: task.utterances(split) for split in task.SPLITS}
    assert {split: len(x) for split, (x, _) in parts.items()} == {
        "train": 234,
        "calibration": 36,
        "selection": 120,
        "test": 250,
    }
    assert len({row.numpy().tobytes() for x, _ in parts.values() for row in x}) == 640
    assert all(len(y.unique()) == 9 for _, y in parts.values())
    assert parts["train"][1].bincount().tolist() == [26] * 9
    torch.testing.assert_close(parts["train"][0].std((0, 1)), torch.ones(12))


def test_an_utterance_is_on_one_side_of_what_fits_and_judges() -> None:
    need_data()
    study = load_task(STUDY)
    (inputs,) = study.calibration()
    assert inputs.shape == (540, 25, 12)
    assert torch.equal(inputs, study.calibration()[0])
    task: Any = sys.modules[study.make_model.__module__]
    assert len(inputs) * 3 // 4 % task.VIEWS == 0
    assert study.example_inputs()[0].shape == (1, 25, 12)
    batches = task.training()
    assert len(batches) == 6
    assert next(iter(batches)).shape == (39, 25, 12)
