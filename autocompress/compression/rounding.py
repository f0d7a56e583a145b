"""Rounds one weight matrix in every way that the options of a layer ask for."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from autocompress.compression.codebook import Book, fit_book
from autocompress.compression.feedback import Sweeper
from autocompress.compression.quantize import round_with_feedback
from autocompress.compression.rate import round_at_rate
from autocompress.compression.steps import Uniform, fit_uniform
from autocompress.compression.stored import StoredTensor
from autocompress.search_space.option import Option

SWEEPS = 3  # of few levels, whose steps are fitted again after each sweep
FEW = 2  # bits


def round_all(
    weight: Tensor, ways: Iterable[Option], moment: Tensor, row_weights: Tensor | None = None
) -> dict[Option, StoredTensor]:
    """The stored tensor of each way.

    Args:
        weight: `(rows, d)` float64, possibly sparse; zeros stay zero.
        ways: `Option.rounding` of options; all share the factorisations, which cost most.
        moment: `(d, d)` float64, damped.
        row_weights: `(rows,)` how much the error of a row counts where rows share something.
    """
    ways = list(dict.fromkeys(ways))
    plain = [way for way in ways if way.is_plain]
    by_bits = round_with_feedback(weight, [way.bits for way in plain], moment) if plain else {}
    stored = {way: by_bits[way.bits] for way in plain}
    further = [way for way in ways if not way.is_plain]
    if further:
        sweeper = Sweeper(weight != 0, moment)
        for way in further:
            stored[way] = _round(weight, way, moment, row_weights, sweeper)
    return stored


def round_one(
    weight: Tensor, way: Option, moment: Tensor, row_weights: Tensor | None = None
) -> StoredTensor:
    """What `round_all` gives for one way."""
    return round_all(weight, [way], moment, row_weights)[way]


def _round(
    weight: Tensor, way: Option, moment: Tensor, row_weights: Tensor | None, sweeper: Sweeper
) -> StoredTensor:
    def fit(target: Tensor) -> Uniform | Book:
        importance = moment.diagonal()
        if way.codebook:
            has_zero = way.rate > 0 or not bool(sweeper.mask.all())
            return fit_book(target, way.codebook, has_zero, importance, row_weights)
        return fit_uniform(target, way.bits, way.scales, way.affine, importance, row_weights)

    if way.rate:
        return round_at_rate(weight, fit, way.rate, moment, row_weights)
    levels = fit(weight)
    best: StoredTensor | None = None
    least = float("inf")
    few = way.codebook or way.bits <= FEW
    for _ in range(SWEEPS if few else 1):
        codes = sweeper.sweep(weight, levels)
        refitted = levels.refitted(codes, weight, moment)
        for found in (levels.stored(codes), refitted.stored(codes)):
            error = _error(found.dense().double() - weight, moment, row_weights)
            if error < least:
                best, least = found, error
        levels = refitted
    assert best is not None
    return best


def _error(change: Tensor, moment: Tensor, row_weights: Tensor | None) -> float:
    rows = ((change @ moment) * change).sum(1)
    return float((rows if row_weights is None else rows * row_weights).sum())
