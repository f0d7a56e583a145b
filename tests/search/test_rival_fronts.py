"""Fronts from Optuna's samplers, and CMA-ES over the coefficients of a solver's table."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from autocompress.search.coefficient_sampler import CoefficientSampler, ladder
from autocompress.search.optuna_sampler import NAMES, OptunaSampler
from autocompress.search.pareto import hypervolume
from autocompress.search.problem import Candidate, Floats, Problem
from autocompress.search.resource import Resource
from autocompress.search.sampler import Sampler, Trial

UNITS, OPTIONS = 6, 6


def problem(limit: float = np.inf, units: int = UNITS) -> Problem:
    rng = np.random.default_rng(3)
    bits = np.linspace(8, 1, OPTIONS)
    losses = tuple(rng.uniform(0.2, 3) * 4.0**-bits for _ in range(units))
    sizes = tuple(np.round(rng.uniform(50, 900) * bits) for _ in range(units))
    resource = Resource(10.0, sizes)
    names = tuple(f"unit{unit}" for unit in range(units))
    return Problem(
        names,
        {"swap": losses},
        {"size_bytes": resource},
        limits={"size_bytes": limit},
        front=("size_bytes",),
    )


def loss_of(asked: Problem, candidate: Candidate) -> float:
    """Not as the table says: every third unit matters more, and coarse neighbours add up."""
    table = asked.losses["swap"]
    parts = [float(values[k]) for values, k in zip(table, candidate, strict=True)]
    parts[::3] = [8 * part for part in parts[::3]]
    pairs = itertools.pairwise(parts)
    return sum(parts) + sum(float(np.sqrt(a * b)) for a, b in pairs)


def run(sampler: Sampler, asked: Problem, evaluations: int, batch: int = 1) -> list[Trial]:
    done: list[Trial] = []
    while len(done) < evaluations:
        new = sampler.ask(min(batch, evaluations - len(done)))
        if not new:
            break
        trials = [Trial(c, loss_of(asked, c), asked.resource_costs(c)) for c in new]
        sampler.tell(trials)
        done += trials
    return done


def points(trials: list[Trial]) -> Floats:
    return np.log([[t.resources["size_bytes"], t.loss] for t in trials])


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "tpe"])
def test_a_front_of_optuna_beats_random(name: str) -> None:
    asked = problem(units=12)
    reference = np.log([80_000.0, 200.0])
    found = points(run(OptunaSampler(name, asked, 0), asked, 300))
    chance = points(run(OptunaSampler("random", asked, 0), asked, 300))
    assert hypervolume(found, reference) > hypervolume(chance, reference)


@pytest.mark.parametrize("name", NAMES)
def test_failed_and_oversized_candidates_do_not_break_a_front(name: str) -> None:
    asked = problem(limit=8000.0)
    sampler = OptunaSampler(name, asked, 0)
    for number in range(30):
        trials = []
        for candidate in sampler.ask(4):
            fits = asked.satisfies(candidate)
            loss = loss_of(asked, candidate) if fits and number % 3 else float("nan")
            trials.append(Trial(candidate, loss, asked.resource_costs(candidate)))
        sampler.tell(trials)
    assert len(sampler.ask(4)) == 4


def test_the_limit_of_a_front_is_a_constraint() -> None:
    asked = problem(limit=7000.0)
    trials = run(OptunaSampler("nsga2", asked, 0), asked, 300)
    late = np.mean([asked.satisfies(t.candidate) for t in trials[-100:]])
    early = np.mean([asked.satisfies(t.candidate) for t in trials[:50]])
    assert late > 2 * early


def test_the_ladder_covers_the_range() -> None:
    asked = problem()
    budgets = [rung["size_bytes"] for rung in ladder(asked, 4)]
    low = asked.cost("size_bytes", (OPTIONS - 1,) * UNITS)
    high = asked.cost("size_bytes", (0,) * UNITS)
    steps = [budgets[k] / budgets[k + 1] for k in range(3)]
    assert budgets[0] == pytest.approx(high)
    assert steps == pytest.approx([(high / low) ** 0.25] * 3)
    assert ladder(problem(limit=9000.0), 4)[0]["size_bytes"] == pytest.approx(9000)
    assert ladder(replace(asked, front=())) == [{}]
    assert ladder(replace(asked, budgets=({"size_bytes": 9.0},))) == [{"size_bytes": 9.0}]


def test_each_rung_keeps_its_budget() -> None:
    asked = problem()
    budgets = (6000.0, 9000.0, 13_000.0)
    sampler = CoefficientSampler(asked, 0, [{"size_bytes": limit} for limit in budgets])
    for limit in budgets:
        (candidate,) = sampler.ask(1)
        size = asked.cost("size_bytes", candidate)
        assert 0.8 * limit < size <= limit


def test_coefficients_improve_on_the_table() -> None:
    """The table misjudges every third unit; the coefficients learn it."""
    asked = problem(units=10)
    limit = 0.35 * asked.cost("size_bytes", (0,) * 10)
    sampler = CoefficientSampler(asked, 0, [{"size_bytes": limit}])
    trials = run(sampler, asked, 150)
    assert trials[0].loss > 1.1 * min(t.loss for t in trials)
    assert len({t.candidate for t in trials}) == len(trials)


def test_a_restart_goes_on_where_it_was() -> None:
    asked = problem(units=8)
    budgets = [{"size_bytes": 9000.0}, {"size_bytes": 14_000.0}]
    first = CoefficientSampler(asked, 5, budgets)
    told = run(first, asked, 60)
    later = {t.candidate for t in run(first, asked, 12)}
    again = CoefficientSampler(asked, 5, budgets)
    again.tell(told[::-1])  # whatever the order
    assert {t.candidate for t in run(again, asked, 12)} == later


def test_a_budget_out_of_reach_becomes_the_smallest() -> None:
    asked = problem()
    (candidate,) = CoefficientSampler(asked, 0, [{"size_bytes": 1.0}]).ask(1)
    assert candidate == (OPTIONS - 1,) * UNITS


def test_the_smallest_within_a_measured_loss() -> None:
    plain = problem()
    asked = replace(plain, front=(), minimise="size_bytes", limits={"loss": 2.0})
    trials = run(CoefficientSampler(asked, 0), asked, 100)
    kept = [t for t in trials if asked.satisfies(t.candidate, t.loss)]
    assert kept
    smallest = min(asked.cost("size_bytes", t.candidate) for t in kept)
    every = np.array(list(itertools.product(range(OPTIONS), repeat=UNITS)))[::7]
    fine = [c for c in map(tuple, every.tolist()) if loss_of(asked, c) <= 2.0]
    assert smallest <= np.quantile([asked.cost("size_bytes", c) for c in fine], 0.02)
