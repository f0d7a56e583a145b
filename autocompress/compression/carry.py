"""Compresses a layer again for another target, starting from its entry in the bank.

Which weights survive took the bank a long trace.  The entry's zeros tell the outcome, so here the
survivors are only corrected by a few exchanges; then their values are solved for by least squares
and rounded with error feedback.
"""

from __future__ import annotations

import copy
from math import prod

import torch
from torch import Tensor, nn

from autocompress.compression.compress import compress_layer
from autocompress.compression.factorize import refit_second, whitened_svd
from autocompress.compression.moments import SAMPLE_EXAMPLES, Statistics, middle_grids
from autocompress.compression.pattern import prune_pattern
from autocompress.compression.rounding import round_one
from autocompress.compression.sparsify import fit_within, refit
from autocompress.compression.treated import Grid, StoredTensor, Treated, build_module
from autocompress.compression.tucker import store_around_core, tucker2
from autocompress.model.layer import Layer
from autocompress.search_space.option import Option

EXCHANGES = 3  # rounds; more change the survivors, but no longer lower the loss on fresh data
EXCHANGED = 0.1  # most of the survivors that one round exchanges


def carry(
    layer: Layer,
    dense: nn.Module,
    target: Tensor,
    moment: Tensor,
    sample: Tensor,
    option: Option,
    entry: Treated,
) -> Treated:
    """What is stored for a layer under an option, made for another target than the entry.

    Args:
        layer: The record of the layer.
        dense: The dense module.
        target: `(out, d)` float64 weight to stand in for.
        moment: `(d, d)` float64 second moment of the input, damped.
        sample: Inputs of the layer, `(n, ...)`.
        option: Not the identity.
        entry: The bank's entry of this layer and option; its bias is kept.
    """
    sample = sample[:SAMPLE_EXAMPLES]
    if option.method != "obs":
        return _baseline(layer, dense, target, moment, sample, option, entry)
    taps = prod(layer.weight_shape[2:])
    if option.tucker < 1:
        reads, makes = layer.core(option.tucker)
        first, _, _ = tucker2(target, moment, taps, reads, makes)
        weights: tuple[StoredTensor, ...] = store_around_core(
            target, first, moment, makes, option.rounding
        )
    elif not option.is_factored:
        own = _stored(target, moment, option, entry.weights[0], taps)
        weights = (own,)
    else:
        weights = _factors(layer, target, moment, option, entry)
    grids = entry.grids
    if len(grids) > 2:  # of the values between factors, which are other ones now
        built = build_module(dense, Treated(weights, None))
        assert isinstance(built, nn.Sequential)
        grids = (grids[0], *middle_grids(list(built), sample, grids[0]), grids[-1])
    return Treated(weights, entry.bias, grids, is_dynamic=entry.is_dynamic)


def _baseline(
    layer: Layer,
    dense: nn.Module,
    target: Tensor,
    moment: Tensor,
    sample: Tensor,
    option: Option,
    entry: Treated,
) -> Treated:
    """Magnitude pruning and rounding to nearest need no trace: they are done anew."""
    module = copy.deepcopy(dense)
    weight = target.float().reshape(dense.weight.shape)  # type: ignore[arg-type]
    module.weight = nn.Parameter(weight, requires_grad=False)
    unused = Grid(1.0, 0)
    ends = entry.grids or (unused,)
    statistics = Statistics(moment, moment[0], sample, ends[0] or unused, ends[-1] or unused)
    return next(compress_layer(layer, module, statistics, [option]))[1]


def _stored(
    target: Tensor, moment: Tensor, option: Option, entry: StoredTensor, taps: int = 1
) -> StoredTensor:
    """One tensor: the entry's survivors with the values of the target; a pattern, whose runs are
    short, is laid anew."""
    if option.pattern:
        target = prune_pattern(target, moment, *option.kept_of, taps)
    if option.sparsity:
        mask = survivors(target, moment, entry.codes != 0, option.sparsity)
        target = fit_within(target, moment, mask)
    return round_one(target, option.rounding, moment)


def _factors(
    layer: Layer, target: Tensor, moment: Tensor, option: Option, entry: Treated
) -> tuple[StoredTensor, StoredTensor]:
    before = entry.weights[0].dense().double()
    first, _ = whitened_svd(target, moment, len(before))
    if option.sparsity:
        # The new row space in the entry's basis, to which its survivors belong.
        middle = first @ moment @ first.T
        first = torch.linalg.solve(middle, before @ moment @ first.T, left=False) @ first
    stored = _stored(first, moment, option, entry.weights[0], prod(layer.weight_shape[2:]))
    second, middle = refit_second(target, stored.dense().double(), moment)
    return stored, _stored(second, middle, option, entry.weights[1])


def survivors(target: Tensor, moment: Tensor, mask: Tensor, sparsity: float) -> Tensor:
    """Survivors for a new target, as many as the sparsity leaves: those of `mask`, improved.

    A survivor saves `w^2 / [H_S^-1]_jj` at the least-squares fit (optimal brain surgeon); a
    removed weight would gain `g^2 / H_jj` or more, `g` the gradient there (orthogonal matching
    pursuit, Pati et al. 1993).  The best of these replace the worst of those, where that pays.

    Args:
        target: `(rows, d)` float64.
        moment: `(d, d)` float64, damped.
        mask: `(rows, d)` bool; may lack those that rounding has made zero.
        sparsity: Share of zeros.
    """
    wanted = max(1, round((1 - sparsity) * mask.numel()))
    for _ in range(EXCHANGES):
        fitted, savings = refit(target, moment, mask)
        gains = ((target - fitted) @ moment).square() / moment.diagonal()
        flat = mask.flatten().clone()
        inside, outside = flat.nonzero()[:, 0], (~flat).nonzero()[:, 0]
        least = torch.sort(savings.flatten()[inside], stable=True)
        most = torch.sort(gains.flatten()[outside], descending=True, stable=True)
        missing = max(0, wanted - len(inside))
        rivals = most.values[missing : missing + round(EXCHANGED * wanted)]
        exchanged = int((rivals[: len(inside)] > least.values[: len(rivals)]).sum())
        if missing + exchanged == 0:
            break
        flat[inside[least.indices[:exchanged]]] = False
        flat[outside[most.indices[: missing + exchanged]]] = True
        mask = flat.reshape(mask.shape)
    return mask
