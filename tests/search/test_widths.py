"""Problems with shared widths against brute force, and what a choice of the widths leaves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from autocompress.errors import DataError, InfeasibleError
from autocompress.search.infeasible import prove
from autocompress.search.integer import closest, reachable, solve_integer
from autocompress.search.landscape import Landscape
from autocompress.search.moves import additive
from autocompress.search.problem import Floats, Integers, Problem
from autocompress.search.resource import Edge, Resource, Tie
from autocompress.search.solver import solve
from autocompress.search.sweep import SweepSampler
from autocompress.search.widths import narrowed, promising, widths_of

OPTIONS = 6
LEVELS = (3, 2)  # of the two ties


def tied(seed: int, edges: bool = False, units: int = 5, products: bool = False) -> Problem:
    """A chain of units; the first tie joins units 0, 1 and 3, the second one units 1 and 2.

    Unit 1 reads one width and makes the other.  Every third option computes the same as another.
    """
    rng = np.random.default_rng(seed)
    pairs = list(itertools.product(range(LEVELS[0]), range(LEVELS[1])))
    both = np.array(pairs)
    one = np.arange(OPTIONS) % LEVELS[0]
    two = np.arange(OPTIONS) % LEVELS[1]
    ties = (
        Tie("a", {0: one, 1: both[:, 0], 3: rng.permutation(one)}),
        Tie("b", {1: both[:, 1], 2: two}),
    )
    loss = tuple(10 ** rng.uniform(-4, 0, OPTIONS) for _ in range(units))
    size = tuple(np.round(rng.uniform(1, 1000, OPTIONS)) for _ in range(units))
    time = tuple(rng.uniform(0.1, 2, OPTIONS) for _ in range(units))
    chain = [(None, 0), *itertools.pairwise(range(units)), (units - 1, None), (0, units - 1)]
    joins = tuple(Edge(tail, head, 0.4, 0.25) for tail, head in chain) if edges else ()
    alike = np.arange(units * OPTIONS) // 2 if products else np.zeros(0, dtype=np.int64)
    pushes = rng.normal(0, 0.05, (units * OPTIONS // 2, 8))
    return Problem(
        units=tuple(f"unit{index}" for index in range(units)),
        losses={"swap": loss},
        resources={"size_bytes": Resource(64, size), "latency_ms": Resource(0.1, time, joins)},
        labels=tuple(rng.integers(0, 2, OPTIONS) for _ in range(units)),
        limits={"size_bytes": 480.0 * units, "latency_ms": 1.5 * units},
        products={"swap": pushes @ pushes.T} if products else {},
        alike=alike,
        ties=ties,
    )


def every_candidate(problem: Problem) -> Integers:
    return np.array(list(itertools.product(*map(range, problem.sizes))))


def agree(problem: Problem, rows: Integers) -> np.ndarray:
    """Which candidates are of one level in every tie, one candidate at a time."""
    return np.array(
        [
            all(
                len({int(levels[row[unit]]) for unit, levels in tie.levels.items()}) == 1
                for tie in problem.ties
            )
            for row in rows.tolist()
        ]
    )


def brute_force(problem: Problem, limits: Mapping[str, float]) -> tuple[Integers, Floats]:
    """Every candidate that is allowed, and its loss."""
    rows = every_candidate(problem)
    fine = agree(problem, rows)
    for name, limit in limits.items():
        fine &= problem.costs(name, rows) <= limit * (1 + 1e-9)
    return rows[fine], additive(problem.losses["swap"], rows[fine])


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_integer_programme_keeps_ties_and_matches_brute_force(seed: int, edges: bool) -> None:
    problem = tied(seed, edges)
    table = problem.losses["swap"]
    # Limits of one resource, of both, and of none.
    for names in ((), ("size_bytes",), ("size_bytes", "latency_ms")):
        limits = {name: problem.limits[name] for name in names}
        found = solve(problem, table, limits)
        rows, losses = brute_force(problem, limits)
        assert found in {tuple(row) for row in rows.tolist()}
        assert additive(table, np.array([found]))[0] == pytest.approx(losses.min(), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_least_cost_and_the_next_best_keep_ties_too(seed: int) -> None:
    problem = tied(seed, edges=True, units=4)
    table = problem.losses["swap"]
    rows, losses = brute_force(problem, problem.limits)
    least = reachable(problem, table, "latency_ms", {"size_bytes": problem.limits["size_bytes"]})
    assert least == pytest.approx(problem.costs("latency_ms", rows).min(), rel=1e-6)
    found: list[tuple[int, ...]] = []
    for _ in range(4):
        found.append(solve(problem, table, exclude=found))
    assert additive(table, np.array(found)) == pytest.approx(np.sort(losses)[:4], rel=1e-5)


def test_feasible_sees_ties_and_limits() -> None:
    problem = tied(1, edges=True)
    rows = every_candidate(problem)
    assert np.array_equal(problem.feasible(rows, {}), agree(problem, rows))
    kept = {tuple(row) for row in rows[problem.feasible(rows)].tolist()}
    assert kept == {tuple(row) for row in brute_force(problem, problem.limits)[0].tolist()}
    split = rows[~agree(problem, rows)][0]
    assert not problem.satisfies(tuple(split.tolist()))


def test_levels_that_only_one_unit_has_are_never_chosen() -> None:
    loss = (np.array([0.5, 0.0]), np.array([0.7, 0.0]))
    ties = (Tie("a", {0: np.array([0, 1]), 1: np.array([0, 2])}),)
    problem = Problem(("x", "y"), {"swap": loss}, ties=ties)
    assert solve(problem, loss) == (0, 0)
    apart = replace(problem, ties=(Tie("a", {0: np.array([3, 1]), 1: np.array([0, 2])}),))
    with pytest.raises(InfeasibleError):
        solve(apart, loss)


def test_limits_that_only_untied_candidates_meet_cannot_be_met() -> None:
    loss = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    size = (np.array([10.0, 4.0]), np.array([4.0, 10.0]))
    problem = Problem(
        ("x", "y"),
        {"swap": loss},
        {"size_bytes": Resource(0, size)},
        limits={"size_bytes": 9.0},
        ties=(Tie("a", {0: np.array([0, 1]), 1: np.array([0, 1])}),),
    )
    assert solve(replace(problem, ties=()), loss) == (1, 0)
    with pytest.raises(InfeasibleError, match="size_bytes <= 9 cannot be met"):
        solve(problem, loss)
    assert problem.cost("size_bytes", closest(problem, loss, problem.limits)) == 14
    proof = prove(problem, loss)
    assert proof is not None
    assert proof.least == {"size_bytes": 14.0}


def test_levels_of_another_length_are_refused() -> None:
    problem = tied(0)
    with pytest.raises(DataError, match="tie 'a'"):
        replace(problem, ties=(Tie("a", {0: np.zeros(2, dtype=np.int64)}),))


def choices(problem: Problem) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, LEVELS)))


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("products", [False, True])
def test_a_narrowed_problem_costs_what_the_whole_one_does(edges: bool, products: bool) -> None:
    problem = tied(3, edges, products=products)
    seen = set()
    for widths in choices(problem):
        fixed = narrowed(problem, widths)
        assert fixed is not None
        assert not fixed.problem.ties
        own = every_candidate(fixed.problem)
        wide = np.array([fixed.widen(tuple(row)) for row in own.tolist()])
        assert agree(problem, wide).all()
        assert {widths_of(problem, tuple(row)) for row in wide.tolist()} == {widths}
        for name in problem.resources:
            np.testing.assert_allclose(
                fixed.problem.costs(name, own), problem.costs(name, wide), rtol=1e-12
            )
        np.testing.assert_array_equal(
            additive(fixed.problem.losses["swap"], own), additive(problem.losses["swap"], wide)
        )
        np.testing.assert_array_equal(fixed.problem.feasible(own), problem.feasible(wide))
        flat = np.concatenate(problem.losses["swap"])[fixed.columns(problem.sizes)]
        np.testing.assert_array_equal(flat, np.concatenate(fixed.problem.losses["swap"]))
        for row, back in zip(own.tolist(), wide.tolist(), strict=True):
            assert fixed.narrow(tuple(back)) == tuple(row)
        seen |= {tuple(row) for row in wide.tolist()}
    rows = every_candidate(problem)
    # Every candidate that keeps the ties belongs to one choice of the widths.
    assert seen == {tuple(row) for row in rows[agree(problem, rows)].tolist()}


def test_products_of_options_that_compute_the_same_are_the_same() -> None:
    problem = tied(2, products=True)
    whole = problem.products["swap"][np.ix_(problem.alike, problem.alike)]
    table = problem.losses["swap"]
    for widths in choices(problem):
        fixed = narrowed(problem, widths)
        assert fixed is not None
        own = every_candidate(fixed.problem)[::7]
        wide = np.array([fixed.widen(tuple(row)) for row in own.tolist()])
        found = Landscape(fixed.problem.losses["swap"], fixed.problem.products["swap"])
        np.testing.assert_allclose(
            found.quadratic(own), Landscape(table, whole).quadratic(wide), rtol=1e-9
        )


def test_candidates_of_other_widths_and_widths_without_options() -> None:
    problem = tied(4)
    fixed = narrowed(problem, (1, 0))
    assert fixed is not None
    for candidate in every_candidate(problem)[::97].tolist():
        same = bool(agree(problem, np.array([candidate]))[0])
        same = same and widths_of(problem, tuple(candidate)) == (1, 0)
        assert (fixed.narrow(tuple(candidate)) is not None) == same
    assert narrowed(problem, (7, 0)) is None
    loss = [values.copy() for values in problem.losses["swap"]]
    loss[2][problem.ties[1].levels[2] == 1] = np.inf
    forbidden = replace(problem, losses={"swap": tuple(loss)})
    assert narrowed(forbidden, (0, 1)) is None
    assert narrowed(forbidden, (0, 0)) is not None


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_promising_widths_hold_the_optimum(seed: int, edges: bool) -> None:
    problem = tied(seed, edges)
    rows, losses = brute_force(problem, problem.limits)
    best = widths_of(problem, tuple(rows[int(losses.argmin())].tolist()))
    for most in (1, 2, 4):
        found = [fixed.widths for fixed in promising(problem, problem.losses["swap"], most)]
        assert found[0] == best
        assert len(found) == len(set(found)) <= most
    assert promising(problem, problem.losses["swap"], 4)[0].widths == best


@pytest.mark.parametrize("seed", range(4))
def test_promising_widths_of_the_smallest_within_a_loss(seed: int) -> None:
    problem = tied(seed, edges=True)
    table = problem.losses["swap"]
    rows, losses = brute_force(problem, {"latency_ms": problem.limits["latency_ms"]})
    most = float(np.quantile(losses, 0.02))
    limits = {"latency_ms": problem.limits["latency_ms"], "loss": most}
    aimed = replace(problem, limits=limits, minimise="size_bytes")
    fine = rows[losses <= most]
    least = fine[int(np.argmin(problem.costs("size_bytes", fine)))]
    found = promising(aimed, table, 4)
    assert found[0].widths == widths_of(problem, tuple(least.tolist()))
    # A loss that no candidate has is no reason to give up.
    assert promising(replace(aimed, limits={"loss": 1e-9}), table, 4)


def test_promising_widths_follow_the_budgets_of_a_front() -> None:
    problem = replace(tied(5), limits={}, front=("size_bytes",))
    table = problem.losses["swap"]
    rows, losses = brute_force(problem, {})
    sizes = problem.costs("size_bytes", rows)
    wanted = {
        widths_of(problem, tuple(rows[int(np.argmin(losses))].tolist())),
        widths_of(problem, tuple(rows[int(np.argmin(sizes))].tolist())),
    }
    found = {fixed.widths for fixed in promising(problem, table, 6)}
    assert found >= {(0, 0), *(widths for widths in wanted if widths == (0, 0))}
    assert widths_of(problem, tuple(rows[int(np.argmin(sizes))].tolist())) in found


def test_limits_out_of_reach_lead_to_the_widths_that_come_closest() -> None:
    problem = tied(0, edges=True)
    table = problem.losses["swap"]
    tight = replace(problem, limits={"size_bytes": 100.0})
    rows, _ = brute_force(problem, {})
    least = rows[int(np.argmin(problem.costs("size_bytes", rows)))]
    found = [fixed.widths for fixed in promising(tight, table, 4)]
    assert found[0] == widths_of(problem, tuple(least.tolist()))


@pytest.mark.parametrize("seed", range(4))
def test_the_sweep_keeps_ties(seed: int) -> None:
    problem = replace(tied(seed, edges=True), limits={"latency_ms": 7.0})
    table = problem.losses["swap"]
    sampler = SweepSampler(problem, "size_bytes", table, 10)
    asked = sampler.ask(100)
    assert set(sampler.origin) == set(asked)
    assert len(asked) == len(set(asked)) > 3
    assert problem.feasible(np.array(asked)).all()
    sizes = [problem.cost("size_bytes", candidate) for candidate in asked]
    assert sizes == sorted(sizes, reverse=True)
    rows, losses = brute_force(problem, problem.limits)
    costs = problem.costs("size_bytes", rows)
    assert sizes[-1] == costs.min()
    for candidate, size in zip(asked, sizes, strict=True):
        own = additive(table, np.array([candidate]))[0]
        assert own <= losses[costs <= size].min() * (1 + 2e-3)


def test_the_sweep_of_limits_out_of_reach_is_empty() -> None:
    problem = replace(tied(0), limits={"latency_ms": 0.01})
    assert SweepSampler(problem, "size_bytes", problem.losses["swap"], 10).ask(5) == []


def test_costs_that_differ_by_less_than_the_solver_sees_do_not_stop_the_sweep() -> None:
    rng = np.random.default_rng(0)
    size = tuple(1e7 + np.round(rng.uniform(0, 30, 4)) for _ in range(3))
    loss = tuple(np.sort(rng.random(4))[::-1][np.argsort(np.argsort(s))] for s in size)
    levels = np.arange(4) % 2
    problem = Problem(
        ("x", "y", "z"),
        {"swap": loss},
        {"size_bytes": Resource(0, size)},
        ties=(Tie("a", {0: levels, 1: levels}),),
    )
    asked = SweepSampler(problem, "size_bytes", loss, 40).ask(100)
    assert asked
    assert problem.feasible(np.array(asked)).all()
    assert solve_integer(problem, loss, {}, "size_bytes") in asked or len(asked) > 1
