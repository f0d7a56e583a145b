"""On a space that can be listed, the search finds nearly all of the true front at a fortieth of
its price.

Over six seeds it missed 0, 0, 1, 2, 2 and 5 of 102 points by more than the noise of the loss:
narrow steps of the front, of 1 to 2 % of the size.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autocompress.search.attainment import NEAR, Attainment
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
sparsity = [0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95]
activations = ["float32"]
menu = 20
"""
MOST_LOSS = 1.0  # nats: beyond, the six classes are guessed
MOST_MISSED = 0.05  # of the points of the true front


@pytest.fixture(scope="module")
def prepared(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("optimality")
    (folder / "space.toml").write_text(SPACE)
    study = load_study(trained, {"space": str(folder / "space.toml")})
    model, space = look(study, Silent())
    return prepare(study, model, space, folder, Silent())


@pytest.mark.slow
def test_the_front_found_is_nearly_the_true_one(prepared: Prepared, tmp_path: Path) -> None:
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
    stops = Stops(evaluations=600, patience=600)
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
    assert history.passes < 610
    missed = 0
    for best in truth.trials:
        # Costs that differ by so little count as equal in the search.
        limits = {"size_bytes": (1 + NEAR) * problem.cost("size_bytes", best.candidate)}
        if best.loss < MOST_LOSS:
            found_loss = min((t.loss for t in attained.best(limits)), default=np.inf)
            missed += found_loss > best.loss + noise[best.candidate] + 1e-9
    assert missed <= MOST_MISSED * len(truth.trials)
