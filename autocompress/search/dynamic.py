"""Dynamic programme over buckets of one resource: the best choice for every budget in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.search.problem import Candidate, Floats, Tables, slack

BUCKETS = 10_000


@dataclass(frozen=True, eq=False)
class BudgetCurve:
    """Best additive loss for every budget up to the largest.

    Args:
        budgets: `(buckets + 1,)` budgets, ascending, constant included.
        losses: `(buckets + 1,)` smallest additive loss in each budget; infinite where none fits.
        choices: `(units, buckets + 1)` option of a unit when so much is left for the first units.
        steps: For each unit the bucket cost `(options,)` of its options.
    """

    budgets: Floats
    losses: Floats
    choices: NDArray[np.int16]
    steps: tuple[NDArray[np.int64], ...]

    def candidate(self, limit: float) -> Candidate | None:
        """The best candidate within `limit`, or None when none fits."""
        bucket = int(np.searchsorted(self.budgets, slack(limit), side="right")) - 1
        if bucket < 0 or not np.isfinite(self.losses[bucket]):
            return None
        chosen: list[int] = []
        for unit in range(len(self.steps) - 1, -1, -1):
            option = int(self.choices[unit, bucket])
            chosen.append(option)
            bucket -= int(self.steps[unit][option])
        return tuple(reversed(chosen))


def budget_curve(
    losses: Tables,
    costs: Sequence[Floats],
    largest: float,
    constant: float = 0.0,
    buckets: int = BUCKETS,
) -> BudgetCurve:
    """Solves all budgets up to `largest` (SPDY, 2201.13096, Algorithm 1).

    Costs are rounded up to whole buckets, so a candidate never costs more than its budget; it may
    leave up to one bucket per unit unspent.  Whole-number costs with a small range stay exact.

    Args:
        losses: For each unit the loss `(options,)`; infinite forbids the option.
        costs: For each unit the cost `(options,)`, any finite number.
        largest: Largest budget of interest, in the unit of the costs.
        constant: Cost of every candidate.
        buckets: Number of budgets; time and memory grow with `units * options * buckets`.
    """
    least = [
        float(cost[np.isfinite(loss)].min()) for loss, cost in zip(losses, costs, strict=True)
    ]
    shifted = [cost - low for cost, low in zip(costs, least, strict=True)]
    floor = constant + sum(least)
    most = sum(
        float(cost[np.isfinite(loss)].max()) for loss, cost in zip(losses, shifted, strict=True)
    )
    room = min(max(slack(largest) - floor, 0.0), most)
    whole = all(np.array_equal(cost, np.round(cost)) for cost in shifted)
    width = 1.0 if whole and 0 < room <= buckets else room / buckets if room > 0 else 1.0
    count = int(np.ceil(room / width - 1e-9)) if room > 0 else 0
    steps = tuple(np.ceil(cost / width).astype(np.int64) for cost in shifted)
    best = np.zeros(count + 1)
    choices = np.zeros((len(losses), count + 1), dtype=np.int16)
    for unit, (loss, step) in enumerate(zip(losses, steps, strict=True)):
        nearer = np.full(count + 1, np.inf)
        for option in np.flatnonzero(np.isfinite(loss) & (step <= count)):
            start = int(step[option])
            value = best[: count + 1 - start] + loss[option]
            better = value < nearer[start:]
            nearer[start:][better] = value[better]
            choices[unit, start:][better] = option
        best = nearer
    return BudgetCurve(
        floor + width * np.arange(count + 1, dtype=np.float64), best, choices, steps
    )
