"""The latency limit of a search is put where candidates were measured to keep the budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autocompress.errors import StorageError
from autocompress.hardware.device import DEVICES
from autocompress.objective.budget import parse_budget
from autocompress.study.config import load_study
from autocompress.study.correction import NAME, corrected, recorrected
from autocompress.study.events import Silent
from autocompress.study.finalist import Verdict
from autocompress.study.prepare import Correction, Prepared, prepare
from autocompress.study.run import run_study
from autocompress.study.searching import make_problem
from autocompress.study.storage import Record
from autocompress.study.subject import look
from autocompress.study.targets import Measured, targets_of

Make = Callable[..., Path]
ORIGINAL = Measured(90.0, 1000.0, 2.0)  # its price, below, is 1 ms
RANKS = 'schema = 1\nbits = [4, 8]\nrank = [1.0, 0.5, 0.25]\nactivations = ["float32", "int8"]\n'


@pytest.fixture(scope="module")
def prepared(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("correction")
    (folder / "space.toml").write_text(RANKS)
    study = load_study(trained, {"space": str(folder / "space.toml")}, ["latency=95%"])
    model, space = look(study, Silent())
    return prepare(study, model, space, folder, Silent())


def with_limit(prepared: Prepared, text: str) -> Prepared:
    study = replace(prepared.study, budget=parse_budget([f"latency={text}", "size=90%"]))
    return replace(prepared, study=study)


def limit_of(prepared: Prepared) -> float:
    return make_problem(prepared).limits["latency_ms"]


def test_the_limit_is_divided_by_what_was_measured(prepared: Prepared) -> None:
    plain = replace(prepared, correction=Correction(1.0, 0.0, 1))
    slow = replace(prepared, correction=Correction(1.25, 0.02, 4))
    assert limit_of(slow) == pytest.approx(limit_of(plain) / 1.25 * 0.98)
    dense = prepared.latency.predict({})
    assert limit_of(plain) == pytest.approx(0.95 * dense)
    assert limit_of(prepared) < limit_of(plain)  # the reserve for the error of the cost model


def test_what_was_measured_is_kept_for_the_next_time(prepared: Prepared, tmp_path: Path) -> None:
    dense = prepared.latency.predict({})
    least = min(
        prepared.latency.predict({unit: option})
        for unit, menu in prepared.space.units.items()
        for option in menu
    )
    limited = with_limit(prepared, f"{50 * (least + dense) / dense:.1f}%")
    found = corrected(limited, tmp_path, Silent())
    kept = json.loads((tmp_path / NAME).read_text())
    assert len(kept) == 1
    (fields,) = kept.values()
    if fields is None:  # the clock says that no combination here is faster
        assert found is limited
        return
    assert found.correction == Correction(**fields)
    assert 0.3 < found.correction.ratio < 3
    assert found.correction.candidates >= 1
    before = (tmp_path / NAME).stat().st_mtime_ns
    assert corrected(limited, tmp_path, Silent()).correction == found.correction
    assert (tmp_path / NAME).stat().st_mtime_ns == before


def test_a_limit_that_does_not_bind_is_left_alone(prepared: Prepared, tmp_path: Path) -> None:
    loose = with_limit(prepared, "300%")
    assert corrected(loose, tmp_path, Silent()) is loose
    assert list(json.loads((tmp_path / NAME).read_text()).values()) == [None]
    unlimited = replace(prepared, study=replace(prepared.study, budget={}))
    assert corrected(unlimited, tmp_path / "none", Silent()) is unlimited
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("content", ["{", '{"KEY": {"ratio": 1, "speed": 2}}', '{"KEY": [1]}'])
def test_a_damaged_file_is_an_error(prepared: Prepared, tmp_path: Path, content: str) -> None:
    limited = with_limit(prepared, "300%")
    corrected(limited, tmp_path, Silent())
    (key,) = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(content.replace("KEY", key))
    with pytest.raises(StorageError, match=NAME):
        corrected(limited, tmp_path, Silent())


def verdict(ratio: float, predicted: float, quality: float = 90.0) -> Verdict:
    record = Record("a", {}, 0.1, 0.0, 100.0, predicted, "", 0.0)
    measured = Measured(quality, 100.0, ratio * ORIGINAL.latency_ms)
    return Verdict(SimpleNamespace(loss=0.1), record, measured, ratio, ratio, False)  # type: ignore[arg-type]


def after(verdicts: list[Verdict], *limits: str, sheet: Any = None) -> Correction | None:
    """The price of the original is 1 ms."""
    run: Any = SimpleNamespace(
        study=SimpleNamespace(device=replace(DEVICES["onnxruntime-cpu"], sheet=sheet)),
        latency=SimpleNamespace(predict=lambda candidate: 1.0),
        space=SimpleNamespace(units={}),
        correction=Correction(1.0, 0.01, 3),
    )
    targets = targets_of(parse_budget(limits), ORIGINAL, True, "%")
    return recorrected(run, verdicts, ORIGINAL, targets)


def test_finalists_that_miss_the_limit_by_a_little_correct_it() -> None:
    missed = [verdict(0.52, 0.5), verdict(0.55, 0.5)]
    assert after(missed, "latency=50%") == Correction(0.55 / 0.5, 0.01, 2)


def test_another_search_is_not_made_where_it_cannot_help() -> None:
    assert after([], "latency=50%") is None
    assert after([verdict(0.49, 0.5)], "latency=50%") is None
    assert after([verdict(0.6, 0.5)], "latency=50%") is None
    assert after([verdict(0.52, 0.5)], "latency~50%") is None
    assert after([verdict(0.52, 0.5, quality=80)], "latency=50%", "quality=-1pt") is None
    assert after([verdict(0.52, 0.5)], "size=5%", "latency=50%") is None
    assert after([verdict(0.52, 0.5)], "latency=50%", sheet=object()) is None


def test_a_second_search_goes_on_with_what_the_first_has_found(
    make_study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def once(*given: Any) -> Correction | None:
        asked.append(given)
        return Correction(1.02, 0.01, 1) if len(asked) == 1 else None

    monkeypatch.setattr("autocompress.study.run.recorrected", once)
    study = load_study(make_study({"size": "25%", "latency": "120%", "quality": "-20pt"}))
    outcome = run_study(study, tmp_path / "run", Silent())
    assert asked
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    stages = [line["name"] for line in log if line["event"] == "stage"]
    assert stages.count("search") == stages.count("confirm") == 2
    history = json.loads((tmp_path / "run" / "details.json").read_text())["history"]
    assert [row["evaluation"] for row in history] == list(range(1, len(history) + 1))
    assert outcome.result["best"]["candidate"]
    assert outcome.result["evaluations"] > 12
