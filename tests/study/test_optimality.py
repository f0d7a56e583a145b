"""On a space that can be listed, the search finds the true front, at a hundredth of its price."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autocompress.search.attainment import Attainment
from autocompress.search.budget_sampler import BudgetSampler
from autocompress.search.sampler import Trial
from autocompress.search_space.candidate import Candidate
from autocompress.study.config import load_study
from autocompress.study.events import Silent
from autocompress.study.loop import Stops, search
from autocompress.study.prepare import Prepared, prepare
from autocompress.study.searching import make_problem
from autocompress.study.storage import StudyStorage
from autocompress.study.subject import look, menus_of

SPACE = """
schema = 1
bits = [2, 3, 4, 6, 8]
sparsity = [0, 0.3, 0.5, 0.7, 0.8, 0.9]
menu = 20
"""
MOST_LOSS = 1.0  # nats: beyond, the six classes are guessed


@pytest.fixture(scope="module")
def prepared(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("optimality")
    (folder / "space.toml").write_text(SPACE)
    study = load_study(trained, {"space": str(folder / "space.toml")})
    model, space = look(study, Silent())
    return prepare(study, model, space, folder, Silent())


def test_the_front_found_is_the_true_one(prepared: Prepared, tmp_path: Path) -> None:
    problem = replace(make_problem(prepared), limits={}, front=("size_bytes",))
    assert problem.space_size >= 20_000
    every = list(itertools.product(*map(range, problem.sizes)))
    order = range(len(prepared.proxy.parts))
    measured = list(prepared.evaluator.race(every, [None] * len(every), order))
    truth = Attainment(problem, ["size_bytes"])
    for candidate, found in zip(every, measured, strict=True):
        truth.add(Trial(candidate, found.value))
    noise = {c: m.spread for c, m in zip(every, measured, strict=True)}

    storage = StudyStorage(tmp_path / "study.journal", menus_of(prepared.space), {"test": "1"})
    sampler = BudgetSampler(problem, np.random.default_rng(0))
    stops = Stops(evaluations=200, patience=200)
    history = search(
        problem, prepared.space, sampler, prepared.evaluator, storage, stops, 0, Silent()
    )
    attained = Attainment(problem, ["size_bytes"])
    for step in history.steps:
        if step.record.complete:
            attained.add(
                Trial(
                    prepared.space.indices(Candidate.from_dict(step.record.choices)),
                    step.record.loss,
                )
            )
    assert history.passes < 210
    for best in truth.trials:
        limits = {"size_bytes": problem.cost("size_bytes", best.candidate)}
        if best.loss < MOST_LOSS and attained.best(limits):
            found_loss = attained.best(limits)[0].loss
            assert found_loss <= best.loss + noise[best.candidate] + 1e-9
    cheapest = min(problem.cost("size_bytes", t.candidate) for t in attained.trials)
    mild = [t for t in truth.trials if t.loss < MOST_LOSS]
    assert cheapest <= 1.02 * min(problem.cost("size_bytes", t.candidate) for t in mild)
