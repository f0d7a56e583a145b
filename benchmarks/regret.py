"""Regret of the proxy: what the user's metric loses by confirming only the proxy's best few."""

from __future__ import annotations

import math
from dataclasses import dataclass

from contest import SIZE, Contest
from scipy.stats import spearmanr

from autocompress.search.problem import Candidate, slack
from autocompress.study.prepare import Prepared

TOP = 5  # candidates that a study would confirm


@dataclass(frozen=True)
class Regret:
    """The proxy against the metric on the best candidates at one budget.

    Args:
        budget: As the user wrote it.
        confirmed: Number of candidates.
        points: Best metric of all less the best of the `TOP` by proxy, at least 0; in the metric's
            unit.
        spearman: Rank correlation of loss with lost quality; None when either is constant.
        losses: Of the candidates, ascending.
        qualities: Metric of each on the selection split.
    """

    budget: str
    confirmed: int
    points: float | None
    spearman: float | None
    losses: tuple[float, ...]
    qualities: tuple[float, ...]


def measure_regret(prepared: Prepared, contest: Contest, count: int) -> Regret:
    """Confirms the best candidates known under the middle budget, with distinct losses."""
    budgets = list(contest.budgets)
    budget = budgets[len(budgets) // 2]
    chosen = best_distinct(contest, contest.budgets[budget], count)
    qualities = []
    for candidate, _ in chosen:
        choices = dict(prepared.space.candidate(candidate).choices)
        model = prepared.stitcher.stitch(choices)
        qualities.append(prepared.study.task.evaluate(model, "selection"))
    losses = [loss for _, loss in chosen]
    return judge(budget, losses, qualities, prepared.study.higher_is_better)


def best_distinct(contest: Contest, limit: float, count: int) -> list[tuple[Candidate, float]]:
    """Known candidates within a budget and their losses, the smallest first, no loss twice."""
    problem = contest.problem()
    found: dict[float, Candidate] = {}
    for candidate, loss in sorted(contest.memo.all().items(), key=lambda item: item[::-1]):
        if problem.cost(SIZE, candidate) <= slack(limit):
            found.setdefault(loss, candidate)
        if len(found) == count:
            break
    return [(candidate, loss) for loss, candidate in found.items()]


def judge(
    budget: str, losses: list[float], qualities: list[float], higher_is_better: bool
) -> Regret:
    """The regret of taking the best of the first `TOP`; losses ascend."""
    sign = 1.0 if higher_is_better else -1.0
    scores = [sign * quality for quality in qualities]
    points = max(scores) - max(scores[:TOP]) if scores else None
    varied = len(set(scores)) > 1 and len(set(losses)) > 1
    spearman = float(spearmanr(losses, [-s for s in scores]).statistic) if varied else None
    if spearman is not None and math.isnan(spearman):
        spearman = None
    return Regret(budget, len(losses), points, spearman, tuple(losses), tuple(qualities))
