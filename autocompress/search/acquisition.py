"""Which of many candidates to evaluate next: expected gain under the surrogate, in batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from autocompress.search.problem import Floats, Integers
from autocompress.search.surrogate import Surrogate


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Expected fall `(n,)` below `best`, all in log loss."""
    z = (best - mean) / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(deviation * (z * ndtr(z) + density), dtype=np.float64)


def likely_gain(
    mean: Floats, deviation: Floats, limit: float, costs: Floats, best: float
) -> Floats:
    """Cost saved `(n,)` against `best` times the probability that the log loss keeps `limit`."""
    kept = ndtr((limit - mean) / deviation)
    saved = (best - costs) / max(abs(best), 1e-300)
    return np.asarray(np.maximum(saved, 0.0) * kept, dtype=np.float64)


def pick(
    model: Surrogate,
    rows: Integers,
    count: int,
    best: float,
    costs: Floats | None = None,
    limit: float = np.inf,
) -> list[int]:
    """Indices of up to `count` rows, best first.

    After each pick the deviations shrink as if it had been measured and met the mean (GP-BUCB,
    1206.6402), so that a batch does not hold near copies.

    Args:
        model: Posterior of the log loss.
        rows: Candidates `(n, units)`.
        count: Most picks.
        best: Best log loss so far; with `costs` the smallest cost so far.
        costs: Costs `(n,)` when a cost is minimised under a limit on the loss.
        limit: That limit, as log loss.
    """
    mean, deviation, white = model.predict(rows)
    variance = deviation**2
    open_: NDArray[np.bool_] = np.ones(len(rows), dtype=np.bool_)
    shared: list[tuple[Floats, float]] = []
    picked: list[int] = []
    for _ in range(min(count, len(rows))):
        spread = np.sqrt(np.maximum(variance, 1e-12))
        if costs is None:
            # Ties at zero gain, far from the best, are broken by the mean.
            score = expected_improvement(mean, spread, best) - 1e-9 * mean
        else:
            score = likely_gain(mean, spread, limit, costs, best) - 1e-9 * mean
        index = int(np.argmax(np.where(open_, score, -np.inf)))
        picked.append(index)
        open_[index] = False
        column = model.covariances(rows, white, index)
        for earlier, scale in shared:
            column = column - earlier * earlier[index] / scale
        scale = max(float(variance[index]), 1e-12) + model.noise
        variance = variance - column**2 / scale
        shared.append((column, scale))
    return picked
