"""Non-dominated points, their hypervolume and their knee; everything is minimised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autocompress.search.problem import Candidate, Floats


def non_dominated(values: Floats) -> NDArray[np.bool_]:
    """Which rows of `values` `(n, objectives)` no other row beats.

    A row is dominated by one that is nowhere larger and somewhere smaller.  Of equal rows the
    first is kept.  Rows that hold NaN are never kept.
    """
    order = np.lexsort(values.T[::-1])
    order = order[~np.isnan(values[order]).any(axis=1)]
    front = np.zeros((0, values.shape[1]))
    result = np.zeros(len(values), dtype=np.bool_)
    if values.shape[1] == 2:
        lowest = np.minimum.accumulate(np.append(np.inf, values[order, 1]))
        result[order[values[order, 1] < lowest[:-1]]] = True
        return result
    # In lexicographic order a row can be dominated only by one that came before it.
    for index in order:
        if not (front <= values[index]).all(axis=1).any():
            result[index] = True
            front = np.vstack([front, values[index]])
    return result


def hypervolume(values: Floats, reference: Floats) -> float:
    """Volume dominated by `values` `(n, objectives)` and bounded by `reference`, exact.

    Sweeps the last objective and sums slices of one dimension less: `O(n^(objectives - 1) log n)`,
    meant for two or three objectives.
    """
    inside = values[(values < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    inside = inside[non_dominated(inside)]
    if values.shape[1] == 1:
        return float(reference[0] - inside.min())
    if values.shape[1] == 2:
        ordered = inside[np.argsort(inside[:, 0])]
        right = np.append(ordered[1:, 0], reference[0])
        return float(((right - ordered[:, 0]) * (reference[1] - ordered[:, 1])).sum())
    ordered = inside[np.argsort(inside[:, -1], kind="stable")]
    heights = np.diff(np.append(ordered[:, -1], reference[-1]))
    return float(
        sum(
            height * hypervolume(ordered[: index + 1, :-1], reference[:-1])
            for index, height in enumerate(heights)
            if height > 0
        )
    )


def from_ideal(values: Floats) -> Floats:
    """Distances `(n,)` of the rows of a front `(n, objectives)` from its ideal corner, each
    objective scaled.

    Give losses as logarithms, or the largest one hides the rest.
    """
    span = np.ptp(values, axis=0)
    scaled = (values - values.min(axis=0)) / np.where(span > 0, span, 1.0)
    return np.asarray(np.linalg.norm(scaled, axis=1))


def knee(values: Floats) -> int:
    """Row of a front `(n, objectives)` nearest to the ideal corner, as `from_ideal` measures."""
    return int(np.argmin(from_ideal(values)))


@dataclass
class Archive:
    """The non-dominated candidates so far; differences below the noise floor do not count.

    A new point enters if it dominates an archived one, or if no archived point is better or within
    the noise of it in every objective (epsilon dominance): noise does not fill the archive.

    Args:
        noise: Relative noise floor of each objective.
    """

    noise: Sequence[float]
    candidates: list[Candidate] = field(default_factory=list)
    values: list[Floats] = field(default_factory=list)

    def add(self, candidate: Candidate, values: Sequence[float]) -> bool:
        """Adds a point of `(objectives,)` values if it is a new one of the front, and says so."""
        new = np.asarray(values, dtype=np.float64)
        if np.isnan(new).any():
            return False
        room = np.asarray(self.noise)
        for old in self.values:
            # Strictly better everywhere is never noise-blocked; a near copy is.
            if (old - room * np.abs(old) <= new).all() and not (
                (new <= old).all() and (new < old).any()
            ):
                return False
        stay = [not (new <= old).all() for old in self.values]
        self.candidates = [c for c, kept in zip(self.candidates, stay, strict=True) if kept]
        self.values = [v for v, kept in zip(self.values, stay, strict=True) if kept]
        self.candidates.append(candidate)
        self.values.append(new)
        return True
