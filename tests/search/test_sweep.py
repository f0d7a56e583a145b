"""The sweep over budgets: ordered, within the limits, every one an additive optimum."""

from __future__ import annotations

from itertools import product

import numpy as np

from autocompress.search.problem import Problem
from autocompress.search.resource import Resource
from autocompress.search.sweep import SweepSampler


def make(limits: dict[str, float]) -> Problem:
    rng = np.random.default_rng(5)
    losses = tuple(np.sort(rng.random(5)) for _ in range(3))
    sizes = tuple(np.sort(rng.random(5))[::-1].copy() for _ in range(3))
    return Problem(
        ("a", "b", "c"), {"swap": losses}, {"size_bytes": Resource(1.0, sizes)}, (), limits
    )


def test_sweep_covers_the_range_from_dear_to_cheap() -> None:
    problem = make({})
    sampler = SweepSampler(problem, "size_bytes", problem.losses["swap"], 12)
    asked = sampler.ask(100)
    sizes = [problem.cost("size_bytes", candidate) for candidate in asked]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == problem.cost("size_bytes", (0, 0, 0))
    assert sizes[-1] == problem.cost("size_bytes", (4, 4, 4))
    assert len(set(asked)) == len(asked) > 5
    assert sampler.ask(1) == []
    assert set(sampler.origin) == set(asked)


def test_each_candidate_is_the_best_of_its_budget() -> None:
    problem = make({})
    table = problem.losses["swap"]

    def loss(candidate: tuple[int, ...]) -> float:
        return sum(float(values[k]) for values, k in zip(table, candidate, strict=True))

    everything = list(product(range(5), repeat=3))
    for candidate in SweepSampler(problem, "size_bytes", table, 12).ask(100):
        size = problem.cost("size_bytes", candidate)
        rivals = [c for c in everything if problem.cost("size_bytes", c) <= size + 1e-12]
        # The sweep is near the optimum, not proven to be it.
        assert loss(candidate) <= min(map(loss, rivals)) * 1.05 + 1e-12


def test_other_limits_hold() -> None:
    problem = make({"size_bytes": 2.0})
    for candidate in SweepSampler(problem, "size_bytes", problem.losses["swap"], 12).ask(100):
        assert problem.cost("size_bytes", candidate) <= 2.0 * (1 + 1e-9)
