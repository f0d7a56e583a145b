"""Levels that are multiples of a step: of a row, of the whole tensor or of runs of columns, with
or without a zero point; signs are such levels of one bit.

Steps are first the best for rounding to nearest under the diagonal of the second moment.  Once the
codes are known, the best steps solve a least-squares problem in the whole moment:
`min tr((W - sC) H (W - sC)^T)`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autocompress.compression.quantize import SMALLEST_SCALE, fit_scale, largest_code
from autocompress.compression.stored import StoredTensor

_CHUNK = 2**25  # values of one batch of outer products
_SHRINKS = 40  # ranges that are tried for a zero point


@dataclass(frozen=True)
class Uniform:
    """Multiples of a step, as `feedback.Levels`.

    Args:
        bits: 1-8.
        scale: `(rows,)`, `(1,)` or `(rows, runs)` float16.
        group: Columns of a run; 0 where there are none.
        zero: uint8 zero points, as `scale`; None for symmetric codes.
        shape: `(rows, d)`.
        row_weights: `(rows,)` how much the error of a row counts; None for all alike.
    """

    bits: int
    scale: Tensor
    group: int
    zero: Tensor | None
    shape: tuple[int, int]
    row_weights: Tensor | None = None

    def choose(self, values: Tensor, rows: Tensor, columns: Tensor, pivot: Tensor) -> Tensor:
        del pivot
        if self.bits == 1:
            return torch.where(values < 0, -1.0, 1.0).to(values.dtype)
        step = self.step(rows, columns, values.dtype)
        low, high = self.bounds(rows, columns, values.dtype)
        return torch.minimum(torch.maximum((values / step).round(), low), high)

    def values(self, codes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return codes * self.step(rows, columns, codes.dtype)

    def step(self, rows: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor:
        """The step of each place, `(b,)`."""
        return self._at(self.scale, rows, columns).to(dtype)

    def bounds(self, rows: Tensor, columns: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The least and the largest code of each place, or of all."""
        if self.zero is None:
            top = torch.tensor(float(largest_code(self.bits)), dtype=dtype)
            return -top, top
        zero = self._at(self.zero, rows, columns).to(dtype)
        return -zero, 2**self.bits - 1 - zero

    def refitted(self, codes: Tensor, weight: Tensor, moment: Tensor) -> Uniform:
        float_codes = codes.double()
        if self.group and self.bits > 2:
            # A moment for every row and run is dear, and of many levels the steps are near enough.
            solved = _diagonal_runs(float_codes, weight, moment, self.group)
        elif self.group:
            solved = _run_steps(float_codes, weight, moment, self.group)
        else:
            against = ((weight @ moment) * float_codes).sum(1)
            own = ((float_codes @ moment) * float_codes).sum(1)
            if self.scale.shape != (self.shape[0],):
                counts = torch.ones_like(own) if self.row_weights is None else self.row_weights
                against, own = (against * counts).sum()[None], (own * counts).sum()[None]
            solved = torch.where(own > 0, against / own.clamp_min(1e-30), 0.0)
        # Where nothing is to be gained, or the best step would turn signs, it stays.
        solved = torch.where(solved > 0, solved, self.scale.double())
        return replace(self, scale=_half(solved))

    def coarser(self, factor: float) -> Uniform:
        """Longer steps."""
        return replace(self, scale=_half(self.scale.double() * factor))

    def stored(self, codes: Tensor) -> StoredTensor:
        return StoredTensor(self.bits, codes.to(torch.int8), self.scale, self.group, self.zero)

    def _at(self, parts: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        if self.group:
            return parts[rows, columns // self.group]
        return parts[rows] if len(parts) == self.shape[0] else parts.expand(len(rows))


def fit_uniform(
    weight: Tensor,
    bits: int,
    scales: str,
    affine: bool,
    importance: Tensor,
    row_weights: Tensor | None = None,
) -> Uniform:
    """Steps, and zero points, with the least weighted squared error of rounding to nearest.

    Args:
        weight: `(rows, d)` float64.
        bits: 1-8.
        scales: `channel`, `tensor`, or a number of columns.
        affine: Whether there are zero points.
        importance: `(d,)` weights of the squared errors.
        row_weights: `(rows,)` how much a row counts where rows share a step.
    """
    group = int(scales) if scales.isdigit() else 0
    units, counts = _units(weight, scales, group, importance, row_weights)
    zero = None
    if affine:
        scale, zero = _fit_affine(units, bits, counts)
    elif bits == 1:
        mean = (units.abs() * counts).sum(1) / (counts * (units != 0)).sum(1).clamp_min(1e-30)
        scale = _half(mean)
    else:
        scale = fit_scale(units, bits, counts)
    if group:
        runs = (len(weight), -(-weight.shape[1] // group))
        scale = scale.reshape(runs)
        zero = None if zero is None else zero.reshape(runs)
    rows, columns = weight.shape
    return Uniform(bits, scale, group, zero, (rows, columns), row_weights)


def _units(
    weight: Tensor, scales: str, group: int, importance: Tensor, row_weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A row for everything that shares a step, and the weights of its squared errors."""
    if scales == "channel":
        return weight, importance.expand_as(weight)
    if scales == "tensor":
        rows = torch.ones(len(weight), dtype=weight.dtype) if row_weights is None else row_weights
        return weight.reshape(1, -1), (rows[:, None] * importance).reshape(1, -1)
    missing = -weight.shape[1] % group
    padded = torch.nn.functional.pad(weight, (0, missing)).reshape(-1, group)
    counts = torch.nn.functional.pad(importance, (0, missing)).expand(len(weight), -1)
    return padded, counts.reshape(-1, group)


def _fit_affine(weight: Tensor, bits: int, importance: Tensor) -> tuple[Tensor, Tensor]:
    """Steps and zero points of units `(n, d)`: the best of ranges shrunk from the extremes."""
    top = (1 << bits) - 1
    low, high = weight.amin(1).clamp_max(0), weight.amax(1).clamp_min(0)
    best_scale, best_zero = torch.ones(2, len(weight), dtype=weight.dtype)
    least = torch.full_like(low, float("inf"))
    for shrink in torch.linspace(1.0, 0.3, _SHRINKS, dtype=weight.dtype):
        step = _half((high - low) * shrink / top).to(weight.dtype)
        zero = (-low * shrink / step).round().clamp(0, top)
        codes = (weight / step[:, None]).round() + zero[:, None]
        rounded = (codes.clamp(0, top) - zero[:, None]) * step[:, None]
        error = ((rounded - weight).square() * importance).sum(1)
        better = error < least
        best_scale = torch.where(better, step, best_scale)
        best_zero = torch.where(better, zero, best_zero)
        least = torch.minimum(error, least)
    return _half(best_scale), best_zero.to(torch.uint8)


def _run_steps(codes: Tensor, weight: Tensor, moment: Tensor, group: int) -> Tensor:
    """The steps of all runs of a row together: `(B H B^T) s = B H w`, `B` the codes by run."""
    rows, columns = codes.shape
    runs = -(-columns // group)
    of_run = torch.arange(columns) // group
    against = torch.zeros(rows, runs, dtype=codes.dtype)
    against.index_add_(1, of_run, (weight @ moment) * codes)
    solved = torch.zeros_like(against)
    size = max(1, _CHUNK // columns**2)
    for start in range(0, rows, size):
        part = codes[start : start + size]
        outer = moment * part[:, :, None] * part[:, None, :]
        half = torch.zeros(len(part), runs, columns, dtype=codes.dtype)
        half.index_add_(1, of_run, outer)
        system = torch.zeros(len(part), runs, runs, dtype=codes.dtype)
        system.index_add_(2, of_run, half)
        # Runs without any code have no equation.
        ridge = 1e-9 * system.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
        system.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
        wanted = against[start : start + size, :, None]
        solved[start : start + size] = torch.linalg.solve(system, wanted)[:, :, 0]
    return solved


def _diagonal_runs(codes: Tensor, weight: Tensor, moment: Tensor, group: int) -> Tensor:
    of_run = torch.arange(codes.shape[1]) // group
    counts = moment.diagonal()
    sums = torch.zeros(2, len(codes), -(-codes.shape[1] // group), dtype=codes.dtype)
    sums.index_add_(2, of_run, torch.stack([weight * codes * counts, codes.square() * counts]))
    return torch.where(sums[1] > 0, sums[0] / sums[1].clamp_min(1e-30), 0.0)


def _half(steps: Tensor) -> Tensor:
    return steps.clamp(SMALLEST_SCALE, torch.finfo(torch.float16).max).half()
