"""Uniform quantisation: symmetric integer codes, a scale per row, rounded with error feedback.

Rounding follows OBQ/GPTQ (Frantar et al. 2022, 2210.17323, algorithm 1): columns are rounded one
after another and each error is made up by the columns still to come, here within the survivors of
each row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autocompress.compression.sparsify import gather_moment, is_diagonal, row_supports
from autocompress.compression.treated import StoredTensor

# Subnormal in float16: small weights need it.  Smaller ones would leave no room for an int32 bias.
SMALLEST_SCALE = 2.0**-20
EMPTY_SCALE = 2.0**-14  # of a row of zeros, where only the bias counts
SHARED_SWEEP_ABOVE = 2e12  # multiply-adds above which rows share one sweep over all columns
CACHED = 2**16  # weights whose step is looked for together
BLOCK = 256  # columns of a triangular matrix that are inverted in one step


def largest_code(bits: int) -> int:
    """Codes lie in `[-largest, largest]`: 1 for 2 bits (ternary) and for 1 (signs), 127 for 8."""
    return max(1, (1 << (bits - 1)) - 1)


def fit_scale(weight: Tensor, bits: int, importance: Tensor) -> Tensor:
    """The step of each row with the least weighted squared rounding error.

    Args:
        weight: `(rows, d)`.
        bits: 2-8.
        importance: `(d,)` weights of the squared errors, such as the diagonal of `H`, or
            `(rows, d)` where they differ by row.

    Returns:
        `(rows,)` float16, positive and finite.
    """
    rows = max(1, CACHED // weight.shape[1])
    if len(weight) > rows:  # sixty passes over what does not leave the cache
        parts = zip(
            torch.split(weight, rows),
            torch.split(importance.expand_as(weight), rows),
            strict=True,
        )
        return torch.cat([fit_scale(part, bits, counts) for part, counts in parts])
    top = largest_code(bits)
    empty = weight.abs().amax(1) == 0
    peak = weight.abs().amax(1).clamp_min(1e-12)
    best = peak / top
    least = torch.full_like(peak, float("inf"))
    for shrink in torch.linspace(1.0, 0.25, 60, dtype=weight.dtype):
        step = peak / top * shrink
        rounded = torch.clamp((weight / step[:, None]).round(), -top, top) * step[:, None]
        error = ((rounded - weight).square() * importance).sum(1)
        best = torch.where(error < least, step, best)
        least = torch.minimum(error, least)
    best = torch.where(empty, EMPTY_SCALE, best)
    return best.clamp(SMALLEST_SCALE, torch.finfo(torch.float16).max).half()


def round_to_nearest(weight: Tensor, bits: int, importance: Tensor) -> StoredTensor:
    """The baseline: every weight to its nearest code.  Floats for 16 and 32 bits."""
    if bits == 32:
        return StoredTensor(bits, weight.float(), None)
    if bits == 16:
        most = torch.finfo(torch.float16).max
        return StoredTensor(bits, weight.clamp(-most, most).half(), None)
    if bits == 1:
        return _signs(weight, importance)
    scale = fit_scale(weight, bits, importance)
    top = largest_code(bits)
    codes = torch.clamp((weight / scale.to(weight.dtype)[:, None]).round(), -top, top)
    return StoredTensor(bits, codes.to(torch.int8), scale)


def _signs(weight: Tensor, importance: Tensor) -> StoredTensor:
    """Signs times the mean magnitude of each row, its optimum (XNOR-Net, 1603.05279, eq. 6)."""
    kept = importance * (weight != 0)
    mean = (weight.abs() * kept).sum(1) / kept.sum(1).clamp_min(1e-30)
    scale = torch.where((weight != 0).any(1), mean, EMPTY_SCALE)
    scale = scale.clamp(SMALLEST_SCALE, torch.finfo(torch.float16).max).half()
    return StoredTensor(1, weight.sign().to(torch.int8), scale)


def round_with_feedback(
    weight: Tensor, bits: Sequence[int], second_moment: Tensor
) -> dict[int, StoredTensor]:
    """Rounds while the survivors still to come make up for each error; zeros stay zero.

    Args:
        weight: `(rows, d)` float64, possibly sparse.
        bits: Widths to round to, 2-8, 16 or 32; all share the factorisations, which cost most.
        second_moment: `(d, d)` float64, damped.
    """
    importance = second_moment.diagonal()
    if is_diagonal(second_moment):  # no later column could make up for an error
        return {width: round_to_nearest(weight, width, importance) for width in bits}
    widths = sorted({width for width in bits if width <= 8})
    stored = {width: round_to_nearest(weight, width, importance) for width in bits if width > 8}
    if not widths:
        return stored
    scales = torch.stack([fit_scale(weight, width, importance) for width in widths])
    tops = torch.tensor([largest_code(width) for width in widths], dtype=weight.dtype)
    # The columns that matter most are rounded first, while most can still make up for them.
    order = torch.argsort(importance, descending=True, stable=True)
    mask = weight[:, order] != 0
    support = int(mask.sum(1).max())
    shared = support == weight.shape[1] or len(weight) * support**3 > SHARED_SWEEP_ABOVE
    sweep = _sweep_shared if shared else _sweep_by_row
    ordered = weight[:, order].expand(len(widths), -1, -1).clone()
    codes = torch.zeros_like(ordered)
    codes[:, :, order] = sweep(
        ordered, second_moment, order, mask, scales.to(weight.dtype), tops[:, None]
    )
    for index, width in enumerate(widths):
        stored[width] = StoredTensor(width, codes[index].to(torch.int8), scales[index])
    return stored


def _sweep_shared(
    weight: Tensor, moment: Tensor, order: Tensor, mask: Tensor, scale: Tensor, top: Tensor
) -> Tensor:
    """All rows share one factor over all columns (SparseGPT, 2301.00774, section 3.3).

    `weight` is `(widths, rows, d)`, its columns in their order, and is used up; `scale` is
    `(widths, rows)`, `top` `(widths, 1)`.
    """
    # The factor upside down: one that is turned round would take as much again.
    back = order.flip(0)
    factor = torch.linalg.cholesky(moment[back[:, None], back])[None]
    _invert_lower(factor)
    codes = torch.zeros_like(weight)
    for j in range(weight.shape[2]):
        row = factor[0, -1 - j]
        rest = row[: weight.shape[2] - 1 - j].flip(0)
        codes[:, :, j] = _round_column(weight, j, scale, top, row[-1 - j], rest, mask)
    return codes


def _sweep_by_row(
    weight: Tensor, moment: Tensor, order: Tensor, mask: Tensor, scale: Tensor, top: Tensor
) -> Tensor:
    """Each row has its own factor over its survivors: no error is sent to removed weights."""
    moment = moment[order[:, None], order]
    codes = torch.zeros_like(weight)
    for rows, columns, valid in row_supports(mask):
        factor = inverse_factor(gather_moment(moment, columns, valid))
        values = (weight[:, rows[:, None], columns] * valid).to(factor.dtype)
        steps = scale[:, rows].to(factor.dtype)
        rounded = torch.zeros_like(values)
        for j in range(columns.shape[1]):
            rounded[:, :, j] = _round_column(
                values,
                j,
                steps,
                top.to(factor.dtype),
                factor[:, j, j],
                factor[:, j, j + 1 :],
                valid,
            )
        index, position = valid.nonzero(as_tuple=True)
        codes[:, rows[index], columns[index, position]] = rounded[:, index, position].to(
            codes.dtype
        )
    return codes


def _round_column(
    weight: Tensor, j: int, scale: Tensor, top: Tensor, pivot: Tensor, rest: Tensor, mask: Tensor
) -> Tensor:
    """Rounds column `j` and spreads its error over the columns after it, in place."""
    code = torch.minimum((weight[:, :, j] / scale).round().abs(), top)
    code = code * weight[:, :, j].sign() * mask[:, j]
    error = (weight[:, :, j] - code * scale) / pivot
    weight[:, :, j + 1 :] -= error[:, :, None] * rest
    return code


def inverse_factor(moment: Tensor) -> Tensor:
    """Upper triangular `U` with `U^T U = H^-1`, `(batch, s, s)`.

    With the columns reversed `H = L L^T`; reversed back, `H = R R^T` with `R` upper, so
    `U = R^-1`.  That is half the work of inverting and factorising again.
    """
    lower = torch.linalg.cholesky(moment.flip(1, 2))
    _invert_lower(lower)
    factor: Tensor = lower.flip(1, 2)
    return factor


def _invert_lower(matrices: Tensor) -> None:
    """Inverts lower triangular matrices `(batch, s, s)` in their place, by halves: as much again
    is never taken, which counts where one is as large as the model's largest layer."""
    size = matrices.shape[-1]
    if size <= BLOCK:
        identity = torch.eye(size, dtype=matrices.dtype).expand_as(matrices)
        matrices.copy_(torch.linalg.solve_triangular(matrices, identity, upper=False))
        return
    half = size // 2
    above, below = matrices[:, :half, :half], matrices[:, half:, half:]
    _invert_lower(above)
    _invert_lower(below)
    matrices[:, half:, :half] = (below @ matrices[:, half:, :half] @ above).neg_()
