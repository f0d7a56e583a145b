"""What the search keeps of its trials: who must be beaten, and which moves pay."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.search.attainment import FIRST, Attainment
from autocompress.search.mix import FLOOR, Mix
from autocompress.search.problem import Problem
from autocompress.search.resource import Resource
from autocompress.search.sampler import Trial


@pytest.fixture
def attained() -> Attainment:
    sizes = (np.array([100.0, 80.0, 50.0, 20.0, 20.1]),)
    losses = (np.array([0.0, 0.1, 0.2, 0.3, 0.3]),)
    return Attainment(
        Problem(("a",), {"swap": losses}, {"size_bytes": Resource(0.0, sizes)}), ["size_bytes"]
    )


def trial(option: int, loss: float) -> Trial:
    return Trial((option,), loss)


def test_only_what_is_not_beaten_stays(attained: Attainment) -> None:
    assert attained.add(trial(1, 0.5)) == FIRST  # nothing was known that costs so little
    assert attained.add(trial(0, 0.6)) == 0  # costs more and is worse
    assert attained.add(trial(0, 0.25)) == pytest.approx(np.log(2))
    assert [t.candidate for t in attained.trials] == [(1,), (0,)]
    assert attained.add(trial(2, 0.1)) == FIRST
    assert [t.candidate for t in attained.trials] == [(2,)]


def test_the_rival_costs_at_most_a_little_more(attained: Attainment) -> None:
    attained.add(trial(0, 0.1))
    attained.add(trial(4, 0.4))
    assert attained.rival((1,)) is not None
    assert attained.rival((1,)).candidate == (4,)  # type: ignore[union-attr]
    assert attained.rival((3,)).candidate == (4,)  # type: ignore[union-attr]  # 0.5 % dearer
    assert [t.candidate for t in attained.best({"size_bytes": 60.0})] == [(4,)]
    assert attained.best({"size_bytes": 10.0}) == []
    nearest = attained.nearest({"size_bytes": 10.0})
    assert nearest is not None
    assert nearest.candidate == (4,)


def test_what_pays_is_drawn_more_often() -> None:
    mix = Mix(["good", "bad"])
    for _ in range(30):
        mix.tell("good", 0.05, 1.0, True, 0.002)
        mix.tell("bad", 0.001, 1.0, True, 0.002)
        mix.tell("seed", 0.5, 1.0, True, 0.002)
    good, bad = mix.shares()
    assert good + bad == pytest.approx(1)
    assert bad == pytest.approx(FLOOR / 2, abs=0.03)
    assert mix.moves["bad"].improved == 0
    assert mix.moves["good"].earned == pytest.approx(1.5)
    assert mix.moves["seed"].asked == 30
    drawn = mix.draw(400, np.random.default_rng(0))
    assert drawn.count("good") > 2 * drawn.count("bad")
