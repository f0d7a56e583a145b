"""N:M sparsity: of each M successive inputs, N weights stay.

Which ones is decided as in `sparsify.py`, by what the removal of a weight costs at the exact
least-squares fit (optimal brain surgeon), here within each run.  Successive inputs of a
convolution are those of neighbouring channels under the same tap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autocompress.compression.sparsify import fit_within, refit


def prune_pattern(weight: Tensor, moment: Tensor, kept: int, run: int, taps: int = 1) -> Tensor:
    """The refitted weights; those that are removed are exactly zero.

    Args:
        weight: `(rows, d)`, columns by channel, then by tap.
        moment: `(d, d)` float64, damped.
        kept: Weights that stay of each run.
        run: Successive channels of a run; divides the number of channels.
        taps: Columns of a channel.

    Returns:
        `(rows, d)` float64.
    """
    dense = weight.double()
    saliency = dense.square() / torch.linalg.inv(moment).diagonal()
    stay = run
    while True:
        # A quarter of a run at a time: the others' worth changes when their neighbours are gone.
        stay = max(kept, stay - max(1, run // 4))
        mask = pattern_mask(saliency, stay, run, taps)
        if stay == kept:
            return fit_within(dense, moment, mask)
        _, saliency = refit(dense, moment, mask)


def pattern_mask(score: Tensor, kept: int, run: int, taps: int = 1) -> Tensor:
    """The `kept` largest of each run, `(rows, d)` bool.

    Args:
        score: `(rows, d)`.
        kept: How many of each run.
        run: Channels of a run.
        taps: Columns of a channel.
    """
    runs = score.reshape(len(score), -1, run, taps).transpose(2, 3)
    # A stable sort breaks ties the same way everywhere.
    best = torch.sort(runs, dim=-1, descending=True, stable=True).indices[..., :kept]
    mask = torch.zeros_like(runs, dtype=torch.bool).scatter(-1, best, True)
    return mask.transpose(2, 3).reshape(score.shape)
