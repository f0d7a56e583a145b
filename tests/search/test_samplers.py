"""What every sampler must do, and what ours must find."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autocompress.errors import ConfigError
from autocompress.search.budget_sampler import BudgetSampler
from autocompress.search.catalogue import SAMPLERS, make_sampler
from autocompress.search.optuna_sampler import OptunaSampler
from autocompress.search.problem import Candidate, Integers, Problem
from autocompress.search.proposals import MOVES
from autocompress.search.resource import Edge, Resource
from autocompress.search.sampler import Sampler, Trial
from autocompress.search.surrogate import Basis, fit


class Logits:
    """A stand-in for a model: each option shifts the outputs, the loss is the KL that results.

    Later units amplify what earlier ones did, so that the loss is not additive.
    """

    def __init__(
        self,
        units: int,
        options: int,
        seed: int,
        budget: float = 0.25,
        minimise: str = "loss",
        limits: dict[str, float] | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.logits = rng.normal(0, 2, (24, 6))
        bits = np.linspace(8, 1, options)
        shared = rng.normal(size=(24, 6))
        self.shifts = [
            (rng.uniform(0.5, 3) * 2.0**-bits)[:, None, None]
            * (0.7 * shared + rng.normal(size=(options, 24, 6)))
            for _ in range(units)
        ]
        self.gains = rng.uniform(0, 0.5, units)
        eye = [np.eye(units, dtype=int)[unit] for unit in range(units)]
        swap = tuple(self(np.outer(np.arange(options), row)) for row in eye)
        adjoint = tuple(np.maximum(c, 1e-9) * rng.lognormal(0, 0.3, options) for c in swap)
        size = tuple(np.round(rng.uniform(50, 900) * bits) for _ in range(units))
        labels = tuple(rng.integers(0, 2, options) for _ in range(units))
        time = tuple(rng.uniform(0.8, 1.2, options) - 0.3 * label for label in labels)
        chain = [(None, 0), *itertools.pairwise(range(units)), (units - 1, None)]
        edges = tuple(Edge(tail, head, 0.05, 0.04) for tail, head in chain)
        self.problem = Problem(
            tuple(f"unit{unit}" for unit in range(units)),
            {"adjoint": adjoint, "swap": swap},
            {"size_bytes": Resource(10, size), "latency_ms": Resource(0.1, time, edges)},
            labels,
            limits
            or {
                "size_bytes": budget * sum(float(values.max()) for values in size),
                "latency_ms": 0.95 * units,
            },
            minimise,
        )

    def __call__(self, candidates: Integers) -> np.ndarray:
        moved = np.zeros((len(candidates), *self.logits.shape))
        for unit, (shift, gain) in enumerate(zip(self.shifts, self.gains, strict=True)):
            step = shift[candidates[:, unit]]
            moved = moved * (1 + gain * np.abs(step).mean((1, 2), keepdims=True)) + step

        def log_softmax(values: np.ndarray) -> np.ndarray:
            return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))

        before = log_softmax(self.logits)
        after = log_softmax(self.logits + moved)
        return np.asarray((np.exp(before) * (before - after)).sum(axis=-1).mean(axis=-1))

    def trials(self, sampler: Sampler, candidates: list[Candidate]) -> list[Trial]:
        losses = self(np.array(candidates)) if candidates else []
        return [
            Trial(c, float(loss), self.problem.resource_costs(c), dict(sampler.attributes(c)))
            for c, loss in zip(candidates, losses, strict=True)
        ]

    def run(self, sampler: Sampler, evaluations: int, batch: int = 5) -> list[Trial]:
        done: list[Trial] = []
        while len(done) < evaluations:
            asked = sampler.ask(min(batch, evaluations - len(done)))
            if not asked:
                break
            trials = self.trials(sampler, asked)
            sampler.tell(trials)
            done += trials
        return done

    def best(self, trials: list[Trial]) -> float:
        fine = [t for t in trials if self.problem.satisfies(t.candidate, t.loss)]
        return min(self.problem.objective(t.candidate, t.loss) for t in fine)

    def every(self) -> np.ndarray:
        return np.array(list(itertools.product(*map(range, self.problem.sizes))))


def make(name: str, problem: Problem, seed: int = 0) -> Sampler:
    return make_sampler(name, problem, np.random.default_rng(seed))


@pytest.mark.parametrize("name", SAMPLERS)
def test_candidates_are_valid_and_never_repeated(name: str) -> None:
    model = Logits(5, 6, 0)
    sampler = make(name, model.problem)
    trials = model.run(sampler, 60, batch=7)
    asked = [trial.candidate for trial in trials]
    assert len(asked) == len(set(asked)) == 60
    for candidate in asked:
        assert len(candidate) == 5
        assert all(type(option) is int and 0 <= option < 6 for option in candidate)
        assert sampler.origin[candidate]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_asks_the_same(name: str) -> None:
    model = Logits(4, 6, 1)
    first = model.run(make(name, model.problem, 7), 40)
    again = model.run(make(name, model.problem, 7), 40)
    assert [t.candidate for t in first] == [t.candidate for t in again]


@pytest.mark.parametrize("name", SAMPLERS)
def test_told_candidates_are_not_asked(name: str) -> None:
    model = Logits(3, 4, 2)
    known = [tuple(row) for row in model.every()[::2].tolist()]
    sampler = make(name, model.problem)
    sampler.tell(model.trials(sampler, known))
    assert not set(sampler.ask(8)) & set(known)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_tiny_space_runs_dry(name: str) -> None:
    model = Logits(2, 3, 3, limits={"size_bytes": 1e9})
    trials = model.run(make(name, model.problem), 100)
    assert len({t.candidate for t in trials}) == len(trials) <= 9
    if name == "budget":
        assert len(trials) == 9
    assert make(name, model.problem).ask(0) == []


@pytest.mark.parametrize("name", SAMPLERS)
def test_failed_evaluations_are_survived(name: str) -> None:
    model = Logits(4, 5, 4)
    sampler = make(name, model.problem)
    for loss in (float("nan"), float("inf"), 0.0):
        asked = sampler.ask(6)
        sampler.tell([Trial(c, loss, model.problem.resource_costs(c)) for c in asked])
    assert len(sampler.ask(6)) == 6


def test_unknown_name_lists_the_allowed() -> None:
    problem = Logits(2, 3, 0).problem
    with pytest.raises(ConfigError, match=f"'tpa': allowed are {', '.join(SAMPLERS)}"):
        make("tpa", problem)
    with pytest.raises(ConfigError, match="allowed are tpe"):
        OptunaSampler("budget", problem, 0)


@pytest.mark.parametrize("seed", range(4))
def test_ours_finds_the_optimum_of_a_small_space(seed: int) -> None:
    model = Logits(4, 8, seed)
    rows = model.every()
    rows = rows[model.problem.feasible(rows)]
    trials = model.run(make("budget", model.problem), 60)
    assert model.best(trials) == pytest.approx(model(rows).min(), rel=1e-9)


@pytest.mark.parametrize("rival", ["tpe", "nsga2", "random"])
def test_ours_in_60_beats_others_in_200(rival: str) -> None:
    model = Logits(10, 10, 5)
    ours = model.best(model.run(make("budget", model.problem), 60))
    trials = model.run(make(rival, model.problem), 200, batch=20)
    fine = [t.loss for t in trials if model.problem.satisfies(t.candidate)]
    assert ours < 0.7 * min(fine, default=np.inf)


def test_a_restart_goes_on_in_the_same_way() -> None:
    model = Logits(6, 7, 6)
    whole = model.run(make("budget", model.problem, 3), 48, batch=4)
    again = make("budget", model.problem, 3)
    for start in range(0, 28, 4):  # as the loop does: asks, and is told what is known
        assert again.ask(4) == [t.candidate for t in whole[start : start + 4]]
        again.tell(whole[start : start + 4])
    rest = model.run(again, 20, batch=4)
    assert [t.candidate for t in rest] == [t.candidate for t in whole[28:]]


def test_one_that_was_only_told_repeats_nothing_and_knows_the_best() -> None:
    model = Logits(6, 7, 6)
    whole = model.run(make("budget", model.problem, 3), 48, batch=4)
    told = make("budget", model.problem, 4)
    told.tell(whole)
    rest = model.run(told, 20, batch=4)
    assert not {t.candidate for t in rest} & {t.candidate for t in whole}
    assert model.best(rest) < 1.5 * model.best(whole)


def test_part_of_the_effort_serves_other_budgets() -> None:
    model = Logits(6, 7, 7)
    limit = model.problem.limits["size_bytes"]
    sizes: list[float] = []
    for seed in range(3):
        sampler = BudgetSampler(model.problem, np.random.default_rng(seed))
        trials = model.run(sampler, 80)
        origins = [sampler.origin[t.candidate] for t in trials]
        assert origins[0] == "seed"
        assert set(origins) <= {"seed", *MOVES, "fill"}
        sizes += [
            t.resources["size_bytes"] for t in trials if sampler.origin[t.candidate] in MOVES
        ]
    assert min(sizes) < 0.8 * limit
    assert max(sizes) > 1.3 * limit
    assert sum(size > limit for size in sizes) < 0.3 * len(sizes)


@pytest.mark.parametrize("units", [4, 9])
def test_a_resource_is_minimised_under_a_measured_loss(units: int) -> None:
    model = Logits(
        units, 7, 8, minimise="size_bytes", limits={"loss": 0.05, "latency_ms": 1.1 * units}
    )
    trials = model.run(make("budget", model.problem), 80)
    found = model.best(trials)
    if units == 4:
        rows = model.every()
        rows = rows[model.problem.feasible(rows) & (model(rows) <= 0.05)]
        assert found == model.problem.costs("size_bytes", rows).min()
    else:
        table_only = [t for t in trials[:2] if t.loss <= 0.05]
        assert found <= min((t.resources["size_bytes"] for t in table_only), default=np.inf)


def test_limits_out_of_reach_are_approached() -> None:
    limits = {"size_bytes": 100.0, "latency_ms": 8.0}
    model = Logits(5, 6, 9, limits=limits)
    sampler = BudgetSampler(model.problem, np.random.default_rng(0))
    trials = model.run(sampler, 20)
    least = model.problem.costs("size_bytes", model.every()).min()
    assert min(t.resources["size_bytes"] for t in trials) == least
    assert sampler.limits["size_bytes"] == least


def test_without_limits_the_whole_range_is_covered() -> None:
    base = Logits(5, 6, 10).problem
    problem = Problem(base.units, base.losses, base.resources, base.labels)
    sampler = BudgetSampler(problem, np.random.default_rng(0))
    asked = sampler.ask(8)
    sizes = [problem.cost("size_bytes", c) for c in asked]
    assert max(sizes) > 1.5 * min(sizes)


def test_forbidden_options_are_never_proposed() -> None:
    base = Logits(4, 6, 11)
    losses = {name: tuple(v.copy() for v in table) for name, table in base.problem.losses.items()}
    for unit in range(4):
        losses["swap"][unit][2] = np.inf
    problem = Problem(
        base.problem.units,
        losses,
        base.problem.resources,
        base.problem.labels,
        base.problem.limits,
    )
    base.problem = problem
    for name in SAMPLERS:
        assert all(2 not in t.candidate for t in base.run(make(name, problem), 30))


def test_optuna_state_survives_a_restart() -> None:
    model = Logits(5, 6, 12)
    first = OptunaSampler("nsga2", model.problem, 0)
    trials = model.run(first, 120, batch=10)
    assert any(trial.attributes for trial in trials)
    again = OptunaSampler("nsga2", model.problem, 1)
    again.tell(trials)
    fresh = [c for c in again.ask(40)]
    feasible = model.problem.feasible(np.array(fresh)).mean()
    uniform = model.problem.feasible(model.every()).mean()
    assert feasible > 2 * uniform


def test_the_surrogate_corrects_the_table() -> None:
    model = Logits(6, 8, 13)
    rng = np.random.default_rng(0)
    rows = rng.integers(2, 8, (160, 6))
    losses = model(rows)
    table = model.problem.losses["adjoint"]
    surrogate = fit(Basis(table), rows[:120], losses[:120], np.zeros(120))
    mean, deviation, _ = surrogate.predict(rows[120:])
    error = np.abs(mean - np.log(losses[120:]))
    additive = np.log([sum(t[k] for t, k in zip(table, row, strict=True)) for row in rows[120:]])
    assert error.mean() < 0.4 * np.abs(additive - np.log(losses[120:])).mean()
    assert (error < 3 * deviation).mean() > 0.85
