"""The loop: the same search on any number of threads and after any interruption; when it stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autocompress.search.budget_sampler import BudgetSampler
from autocompress.search.sampler import SLOPE_PASSES
from autocompress.study.config import load_study
from autocompress.study.events import Silent
from autocompress.study.executors.local import LocalExecutor
from autocompress.study.loop import History, Stops, search
from autocompress.study.prepare import Prepared, prepare
from autocompress.study.searching import make_problem
from autocompress.study.storage import StudyStorage
from autocompress.study.subject import look, menus_of


@pytest.fixture(scope="module")
def prepared(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    study = load_study(trained)
    model, space = look(study, Silent())
    return prepare(study, model, space, tmp_path_factory.mktemp("prepared"), Silent())


def run(prepared: Prepared, folder: Path, stops: Stops, workers: int = 1) -> History:
    asked = replace(prepared, executor=LocalExecutor(workers))
    problem = replace(make_problem(asked), front=("size_bytes", "latency_ms"))
    storage = StudyStorage(folder / "study.journal", menus_of(asked.space), {"test": "1"})
    sampler = BudgetSampler(problem, np.random.default_rng(0))
    return search(problem, asked.space, sampler, asked.evaluator, storage, stops, 0, Silent())


def told(history: History) -> list[tuple[str, float, float, float]]:
    """Everything that a search decides by, bit for bit."""
    return [(s.record.id, s.record.loss, s.record.doubt, s.record.passes) for s in history.steps]


def test_two_threads_find_the_same_front(prepared: Prepared, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = run(prepared, tmp_path / "one", Stops(evaluations=40))
    two = run(prepared, tmp_path / "two", Stops(evaluations=40), workers=2)
    assert told(one) == told(two)
    assert any(not step.record.complete for step in one.steps)


def test_an_interrupted_search_ends_where_an_undisturbed_one_does(
    prepared: Prepared, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = run(prepared, tmp_path / "whole", Stops(evaluations=30))
    first = run(prepared, tmp_path / "parts", Stops(evaluations=11))
    rest = run(prepared, tmp_path / "parts", Stops(evaluations=30))
    assert rest.recalled >= 0.8 * len(first.steps)  # the last batch of the first may be cut short
    assert rest.evaluated < whole.evaluated
    assert told(whole)[: rest.recalled] == told(rest)[: rest.recalled]
    assert whole.passes == pytest.approx(rest.passes, abs=1.5)


def test_it_stops_for_a_reason(prepared: Prepared, tmp_path: Path) -> None:
    for name in ("used", "stale", "time", "met"):
        (tmp_path / name).mkdir()
    used = run(prepared, tmp_path / "used", Stops(evaluations=9))
    assert used.reason == "the evaluations are used up"
    assert 9 <= used.passes < 17
    stale = run(prepared, tmp_path / "stale", Stops(evaluations=4000, patience=6))
    assert stale.reason == "the front has not grown for 6 evaluations"
    assert stale.passes - max(s.passes for s in stale.steps if s.improved) >= 6
    late = run(prepared, tmp_path / "time", Stops(evaluations=50, out_of_time=lambda: True))
    assert late.reason == "the time is used up"
    assert len(late.steps) == 8
    met = run(prepared, tmp_path / "met", Stops(evaluations=50, met=lambda record: True))
    assert met.reason == "the budget is met"


def test_the_price_of_a_candidate_is_kept(prepared: Prepared, tmp_path: Path) -> None:
    history = run(prepared, tmp_path, Stops(evaluations=30))
    records = [step.record for step in history.steps]
    inputs = len(prepared.proxy.inputs[0])
    for record in records:
        assert record.passes == pytest.approx(record.examples / inputs)
        assert 0 < record.work <= record.passes + 1e-9
        assert record.complete == (record.examples == inputs)
    slopes = history.passes - sum(record.passes for record in records)
    assert slopes >= 0
    assert slopes % SLOPE_PASSES == pytest.approx(0)
