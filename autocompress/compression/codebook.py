"""Codebooks: a few values that all weights of a layer share.

The values come from k-means weighted by the diagonal of the second moment, started from a line
between the extremes (Deep Compression, 1510.00149, section 3.2) and from quantiles, whichever ends
lower.  Weights are then assigned with error feedback (as GPTVQ, 2402.15319, does for vectors), and
the values are solved for once more, by least squares in the whole moment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autocompress.compression.kinds import MOST_VALUES
from autocompress.compression.stored import StoredTensor

ROUNDS = 100  # most of Lloyd's; a few tens are enough


@dataclass(frozen=True)
class Book:
    """The values of a codebook, as `feedback.Levels`: code `i` above 0 means value `i - 1`.

    Args:
        book: `(k,)` float16; a refit may leave them in any order.
        row_weights: `(rows,)` how much the error of a row counts; None for all alike.
    """

    book: Tensor
    row_weights: Tensor | None = None

    def choose(self, values: Tensor, rows: Tensor, columns: Tensor, pivot: Tensor) -> Tensor:
        del rows, columns, pivot
        book, order = torch.sort(self.book.to(values.dtype), stable=True)
        middles = (book[1:] + book[:-1]) / 2
        return (order[torch.bucketize(values.contiguous(), middles)] + 1).to(values.dtype)

    def values(self, codes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        del rows, columns
        table = torch.cat([self.book.new_zeros(1), self.book]).to(codes.dtype)
        return table.index_select(0, codes.long())

    def refitted(self, codes: Tensor, weight: Tensor, moment: Tensor) -> Book:
        count = len(self.book) + 1
        system = torch.zeros(count, count, dtype=weight.dtype)
        wanted = torch.zeros(count, dtype=weight.dtype)
        gradient = weight @ moment
        for row, (code, against) in enumerate(zip(codes.long(), gradient, strict=True)):
            counts = 1.0 if self.row_weights is None else float(self.row_weights[row])
            half = torch.zeros(count, len(code), dtype=weight.dtype)
            half.index_add_(0, code, moment)
            system.index_add_(1, code, half, alpha=counts)
            wanted.index_add_(0, code, against, alpha=counts)
        system, wanted = system[1:, 1:], wanted[1:]  # zero stays zero
        # Values that nothing uses stay where they are.
        ridge = 1e-9 * float(system.diagonal().mean().clamp_min(1e-30))
        system = system + ridge * torch.eye(count - 1, dtype=weight.dtype)
        solved = torch.linalg.solve(system, wanted + ridge * self.book.double())
        return replace(self, book=_half(solved))

    def stored(self, codes: Tensor) -> StoredTensor:
        # Values that nothing uses are not stored; a refit may have changed their order.
        used = torch.unique(codes[codes != 0].long()) - 1
        if not len(used):
            used = torch.zeros(1, dtype=torch.int64)
        values, order = torch.sort(self.book[used], stable=True)
        place = torch.zeros(len(self.book) + 1, dtype=torch.uint8)
        place[used[order] + 1] = torch.arange(1, len(used) + 1, dtype=torch.uint8)
        has_zero = bool((codes == 0).any())
        width = max(1, (len(values) + has_zero - 1).bit_length())
        return StoredTensor(width, place[codes.long()], None, codebook=values)


def fit_book(
    weight: Tensor,
    levels: int,
    has_zero: bool,
    importance: Tensor,
    row_weights: Tensor | None = None,
) -> Book:
    """The codebook with the least weighted squared error of rounding to nearest.

    Args:
        weight: `(rows, d)` float64; zeros are not represented.
        levels: How many values there may be, zero included where it is one of them.
        has_zero: Whether zero is one of them.
        importance: `(d,)` weights of the squared errors.
        row_weights: `(rows,)` how much a row counts.
    """
    counts = importance.expand_as(weight)
    counts = counts if row_weights is None else counts * row_weights[:, None]
    kept = weight != 0
    most = min(levels - has_zero, MOST_VALUES)
    if not kept.any():
        return Book(torch.zeros(1).half(), row_weights)
    return Book(_half(kmeans(weight[kept], counts[kept], most)), row_weights)


def kmeans(values: Tensor, counts: Tensor, clusters: int) -> Tensor:
    """Lloyd's algorithm on a line.

    Args:
        values: `(n,)` float64, at least one.
        counts: `(n,)` weights, not negative.
        clusters: How many there are at most.

    Returns:
        `(clusters,)` centres, ascending; fewer where there are fewer different values.
    """
    values, order = torch.sort(values, stable=True)
    counts = counts[order].clamp_min(1e-30)
    different = torch.unique_consecutive(values)
    if len(different) <= clusters:
        return values[torch.searchsorted(values, different)]
    line = torch.linspace(0, 1, clusters, dtype=values.dtype)
    quantiles = ((line * (clusters - 1) + 0.5) / clusters * len(values)).long()
    starts = (values[0] + line * (values[-1] - values[0]), values[quantiles])
    found = [_lloyd(values, counts, start) for start in starts]
    errors = [error for error, _ in found]
    best: Tensor = found[errors.index(min(errors))][1]
    return best


def _lloyd(values: Tensor, counts: Tensor, centres: Tensor) -> tuple[float, Tensor]:
    """The weighted squared error, and the centres."""
    nothing = torch.zeros(1, dtype=values.dtype)
    mass, first = (
        torch.cat([nothing, torch.cumsum(part, 0)]) for part in (counts, counts * values)
    )
    ends = None
    for _ in range(ROUNDS):
        middles = (centres[1:] + centres[:-1]) / 2
        new = torch.searchsorted(values, middles, right=True)
        new = torch.cat([torch.zeros(1).long(), new, torch.tensor([len(values)])])
        if ends is not None and torch.equal(new, ends):
            break
        ends = new
        masses, sums = (part[ends[1:]] - part[ends[:-1]] for part in (mass, first))
        centres = torch.where(masses > 0, sums / masses.clamp_min(1e-300), centres)
        centres = torch.sort(centres).values
    assert ends is not None
    nearest = centres[torch.bucketize(values, (centres[1:] + centres[:-1]) / 2)]
    return float((counts * (values - nearest).square()).sum()), centres


def _half(values: Tensor) -> Tensor:
    most = torch.finfo(torch.float16).max
    return values.clamp(-most, most).half()
