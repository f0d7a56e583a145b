"""Coordinate descent on codes: what the column sweep leaves to be gained.

With all other weights as they are, the output error is a parabola in each weight, with its least
at `q - G_j / H_jj` where `G = (Q - W) H`: each weight in turn takes the code that is best there
(QuantEase, 2309.01885, section 3), all rows at once.  It also sees what the sweep cannot: errors
of columns that were rounded later.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autocompress.compression.feedback import Levels


def descend(codes: Tensor, weight: Tensor, levels: Levels, moment: Tensor, mask: Tensor) -> Tensor:
    """One pass over all columns.

    Args:
        codes: `(rows, d)` int16 to start from.
        weight: `(rows, d)` float64 to stand in for.
        levels: What codes mean and, where bits are priced, what they cost.
        moment: `(d, d)` float64, damped.
        mask: `(rows, d)` bool, true where a code may be other than zero.

    Returns:
        `(rows, d)` int16.
    """
    rows = torch.arange(len(weight))
    codes = codes.clone()
    change = levels.stored(codes).dense().double() - weight
    gradient = change @ moment
    pivots = moment.diagonal().rsqrt()
    for j in torch.argsort(moment.diagonal(), descending=True, stable=True).tolist():
        open_rows = mask[:, j].nonzero()[:, 0]
        if not len(open_rows):
            continue
        at = torch.full_like(open_rows, j)
        now = codes[open_rows, j]
        before = levels.values(now.double(), rows[open_rows], at)
        best = before - gradient[open_rows, j] / moment[j, j]
        chosen = levels.choose(best, open_rows, at, pivots[j].expand(len(open_rows)))
        moved = (chosen.short() != now).nonzero()[:, 0]
        if not len(moved):
            continue
        step = levels.values(chosen, open_rows, at)[moved] - before[moved]
        gradient[open_rows[moved]] += step[:, None] * moment[j]
        codes[open_rows[moved], j] = chosen[moved].short()
    return codes
