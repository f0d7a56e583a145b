"""Unstructured pruning: which weights go, and what the others become.

Optimal brain surgeon (Hassibi and Stork 1993) in the layer-wise form of OBC (Frantar and Alistarh
2022, eq. 2-3): removing weight `j` of a row costs `w_j^2 / [H_S^-1]_jj` with `H_S` the second
moment over the row's survivors `S`.  Weights go in a few rounds over the whole layer, and after
each round the survivors of every row are refitted exactly, so one trace gives every sparsity.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

ROUND = 0.5  # share of the survivors that one round keeps
CHUNK = 2**25  # values of one batch of row systems
# Damping keeps the condition number of the systems below 1e5 or so: single precision is enough,
# and takes half the time.
SYSTEMS = torch.float32


def prune(
    weight: Tensor, second_moment: Tensor, sparsities: Iterable[float]
) -> dict[float, Tensor]:
    """The refitted weights at each sparsity; removed weights are exactly zero.

    Args:
        weight: `(rows, d)`.
        second_moment: `(d, d)` float64, damped.
        sparsities: Shares of zeros in [0, 1).

    Returns:
        Sparsity to `(rows, d)` float64.  A result does not depend on which other sparsities are
        asked
        for: all branch off one fixed sequence of rounds.
    """
    dense = weight.double()
    density = 1.0
    saliency = dense.square() / torch.linalg.inv(second_moment).diagonal()
    results: dict[float, Tensor] = {}
    for sparsity in sorted(sparsities):
        target = 1 - sparsity
        while ROUND * density > target - 1e-9:
            density *= ROUND
            current, saliency = refit(dense, second_moment, _keep_largest(saliency, density))
        if sparsity == 0:
            results[sparsity] = dense
        elif abs(density - target) < 1e-9:
            results[sparsity] = current
        else:
            results[sparsity] = fit_within(dense, second_moment, _keep_largest(saliency, target))
    return results


def prune_magnitude(weight: Tensor, sparsity: float) -> Tensor:
    """The baseline: the smallest weights of the layer are zero, the others unchanged.

    `(rows, d)` float64.
    """
    dense = weight.double()
    return dense * _keep_largest(dense.abs(), 1 - sparsity)


def _keep_largest(score: Tensor, density: float) -> Tensor:
    keep = max(1, round(density * score.numel()))
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    # A stable sort breaks ties the same way everywhere.
    mask[torch.sort(score.flatten(), descending=True, stable=True).indices[:keep]] = True
    return mask.reshape(score.shape)


def fit_within(dense: Tensor, moment: Tensor, mask: Tensor) -> Tensor:
    """Least-squares weights on the survivors of each row.

    Minimises `(w - w0) H (w - w0)^T` over `w` supported on the row's mask:
    `w_S = (w0 H)_S H_S^-1`.

    Args:
        dense: `(rows, d)` float64 weights `w0` to stand in for.
        moment: `(d, d)` float64, damped.
        mask: `(rows, d)` bool, true for survivors.

    Returns:
        `(rows, d)` float64, zero where removed.
    """
    if is_diagonal(moment):
        return dense * mask  # nothing makes up for anything
    target = dense @ moment
    weights = torch.zeros_like(dense)
    for rows, columns, valid in row_supports(mask):
        factor = torch.linalg.cholesky(gather_moment(moment, columns, valid))
        wanted = (target[rows[:, None], columns] * valid).to(SYSTEMS)
        solved = torch.cholesky_solve(wanted[:, :, None], factor)[:, :, 0]
        _scatter(weights, solved, rows, columns, valid)
    return weights


def refit(dense: Tensor, moment: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What `fit_within` gives, and the price of removing each survivor.

    Returns:
        Weights, zero where removed, and saliencies `w_j^2 / [H_S^-1]_jj`, -1 where removed.
    """
    if is_diagonal(moment):
        saliency = torch.where(mask, dense.square() * moment.diagonal(), -1.0)
        return dense * mask, saliency
    target = dense @ moment
    weights = torch.zeros_like(dense)
    saliency = torch.full_like(dense, -1.0)
    for rows, columns, valid in row_supports(mask):
        factor = torch.linalg.cholesky(gather_moment(moment, columns, valid))
        inverse = torch.cholesky_inverse(factor)
        wanted = (target[rows[:, None], columns] * valid).to(SYSTEMS)
        solved = (inverse @ wanted[:, :, None])[:, :, 0]
        _scatter(weights, solved, rows, columns, valid)
        price = solved.square() / inverse.diagonal(dim1=1, dim2=2)
        _scatter(saliency, price, rows, columns, valid)
    return weights, saliency


def is_diagonal(moment: Tensor) -> bool:
    """Whether no input says anything of another, as with the entries of an embedding."""
    return int(moment.count_nonzero()) <= len(moment)


def _scatter(into: Tensor, values: Tensor, rows: Tensor, columns: Tensor, valid: Tensor) -> None:
    """Puts the values of a batch of row supports back to their places."""
    index, position = valid.nonzero(as_tuple=True)
    into[rows[index], columns[index, position]] = values[index, position].to(into.dtype)


def row_supports(mask: Tensor) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """Rows in batches of like support: numbers `(b,)`, columns `(b, s)`, validity `(b, s)`."""
    counts = mask.sum(1)
    order = torch.argsort(counts, stable=True)
    order = order[counts[order] > 0]
    while len(order):
        size = int(counts[order[-1]])
        rows = order[-max(1, CHUNK // size**2) :]
        order = order[: len(order) - len(rows)]
        # Sorting the mask puts the survivors' columns first, in order.
        columns = torch.sort(mask[rows].int(), dim=1, descending=True, stable=True).indices[
            :, :size
        ]
        yield rows, columns, mask[rows].gather(1, columns)


def gather_moment(moment: Tensor, columns: Tensor, valid: Tensor) -> Tensor:
    """`H_S` of each row, `(b, s, s)`; padding is an identity block that touches nothing."""
    gathered = moment.to(SYSTEMS)[columns[:, :, None], columns[:, None, :]]
    gathered *= valid[:, :, None] & valid[:, None, :]
    gathered.diagonal(dim1=1, dim2=2).add_((~valid).to(SYSTEMS))
    return gathered
