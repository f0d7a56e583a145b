"""The exact solvers against brute force, and what they say when nothing fits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autocompress.errors import ConfigError, DataError, InfeasibleError
from autocompress.search.dynamic import budget_curve
from autocompress.search.integer import closest, reachable, solve_integer
from autocompress.search.lagrange import solve_nearly
from autocompress.search.landscape import Landscape
from autocompress.search.moves import Neighbourhood, additive, switches
from autocompress.search.problem import Problem
from autocompress.search.resource import Edge, Joint, Resource
from autocompress.search.solver import solve


def make_problem(
    seed: int, edges: bool = False, units: int = 4, options: int = 6, joints: bool = False
) -> Problem:
    rng = np.random.default_rng(seed)
    loss = tuple(10 ** rng.uniform(-6, 0, options) for _ in range(units))
    size = tuple(np.round(rng.uniform(1, 1000, options)) for _ in range(units))
    time = tuple(rng.uniform(0.1, 2, options) for _ in range(units))
    chain = [(None, 0), *itertools.pairwise(range(units)), (units - 1, None), (0, units - 1)]
    joins = tuple(Edge(tail, head, 0.4, 0.25) for tail, head in chain) if edges else ()
    savings = (Joint((0, 1, 2), -0.7), Joint((1, units - 1), -0.3), Joint((0, units - 1), 0.2))
    return Problem(
        units=tuple(f"unit{index}" for index in range(units)),
        losses={"swap": loss},
        resources={
            "size_bytes": Resource(64, size),
            "latency_ms": Resource(0.1, time, joins, savings if joints else ()),
        },
        labels=tuple(rng.integers(0, 2, options) for _ in range(units)),
        limits={"size_bytes": 500.0 * units, "latency_ms": 1.6 * units},
    )


def every_candidate(problem: Problem) -> np.ndarray:
    return np.array(list(itertools.product(*map(range, problem.sizes))))


def brute_force(problem: Problem, limits: dict[str, float]) -> float:
    rows = every_candidate(problem)
    rows = rows[problem.feasible(rows, limits)]
    return float(additive(problem.losses["swap"], rows).min())


@pytest.mark.parametrize("joints", [False, True])
@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_several_limits_match_brute_force(seed: int, edges: bool, joints: bool) -> None:
    problem = make_problem(seed, edges, joints=joints)
    found = solve(problem, problem.losses["swap"])
    assert problem.satisfies(found)
    total = additive(problem.losses["swap"], np.array([found]))[0]
    assert total == pytest.approx(brute_force(problem, dict(problem.limits)), rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_one_limit_matches_brute_force_by_dynamic_programme(seed: int) -> None:
    problem = make_problem(seed)
    limits = {"size_bytes": 1500.0}
    found = solve(problem, problem.losses["swap"], limits)
    total = additive(problem.losses["swap"], np.array([found]))[0]
    assert total == pytest.approx(brute_force(problem, limits), rel=1e-9)


def test_edge_costs_are_counted_by_hand() -> None:
    labels = (np.array([0, 1]), np.array([0, 1]))
    flat = (np.zeros(2), np.zeros(2))
    edges = (Edge(None, 0, 1.0, 100.0), Edge(0, 1, 10.0, 20.0), Edge(1, None, 1000.0, 3.0))
    problem = Problem(
        ("a", "b"), {"loss": flat}, {"latency_ms": Resource(0.5, flat, edges)}, labels
    )
    costs = {c: problem.cost("latency_ms", c) for c in itertools.product((0, 1), repeat=2)}
    assert costs == {(0, 0): 0.5, (1, 0): 21.5, (0, 1): 13.5, (1, 1): 4.5}


def test_joint_costs_are_counted_by_hand() -> None:
    labels = (np.array([0, 1]),) * 3
    flat = (np.zeros(2),) * 3
    joints = (Joint((0, 1), -1.0), Joint((0, 1, 2), -10.0), Joint((2,), 0.5), Joint((1, 2), 0.0))
    cost = Resource(20.0, flat, joints=joints)
    problem = Problem(("a", "b", "c"), {"loss": flat}, {"latency_ms": cost}, labels)
    costs = {c: problem.cost("latency_ms", c) for c in itertools.product((0, 1), repeat=3)}
    assert costs.pop((1, 1, 1)) == 9.5
    assert costs.pop((1, 1, 0)) == 19.0
    assert all(cost == 20.0 + 0.5 * c[2] for c, cost in costs.items())
    assert len(problem.joints("latency_ms")) == 3
    assert not problem.is_additive("latency_ms")


def test_a_joint_saving_cannot_be_claimed_without_all_of_its_units() -> None:
    labels = (np.array([0, 1]),) * 3
    flat = (np.zeros(2),) * 3
    loss = tuple(np.array([0.0, worse]) for worse in (1.0, 2.0, 4.0))
    cost = Resource(1.0, flat, joints=(Joint((0, 2), -1.0),))
    problem = Problem(("a", "b", "c"), {"loss": loss}, {"latency_ms": cost}, labels)
    assert solve(problem, loss, {"latency_ms": 0.0}) == (1, 0, 1)
    assert solve(problem, loss, {"latency_ms": 1.5}) == (0, 0, 0)


def test_a_joint_cost_of_units_that_are_never_int8_is_left_out() -> None:
    labels = (np.array([0, 1]), np.array([0, 0]))
    flat = (np.zeros(2),) * 2
    cost = Resource(1.0, flat, joints=(Joint((0, 1), -1.0),))
    problem = Problem(("a", "b"), {"loss": flat}, {"latency_ms": cost}, labels)
    assert problem.is_additive("latency_ms")


@pytest.mark.parametrize(
    ("joint", "problem"),
    [
        (Joint((), 1.0), "needs units, each once"),
        (Joint((0, 0), 1.0), "needs units, each once"),
        (Joint((0, 7), 1.0), "no unit 7"),
        (Joint((0, 1), float("nan")), "NaN"),
    ],
)
def test_impossible_joint_costs_are_refused(joint: Joint, problem: str) -> None:
    flat = (np.zeros(2),) * 2
    with pytest.raises(DataError, match=problem):
        Problem(
            ("a", "b"),
            {"loss": flat},
            {"latency_ms": Resource(1.0, flat, joints=(joint,))},
            (np.array([0, 1]),) * 2,
        )


def test_a_negative_edge_cannot_be_claimed_without_its_conversion() -> None:
    labels = (np.array([0, 1]), np.array([0, 1]))
    flat = (np.zeros(2), np.zeros(2))
    loss = (np.array([0.0, 1.0]), np.array([0.0, 2.0]))
    cost = Resource(1.0, flat, (Edge(0, 1, -1.0, -1.0),))
    problem = Problem(("a", "b"), {"loss": loss}, {"latency_ms": cost}, labels)
    assert solve(problem, loss, {"latency_ms": 0.0}) == (1, 0)


@pytest.mark.parametrize("buckets", [7, 50, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_dynamic_programme_never_breaks_a_limit(seed: int, buckets: int) -> None:
    rng = np.random.default_rng(seed)
    loss = [rng.uniform(0, 1, 5) for _ in range(8)]
    cost = [rng.uniform(0, 3, 5) for _ in range(8)]
    curve = budget_curve(loss, cost, largest=12.0, constant=0.7, buckets=buckets)
    for limit in rng.uniform(0, 12, 50):
        found = curve.candidate(limit)
        if found is not None:
            spent = 0.7 + sum(c[k] for c, k in zip(cost, found, strict=True))
            assert spent <= limit * (1 + 1e-9)
    assert (np.diff(curve.losses[np.isfinite(curve.losses)]) <= 0).all()
    assert curve.candidate(0.7) is None


def test_cuts_give_the_best_candidates_in_order() -> None:
    problem = make_problem(3, edges=True, units=3, options=4)
    loss = problem.losses["swap"]
    rows = every_candidate(problem)
    rows = rows[problem.feasible(rows)]
    expected = np.sort(additive(loss, rows))[:4]
    found: list[tuple[int, ...]] = []
    for _ in range(4):
        found.append(solve(problem, loss, exclude=found))
    assert additive(loss, np.array(found)) == pytest.approx(expected, rel=1e-5)


def test_a_resource_is_minimised_under_a_limit_on_the_loss() -> None:
    problem = make_problem(5, edges=True)
    loss = problem.losses["swap"]
    rows = every_candidate(problem)
    good = rows[additive(loss, rows) <= 0.01]
    expected = problem.costs("latency_ms", good).min()
    found = solve_integer(problem, loss, {"loss": 0.01}, minimise="latency_ms")
    assert problem.cost("latency_ms", found) == pytest.approx(expected, rel=1e-5)


def test_tiny_losses_are_told_apart() -> None:
    loss = (np.array([3e-12, 1e-12, 1.0]), np.array([5e-12, 2e-12, 1.0]))
    costs = (np.array([1.0, 2.0, 0.0]), np.array([1.0, 2.0, 0.0]))
    resources = {"size_bytes": Resource(0, costs), "latency_ms": Resource(0, costs)}
    problem = Problem(("a", "b"), {"swap": loss}, resources)
    assert solve(problem, loss, {"size_bytes": 3, "latency_ms": 3}) == (0, 1)


def test_forbidden_options_are_never_chosen() -> None:
    problem = make_problem(1, edges=True)
    loss = [values.copy() for values in problem.losses["swap"]]
    best = solve(problem, loss)
    for unit, option in enumerate(best):
        loss[unit][option] = np.inf
    assert not set(enumerate(solve(problem, loss))) & set(enumerate(best))


def test_limits_that_nothing_meets_are_an_error() -> None:
    problem = make_problem(0, edges=True)
    rows = every_candidate(problem)
    least = problem.costs("latency_ms", rows).min()
    limits = {"size_bytes": 4000.0, "latency_ms": 0.3}
    with pytest.raises(InfeasibleError, match="size_bytes <= 4000 and latency_ms <= 0.3 cannot"):
        solve(problem, problem.losses["swap"], limits)
    assert reachable(problem, problem.losses["swap"], "latency_ms") == pytest.approx(least)
    with pytest.raises(InfeasibleError, match="size_bytes <= 10 cannot be met"):
        solve(make_problem(0), problem.losses["swap"], {"size_bytes": 10})


def test_closest_candidate_has_the_smallest_excess() -> None:
    problem = make_problem(2, edges=True)
    limits = {"size_bytes": 100.0, "latency_ms": 0.2}
    rows = every_candidate(problem)
    over = sum(
        np.maximum(0, problem.costs(name, rows) - limit) / limit for name, limit in limits.items()
    )
    found = closest(problem, problem.losses["swap"], limits)
    assert over[np.all(rows == found, axis=1)][0] == pytest.approx(over.min(), rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_the_sweep_is_near_the_optimum(seed: int) -> None:
    problem = make_problem(seed, edges=True)
    near = solve_nearly(problem, problem.losses["swap"], problem.limits)
    assert near is not None
    assert problem.satisfies(near)
    total = additive(problem.losses["swap"], np.array([near]))[0]
    assert total <= 1.5 * brute_force(problem, dict(problem.limits))


def test_switches_keep_the_limits_and_come_best_first() -> None:
    problem = make_problem(4, edges=True)
    start = solve(problem, problem.losses["swap"])
    table = problem.losses["swap"]
    around = Neighbourhood(problem, table)
    found = switches(around, Landscape(table), start, problem.limits, 20)
    assert problem.feasible(found).all()
    assert ((found != start).sum(axis=1) <= 2).all()
    totals = additive(problem.losses["swap"], found)
    assert (np.diff(totals) >= 0).all()


def test_bad_tables_are_refused() -> None:
    loss = (np.array([0.1, 0.2]),)
    size = Resource(0, (np.array([1.0, 2.0]),))
    with pytest.raises(DataError, match="NaN"):
        Problem(("a",), {"swap": (np.array([0.1, np.nan]),)})
    with pytest.raises(DataError, match=r"shape \(3,\), expected \(2,\)"):
        Problem(("a",), {"swap": loss}, {"size_bytes": Resource(0, (np.zeros(3),))})
    with pytest.raises(DataError, match="holds NaN or infinity"):
        Problem(("a",), {"swap": loss}, {"size_bytes": Resource(np.inf, size.units)})
    with pytest.raises(DataError, match="every option has an infinite loss"):
        Problem(("a",), {"swap": (np.full(2, np.inf),)})
    loose_end = Resource(0, size.units, (Edge(0, 1, 1.0, 1.0),))
    with pytest.raises(DataError, match="there is no unit 1"):
        Problem(("a",), {"swap": loss}, {"size_bytes": loose_end})
    with pytest.raises(DataError, match="labels"):
        Problem(("a",), {"swap": loss}, labels=(np.array([0, 2]),))
    with pytest.raises(ConfigError, match="allowed are loss, size_bytes"):
        Problem(("a",), {"swap": loss}, {"size_bytes": size}, limits={"sise": 1.0})
    with pytest.raises(ConfigError, match="minimise='energy'"):
        Problem(("a",), {"swap": loss}, {"size_bytes": size}, minimise="energy")


def test_violation_is_the_sum_of_relative_excesses() -> None:
    size = Resource(0, (np.array([10.0, 30.0]),))
    limits = {"size_bytes": 20.0, "loss": 0.5}
    problem = Problem(("a",), {"swap": (np.array([1.0, 0.0]),)}, {"size_bytes": size}, (), limits)
    assert problem.violation((1,), 0.75) == pytest.approx(0.5 + 0.5)
    assert problem.violation((0,), 0.5) == 0
    assert problem.satisfies((0,), 0.5)
    assert not problem.satisfies((0,), 0.51)
