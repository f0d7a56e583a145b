"""Racing: a candidate is measured part by part and dropped as soon as it is probably beaten.

The parts come in an order that is drawn anew for every batch, and the comparison with what the
candidate must beat is paired, example by example, so that a hundred examples tell apart what
differs by a few percent (in the spirit of F-Race, Birattari et al., GECCO 2002, and of EvoPress's
growing subsets, 2410.14649).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autocompress.objective.quality import Measurement, Proxy

STOPS = (1, 2, 4, 8)  # parts after which a candidate may be dropped
# By how many standard errors of the paired difference it must then be worse.  Little is lost with
# a good candidate that is dropped: most of those that a search proposes are about as good.
SURE = 0.25
LEAST_EXAMPLES = 16  # fewer say nothing of their own spread
LEAST_DOUBT = 1e-3

Outputs = Callable[[int], tuple[Tensor, float]]


def race(
    proxy: Proxy,
    outputs: Outputs,
    order: Sequence[int],
    rival: NDArray[np.float64] | None = None,
) -> Measurement:
    """Measures a candidate on growing parts of the inputs.

    Args:
        proxy: Scores outputs.
        outputs: Gives the candidate's outputs on a part, and which share of a whole run they cost.
        order: The parts, in the order in which they are measured.
        rival: `(n,)` loss of each example of what the candidate must beat; None measures all.

    Returns:
        A complete measurement, or an estimate: the rival's mean times the ratio of the two on the
        examples that were measured.
    """
    count = len(proxy.inputs[0])
    samples = np.full(count, np.nan)
    passes, known = 0.0, 0
    for done, part in enumerate(order, 1):
        rows = proxy.parts[part]
        given, share = outputs(part)
        samples[rows] = proxy.score(given, rows)
        passes += share * (rows.stop - rows.start) / count
        known += rows.stop - rows.start
        if rival is not None and done in STOPS and known < count:
            measured = np.isfinite(samples)
            if _beaten(samples[measured], rival[measured]):
                return _estimated(proxy, samples, rival, passes)
    return proxy.measured(samples, passes)


def _beaten(mine: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    if len(mine) < LEAST_EXAMPLES:
        return False
    worse = mine - others
    return bool(worse.mean() > SURE * worse.std(ddof=1) / len(worse) ** 0.5)


def _estimated(
    proxy: Proxy, samples: NDArray[np.float64], rival: NDArray[np.float64], passes: float
) -> Measurement:
    """The ratio estimate and its relative standard error (Cochran, Sampling Techniques, 6.4)."""
    known = np.isfinite(samples)
    mine, others = samples[known], rival[known]
    ratio = float(mine.mean() / max(others.mean(), 1e-300))
    left = 1 - len(mine) / len(samples)
    error = float((mine - ratio * others).std(ddof=1) * (left / len(mine)) ** 0.5)
    doubt = max(error / max(float(mine.mean()), 1e-300), LEAST_DOUBT)
    part = proxy.measured(samples, passes, doubt)
    return Measurement(
        ratio * float(rival.mean()),
        part.unit,
        part.direction,
        part.spread,
        samples,
        passes,
        doubt,
    )
