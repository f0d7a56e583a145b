"""Rounding with error feedback to levels of any kind.

Columns are rounded one after another, and each error is made up by the columns still to come
(OBQ/GPTQ, 2210.17323, algorithm 1), within the survivors of each row.  What a value is rounded to
is the affair of `Levels`; `quantize.py` has a faster form for one step a row and several widths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from autocompress.compression.quantize import SHARED_SWEEP_ABOVE, inverse_factor
from autocompress.compression.sparsify import gather_moment, row_supports
from autocompress.compression.stored import StoredTensor

KEPT = 2**27  # values of factors that are kept for the next sweep


class Levels(Protocol):
    """What the values of one weight matrix may be rounded to."""

    def choose(self, values: Tensor, rows: Tensor, columns: Tensor, pivot: Tensor) -> Tensor:
        """Codes of one column of a sweep.

        Args:
            values: `(b,)` as they are now, errors made up.
            rows: `(b,)` their rows in the matrix.
            columns: `(b,)` their columns.
            pivot: `(b,)`; rounding `v` to `q` costs `((v - q) / pivot)^2` in output error.

        Returns:
            `(b,)` codes, whole numbers in the type of the values; 0 means zero.
        """
        ...

    def values(self, codes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """What codes stand for, all `(b,)`."""
        ...

    def refitted(self, codes: Tensor, weight: Tensor, moment: Tensor) -> Levels:
        """Levels with less error for codes that are given, by least squares.

        Args:
            codes: `(rows, d)` int16.
            weight: `(rows, d)` float64 to stand in for.
            moment: `(d, d)` float64, damped.
        """
        ...

    def stored(self, codes: Tensor) -> StoredTensor:
        """The stored tensor of codes `(rows, d)`."""
        ...


@dataclass(frozen=True)
class _Batch:
    """Rows that are swept together: numbers `(b,)`, columns in the order of the sweep `(b, s)` or
    `(1, s)`, which of them survive, factors `(b, s, s)` or `(1, s, s)`."""

    rows: Tensor
    columns: Tensor
    valid: Tensor
    factor: Tensor


class Sweeper:
    """The factors of one moment over the survivors of each row, for any number of sweeps.

    Args:
        mask: `(rows, d)` bool, true for survivors.
        moment: `(d, d)` float64, damped.
    """

    def __init__(self, mask: Tensor, moment: Tensor) -> None:
        self.mask = mask
        # The columns that matter most are rounded first, while most can still make up for them.
        self.order = torch.argsort(moment.diagonal(), descending=True, stable=True)
        self.moment = moment[self.order][:, self.order]
        self._kept: list[_Batch] | None = None

    def sweep(self, weight: Tensor, levels: Levels) -> Tensor:
        """Codes `(rows, d)` int16 of the weights, zero where removed.

        Args:
            weight: `(rows, d)` float64.
            levels: What values are rounded to.
        """
        codes = torch.zeros(weight.shape, dtype=torch.int16)
        for batch in self._batches():
            values = weight[batch.rows[:, None], batch.columns].to(batch.factor.dtype)
            values = values * batch.valid
            found = torch.zeros_like(values)
            pivots = batch.factor.diagonal(dim1=1, dim2=2)
            columns = batch.columns.expand(values.shape)
            for j in range(values.shape[1]):
                at, pivot = columns[:, j], pivots[:, j].expand(len(values))
                now = values[:, j]
                chosen = levels.choose(now, batch.rows, at, pivot) * batch.valid[:, j]
                found[:, j] = chosen
                error = (now - levels.values(chosen, batch.rows, at)) / pivot
                values[:, j + 1 :] -= error[:, None] * batch.factor[:, j, j + 1 :]
            index, position = batch.valid.expand(values.shape).nonzero(as_tuple=True)
            codes[batch.rows[index], columns[index, position]] = found[index, position].short()
        return codes

    def _batches(self) -> Iterable[_Batch]:
        if self._kept is not None:
            return self._kept
        kept = list(self._few()) if self._size() <= KEPT else None
        self._kept = kept
        return self._few() if kept is None else kept

    def _few(self) -> Iterator[_Batch]:
        mask = self.mask[:, self.order]
        if self._is_shared():
            rows = torch.arange(len(mask))
            factor = inverse_factor(self.moment[None])
            yield _Batch(rows, self.order[None], mask, factor)
            return
        for rows, columns, valid in row_supports(mask):
            factor = inverse_factor(gather_moment(self.moment, columns, valid))
            yield _Batch(rows, self.order[columns], valid, factor)

    def _support(self) -> int:
        return int(self.mask.sum(1).max()) if self.mask.numel() else 0

    def _is_shared(self) -> bool:
        support = self._support()
        return support == self.mask.shape[1] or len(self.mask) * support**3 > SHARED_SWEEP_ABOVE

    def _size(self) -> int:
        side = self.mask.shape[1] if self._is_shared() else self._support()
        return side**2 * (1 if self._is_shared() else len(self.mask))


def pivots(moment: Tensor) -> Tensor:
    """`U_jj` of every column where none is removed, `(d,)`: rounding `v` to `q` there costs
    `((v - q) / U_jj)^2` once the columns still to come have made up for it.

    Args:
        moment: `(d, d)` float64, damped.
    """
    order = torch.argsort(moment.diagonal(), descending=True, stable=True)
    factor = inverse_factor(moment[order][:, order][None])[0]
    found = torch.empty_like(factor[0])
    found[order] = factor.diagonal()
    return found
