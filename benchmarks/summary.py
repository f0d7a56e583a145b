"""The figures of one study: rows, and medians over the seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from checks import checks, finite, median, overhead_of, price_per_candidate
from contest import OURS, SIZE, Contest, Outcome
from entries import NAMES
from regret import Regret
from score import (
    Scored,
    best_candidate,
    best_loss,
    front_volume,
    union_volume,
)

from autocompress.search.pareto import non_dominated
from autocompress.search.problem import Candidate, Floats, slack

CHECKPOINTS = (10, 25, 50, 100, 200, 500, 1000, 2000)


def score(outcomes: Sequence[Outcome], contest: Contest) -> list[Scored]:
    """Curves of every run; volumes are shares of that of all that was ever measured."""
    union = volume_of_all(contest)
    return [
        Scored(
            outcome,
            {name: best_loss(outcome, limit) for name, limit in contest.budgets.items()},
            front_volume(outcome, contest.largest, union),
            contest.price(outcome.entry.tables),
        )
        for outcome in sorted(outcomes, key=lambda o: (NAMES.index(o.entry.name), o.entry.seed))
    ]


def volume_of_all(contest: Contest) -> float:
    """Hypervolume of every loss in the memo, within the largest budget."""
    sizes, losses = _everything(contest)
    return union_volume(sizes, losses, contest.largest)


def _everything(contest: Contest) -> tuple[Floats, Floats]:
    known = contest.memo.all()
    rows = np.array(list(known), dtype=np.int64).reshape(len(known), len(contest.units))
    sizes = contest.problem().costs(SIZE, rows)
    kept = sizes <= slack(contest.largest)
    return sizes[kept], np.array(list(known.values()))[kept]


def best_known(contest: Contest) -> dict[str, float]:
    """The smallest loss that anyone met within each budget."""
    sizes, losses = _everything(contest)
    return {
        name: float(losses[sizes <= slack(limit)].min(initial=math.inf))
        for name, limit in contest.budgets.items()
    }


def rows(scored: Sequence[Scored], contest: Contest) -> list[dict[str, Any]]:
    """One line of the figures for every run."""
    return [_row(item, contest) for item in scored]


def _row(item: Scored, contest: Contest) -> dict[str, Any]:
    outcome = item.outcome
    marks = [mark for mark in CHECKPOINTS if mark <= outcome.spent * (1 + 1e-9)]
    marks = list(dict.fromkeys([*marks, outcome.spent]))
    candidates = max(outcome.proposals, 1)
    return {
        "study": contest.study,
        "entry": item.name,
        "seed": item.seed,
        "search_passes": outcome.spent,
        "work_passes": outcome.work,
        "pricing_passes": item.pricing,
        "proposals": outcome.proposals,
        "measured_within_limit": len(outcome.steps),
        "seconds": outcome.total_s,
        "price_per_candidate": outcome.spent / candidates,
        "overhead_ms": 1000 * outcome.outside_s / candidates,
        "overhead_share": outcome.outside_s / max(outcome.total_s, 1e-300),
        "kl": {name: finite(curve.after(math.inf)) for name, curve in item.losses.items()},
        "kl_after_search_passes": {
            name: {f"{mark:g}": finite(curve.after(mark)) for mark in marks}
            for name, curve in item.losses.items()
        },
        "kl_curve": {name: curve.points() for name, curve in item.losses.items()},
        "hypervolume": item.volume.after(math.inf),
        "hypervolume_after_search_passes": {
            f"{mark:g}": item.volume.after(mark) for mark in marks
        },
        "hypervolume_curve": item.volume.points(),
        "candidates": {
            name: _named(best_candidate(outcome, limit), contest)
            for name, limit in contest.budgets.items()
        },
    }


def _named(candidate: Candidate | None, contest: Contest) -> dict[str, str] | None:
    if candidate is None:
        return None
    chosen = zip(contest.units, contest.options, candidate, strict=True)
    return {unit: menu[option] for unit, menu, option in chosen}


def study_summary(
    scored: Sequence[Scored], contest: Contest, passes: float, regret: Regret | None
) -> dict[str, Any]:
    """The summary's keys, of one study; medians over the seeds.

    `kl` is of each one's whole run: ours after its passes, the others after all of theirs;
    `worst_ratio` the least over the budgets of the best other's over ours.
    """
    mine = [item for item in scored if item.name == OURS]
    names = list(dict.fromkeys(item.name for item in scored))
    kl = {
        budget: {
            name: median(i.losses[budget].after(math.inf) for i in scored if i.name == name)
            for name in names
        }
        for budget in contest.budgets
    }
    ratios = [
        min(value for name, value in line.items() if name != OURS) / max(line[OURS], 1e-300)
        for line in kl.values()
    ]
    volume_at = {
        name: {
            f"{mark:g}": median(i.volume.after(mark) for i in scored if i.name == name)
            for mark in CHECKPOINTS
            if any(i.outcome.spent * (1 + 1e-9) >= mark for i in scored if i.name == name)
        }
        for name in names
    }
    return {
        "kl": {
            budget: {name: finite(value) for name, value in line.items()}
            for budget, line in kl.items()
        },
        "worst_ratio": finite(round(min(ratios), 4)),
        "hypervolume_at": volume_at,
        "price_per_candidate": price_per_candidate(mine),
        "work_per_candidate": sum(item.outcome.work for item in mine)
        / max(sum(item.outcome.proposals for item in mine), 1),
        "overhead_ms": overhead_of(mine)[0],
        "overhead_share": overhead_of(mine)[1],
        "regret_points": None if regret is None else regret.points,
        "regret": None if regret is None else asdict(regret),
        "pricing_passes": dict(contest.pricing),
        "full_pass_ms": 1000 * contest.full_pass_s,
        "measured_candidates": len(contest.memo.all()),
        "front_of_all": front_of_all(contest),
        "checks": checks(scored, contest, passes, regret),
    }


def front_of_all(contest: Contest) -> list[list[float]]:
    """`[bytes, loss]` of the front of everything that was measured."""
    sizes, losses = _everything(contest)
    values = np.column_stack([sizes, losses])
    kept = values[non_dominated(values)]
    return [[float(size), float(loss)] for size, loss in kept[np.argsort(kept[:, 0])]]
