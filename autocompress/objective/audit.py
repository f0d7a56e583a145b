"""How far the proxy can be trusted: its rank correlation with the user's metric, and the regret of
its choice.

Correlation alone does not judge a proxy: one with a Spearman of 0.97 can still choose badly, since
a search exploits its errors.  The regret of the choice decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import spearmanr

SHARE = 0.2  # of the quality that may be lost: what a choice may regret
# Steps of the metric that a choice may regret: of more than three examples that only one of two
# models gets right, all are the better one's with a chance of 1 in 16 if the models are equal.
STEPS = 3
LOW = 0.5  # a Spearman whose 95 % upper bound is less than this is low
EQUAL = 1e-6  # share of the spread below which two qualities are equal


@dataclass(frozen=True)
class ProxyAudit:
    """The proxy against the user's metric on the candidates that were confirmed.

    Args:
        spearman: Rank correlation of loss with lost quality in [-1, 1]; None with fewer than three
            candidates or when all are equal.
        regret: Quality lost by taking the proxy's choice instead of the best confirmed one, in the
            metric's unit, at least 0.
        tolerance: The most regret that says nothing against the proxy, in the same unit.
        warning: What is wrong, as a sentence; empty when nothing is.
    """

    spearman: float | None
    regret: float
    tolerance: float
    warning: str

    @property
    def misleads(self) -> bool:
        return bool(self.warning)


def audit_proxy(
    losses: Sequence[float],
    qualities: Sequence[float],
    higher_is_better: bool,
    allowed: float = 0.0,
    peers: int = 0,
) -> ProxyAudit:
    """Judges the proxy on confirmed candidates; lower losses should go with better qualities.

    It misleads where its choice regrets more than `SHARE` of `allowed` and more than `STEPS` steps
    of the metric, or where its ranks are clearly wrong over a spread of twice that.  The step of a
    metric that counts examples shows in the qualities: all differences are multiples of it.

    Args:
        losses: Proxy loss of each candidate.
        qualities: Metric of each.
        higher_is_better: Direction of the metric.
        allowed: How much quality may be lost, in the metric's unit.
        peers: So many of the first candidates were meant for the same limits; what the proxy
            chooses among these counts as well as what it chooses among all.
    """
    scores = [quality if higher_is_better else -quality for quality in qualities]
    regret = max(_regret(losses[:count], scores[:count]) for count in (peers or None, None))
    enough = len(scores) > 2 and len(set(scores)) > 1 and len(set(losses)) > 1
    spearman = float(spearmanr(losses, [-score for score in scores]).statistic) if enough else None
    tolerance = max(SHARE * allowed, STEPS * step(scores))
    return ProxyAudit(spearman, regret, tolerance, _warning(scores, spearman, regret, tolerance))


def _regret(losses: Sequence[float], scores: Sequence[float]) -> float:
    return max(scores) - scores[min(range(len(losses)), key=lambda i: losses[i])]


def _warning(
    scores: Sequence[float], spearman: float | None, regret: float, tolerance: float
) -> str:
    if regret > tolerance * (1 + EQUAL):
        return (
            f"the proxy misleads: the candidate that it likes best is {regret:.4g} worse by the"
            f" metric than the best one that was measured ({tolerance:.4g} is tolerated)"
        )
    if spearman is None or max(scores) - min(scores) <= 2 * tolerance:
        return ""
    upper = spearman + 1.645 / (len(scores) - 1) ** 0.5
    if upper >= LOW:
        return ""
    return (
        f"the proxy misleads: over {len(scores)} candidates its ranks do not go with those of the"
        f" metric (Spearman {spearman:.2f})"
    )


def step(values: Sequence[float]) -> float:
    """The largest number of which all differences are multiples; 0 when all values are equal.

    For a share of `n` examples that is `1 / n` or a multiple; for a continuous metric next to
    nothing.
    """
    low, spread = min(values), max(values) - min(values)
    found = 0.0
    for value in values:
        # Euclid's algorithm, with room for rounding.
        rest = value - low
        while rest > EQUAL * spread:
            ratio = found / rest
            found, rest = rest, abs(found - rest * round(ratio))
    return found
