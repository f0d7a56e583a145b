"""How far the proxy can be trusted: its rank correlation with the user's metric, and the regret of
its choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import spearmanr


@dataclass(frozen=True)
class ProxyAudit:
    """The proxy against the user's metric on the candidates that were confirmed.

    Args:
        spearman: Rank correlation of loss with lost quality in [-1, 1]; None with fewer than three
            candidates or when all are equal.
        regret: Quality lost by taking the proxy's choice instead of the best confirmed one, in the
            metric's unit, at least 0.
    """

    spearman: float | None
    regret: float


def audit_proxy(
    losses: Sequence[float], qualities: Sequence[float], higher_is_better: bool
) -> ProxyAudit:
    """Judges the proxy on confirmed candidates; lower losses should go with better qualities."""
    sign = 1.0 if higher_is_better else -1.0
    scores = [sign * quality for quality in qualities]
    chosen = scores[min(range(len(losses)), key=lambda i: losses[i])]
    enough = len(scores) > 2 and len(set(scores)) > 1 and len(set(losses)) > 1
    spearman = float(spearmanr(losses, [-score for score in scores]).statistic) if enough else None
    return ProxyAudit(spearman, max(scores) - chosen)
