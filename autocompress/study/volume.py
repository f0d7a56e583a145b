"""The hypervolume of a run's front on scales that do not move from run to run, and its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.search.pareto import hypervolume
from autocompress.study.finalist import original_of
from autocompress.study.prepare import Prepared
from autocompress.study.storage import Record

Floats = NDArray[np.float64]

# Losses from a millionth of a nat, where a model cannot be told from the original, to ten nats.
LEAST_LOSS, MOST_LOSS = 1e-6, 10.0
DRAWS = 50  # of the search inputs, for the noise
CORNER = 1.1  # so that what costs as much as the original still counts


@dataclass(frozen=True)
class Volume:
    """What a front dominates.

    Args:
        hypervolume: As a share of the box from nothing to the original's size and latency, and
            over the logarithm of the loss; 0 is no front, 1 all that could be.
        spread: Its standard error over the search inputs, from a paired bootstrap: every draw
            takes the same inputs for all candidates.
        points: Candidates of the front.
    """

    hypervolume: float
    spread: float
    points: int


def front_volume(prepared: Prepared, front: Sequence[Record]) -> Volume:
    """The hypervolume of the complete records of a front."""
    if not front:
        return Volume(0.0, 0.0, 0)
    costs = np.array([[record.size_bytes, record.latency_ms] for record in front])
    costs /= [original_of(prepared).size_bytes, prepared.latency.predict({})]
    losses = np.array([record.loss for record in front])
    samples = [record.samples for record in front]
    generator = np.random.default_rng([prepared.study.settings.seed, 5])
    return volume_of(losses, costs, samples, generator)


def volume_of(
    losses: Floats, costs: Floats, samples: Sequence[Floats], generator: np.random.Generator
) -> Volume:
    """The hypervolume of a front and its standard error.

    Args:
        losses: `(n,)`.
        costs: `(n, costs)` as shares of the original's.
        samples: `(examples,)` losses of each candidate on the same inputs; without them, or with
            fewer than two, the noise is taken as none.
        generator: Draws the inputs.
    """
    value = _volume(losses, costs)
    lengths = {len(row) for row in samples}
    if len(lengths) != 1 or max(lengths) < 2:
        return Volume(value, 0.0, len(losses))
    table = np.stack(list(samples))
    drawn = generator.integers(table.shape[1], size=(DRAWS, table.shape[1]))
    values = [_volume(table[:, rows].mean(axis=1), costs) for rows in drawn]
    return Volume(value, float(np.std(values, ddof=1)), len(losses))


def _volume(losses: Floats, costs: Floats) -> float:
    span = np.log10(MOST_LOSS / LEAST_LOSS)
    logs = np.log10(np.clip(losses, LEAST_LOSS, MOST_LOSS) / LEAST_LOSS) / span
    points = np.column_stack([logs, costs])
    return hypervolume(points, np.full(points.shape[1], CORNER)) / float(CORNER ** points.shape[1])
