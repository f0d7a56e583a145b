"""Which of many candidates to evaluate next: expected gain under the surrogate, in batches."""

from __future__ import annotations

from collections.abc import Sequence

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


def pick(
    model: Surrogate,
    rows: Integers,
    owners: NDArray[np.str_],
    wanted: Sequence[str],
    best: float,
) -> list[int]:
    """Indices of one row for each of `wanted`, best first of those that its owner proposed.

    After each pick the deviations shrink as if it had been measured and met the mean (GP-BUCB,
    1206.6402), so that a batch does not hold near copies.

    Args:
        model: Posterior of the log loss.
        rows: Candidates `(n, units)`.
        owners: `(n,)` which move proposed each.
        wanted: Moves to choose from, in order; one that has no row left gives its turn to all.
        best: Log loss to improve on.
    """
    mean, deviation, white = model.predict(rows)
    variance = deviation**2
    open_: NDArray[np.bool_] = np.ones(len(rows), dtype=np.bool_)
    shared: list[tuple[Floats, float]] = []
    picked: list[int] = []
    for owner in wanted[: len(rows)]:
        # What no term explains is not noise of a measurement: it can be gained.
        spread = np.sqrt(np.maximum(variance, 1e-12) + model.noise)
        # Ties at zero gain, far from the best, are broken by the mean.
        score = expected_improvement(mean, spread, best) - 1e-9 * mean
        mine = open_ & (owners == owner)
        index = int(np.argmax(np.where(mine if mine.any() else open_, score, -np.inf)))
        picked.append(index)
        open_[index] = False
        column = model.covariances(rows, white, index)
        for earlier, scale in shared:
            column = column - earlier * earlier[index] / scale
        scale = max(float(variance[index]), 1e-12) + model.noise
        variance = variance - column**2 / scale
        shared.append((column, scale))
    return picked
