"""The front of a run: trials that no other one beats in loss, size and latency at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from autocompress.search.pareto import from_ideal, non_dominated
from autocompress.search.problem import LOSS
from autocompress.study.storage import NAMES, Record

if TYPE_CHECKING:
    import pandas as pd


LEAST_LOSS = 1e-9  # losses below this are equal


def front_of(records: Sequence[Record], names: Sequence[str] = NAMES) -> list[Record]:
    """The complete records that no other one beats in the named values, smallest file first."""
    records = [record for record in records if record.complete]
    if not records:
        return []
    values = np.array([[record.value(name) for name in names] for record in records])
    kept = [record for record, keep in zip(records, non_dominated(values), strict=True) if keep]
    return sorted(kept, key=lambda record: (record.size_bytes, record.loss))


def by_knee(records: Sequence[Record], resources: Sequence[str] = NAMES[1:]) -> list[Record]:
    """The front of loss and some resources, its knee first, then what is nearest to the ideal."""
    front = front_of(records, (LOSS, *resources))
    if not front:
        return []
    values = np.array([[record.value(name) for name in (LOSS, *resources)] for record in front])
    values[:, 0] = np.log(np.maximum(values[:, 0], LEAST_LOSS))
    return [front[place] for place in np.argsort(from_ideal(values), kind="stable")]


def table_of(records: Sequence[Record], qualities: Mapping[str, float]) -> pd.DataFrame:
    """One row a record: candidate, loss, size_bytes, latency_ms, quality, and each unit's option.

    Args:
        records: The rows, in order.
        qualities: Candidate id to the user's metric, where it was measured.
    """
    import pandas as pd

    rows = [
        {
            "candidate": record.id,
            "loss": record.loss,
            "size_bytes": round(record.size_bytes),
            "latency_ms": record.latency_ms,
            "quality": qualities.get(record.id),
            **record.choices,
        }
        for record in records
    ]
    return pd.DataFrame(rows, columns=None if rows else ["candidate", *NAMES, "quality"])


def pick(records: Sequence[Record], limits: Mapping[str, float]) -> Record | None:
    """The record with the least loss within limits on `size_bytes` and `latency_ms`, or None."""
    within = [r for r in records if all(r.value(name) <= most for name, most in limits.items())]
    return min(within, key=lambda record: (record.loss, record.id), default=None)
