"""Noise bands: how far two nights may differ by chance, from what was measured in them.

A difference counts only beyond its band, which chance leaves once in a hundred (normal,
two-sided).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autocompress.study.decisions import Decisions

Z = 2.576  # normal quantile of 99.5 %
INTERVAL_Z = 1.645  # latency intervals are of 90 %
SESSIONS = 0.005  # two sessions of one graph were seen so far apart, as a share
FIT = 0.01  # the final fit moves coded bytes by less than this share
UNKNOWN = 0.005  # share of a metric's value, where nothing that was measured tells its noise
WHOLE = 0.01  # how near to a whole number a count of right decisions must come


@dataclass(frozen=True)
class Band:
    """How far two nights may differ by chance.

    Args:
        width: In the unit of what is compared.
        basis: What it was derived from.
    """

    width: float
    basis: str


def quality_band(
    before: float,
    after: float,
    unit: str,
    old: Decisions | None,
    new: Decisions | None,
    splits: tuple[float, float] | None,
) -> Band:
    """Of the user's metric on the test split.

    Where the metric is the share of right decisions, the two delivered models are compared in
    pairs if they saw the same inputs: with `d` decisions that differ, the difference of right ones
    is a sum of at most `d` signs (McNemar 1947), so its standard deviation is at most `sqrt(d)`.
    On other inputs the two shares are independent and binomial (with two successes and two
    failures added, Agresti and Coull 1998).  For other metrics the gap between original and
    delivered model was seen twice, on two disjoint splits: the two differ by noise alone.

    Args:
        before: Of the model delivered before.
        after: Of the one delivered now.
        unit: Of the metric; `%` counts in hundreds.
        old: Decisions before, where they are known.
        new: Decisions now.
        splits: For each of the two runs, how far the gap to the original differs between the
            selection split and the test split; None where they are one.
    """
    scale = 100.0 if unit == "%" else 1.0
    if old is not None and new is not None and _is_share(before, after, scale, old, new):
        if old.inputs == new.inputs and len(old.winner) == len(new.winner):
            differ = int((old.winner != new.winner).sum())
            n = len(new.winner)
            return Band(
                Z * scale * math.sqrt(differ) / n,
                f"{differ} of {n} decisions differ",
            )
        variance = sum(
            _binomial(value / scale, len(made.winner))
            for value, made in ((before, old), (after, new))
        )
        counts = f"{len(old.winner)} and {len(new.winner)}"
        return Band(Z * scale * math.sqrt(variance), f"binomial, {counts} decisions")
    if splits is not None and any(splits):
        # Each is the difference of two gaps, so it has twice the variance of one.
        variance = (splits[0] ** 2 + splits[1] ** 2) / 4
        return Band(Z * math.sqrt(2 * variance), "the gap to the original on two splits")
    width = UNKNOWN * max(abs(before), abs(after))
    return Band(width, f"nothing was measured of its noise: {UNKNOWN:.1%} of the value")


def _is_share(before: float, after: float, scale: float, old: Decisions, new: Decisions) -> bool:
    """Whether the metric is the share of right ones among the decisions that were seen."""
    for value, made in ((before, old), (after, new)):
        right = value / scale * len(made.winner)
        if not len(made.winner) or not 0 <= right <= len(made.winner) + WHOLE:
            return False
        if abs(right - round(right)) > WHOLE:
            return False
    return True


def _binomial(share: float, n: int) -> float:
    """Variance of a share of `n`."""
    moved = (share * n + 2) / (n + 4)
    return moved * (1 - moved) / n


def ratio_band(value: float, before: tuple[float, float], after: tuple[float, float]) -> Band:
    """Of a latency over the original's, from the 90 % intervals of the two nights, and from how
    far apart two sessions of one graph are.

    Args:
        value: The ratio before; the band is a share of it.
        before: Lower and upper end before.
        after: Likewise now.
    """
    logs = [math.log(high / low) / 2 / INTERVAL_Z for low, high in (before, after)]
    if not any(logs):  # no clock: prices do not scatter
        return Band(0.0, "computed from the device's table")
    noise = Z * math.hypot(*logs)
    return Band(
        value * (math.exp(math.hypot(noise, SESSIONS)) - 1),
        "the clock's intervals of both nights",
    )


def size_band(before: float) -> Band:
    """Of the bytes that ship: exact, but the final fit moves them."""
    return Band(FIT * before, f"the final fit moves bytes by up to {FIT:.0%}")


def volume_band(before: float, after: float) -> Band:
    """Of a front's hypervolume, from the standard errors over the search inputs."""
    return Band(Z * float(np.hypot(before, after)), "bootstrap over the search inputs")
