"""Makes the options of one layer: each factors, prunes and rounds as one composed step.

The weaker perturbation comes first ("progressive intensity", 2603.18426): rank, then sparsity,
then rounding with error feedback on the survivors.  Errors are made up together, never added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from math import prod

import torch
from torch import Tensor, nn

from autocompress.compression.factorize import refit_second, whitened_svd
from autocompress.compression.moments import Statistics, damped, middle_grids
from autocompress.compression.pattern import prune_pattern
from autocompress.compression.quantize import round_to_nearest
from autocompress.compression.rounding import round_all, round_one
from autocompress.compression.sparsify import fit_within, prune, prune_magnitude
from autocompress.compression.treated import Grid, StoredTensor, Treated, build_module
from autocompress.compression.tucker import store_around_core, tucker2
from autocompress.model.layer import Layer
from autocompress.model.matrix import matrix_of
from autocompress.search_space.option import Option


def compress_layer(
    layer: Layer, module: nn.Module, statistics: Statistics, options: Iterable[Option]
) -> Iterator[tuple[Option, Treated, float]]:
    """Yields every option with what is stored for it and its relative output error.

    Args:
        layer: The record of the layer.
        module: The dense module.
        statistics: Of the layer's input.
        options: The identity is not treated and must not be among them.

    Yields:
        Option, stored layer, and `tr(D H D^T) / tr(W H W^T)` with `D` the change of the weight
        (weighted by row where groups share `H`).
    """
    weight = matrix_of(module).double()
    moment = damped(statistics.second_moment, statistics.damping)
    row_weights = statistics.row_weights
    whole = max(1e-30, _error(weight, moment, row_weights))
    taps = prod(layer.weight_shape[2:])
    ordered = sorted(options, key=lambda option: (option.method, *_shares(option), option))
    for method, of_method in groupby(ordered, key=lambda option: option.method):
        same = list(of_method)
        # Only factors are made in it, and it is as large as the moment.
        is_plain = method != "obs" and any(min(_shares(option)) < 1 for option in same)
        metric = torch.eye(len(moment), dtype=moment.dtype) if is_plain else moment
        factors = _factors(weight, metric, layer, same)
        for (share, core), of_rank in groupby(same, key=_shares):
            menu = list(of_rank)
            own = factors.get(share, ())
            if core < 1:
                own = tucker2(weight, metric, taps, *layer.core(core))
            if method != "obs":
                stored = _nearest(own, menu)
            elif core < 1:
                stored = _around_core(weight, own[0], moment, layer.core(core)[1], menu)
            else:
                stored = _obs(weight, own, moment, menu, row_weights, taps)
            for option, tensors in stored:
                treated = finish(layer, module, statistics, option, tensors)
                change = treated.matrix().double() - weight
                yield option, treated, _error(change, moment, row_weights) / whole


def _error(change: Tensor, moment: Tensor, row_weights: Tensor | None) -> float:
    """`tr(D H D^T)`, each row by its weight if there are any."""
    rows = ((change @ moment) * change).sum(1)
    return float((rows if row_weights is None else rows * row_weights).sum())


def _factors(
    weight: Tensor, metric: Tensor, layer: Layer, options: list[Option]
) -> dict[float, tuple[Tensor, ...]]:
    """Share of the rank to the weight itself or its two factors, all from one decomposition."""
    factors: dict[float, tuple[Tensor, ...]] = {1.0: (weight,)}
    shares = {option.rank for option in options if option.rank < 1}
    if shares:
        first, second = whitened_svd(weight, metric, layer.full_rank)
        for share in shares:
            rank = layer.rank(share)
            factors[share] = (first[:rank], second[:, :rank])
    return factors


def finish(
    layer: Layer,
    module: nn.Module,
    statistics: Statistics,
    option: Option,
    tensors: tuple[StoredTensor, ...],
) -> Treated:
    """Adds bias and, for int8, grids to the stored tensors of a layer."""
    own = getattr(module, "bias", None)
    bias = own.detach() if isinstance(own, Tensor) else None
    if bias is not None and option.bits < 32:
        bias = bias.half()
    treated = Treated(tensors, bias, is_dynamic=option.activations == "dynamic")
    if option.activations != "int8":
        return treated
    return Treated(tensors, bias, _grids(layer, module, statistics, treated))


def _grids(
    layer: Layer, module: nn.Module, statistics: Statistics, treated: Treated
) -> tuple[Grid | None, ...]:
    """Grids of the input, of the values between factors, and of the output.

    Integer convolutions, and layers whose activation is fused, write integers; another Linear
    writes float, which costs the kernel nothing and loses nothing.
    """
    middle: tuple[Grid, ...] = ()
    if len(treated.weights) > 1:
        built = build_module(module, treated)
        assert isinstance(built, nn.Sequential)
        middle = middle_grids(list(built), statistics.sample)
    writes_integers = isinstance(module, nn.Conv2d) or bool(layer.activation)
    return (
        statistics.input_grid,
        *middle,
        statistics.output_grid if writes_integers else None,
    )


def _obs(
    weight: Tensor,
    factors: tuple[Tensor, ...],
    moment: Tensor,
    options: list[Option],
    row_weights: Tensor | None,
    taps: int,
) -> Iterator[tuple[Option, tuple[StoredTensor, ...]]]:
    """Options of one rank; those that differ in activations only share the work."""
    first, is_factored = factors[0], len(factors) > 1
    sparsities = {option.sparsity for option in options if not option.pattern}
    # Rows that count more are scaled up while the layer's weights compete to stay.
    scale = 1.0 if row_weights is None else row_weights.sqrt()[:, None]
    pruned = {
        (sparsity, ""): kept / scale
        for sparsity, kept in prune(first * scale, moment, sparsities).items()
    }
    patterns = {option.pattern: option.kept_of for option in options if option.pattern}
    for pattern, kept_of in patterns.items():
        pruned[0.0, pattern] = prune_pattern(first, moment, *kept_of, taps)
    # Where the second factor is cut does not depend on how the first one is rounded.
    masks = _second_masks(weight, first, moment, sparsities, patterns) if is_factored else {}
    own_rows = None if is_factored else row_weights
    for zeros, group in groupby(sorted(options, key=_zeros), key=_zeros):
        same = list(group)
        ways = [option.rounding for option in same]
        rounded = round_all(pruned[zeros], ways, moment, own_rows)
        tensors = {
            way: (stored, _second(weight, stored, moment, masks[zeros], way))
            if is_factored
            else (stored,)
            for way, stored in rounded.items()
        }
        for option in same:
            yield option, tensors[option.rounding]


def _second_masks(
    weight: Tensor,
    first: Tensor,
    moment: Tensor,
    sparsities: set[float],
    patterns: Mapping[str, tuple[int, int]],
) -> dict[tuple[float, str], Tensor]:
    second, middle = refit_second(weight, first, moment)
    masks = {
        (sparsity, ""): kept != 0 for sparsity, kept in prune(second, middle, sparsities).items()
    }
    for pattern, kept_of in patterns.items():
        masks[0.0, pattern] = prune_pattern(second, middle, *kept_of) != 0
    return masks


def _second(
    weight: Tensor, first: StoredTensor, moment: Tensor, mask: Tensor, way: Option
) -> StoredTensor:
    """The second factor, fitted to the first as it was stored, then rounded like it."""
    second, middle = refit_second(weight, first.dense().double(), moment)
    kept = second if bool(mask.all()) else fit_within(second, middle, mask)
    return round_one(kept, way, middle)


def _around_core(
    weight: Tensor, first: Tensor, moment: Tensor, makes: int, options: list[Option]
) -> Iterator[tuple[Option, tuple[StoredTensor, ...]]]:
    """Options of one core; those that differ in activations only share the work.

    Raises:
        ValueError: If one wants zeros.
    """
    for option in options:
        if option.zeros:
            raise ValueError(f"option {option.id}: factors around a Tucker core are not pruned")
    made = {
        way: store_around_core(weight, first, moment, makes, way)
        for way in dict.fromkeys(option.rounding for option in options)
    }
    for option in options:
        yield option, made[option.rounding]


def _nearest(
    factors: tuple[Tensor, ...], options: list[Option]
) -> Iterator[tuple[Option, tuple[StoredTensor, ...]]]:
    """The baseline for options of one rank: magnitude and rounding to nearest, no compensation."""
    for option in options:
        pruned = [prune_magnitude(factor, option.sparsity) for factor in factors]
        yield (
            option,
            tuple(
                round_to_nearest(factor, option.bits, torch.ones(factor.shape[1]))
                for factor in pruned
            ),
        )


def _shares(option: Option) -> tuple[float, float]:
    return option.rank, option.tucker


def _zeros(option: Option) -> tuple[float, str]:
    return option.sparsity, option.pattern
