"""Tangents agree with what was measured at their places, and hold better around them."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.search.landscape import Landscape
from autocompress.search.tangents import Tangents

SIZES = (4, 3, 5)


class Bent:
    """Units push an output of eight numbers, of which a cubic function is squared.

    Small pushes see the square alone; where they are large, the landscape is wrong.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.pushes = rng.normal(0, 0.4, (sum(SIZES), 8))
        self.starts = np.array([0, 4, 7])
        swaps = np.array([self._loss(push) for push in self.pushes])
        scaled = self.pushes * np.sqrt(swaps / (self.pushes**2).sum(axis=1))[:, None]
        table = tuple(np.split(swaps, [4, 7]))
        self.landscape = Landscape(table, scaled @ scaled.T)

    def _loss(self, push: np.ndarray) -> float:
        return float(((push + 0.5 * push**3) ** 2).sum())

    def __call__(self, candidate: tuple[int, ...]) -> float:
        return self._loss(self.pushes[self.starts + np.array(candidate)].sum(axis=0))

    def slopes(self, candidate: tuple[int, ...]) -> np.ndarray:
        here = self.starts + np.array(candidate)
        push = self.pushes[here].sum(axis=0)
        gradient = 2 * (push + 0.5 * push**3) * (1 + 1.5 * push**2)
        unit = np.repeat(np.arange(3), SIZES)
        return (self.pushes - self.pushes[here[unit]]) @ gradient


def neighbours(candidate: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [
        (*candidate[:unit], option, *candidate[unit + 1 :])
        for unit, size in enumerate(SIZES)
        for option in range(size)
        if option != candidate[unit]
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_place_has_its_loss_and_neighbours_are_closer(seed: int) -> None:
    model, place = Bent(seed), (1, 2, 3)
    tangents = Tangents(model.landscape)
    rows = np.array([place, *neighbours(place)])
    true = np.array([model(tuple(row)) for row in rows.tolist()])
    before = np.abs(np.log(model.landscape.quadratic(rows)) - np.log(true))
    assert np.array_equal(tangents.log_losses(rows), np.log(model.landscape.quadratic(rows)))
    assert tangents.distance(place) == np.inf
    tangents.add(place, model(place), model.slopes(place))
    after = np.abs(tangents.log_losses(rows) - np.log(true))
    assert after[0] == pytest.approx(0, abs=1e-12)
    assert after[1:].mean() < before[1:].mean()
    assert tangents.distance(place) == pytest.approx(0, abs=1e-9)
    assert tangents.distance(neighbours(place)[0]) > 0
    assert place in tangents


def test_the_slopes_at_a_place_are_those_that_were_given() -> None:
    model, place = Bent(0), (1, 2, 3)
    tangents = Tangents(model.landscape)
    slopes = model.slopes(place)
    tangents.add(place, model(place), slopes)
    around = tangents.around(place)
    form = around.scale * model.landscape.products
    here = model.starts + np.array(place)
    for unit, size in enumerate(SIZES):
        for option in range(size):
            switched = (*place[:unit], option, *place[unit + 1 :])
            change = model.starts[unit] + option
            step = np.zeros(sum(SIZES))
            step[change] += 1
            step[here[unit]] -= 1
            expected = model(place) + slopes[change] + step @ form @ step
            floor = 0.05 * model.landscape.flat[model.starts + np.array(switched)].sum()
            found = float(around.quadratic(np.array([switched]))[0])
            assert found == pytest.approx(max(expected, floor), rel=1e-6)


def test_each_candidate_is_judged_by_the_nearest_place() -> None:
    model, places = Bent(1), [(0, 0, 0), (3, 2, 4)]
    tangents = Tangents(model.landscape)
    for place in places:
        tangents.add(place, model(place), model.slopes(place))
    tangents.add(places[0], 99.0, model.slopes(places[1]))  # known: left as it is
    rows = np.array(places)
    assert tangents.log_losses(rows) == pytest.approx(np.log([model(p) for p in places]))
