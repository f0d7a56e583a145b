"""Low rank: the best factors of a weight under the second moment of its input."""

from __future__ import annotations

import torch
from torch import Tensor


def whitened_svd(weight: Tensor, second_moment: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Truncated SVD of `W S` with `S S^T = H`: least output error (SVD-LLM, 2403.07378).

    Args:
        weight: `(out, d)`.
        second_moment: `(d, d)` float64, damped; the identity gives the plain SVD.
        rank: Number of singular values kept, at least 1.

    Returns:
        `(rank, d)` to apply first and `(out, rank)`, float64, singular values shared evenly.
    """
    root = torch.linalg.cholesky(second_moment)
    left, values, right = torch.linalg.svd(weight.double() @ root, full_matrices=False)
    share = values[:rank].sqrt()
    first = torch.linalg.solve_triangular(root, right[:rank], upper=False, left=False)
    return share[:, None] * first, left[:, :rank] * share


def refit_second(weight: Tensor, first: Tensor, second_moment: Tensor) -> tuple[Tensor, Tensor]:
    """The second factor that best completes a given first one, and its input's moment.

    Args:
        weight: `(out, d)` to stand in for.
        first: `(rank, d)`.
        second_moment: `(d, d)` float64, damped.

    Returns:
        `(out, rank)` minimising `tr(D H D^T)`, and `(rank, rank)` second moment of `first @ x`.
    """
    middle = first @ second_moment @ first.T
    ridge = 1e-6 * middle.diagonal().mean().clamp_min(1e-12)
    middle = middle + ridge * torch.eye(len(middle), dtype=middle.dtype)
    wanted = weight.double() @ second_moment @ first.T
    return torch.linalg.solve(middle, wanted, left=False), middle
