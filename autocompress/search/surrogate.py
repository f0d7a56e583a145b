"""Gaussian process on what an additive table gets wrong: `log F - log S` at told candidates.

Options push the outputs by vectors `d_u`; a mean KL is nearly a squared length, so with table
entries `c_u ~ |d_u|^2` and shares `p_u = c_u / S`, `F / S ~ sum_uv sqrt(p_u p_v) cos(d_u, d_v)`.
Unknown cosines make the covariance of two candidates the square of an overlap
`q(x, y) = sum_u sqrt(p_u(x) p_u(y)) G_u(x_u, y_u)`, where `G_u` says how alike two options of a
unit are.  A smooth term in `log S` holds the growth beyond additivity under hard compression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from autocompress.search.problem import Floats, Integers, Tables

# Prior strength of each term relative to the others, and the decades allowed around it.
_PRIOR = np.array([1.0, 0.5, 0.3, 0.3, 0.3, 0.003])
_DECADES = 1.0
_LENGTH = np.log(4.0)  # of the similarity of two options, in log loss
_LENGTH_SUM = 1.5  # of the term in log S


@dataclass(frozen=True, eq=False)
class Features:
    """What the covariance needs: log sums `(n,)`, root shares and options `(n, units)`."""

    log_sum: Floats
    roots: Floats
    options: Integers


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Posterior of the log loss given told trials.

    Args:
        table: Additive table, floored, `(options,)` per unit.
        alike: For each unit the likeness `(options, options)` of its options.
        strengths: Variance of the terms of the covariance relative to each other, noise last.
        weights: Variance of the terms of the covariance, noise last.
        features: Of the told candidates.
        factor: Lower Cholesky factor `(n, n)` of their covariance.
        solved: `(n,)` covariance inverse times the centred residuals.
        centre: Mean residual that the prior starts from.
        evidence: Log marginal likelihood; larger is a better table.
    """

    table: tuple[Floats, ...]
    alike: tuple[Floats, ...]
    strengths: Floats
    weights: Floats
    features: Features
    factor: Floats
    solved: Floats
    centre: float
    evidence: float

    def predict(self, candidates: Integers) -> tuple[Floats, Floats, Floats]:
        """Mean and standard deviation `(n,)` of the log loss, and whitened rows `(n, told)`."""
        features = describe(self.table, candidates)
        cross = _covariance(features, self.features, self.alike) @ self.weights[:-1]
        mean = features.log_sum + self.centre + cross @ self.solved
        white = solve_triangular(self.factor, cross.T, lower=True).T
        prior = _diagonal(features) @ self.weights[:-1]
        return mean, np.sqrt(np.maximum(prior - (white**2).sum(axis=1), 1e-12)), white

    def covariances(self, candidates: Integers, white: Floats, index: int) -> Floats:
        """Posterior covariance `(n,)` of all candidates with the one at `index`."""
        features = describe(self.table, candidates)
        one = describe(self.table, candidates[index : index + 1])
        prior = (_covariance(features, one, self.alike) @ self.weights[:-1])[:, 0]
        return np.asarray(prior - white @ white[index], dtype=np.float64)

    @property
    def noise(self) -> float:
        """Variance of the log loss that no term explains."""
        return float(self.weights[-1])


def floored(table: Tables) -> tuple[Floats, ...]:
    """A table with a small positive floor, so that logarithms of losses exist."""
    finite = np.concatenate([values[np.isfinite(values) & (values > 0)] for values in table])
    floor = 1e-5 * float(np.median(finite)) if len(finite) else 1e-12
    return tuple(np.maximum(values, floor) for values in table)


def describe(table: Tables, candidates: Integers) -> Features:
    """Features of candidates `(n, units)` under a floored table."""
    losses = np.stack([values[candidates[:, u]] for u, values in enumerate(table)], axis=1)
    total = losses.sum(axis=1)
    return Features(np.log(total), np.sqrt(losses / total[:, None]), candidates)


