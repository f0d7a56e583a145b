"""A warm start: what an earlier run found is asked first, and what is still valid is shared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import ConfigError, StorageError
from autocompress.search.given_sampler import GivenSampler
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.option import Option
from autocompress.search_space.space import Space
from autocompress.study.config import load_study
from autocompress.study.events import Silent
from autocompress.study.run import run_study
from autocompress.study.storage import Record, load_records
from autocompress.study.warm import ORIGIN, Warm, begin_warm, read_warm

Make = Callable[..., Path]


class Stopped(Silent):
    """Ends the process's work amid the search, as a kill would."""

    def progress(self, done: int, total: int, detail: str = "") -> None:
        if detail.startswith("best loss") and done >= 2:
            raise KeyboardInterrupt


class Notes(Silent):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def trials(folder: Path) -> list[tuple[str, str, float]]:
    return [(r.id, r.origin, r.loss) for r in load_records(folder / "study.journal")]


def asked_first(folder: Path) -> list[Record]:
    return [r for r in load_records(folder / "study.journal") if r.origin == ORIGIN]


def test_front_and_best_come_first_and_a_resumed_run_ends_the_same(
    finished: tuple[Path, Any], make_study: Make, with_device: Any, tmp_path: Path
) -> None:
    earlier = finished[0]
    study = load_study(make_study(evaluations=6))
    whole = with_device(tmp_path / "whole")
    run_study(study, whole, Silent(), earlier)
    known = {record.id: record for record in load_records(earlier / "study.journal")}
    best = json.loads((earlier / "plan.json").read_text())["candidate"]
    front = [line.split(",")[0] for line in (earlier / "front.csv").read_text().splitlines()[1:]]
    first = asked_first(whole)
    assert [r.id for r in first] == list(dict.fromkeys([best, *front]))
    assert [r.id for r in load_records(whole / "study.journal")][: len(first)] == [
        r.id for r in first
    ]
    # The same model: measured again, they are what they were.
    assert all(r.complete and r.loss == pytest.approx(known[r.id].loss) for r in first)
    # They come beside the evaluations of the study.
    assert len(trials(whole)) >= len(first) + 6
    assert {path.name for path in (whole / "bank").iterdir()} == {
        path.name for path in (earlier / "bank").iterdir()
    }
    # Stopped amid the first questions, the run goes on though the earlier one is gone.
    gone = shutil.copytree(earlier, tmp_path / "gone")
    half = with_device(tmp_path / "half")
    with pytest.raises(KeyboardInterrupt):
        run_study(study, half, Stopped(), gone)
    shutil.rmtree(gone)
    assert 0 < len(trials(half)) < len(trials(whole))
    run_study(study, half, Silent())
    assert trials(half) == trials(whole)
    assert (half / "plan.json").read_bytes() == (whole / "plan.json").read_bytes()


def test_what_the_space_has_lost_is_skipped_with_a_note() -> None:
    menu = (Option(), Option(bits=4))
    space = Space({"a": menu, "b": menu})
    kept, lost = {"a": "w4", "b": Option().id}, {"a": "w3", "b": "w4"}
    notes = Notes()
    assert Warm("runs/before", (kept, lost)).within(space, notes) == [(1, 0)]
    (note,) = notes.said
    assert Candidate.from_dict(lost).id in note
    assert "'w3'" in note
    assert Warm("runs/before", (kept,)).options() == {"a": {menu[1]}, "b": {menu[0]}}


def test_given_candidates_are_asked_in_order_once() -> None:
    sampler = GivenSampler([(0, 1), (1, 1), (0, 1), (1, 0)], ORIGIN)
    assert sampler.ask(2) == [(0, 1), (1, 1)]
    assert sampler.ask(5) == [(1, 0)]
    assert sampler.ask(5) == []
    assert set(sampler.origin.values()) == {ORIGIN}


def test_mistakes(finished: tuple[Path, Any], run_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not a run directory"):
        begin_warm(tmp_path / "new", tmp_path / "nothing", Silent())
    with pytest.raises(ConfigError, match="was begun without --warm-start"):
        begin_warm(run_copy, finished[0], Silent())
    with pytest.raises(ConfigError, match="is the run directory itself"):
        begin_warm(finished[0], finished[0], Silent())
    (run_copy / "warm.json").write_text("{}")
    with pytest.raises(StorageError, match="warm.json: not a record of a warm start"):
        read_warm(run_copy)
    (run_copy / "warm.json").unlink()
    (run_copy / "front.csv").unlink()
    with pytest.raises(StorageError, match=r"needs its front\.csv"):
        begin_warm(tmp_path / "new", run_copy, Silent())
