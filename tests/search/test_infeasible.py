"""Which limit binds and what would do, against every candidate of small problems."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autocompress.errors import InfeasibleError, UndecidedError
from autocompress.search import integer
from autocompress.search.infeasible import Infeasibility, aim, prove
from autocompress.search.integer import closest
from autocompress.search.problem import LOSS, Problem
from autocompress.search.resource import Edge, Resource

NAMES = ("size_bytes", "latency_ms", LOSS)


def make_problem(seed: int, edges: bool, units: int = 3, options: int = 5) -> Problem:
    """Options that are small, fast or good, seldom two of these."""
    rng = np.random.default_rng(seed)
    loss = tuple(10 ** rng.uniform(-4, 0, options) for _ in range(units))
    size = tuple(np.round(100 / rng.uniform(0.1, 1, options)) for _ in range(units))
    time = tuple(rng.uniform(0.1, 2, options) for _ in range(units))
    chain = [(None, 0), *itertools.pairwise(range(units)), (units - 1, None)]
    joins = tuple(Edge(tail, head, 0.4, 0.25) for tail, head in chain) if edges else ()
    return Problem(
        units=tuple(f"unit{index}" for index in range(units)),
        losses={"swap": loss},
        resources={"size_bytes": Resource(64, size), "latency_ms": Resource(0.1, time, joins)},
        labels=tuple(rng.integers(0, 2, options) for _ in range(units)),
    )


def every_value(problem: Problem) -> dict[str, np.ndarray]:
    """Costs and additive losses `(candidates,)` of the whole space."""
    rows = np.array(list(itertools.product(*map(range, problem.sizes))))
    loss = sum(problem.losses["swap"][unit][rows[:, unit]] for unit in range(rows.shape[1]))
    return {name: problem.costs(name, rows) for name in problem.resources} | {LOSS: loss}


def by_hand(values: dict[str, np.ndarray], limits: dict[str, float]) -> tuple[set[str], float]:
    """The sizes of minimal sets that must give way: names of the best one and its excess."""
    for size in range(len(limits) + 1):
        best: tuple[set[str], float] = (set(), np.inf)
        for names in itertools.combinations(limits, size):
            kept = np.ones(len(values[LOSS]), dtype=bool)
            for name in set(limits) - set(names):
                kept &= values[name] <= limits[name] * (1 + 1e-9)
            if kept.any():
                over = sum(np.maximum(0, values[n][kept] / limits[n] - 1) for n in names)
                least = float(np.min(over)) if size else 0.0
                best = min(best, (set(names), least), key=lambda pair: pair[1])
        if np.isfinite(best[1]):
            return best
    raise AssertionError("all limits together can give way")


def drawn(values: dict[str, np.ndarray], rng: np.random.Generator, count: int) -> dict[str, float]:
    """Limits around the least and the middle of what there is."""
    names = rng.permutation(NAMES)[:count]
    return {
        str(name): float(values[name].min() + rng.uniform(-0.3, 0.5) * np.median(values[name]))
        for name in names
        if values[name].min() > 0
    }


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_what_binds_is_what_brute_force_finds(seed: int, count: int) -> None:
    problem = make_problem(seed, edges=bool(seed % 2))
    values, rng = every_value(problem), np.random.default_rng([seed, count])
    loss, seen = problem.losses["swap"], set()
    for _ in range(6):
        limits = {name: max(limit, 1e-6) for name, limit in drawn(values, rng, count).items()}
        found, (names, excess) = prove(problem, loss, limits), by_hand(values, limits)
        seen.add(len(names))
        if not names:
            assert found is None
            continue
        assert found is not None
        assert len(found.binding) == len(names)
        missed = sum(value / limits[name] - 1 for name, value in found.least.items())
        assert missed == pytest.approx(excess, rel=1e-4, abs=1e-6)
        # The least values would do, and each of the other ways out would as well.
        assert prove(problem, loss, limits | dict(found.least)) is None
        for name, value in found.instead.items():
            assert prove(problem, loss, limits | {name: value}) is None
            assert prove(problem, loss, limits | {name: value * (1 - 1e-3)}) is not None
        if len(found.binding) == 1:
            (name,) = found.binding
            assert prove(problem, loss, limits | {name: found.least[name] * 0.999}) is not None
    assert seen - {0}, "no limits were drawn that cannot be met"


def test_message_names_the_limit_the_least_value_and_other_ways_out() -> None:
    opposed = {
        "size_bytes": Resource(0, (np.array([1.0, 9.0]),)),
        "latency_ms": Resource(0, (np.array([18.0, 2.0]),)),
        "energy_mj": Resource(0, (np.array([1.0, 9.0]),)),
    }
    problem = Problem(("a",), {"swap": (np.zeros(2),)}, opposed)
    loss = problem.losses["swap"]
    # The limit on the energy can be met whatever the others say: it is not spoken of.
    limits = {"size_bytes": 5.0, "latency_ms": 9.0, "energy_mj": 99.0}
    assert str(prove(problem, loss, limits)) == (
        "size_bytes <= 5 and latency_ms <= 9 cannot be met with the other limits kept (proven"
        " under the prices): size_bytes binds; the least that would do is size_bytes <= 9,"
        " or latency_ms <= 18"
    )
    assert str(prove(problem, loss, {"size_bytes": 0.5})) == (
        "size_bytes <= 0.5 cannot be met (proven under the prices): the least that would do is 1"
    )
    # Only a larger size helps, and the limit on latency says how much larger.
    assert str(prove(problem, loss, {"size_bytes": 0.5, "latency_ms": 2.0})) == (
        "size_bytes <= 0.5 cannot be met with the other limits kept (proven under the prices):"
        " the least that would do is 9"
    )
    found = prove(problem, loss, {"size_bytes": 0.5, "latency_ms": 1.0, "energy_mj": 99.0})
    assert found is not None
    assert found.binding == ("size_bytes", "latency_ms")
    assert str(found).endswith(
        "size_bytes and latency_ms bind; the least that would do is size_bytes <= 1 together with"
        " latency_ms <= 18"
    )


def test_limits_that_are_met_or_infinite_bind_nothing() -> None:
    problem = make_problem(0, edges=True)
    assert prove(problem, problem.losses["swap"]) is None
    assert prove(problem, problem.losses["swap"], {"size_bytes": np.inf}) is None
    assert prove(problem, problem.losses["swap"], {"size_bytes": 1e9, LOSS: 9.0}) is None


def test_what_the_solver_gives_up_on_is_not_called_proven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tree of no nodes, on limits that only integer points break."""
    rng = np.random.default_rng(0)
    weights = tuple(np.array([0.0, 2.0 * w]) for w in rng.integers(500, 1000, 14))
    total = sum(values[1] for values in weights) / 2 // 2 * 2 + 1  # odd: no sum of even ones
    both = {
        "size_bytes": Resource(0, weights),
        "latency_ms": Resource(4 * total, tuple(-values for values in weights)),
    }
    problem = Problem(tuple(map(str, range(14))), {"swap": weights}, both)
    limits = {"size_bytes": total, "latency_ms": 3 * total}
    monkeypatch.setattr(integer, "MOST_NODES", 0)
    with pytest.raises(UndecidedError, match="0 nodes"):
        prove(problem, problem.losses["swap"], limits)