def fit(
    table: Tables, candidates: Integers, losses: Floats, strengths: Floats | None = None
) -> Surrogate:
    """The posterior; the strengths of the terms by type-II maximum likelihood unless given.

    Args:
        table: Additive table, `(options,)` per unit; no candidate may have an infinite entry.
        candidates: Told candidates `(n, units)`.
        losses: Their measured losses `(n,)`, finite; floored where zero.
        strengths: Those of an earlier fit; skips the costly part.
    """
    table = floored(table)
    alike = tuple(_alike(values) for values in table)
    features = describe(table, candidates)
    floor = min(float(values.min()) for values in table)
    residual = np.log(np.maximum(losses, floor)) - features.log_sum
    # The median resists the few candidates where the outputs have saturated.
    centre = float(np.median(residual))
    residual = residual - centre
    terms = _covariance(features, features, alike)
    spread = float(np.mean(residual**2)) + 1e-4
    if strengths is None:
        strengths = _strengths(terms, residual, spread)
    factor = _factor(terms, strengths)
    scale = _scale(factor, residual, strengths, spread)
    # Scaling the covariance scales its factor; no second decomposition is needed.
    factor = factor * np.sqrt(scale)
    solved = cho_solve((factor, True), residual)
    evidence = _evidence(terms, residual, strengths, spread)
    return Surrogate(
        table, alike, strengths, strengths * scale, features, factor, solved, centre, evidence
    )


def _strengths(terms: Floats, residual: Floats, spread: float) -> Floats:
    """Coordinate search on the evidence, in factors of ten, then of three."""
    strengths = _PRIOR.copy()
    best = _evidence(terms, residual, strengths, spread)
    for step in (10.0, 3.0):
        for index in range(len(strengths)):
            for factor in (step, 1 / step):
                trial = strengths.copy()
                trial[index] *= factor
                value = _evidence(terms, residual, trial, spread)
                if value > best:
                    best, strengths = value, trial
    return strengths


def _alike(values: Floats) -> Floats:
    finite = np.where(np.isfinite(values), values, values[np.isfinite(values)].max())
    distance = np.log(finite)[:, None] - np.log(finite)[None, :]
    return np.asarray(np.exp(-0.5 * (distance / _LENGTH) ** 2), dtype=np.float64)


def _covariance(left: Features, right: Features, alike: Sequence[Floats]) -> Floats:
    """Terms `(n, m, 5)`: constant, log sum, squared overlaps by unit, likeness, identity."""
    every = left.roots @ right.roots.T
    near, same = np.zeros_like(every), np.zeros_like(every)
    for unit, likeness in enumerate(alike):
        rows, columns = left.options[:, unit], right.options[:, unit]
        # One row per option, then looked up: the menu is short, the candidates are many.
        close = likeness[:, columns] * right.roots[:, unit]
        equal = (np.arange(len(likeness))[:, None] == columns) * right.roots[:, unit]
        near += left.roots[:, unit, None] * close[rows]
        same += left.roots[:, unit, None] * equal[rows]
    distance = left.log_sum[:, None] - right.log_sum[None, :]
    smooth = np.exp(-0.5 * (distance / _LENGTH_SUM) ** 2)
    return np.stack([np.ones_like(every), smooth, every**2, near**2, same**2], axis=-1)


def _diagonal(features: Features) -> Floats:
    return np.ones((len(features.log_sum), 5))


def _factor(terms: Floats, weights: Floats) -> Floats:
    matrix = terms @ weights[:-1]
    matrix[np.diag_indices_from(matrix)] += weights[-1] + 1e-8 * weights.sum()
    return np.asarray(cholesky(matrix, lower=True), dtype=np.float64)


def _scale(factor: Floats, residual: Floats, strengths: Floats, spread: float) -> float:
    """Overall variance: what the data say, held near the raw spread by two pseudo-observations."""
    white = solve_triangular(factor, residual, lower=True)
    return float((white @ white + 2 * spread / strengths.sum()) / (len(residual) + 2))


def _evidence(terms: Floats, residual: Floats, strengths: Floats, spread: float) -> float:
    factor = _factor(terms, strengths)
    scale = _scale(factor, residual, strengths, spread)
    prior = 0.5 * (np.log10(strengths / _PRIOR) ** 2).sum() / _DECADES**2
    count = len(residual)
    return float(-0.5 * count * np.log(scale) - np.log(np.diag(factor)).sum() - prior)


def blend(tables: Sequence[Tables]) -> tuple[Floats, ...]:
    """Geometric mean of several tables, entry by entry; infinite where one of them is."""
    floors = [floored(table) for table in tables]
    return tuple(
        np.exp(np.mean([np.log(values) for values in unit], axis=0))
        for unit in zip(*floors, strict=True)
    )
