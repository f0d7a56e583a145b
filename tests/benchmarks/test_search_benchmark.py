"""The search benchmark on a small synthetic judge: everybody runs, figures add up."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checks import checks
from contest import OURS, SIZE, Contest, Entry, Outcome, run
from entries import NAMES, UNIFORM, entries, solved, uniform
from memo import Memo
from regret import best_distinct, judge
from score import Curve, Scored, best_loss, compare, front_volume, reference
from search_figure import write_figure
from search_table import show
from summary import best_known, rows, score, study_summary, volume_of_all
from workers import outcomes

from autocompress.search.problem import Candidate
from autocompress.search.resource import Resource

UNITS, OPTIONS = 5, 6
BITS = (8, 6, 5, 4, 3, 2)


def contest(folder: Path, key: str = "a") -> Contest:
    """Five units of growing weight; neighbours that are both coarse add up."""
    rng = np.random.default_rng(1)
    scale = rng.uniform(0.5, 3, UNITS)
    swap = tuple(scale[unit] * 4.0 ** -np.array(BITS) for unit in range(UNITS))
    adjoint = tuple(values * rng.lognormal(0, 0.2, OPTIONS) for values in swap)
    sizes = tuple(np.array(BITS) * float(rng.integers(50, 400)) for _ in range(UNITS))
    size = Resource(20.0, sizes)
    original = sum(4 * float(values.max()) for values in sizes)

    def measure(candidate: Candidate) -> tuple[float, float]:
        parts = [float(values[k]) for values, k in zip(swap, candidate, strict=True)]
        pairs = zip(parts, parts[1:], strict=False)
        return sum(parts) + sum(2 * math.sqrt(a * b) for a, b in pairs), 0.001

    return Contest(
        study="synthetic",
        units=tuple(f"unit{unit}" for unit in range(UNITS)),
        options=tuple(tuple(f"w{bits}" for bits in BITS) for _ in range(UNITS)),
        losses={"adjoint": adjoint, "swap": swap},
        resources={SIZE: size},
        labels=(),
        original_bytes=round(original),
        budgets={text: share * original for text, share in (("20%", 0.2), ("14%", 0.14))},
        pricing={"adjoint": 3.0, "swap": 25.0},
        measure=measure,
        memo=Memo(folder / "losses.sqlite", key),
        full_pass_s=0.002,
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Contest, list[Outcome]]:
    made = contest(tmp_path_factory.mktemp("played"))
    todo = entries(made, 2, 30, 60)
    return made, list(outcomes(todo, made, 2))


def test_everybody_runs_within_the_passes(played: tuple[Contest, list[Outcome]]) -> None:
    made, found = played
    assert {outcome.entry.name for outcome in found} == set(NAMES)
    for outcome in found:
        assert outcome.spent <= outcome.entry.passes + 4
        assert (np.diff(outcome.passes) >= 0).all()
        assert (np.diff(outcome.seconds) >= 0).all()
        assert (outcome.sizes <= made.largest).all()
        assert len(set(outcome.steps)) == len(outcome.steps)
        for candidate, loss in zip(outcome.steps, outcome.losses, strict=True):
            assert loss == pytest.approx(made.measure(candidate)[0])
    ours = [outcome for outcome in found if outcome.entry.name == OURS]
    assert len(ours) == 2
    assert all(len(outcome.steps) >= 15 for outcome in ours)


def test_workers_do_not_change_what_is_found(
    played: tuple[Contest, list[Outcome]], tmp_path: Path
) -> None:
    made, found = played
    todo = [o.entry for o in found if o.entry.name in ("nsga2", "cmaes", OURS)]
    alone = list(outcomes(todo, contest(tmp_path), 1))
    before = {(o.entry.name, o.entry.seed): o.steps for o in found}
    assert all(before[o.entry.name, o.entry.seed] == o.steps for o in alone)


def test_the_figures_are_written(
    played: tuple[Contest, list[Outcome]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, found = played
    scored = score(found, made)
    regret = judge("14%", [0.1, 0.2, 0.3], [90.0, 91.0, 89.0], True)
    figures = study_summary(scored, made, 30, regret)
    assert {"kl", "worst_ratio", "hypervolume_at", "price_per_candidate", "overhead_ms"} < set(
        figures
    )
    assert figures["kl"]["20%"].keys() == set(NAMES)
    assert figures["checks"]["hypervolume_after_30"]["least"] <= 1 + 1e-9
    json.dumps([figures, rows(scored, made)], allow_nan=False)
    show(scored, made, figures)
    assert "best known" in capsys.readouterr().out
    write_figure(tmp_path / "search.html", [(made, scored)])
    assert "hypervolume" in (tmp_path / "search.html").read_text()


def test_the_union_holds_every_front(played: tuple[Contest, list[Outcome]]) -> None:
    made, found = played
    union = volume_of_all(made)
    scored = score(found, made)
    assert all(item.volume.after(math.inf) <= 1 + 1e-9 for item in scored)
    assert max(item.volume.after(math.inf) for item in scored) > 0.5
    known = best_known(made)
    for item in scored:
        assert all(item.losses[name].after(math.inf) >= known[name] for name in made.budgets)
    assert union > 0


def test_the_memo_outlives_the_process_and_knows_its_key(tmp_path: Path) -> None:
    first = contest(tmp_path)
    value = first.loss((0, 1, 2, 3, 4))
    first.memo.close()
    again = contest(tmp_path)
    assert again.memo.get((0, 1, 2, 3, 4)) == value
    again.memo.put((0, 1, 2, 3, 4), 7.0)
    assert again.memo.get((0, 1, 2, 3, 4)) == value
    assert contest(tmp_path, key="b").memo.get((0, 1, 2, 3, 4)) is None


def test_what_breaks_the_limit_costs_a_rival_nothing(tmp_path: Path) -> None:
    made = contest(tmp_path)
    made = replace(made, budgets={"14%": made.budgets["14%"]})
    outcome = run(Entry("random", "random", (), 0, 20), made)
    assert outcome.spent == len(outcome.steps) <= 20
    assert outcome.proposals > outcome.spent
    assert len(made.memo.all()) == outcome.spent
    assert outcome.total_s >= 0.002 * outcome.spent


def test_the_solver_meets_each_budget_and_uniform_is_uniform(tmp_path: Path) -> None:
    made = contest(tmp_path)
    problem = made.problem()
    found = solved(made, "swap")
    assert len(found) == len(made.budgets)
    for candidate, limit in zip(found, made.budgets.values(), strict=True):
        assert 0.8 * limit < problem.cost(SIZE, candidate) <= limit
    assert all(len(set(candidate)) == 1 for candidate in uniform(made))
    outcome = run(Entry(UNIFORM, "", (), 0, 100, uniform(made)), made)
    assert len(outcome.steps) == len(uniform(made)) > 0


def outcome_of(name: str, seed: int, sizes: list[float], losses: list[float]) -> Outcome:
    numbers = np.arange(1.0, len(sizes) + 1)
    return Outcome(
        Entry(name, name, (), seed, len(sizes)),
        tuple((number,) for number in range(len(sizes))),
        np.array(losses),
        np.array(sizes),
        numbers,
        0.5 * numbers,
        len(sizes),
        float(len(sizes)),
        float(len(sizes)),
        0.1,
        1.0,
    )


def test_curves_of_known_steps() -> None:
    outcome = outcome_of("random", 0, [10, 5, 9, 8], [0.5, 0.9, 0.2, 0.3])
    curve = best_loss(outcome, 9.0)
    assert curve.points() == [[2, 1, 0.9], [3, 1.5, 0.2]]
    assert [curve.after(passes) for passes in (1, 2, 2.9, 3, math.inf)] == [
        math.inf,
        0.9,
        0.9,
        0.2,
        0.2,
    ]
    corner = reference(10.0)
    volume = front_volume(outcome, 10.0, 1.0)
    first = (corner[0] - math.log(10)) * (corner[1] - math.log(0.5))
    assert volume.after(1) == pytest.approx(first)
    assert volume.after(0.5) == 0
    last = (corner[0] - math.log(9)) * (corner[1] - math.log(0.2)) + (
        math.log(9 / 8) * (corner[1] - math.log(0.3))
        + math.log(8 / 5) * (corner[1] - math.log(0.9))
    )
    assert volume.after(4) == pytest.approx(last)


def scored_of(name: str, seed: int, values: list[float], pricing: float = 0.0) -> Scored:
    outcome = outcome_of(name, seed, [1.0] * len(values), values)
    numbers = outcome.passes
    curve = Curve(numbers, numbers, np.minimum.accumulate(values), math.inf)
    return Scored(outcome, {"5%": curve}, Curve(numbers, numbers, numbers / 4, 0.0), pricing)


def test_comparisons_count_ties_apart() -> None:
    scored = [
        scored_of(OURS, 0, [0.4, 0.2], pricing=2.0),
        scored_of(OURS, 1, [0.4, 0.1], pricing=2.0),
        scored_of("tpe", 0, [0.9, 0.3, 0.3, 0.1]),
        scored_of("tpe", 1, [0.9, 0.1, 0.1, 0.1]),
        scored_of(UNIFORM, 0, [0.5]),
    ]
    same = compare(scored, ["5%"], 2, 2)
    assert (same.better, same.tied, same.worse) == (1, 1, 0)
    assert same.never_worse
    assert not same.always_better
    assert same.least == pytest.approx(1.0)
    charged = compare(scored, ["5%"], 2, 2, with_pricing=True)
    assert (charged.better, charged.tied, charged.worse) == (0, 1, 1)
    assert charged.where == "5%, seed 0, tpe"
    early = compare(scored, ["5%"], 1, 1)
    assert (early.better, early.least) == (2, pytest.approx(0.5 / 0.4))


def test_checks_say_what_holds(played: tuple[Contest, list[Outcome]]) -> None:
    made, _ = played
    scored = [scored_of(OURS, 0, [0.4, 0.2]), scored_of("tpe", 0, [0.9, 0.3])]
    small = replace(made, budgets={"5%": 1.0})
    found = checks(scored, small, 2, None)
    assert found["equal_search_passes"]["2"]["always_better"]
    assert not found["hypervolume_after_2"]["holds"]
    assert found["regret_points"]["holds"] is None
    assert not found["price_per_candidate"]["holds"]


def test_regret_is_of_the_best_five() -> None:
    losses = [0.1 * number for number in range(1, 9)]
    qualities = [90.0, 91.0, 90.5, 90.2, 90.1, 92.5, 90.0, 89.0]
    assert judge("5%", losses, qualities, True).points == pytest.approx(1.5)
    assert judge("5%", losses, [-q for q in qualities], False).points == pytest.approx(1.5)
    assert judge("5%", losses, losses[::-1], True).spearman == pytest.approx(1.0)
    assert judge("5%", [], [], True).points is None


def test_the_best_distinct_are_within_the_budget(tmp_path: Path) -> None:
    made = contest(tmp_path)
    run(Entry("nsga2", "nsga2", (), 0, 40), made)
    limit = made.budgets["14%"]
    chosen = best_distinct(made, limit, 4)
    values = [loss for _, loss in chosen]
    assert values == sorted(set(values))
    assert all(made.problem().cost(SIZE, candidate) <= limit for candidate, _ in chosen)
