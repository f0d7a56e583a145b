"""What the project promises of its search, and whether a study bears it out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from contest import OURS, Contest
from regret import Regret
from score import Comparison, Scored, compare

EARLY = 50  # passes of ours that must beat all passes of the others
SHARE = 0.99  # of the union's hypervolume that ours must reach
CHEAP = 0.3  # passes, the most that a candidate of ours may cost
QUICK_MS, LEAN = 2.0, 0.05  # the most outside forward passes: per candidate, and as a share
NEAR_POINTS = 0.1  # the largest regret of the proxy


def checks(
    scored: Sequence[Scored], contest: Contest, passes: float, regret: Regret | None
) -> dict[str, Any]:
    """What the project promises of its search, each with the figures behind it.

    Args:
        scored: All runs of the study.
        contest: The study.
        passes: Search passes of ours.
        regret: The proxy against the metric; None when it was not measured.
    """
    budgets = list(contest.budgets)
    mine = [item for item in scored if item.name == OURS]
    early, volume_at = min(EARLY, passes), passes
    volumes = [item.volume.after(volume_at) for item in mine]
    price = price_per_candidate(mine)
    overhead, share = overhead_of(mine)
    points = None if regret is None else regret.points
    return {
        "equal_search_passes": {
            f"{mark:g}": _plain(compare(scored, budgets, mark, mark))
            for mark in dict.fromkeys((early, (early + passes) / 2, passes))
        },
        "equal_search_and_pricing_passes": _plain(
            compare(scored, budgets, passes, passes, with_pricing=True)
        ),
        f"ours_after_{early:g}_others_after_all": _plain(
            compare(scored, budgets, early, math.inf)
        ),
        f"hypervolume_after_{volume_at:g}": {
            "least": min(volumes),
            "holds": min(volumes) >= SHARE,
        },
        "price_per_candidate": {"value": price, "holds": price <= CHEAP},
        "overhead": {
            "ms": overhead,
            "share": share,
            "holds": overhead <= QUICK_MS and share <= LEAN,
        },
        "regret_points": {
            "value": points,
            "holds": None if points is None else points <= NEAR_POINTS,
        },
    }


def _plain(comparison: Comparison) -> dict[str, Any]:
    return {
        **asdict(comparison),
        "least": finite(comparison.least),
        "never_worse": comparison.never_worse,
        "always_better": comparison.always_better,
    }


def price_per_candidate(mine: Sequence[Scored]) -> float:
    """Mean search passes of a candidate, over all seeds."""
    return sum(item.outcome.spent for item in mine) / max(
        sum(item.outcome.proposals for item in mine), 1
    )


def overhead_of(mine: Sequence[Scored]) -> tuple[float, float]:
    """Milliseconds outside forward passes per candidate, and their share of the search's time."""
    outside = sum(item.outcome.outside_s for item in mine)
    total = sum(item.outcome.total_s for item in mine)
    proposals = max(sum(item.outcome.proposals for item in mine), 1)
    return 1000 * outside / proposals, outside / max(total, 1e-300)


def median(values: Iterable[float]) -> float:
    """Over seeds; a run that found nothing counts as infinite."""
    return statistics.median(list(values))


def finite(value: float) -> float | None:
    """A number that JSON can hold."""
    return value if math.isfinite(value) else None
