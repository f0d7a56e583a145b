"""A 1-D CNN on Italy Power Demand: accuracy and splits."""

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

STUDY = Path(packaged.__file__).parent / "cnn1d_timeseries"


def need_data() -> None:
    if packaged.package_folder("aeon") is None:
        pytest.skip(f"time series: {time_series.COMMAND}")


def test_the_study_loads_without_its_data() -> None:
    study = load_study(STUDY)
    assert {"size", "latency", "quality"} <= set(study.budget)
    net = study.task.model()
    assert sum(p.numel() for p in net.parameters()) == 66_626
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert net(torch.zeros(2, 1, 24)).shape == (2, 2)


def test_the_original_is_as_accurate_as_said() -> None:
    need_data()
    task = load_task(STUDY)
    assert task.evaluate(task.model(), "selection") >= 95.0
    assert task.evaluate(task.model(), "test") >= 97.0


def test_splits_share_no_day() -> None:
    need_data()
    study = load_task(STUDY)
    task: Any = sys.modules[study.make_model.__module__]
    parts = {split: task.days(split) for split in task.SPLITS}
    assert {split: len(x) for split, (x, _) in parts.items()} == {
        "train": 67,
        "calibration": 329,
        "selection": 200,
        "test": 500,
    }
    assert len({row.numpy().tobytes() for x, _ in parts.values() for row in x}) == 1096
    assert torch.equal(study.calibration()[0], parts["calibration"][0])
    assert study.example_inputs()[0].shape == (1, 1, 24)
    batches = task.training()
    assert len(batches) == 2
    assert next(iter(batches)).shape == (33, 1, 24)
