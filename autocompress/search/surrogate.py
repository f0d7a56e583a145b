"""Gaussian process on what a landscape gets wrong: `log F - log S` at told candidates.

Options push the outputs by vectors `d_u`; a mean KL is nearly a squared length, so with table
entries `c_u ~ |d_u|^2` and their sum `S`, `F / S ~ sum_uv sqrt(c_u c_v) cos(d_u, d_v) / S`.
Unknown cosines make the covariance of two candidates the square of an overlap
`q(x, y) = sum_u sqrt(c_u(x) c_u(y)) G_u(x_u, y_u) / sqrt(S(x) S(y))`, where `G_u` says how alike
two options of a unit are.  A smooth term in `log S` holds the growth beyond additivity under hard
compression.

Overlaps are sums over units, so one table a told candidate, `(options of all units,)`, gives those
of any number of others by a sparse product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.sparse import csr_array

from autocompress.search.landscape import Landscape
from autocompress.search.problem import Candidate, Floats, Integers, Tables
from autocompress.search.tangents import Tangents

Sums: TypeAlias = tuple[Floats, Floats]

# Prior strength of each term relative to the others, and the decades allowed around it.
PRIOR = np.array([1.0, 0.5, 0.3, 0.3, 0.3, 0.003])
_DECADES = 1.0
_LENGTH = np.log(4.0)  # of the similarity of two options, in log loss
_LENGTH_SUM = 1.5  # of the term in log S


class Basis:
    """What the process corrects: a landscape, with the likeness of its options.

    Args:
        table: `(options,)` per unit, positive; infinite entries are never looked up.
        products: Of the pushes of options; see `Landscape`.

    Attributes:
        landscape: What is corrected.
        tangents: It, made right at the places that were added; None without products.
    """

    def __init__(self, table: Tables, products: Floats | None = None) -> None:
        # Infinite entries are never chosen; as zeros they cannot spoil what is summed beside them.
        self.table = tuple(np.where(np.isfinite(v), v, 0.0) for v in floored(table))
        self.landscape = Landscape(self.table, products)
        self.tangents = Tangents(self.landscape) if products is not None else None
        sizes = [len(values) for values in self.table]
        self.starts = np.cumsum([0, *sizes[:-1]])
        self.flat = np.concatenate(self.table)
        self.roots = np.sqrt(self.flat)
        self.floor = float(self.flat[self.flat > 0].min())
        self._known: dict[bytes, Floats] = {}
        self._width = max(sizes)
        # Padded rows: likeness of the flat option to those of its unit.
        self._alike = np.zeros((len(self.flat), self._width))
        self._places = np.full((len(self.flat), self._width), len(self.flat))
        for start, values in zip(self.starts, self.table, strict=True):
            here = slice(start, start + len(values))
            self._alike[here, : len(values)] = _alike(values)
            self._places[here, : len(values)] = start + np.arange(len(values))

    def one_hot(self, candidates: Integers) -> csr_array:
        """Candidates `(n, units)` as sparse rows `(n, all options)`."""
        n, units = candidates.shape
        columns = (self.starts + candidates).ravel()
        ends = np.arange(0, n * units + 1, units)
        return csr_array((np.ones(n * units), columns, ends), shape=(n, len(self.flat)))

    def log_sums(self, candidates: Integers) -> tuple[Floats, Floats]:
        """`(n,)` log of the additive loss and of the landscape's."""
        total = np.log(self.flat[self.starts + candidates].sum(axis=1))
        if self.tangents is None:
            return total, total
        return total, self.tangents.log_losses(candidates)

    def around(self, candidate: Candidate) -> Landscape:
        """The landscape that holds near a candidate."""
        return self.landscape if self.tangents is None else self.tangents.around(candidate)

    def overlaps(self, candidates: Integers) -> Floats:
        """For candidates `(n, units)` what each option adds to an overlap `(all options, 3 n)`.

        The three blocks are: every pair of options alike, by likeness, only the same option.
        """
        keys = [row.tobytes() for row in candidates]
        new = [place for place, key in enumerate(keys) if key not in self._known]
        if new:
            for place, rows in zip(new, self._overlaps(candidates[new]), strict=True):
                self._known[keys[place]] = rows
        stacked = np.stack([self._known[key] for key in keys])
        return np.ascontiguousarray(stacked.transpose(2, 1, 0)).reshape(len(self.flat), -1)

    def _overlaps(self, candidates: Integers) -> Floats:
        """`(n, 3, all options)` of candidates `(n, units)`."""
        n = len(candidates)
        flat = self.starts + candidates
        result = np.zeros((n, 3, len(self.flat) + 1))
        rows = np.arange(n)[:, None]
        places = self._places[flat]
        weights = self.roots[flat]
        result[rows[:, :, None], 0, places] = weights[:, :, None]
        result[rows[:, :, None], 1, places] = weights[:, :, None] * self._alike[flat]
        result[rows, 2, flat] = weights
        return np.asarray(result[:, :, :-1] * self.roots)


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Posterior of the log loss given told trials.

    Args:
        basis: The additive table.
        strengths: Variance of the terms of the covariance relative to each other, noise last.
        weights: Variance of the terms of the covariance, noise last.
        sums: `(told,)` log losses of the told candidates: additive, and the landscape's.
        options: Overlap table `(all options, 3 told)` of the told candidates.
        factor: Lower Cholesky factor `(told, told)` of their covariance.
        solved: `(told,)` covariance inverse times the centred residuals.
        centre: Mean residual that the prior starts from.
        evidence: Log marginal likelihood; larger is a better table.
    """

    basis: Basis
    strengths: Floats
    weights: Floats
    sums: Sums
    options: Floats
    factor: Floats
    solved: Floats
    centre: float
    evidence: float

    def mean(self, candidates: Integers) -> Floats:
        """Expected log loss `(n,)`."""
        sums = self.basis.log_sums(candidates)
        return np.asarray(sums[1] + self.centre + self._cross(candidates, sums) @ self.solved)

    def predict(self, candidates: Integers) -> tuple[Floats, Floats, Floats]:
        """Mean and standard deviation `(n,)` of the log loss, and whitened rows `(n, told)`."""
        sums = self.basis.log_sums(candidates)
        cross = self._cross(candidates, sums)
        mean = sums[1] + self.centre + cross @ self.solved
        white = solve_triangular(self.factor, cross.T, lower=True, check_finite=False).T
        prior = float(self.weights[:-1].sum())
        return mean, np.sqrt(np.maximum(prior - (white**2).sum(axis=1), 1e-12)), white

    def covariances(self, candidates: Integers, white: Floats, index: int) -> Floats:
        """Posterior covariance `(n,)` of all candidates with the one at `index`."""
        one = candidates[index : index + 1]
        terms = covariance(self.basis, candidates, self.basis.overlaps(one), one)
        prior = (terms @ self.weights[:-1])[:, 0]
        return np.asarray(prior - white @ white[index], dtype=np.float64)

    @property
    def noise(self) -> float:
        """Variance of the log loss that no term explains."""
        return float(self.weights[-1])

    def _cross(self, candidates: Integers, sums: Sums) -> Floats:
        terms = _terms(self.basis.one_hot(candidates) @ self.options, sums, self.sums)
        return np.asarray(terms @ self.weights[:-1])


def floored(table: Tables) -> tuple[Floats, ...]:
    """A table with a small positive floor, so that logarithms of losses exist."""
    finite = np.concatenate([values[np.isfinite(values) & (values > 0)] for values in table])
    floor = 1e-5 * float(np.median(finite)) if len(finite) else 1e-12
    return tuple(np.maximum(values, floor) for values in table)


def covariance(basis: Basis, candidates: Integers, options: Floats, others: Integers) -> Floats:
    """Terms `(n, m, 5)` of candidates with others whose overlap table is `options`."""
    raw = basis.one_hot(candidates) @ options
    return _terms(raw, basis.log_sums(candidates), basis.log_sums(others))


def fit(
    basis: Basis,
    candidates: Integers,
    losses: Floats,
    spreads: Floats,
    strengths: Floats | None = None,
) -> Surrogate:
    """The posterior; the strengths of the terms by type-II maximum likelihood unless given.

    Args:
        basis: Additive table; no candidate may have an infinite entry.
        candidates: Told candidates `(n, units)`.
        losses: Their measured losses `(n,)`, finite; floored where zero.
        spreads: Relative standard errors `(n,)` of the losses.
        strengths: Those of an earlier fit; skips the costly part.
    """
    sums = basis.log_sums(candidates)
    residual = np.log(np.maximum(losses, basis.floor)) - sums[1]
    # The median resists the few candidates where the outputs have saturated.
    centre = float(np.median(residual))
    residual = residual - centre
    options = basis.overlaps(candidates)
    terms = _terms(basis.one_hot(candidates) @ options, sums, sums)
    spread = float(np.mean(residual**2)) + 1e-4
    noise = spreads**2 * PRIOR.sum() / spread  # in units of the overall scale found below
    if strengths is None:
        strengths = _strengths(terms, residual, spread, noise)
    factor = _factor(terms, strengths, noise)
    scale = _scale(factor, residual, strengths, spread)
    # Scaling the covariance scales its factor; no second decomposition is needed.
    factor = factor * np.sqrt(scale)
    solved = cho_solve((factor, True), residual, check_finite=False)
    evidence = _evidence(terms, residual, strengths, spread, noise)
    weights = strengths * scale
    return Surrogate(basis, strengths, weights, sums, options, factor, solved, centre, evidence)


def _strengths(terms: Floats, residual: Floats, spread: float, noise: Floats) -> Floats:
    """Coordinate search on the evidence, in factors of ten, then of three."""
    strengths = PRIOR.copy()
    best = _evidence(terms, residual, strengths, spread, noise)
    for step in (10.0, 3.0):
        for index in range(len(strengths)):
            for factor in (step, 1 / step):
                trial = strengths.copy()
                trial[index] *= factor
                value = _evidence(terms, residual, trial, spread, noise)
                if value > best:
                    best, strengths = value, trial
    return strengths


def _alike(values: Floats) -> Floats:
    finite = np.where(values > 0, values, values.max())
    distance = np.log(finite)[:, None] - np.log(finite)[None, :]
    return np.asarray(np.exp(-0.5 * (distance / _LENGTH) ** 2), dtype=np.float64)


def _terms(raw: Floats, left: Sums, right: Sums) -> Floats:
    """Terms `(n, m, 5)`: constant, log loss, squared overlaps by unit, likeness, identity."""
    n, m = len(left[0]), len(right[0])
    scale = np.exp(-(left[0][:, None] + right[0][None, :]))
    distance = left[1][:, None] - right[1][None, :]
    terms = np.empty((n, m, 5))
    terms[..., 0] = 1.0
    terms[..., 1] = np.exp(-0.5 * (distance / _LENGTH_SUM) ** 2)
    for index in range(3):
        terms[..., 2 + index] = raw[:, index * m : (index + 1) * m] ** 2 * scale
    return terms


def _factor(terms: Floats, weights: Floats, noise: Floats) -> Floats:
    matrix = terms @ weights[:-1]
    matrix[np.diag_indices_from(matrix)] += weights[-1] + noise + 1e-8 * weights.sum()
    return np.asarray(cholesky(matrix, lower=True, check_finite=False), dtype=np.float64)


def _scale(factor: Floats, residual: Floats, strengths: Floats, spread: float) -> float:
    """Overall variance: what the data say, held near the raw spread by two pseudo-observations."""
    white = solve_triangular(factor, residual, lower=True, check_finite=False)
    return float((white @ white + 2 * spread / strengths.sum()) / (len(residual) + 2))


def _evidence(
    terms: Floats, residual: Floats, strengths: Floats, spread: float, noise: Floats
) -> float:
    factor = _factor(terms, strengths, noise)
    scale = _scale(factor, residual, strengths, spread)
    prior = 0.5 * (np.log10(strengths / PRIOR) ** 2).sum() / _DECADES**2
    count = len(residual)
    return float(-0.5 * count * np.log(scale) - np.log(np.diag(factor)).sum() - prior)


def blend(tables: Sequence[Tables]) -> tuple[Floats, ...]:
    """Geometric mean of several tables, entry by entry; infinite where one of them is."""
    floors = [floored(table) for table in tables]
    return tuple(
        np.exp(np.mean([np.log(values) for values in unit], axis=0))
        for unit in zip(*floors, strict=True)
    )
