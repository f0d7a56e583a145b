"""What an outcome is worth: best loss within a budget, and hypervolume of the front, over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from contest import OURS, Outcome

from autocompress.search.pareto import hypervolume
from autocompress.search.problem import Candidate, Floats, slack

WORST_KL = 2.0  # nats: nothing above counts
LEAST_KL = 1e-6  # nats: nothing below counts for more
ROOM = 1.25  # times the largest budget is where the front ends, one step of the ladder further
SAME = 1e-4  # losses nearer than this, relative, are a tie: batches differ in their rounding


@dataclass(frozen=True)
class Curve:
    """A value that only gets better, and when it did.

    Args:
        passes: Full passes `(n,)` at each improvement.
        seconds: Seconds `(n,)` at each improvement.
        values: The value `(n,)` from then on.
        start: The value before the first.
    """

    passes: Floats
    seconds: Floats
    values: Floats
    start: float

    def after(self, passes: float) -> float:
        """The value after at most so many passes."""
        count = int(np.searchsorted(self.passes, passes * (1 + 1e-9), side="right"))
        return float(self.values[count - 1]) if count else self.start

    def points(self) -> list[list[float]]:
        """`[passes, seconds, value]` of every improvement, as JSON."""
        table = np.column_stack([self.passes, self.seconds, self.values])
        return [[float(f"{number:.6g}") for number in line] for line in table]


def best_loss(outcome: Outcome, limit: float) -> Curve:
    """The smallest loss within a budget; infinite at first."""
    fits = outcome.sizes <= slack(limit)
    losses = outcome.losses[fits]
    lowest = np.minimum.accumulate(np.append(np.inf, losses))
    better = losses < lowest[:-1]
    return Curve(
        outcome.passes[fits][better], outcome.seconds[fits][better], losses[better], math.inf
    )


def best_candidate(outcome: Outcome, limit: float) -> Candidate | None:
    """The candidate behind the last value of `best_loss`."""
    fits = np.flatnonzero(outcome.sizes <= slack(limit))
    return outcome.steps[fits[np.argmin(outcome.losses[fits])]] if len(fits) else None


def logs(sizes: Floats, losses: Floats) -> Floats:
    """Points `(n, 2)` of the plane that hypervolumes are taken in."""
    return np.column_stack([np.log(sizes), np.log(np.maximum(losses, LEAST_KL))])


def reference(largest: float) -> Floats:
    """The corner `(2,)` of that plane."""
    return np.log([ROOM * largest, WORST_KL])


def front_volume(outcome: Outcome, largest: float, union: float) -> Curve:
    """Hypervolume of the front so far, as a share of the union's."""
    points, corner = logs(outcome.sizes, outcome.losses), reference(largest)
    front = np.zeros((0, 2))
    places, values = [], []
    for number, point in enumerate(points):
        if (front <= point).all(axis=1).any() or (point >= corner).any():
            continue
        front = np.vstack([front[~(point <= front).all(axis=1)], point])
        places.append(number)
        values.append(hypervolume(front, corner) / union)
    return Curve(outcome.passes[places], outcome.seconds[places], np.array(values), 0.0)


def union_volume(sizes: Floats, losses: Floats, largest: float) -> float:
    """Hypervolume of everything that was ever measured."""
    return hypervolume(logs(sizes, losses), reference(largest))


@dataclass(frozen=True)
class Scored:
    """A run with its curves.

    Args:
        outcome: The run.
        losses: Best loss by budget.
        volume: Share of the union's hypervolume.
        pricing: Full passes that its tables took before the first step.
    """

    outcome: Outcome
    losses: Mapping[str, Curve]
    volume: Curve
    pricing: float

    @property
    def name(self) -> str:
        return self.outcome.entry.name

    @property
    def seed(self) -> int:
        return self.outcome.entry.seed


@dataclass(frozen=True)
class Comparison:
    """How often ours was better than the best other one, over budgets and seeds.

    Args:
        better: Times that our loss was smaller.
        tied: Times that both were the same.
        worse: Times that it was larger.
        least: The least of the other's loss over ours; above 1 is better.
        where: Budget, seed and name of the other one at that least.
    """

    better: int
    tied: int
    worse: int
    least: float
    where: str

    @property
    def never_worse(self) -> bool:
        return not self.worse

    @property
    def always_better(self) -> bool:
        return not self.worse and not self.tied


def compare(
    scored: Sequence[Scored],
    budgets: Sequence[str],
    passes: float,
    rival_passes: float,
    with_pricing: bool = False,
) -> Comparison:
    """Ours after some passes against each other one's after some.

    A contestant without chance stands against every seed; the others against their own.

    Args:
        scored: All runs of one study.
        budgets: Those that are compared.
        passes: Of ours.
        rival_passes: Of each other one; infinite for all that it did.
        with_pricing: Whether both begin with the passes that their tables took: one that reads
            none gets so many more.
    """
    better = tied = worse = 0
    least, where = math.inf, ""
    for ours in (item for item in scored if item.name == OURS):
        for budget in budgets:
            mine = ours.losses[budget].after(passes)
            others = [item for item in scored if item.name != OURS and item.seed in (0, ours.seed)]
            chance = {item.name for item in others if item.seed == ours.seed}
            others = [o for o in others if o.seed == ours.seed or o.name not in chance]
            found = {}
            for other in others:
                more = ours.pricing - other.pricing if with_pricing else 0.0
                found[other.name] = other.losses[budget].after(rival_passes + more)
            name = min(found, key=lambda key: found[key])
            ratio = _ratio(found[name], mine)
            better += ratio > 1 + SAME
            worse += ratio < 1 - SAME
            tied += abs(ratio - 1) <= SAME
            if ratio < least:
                least, where = ratio, f"{budget}, seed {ours.seed}, {name}"
    return Comparison(better, tied, worse, least, where)


def _ratio(other: float, mine: float) -> float:
    if other == mine:
        return 1.0  # both zero, or both found nothing
    return other / mine if mine > 0 else math.inf