@pytest.mark.parametrize("seed", range(4))
def test_soft_limits_are_aimed_at_as_far_as_they_can_be_kept(seed: int) -> None:
    problem = make_problem(seed, edges=True)
    values, loss = every_value(problem), problem.losses["swap"]
    most = float(np.quantile(values["latency_ms"], 0.2))
    hard = Problem(
        problem.units, problem.losses, problem.resources, problem.labels, {"latency_ms": most}
    )
    within = values["latency_ms"] <= most
    least = values["size_bytes"][within].min()
    assert aim(hard, loss, {"size_bytes": 2 * least})["size_bytes"] == 2 * least
    found = aim(hard, loss, {"size_bytes": 0.5 * least, LOSS: 1e-9})
    assert list(found) == ["latency_ms", "size_bytes", LOSS]
    assert found["size_bytes"] == pytest.approx(least)
    # The second soft limit is held to what the first one leaves.
    at_least = within & (values["size_bytes"] <= least * (1 + 1e-9))
    assert found[LOSS] == pytest.approx(values[LOSS][at_least].min(), rel=1e-4)


def test_soft_limits_are_left_out_where_the_hard_ones_fail() -> None:
    problem = make_problem(1, edges=False)
    hard = Problem(
        problem.units, problem.losses, problem.resources, problem.labels, {"size_bytes": 1.0}
    )
    assert aim(hard, problem.losses["swap"], {"latency_ms": 1.0}) == {"size_bytes": 1.0}


def test_closest_keeps_what_must_be_kept() -> None:
    problem = make_problem(2, edges=True)
    values, loss = every_value(problem), problem.losses["swap"]
    kept = float(np.quantile(values["latency_ms"], 0.1))
    found = closest(problem, loss, {"size_bytes": 1.0}, {"latency_ms": kept})
    assert problem.cost("latency_ms", found) <= kept * (1 + 1e-9)
    least = values["size_bytes"][values["latency_ms"] <= kept].min()
    assert problem.cost("size_bytes", found) == least
    with pytest.raises(InfeasibleError, match="latency_ms <= 0.1 cannot be met"):
        closest(problem, loss, {"size_bytes": 1.0}, {"latency_ms": 0.1})


def test_an_infeasibility_is_plain_data() -> None:
    found = Infeasibility({"a": 1.0, "b": 2.0}, {"a": 3.0}, {"b": 4.0})
    assert found.binding == ("a",)
