"""The landscape around a candidate says what the landscape itself says of the neighbours."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autocompress.search.landscape import Landscape
from autocompress.search.moves import Neighbourhood, descend, single_switches, switches
from autocompress.search.problem import Problem
from autocompress.search.resource import Resource

SIZES = (4, 3, 5)


def make(seed: int, with_products: bool, with_factors: bool) -> Landscape:
    rng = np.random.default_rng(seed)
    pushes = [rng.normal(size=(size, 6)) for size in SIZES]
    table = tuple((rows**2).sum(axis=1) for rows in pushes)
    every = np.concatenate(pushes)
    cross = every @ every.T
    start = 0
    for size in SIZES:
        cross[start : start + size, start : start + size] = 0
        start += size
    factors = rng.normal(0, 0.2, sum(SIZES)) if with_factors else None
    return Landscape(table, cross if with_products else None, factors)


def problem(landscape: Landscape, seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    costs = tuple(rng.uniform(1, 9, size) for size in SIZES)
    names = tuple(f"u{i}" for i in range(len(SIZES)))
    return Problem(names, {"swap": tuple(landscape.table)}, {"size_bytes": Resource(0.0, costs)})


@pytest.mark.parametrize("with_products", [False, True])
@pytest.mark.parametrize("with_factors", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_near_agrees_with_values(seed: int, with_products: bool, with_factors: bool) -> None:
    landscape = make(seed, with_products, with_factors)
    asked = problem(landscape, seed)
    centre = (1, 2, 3)
    rows, units = single_switches(asked, centre)
    options = landscape.starts[units] + rows[np.arange(len(rows)), units]
    near = landscape.near(centre, options, units)
    assert near.here == pytest.approx(float(landscape.values(np.array([centre]))[0]))
    singles, pairs = near.singles(), near.pairs()
    for i, row in enumerate(rows):
        value = float(landscape.values(row[None])[0])
        if value > 0.1:  # below, the floor on cancellation differs
            assert singles[i] == pytest.approx(value)
        for j, other in enumerate(rows):
            if units[i] < units[j]:
                both = row.copy()
                both[units[j]] = other[units[j]]
                expected = float(landscape.values(both[None])[0])
                if expected > 1:
                    assert pairs[i, j] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_descent_ends_where_no_pair_helps(seed: int) -> None:
    landscape = make(seed, with_products=True, with_factors=False)
    asked = problem(landscape, seed)
    every = np.array(list(itertools.product(*map(range, SIZES))))
    limits = {"size_bytes": float(np.median(asked.costs("size_bytes", every)))}
    around = Neighbourhood(asked, landscape.table)
    cheapest = every[int(np.argmin(asked.costs("size_bytes", every)))]
    start = tuple(int(k) for k in cheapest)
    found = descend(around, landscape, start, limits, reach=5)
    value = float(landscape.values(np.array([found]))[0])
    near = switches(around, landscape, found, limits, 50)
    assert asked.cost("size_bytes", found) <= limits["size_bytes"]
    assert landscape.values(near).min() >= value - 1e-12
