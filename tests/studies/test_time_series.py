"""What the studies on time series share: files of `aeon`, classes in turn, variations."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import packaged
import pytest
import time_series
import torch


@pytest.fixture(autouse=True)
def unread() -> None:
    packaged.packaged.cache_clear()
    time_series.series.cache_clear()


def test_a_package_that_is_missing_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(RuntimeError, match="aeon is not installed: pip install --no-deps aeon=="):
        time_series.series(time_series.ITALY, "TRAIN")


def test_other_files_of_a_package_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda module: found)
    with pytest.raises(RuntimeError, match="no datasets/data/.* in the installed package aeon"):
        time_series.series(time_series.ITALY, "TRAIN")
    path = tmp_path / f"{time_series.ITALY}_TRAIN.ts"
    path.parent.mkdir(parents=True)
    path.write_text("@data\n1,2:1\n")
    with pytest.raises(RuntimeError, match="is not the file this study was made with"):
        time_series.series(time_series.ITALY, "TRAIN")


def test_a_file_is_read_as_channels_over_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "some.ts"
    path.write_text("#comment\n@problemName some\n@data\n1,2,3:4,5,6:b\n7,8,9:0,-1,1E-1:a\n")
    monkeypatch.setattr(time_series, "packaged", lambda *arguments: path)
    x, y = time_series.series(time_series.VOWELS, "TEST")
    assert x.dtype == torch.float32
    wanted = torch.tensor([[[1.0, 2, 3], [4, 5, 6]], [[7, 8, 9], [0, -1, 0.1]]])
    assert torch.equal(x, wanted)
    assert y.tolist() == [1, 0]


def test_classes_take_turns() -> None:
    classes = torch.tensor([0] * 5 + [1] * 2 + [2] * 5)
    order = time_series.balanced(classes, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(12))
    assert [set(classes[order[k : k + 3]].tolist()) for k in (0, 3)] == [{0, 1, 2}] * 2
    assert [set(classes[order[k : k + 2]].tolist()) for k in (6, 8, 10)] == [{0, 2}] * 3


def test_varied_series_are_parts_of_themselves() -> None:
    ramp = torch.arange(25.0).expand(40, 2, 25)
    same = time_series.varied(ramp, torch.Generator().manual_seed(0), 1.0, 0.0)
    torch.testing.assert_close(same, ramp)
    parts = time_series.varied(ramp, torch.Generator().manual_seed(0), 0.7, 0.0)
    steps = parts.diff(dim=2)
    torch.testing.assert_close(steps, steps[:, :, :1].expand_as(steps), atol=1e-4, rtol=0)
    assert 0.7 <= steps.min() <= 0.75
    assert 0.95 <= steps.max() <= 1.0
    assert 0 <= parts.min() <= parts.max() <= 24
