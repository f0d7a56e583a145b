"""Rate-aware rounding: codes that are cheap to store are preferred, as far as the error allows.

The column sweep of `feedback.py` picks the code with the least error plus `lambda` times its bits
(rate-distortion optimal brain surgeon: CERWU, 2505.18758; entropy-constrained quantisation, Chou
et al. 1989).  Bits are `-log2` of a code's share, from the sweep before; where a row or a column
keeps few weights, zeros cost less there, as they do in the file.  `lambda` has no scale: `rate` is
the share of the layer's output energy that one bit a weight may cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autocompress.compression.codebook import Book
from autocompress.compression.density import density
from autocompress.compression.descent import descend
from autocompress.compression.feedback import Levels, Sweeper, pivots
from autocompress.compression.quantize import largest_code
from autocompress.compression.sparsify import fit_within, refit
from autocompress.compression.steps import Uniform
from autocompress.compression.stored import StoredTensor

ROUNDS = 4  # of removals before the first sweep
ENOUGH = 0.05  # of the survivors: fewer are not worth another round
COARSER = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.4, 8.0)  # steps that are compared
SWEEPS = 2  # with prices; more change the shares by less than they scatter
DESCENTS = 2  # passes of coordinate descent after each sweep
PRIOR = 0.5  # weights more and less in a row and column, so that nothing is impossible
_UNSEEN = 0.1  # occurrences assumed of a code that was not used


@dataclass(frozen=True)
class Priced:
    """Levels whose codes cost bits, as `feedback.Levels`.

    Args:
        levels: What values are rounded to.
        bits: `(codes,)` bits of the value of each nonzero code, from the least code on.
        least: The code of the first of them.
        zero_bits: `(rows, d)` bits that say "zero".
        kept_bits: `(rows, d)` bits that say "not zero".
        price: `(rows,)` output error that a bit is worth.
    """

    levels: Uniform | Book
    bits: Tensor
    least: int
    zero_bits: Tensor
    kept_bits: Tensor
    price: Tensor

    def choose(self, values: Tensor, rows: Tensor, columns: Tensor, pivot: Tensor) -> Tensor:
        candidates = self._candidates(values, rows, columns)
        bits = self.bits.to(values.dtype)[candidates.long() - self.least]
        kept, zero = (
            part[rows, columns].to(values.dtype)[:, None]
            for part in (self.kept_bits, self.zero_bits)
        )
        bits = torch.where(candidates == 0, zero, bits + kept)
        count = candidates.shape[1]
        reals = self.levels.values(
            candidates.flatten(),
            rows.repeat_interleave(count),
            columns.repeat_interleave(count),
        ).reshape(candidates.shape)
        loss = ((values[:, None] - reals) / pivot[:, None]).square()
        cost = loss + self.price[rows].to(values.dtype)[:, None] * bits
        return candidates.gather(1, cost.argmin(1, keepdim=True))[:, 0]

    def _candidates(self, values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Codes between which a value may choose, `(b, n)`, zero among them."""
        if isinstance(self.levels, Book):
            count = len(self.levels.book) + 1
            return torch.arange(count, dtype=values.dtype).expand(len(values), -1)
        zero = torch.zeros_like(values)
        if self.levels.bits == 1:
            return torch.stack([values.sign(), zero], 1)
        step = self.levels.step(rows, columns, values.dtype)
        low, high = self.levels.bounds(rows, columns, values.dtype)
        below = (values / step).floor()
        both = [torch.minimum(torch.maximum(code, low), high) for code in (below, below + 1)]
        # The next one towards zero: its error is still made up for, and it is often much cheaper.
        near = torch.minimum(both[0].abs(), both[1].abs())
        inner = (near - 1).clamp_min(0) * (both[0] + both[1]).sign()
        return torch.stack([*both, inner, zero], 1)

    def values(self, codes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return self.levels.values(codes, rows, columns)

    def refitted(self, codes: Tensor, weight: Tensor, moment: Tensor) -> Levels:
        return replace(self, levels=self.levels.refitted(codes, weight, moment))

    def stored(self, codes: Tensor) -> StoredTensor:
        return self.levels.stored(codes)


def round_at_rate(
    weight: Tensor,
    fit: Callable[[Tensor], Uniform | Book],
    rate: float,
    moment: Tensor,
    row_weights: Tensor | None,
) -> StoredTensor:
    """Rounds for the least error plus `rate` times bits.

    Args:
        weight: `(rows, d)` float64, possibly sparse.
        fit: Fits levels to a weight.
        rate: Share of `tr(W H W^T)` that one bit a weight is worth.
        moment: `(d, d)` float64, damped.
        row_weights: `(rows,)` how much the error of a row counts; None for all alike.
    """
    counts = torch.ones(len(weight)).double() if row_weights is None else row_weights.double()
    energy = float((((weight @ moment) * weight).sum(1) * counts).sum())
    problem = _Problem(weight, moment, counts, rate * energy / max(1, weight.numel()))
    survivors = problem.worthwhile(fit)
    target = fit_within(weight, moment, survivors)
    levels, sweeper = problem.fitted(fit, target), Sweeper(survivors, moment)
    found = best = problem.rated(levels, sweeper.sweep(target, levels))
    for _ in range(SWEEPS):
        found = problem.improved(found, target, sweeper)
        best = min(best, found, key=_cost)
    survivors = best.codes != 0
    if survivors.any() and not torch.equal(survivors, sweeper.mask):
        # Those that are left take over from those that rounding has removed, exactly.
        target = fit_within(weight, moment, survivors)
        best = min(best, problem.improved(best, target, Sweeper(survivors, moment)), key=_cost)
    return best.levels.stored(best.codes)


@dataclass(frozen=True)
class _Rated:
    """Codes `(rows, d)`, what they mean, and error plus price of their bits."""

    levels: Uniform | Book
    codes: Tensor
    cost: float


def _cost(found: _Rated) -> float:
    return found.cost


@dataclass(frozen=True)
class _Problem:
    """What codes are judged by: a weight `(rows, d)`, its moment, how much rows count, and the
    error that a bit is worth."""

    weight: Tensor
    moment: Tensor
    counts: Tensor
    price: float

    def worthwhile(self, fit: Callable[[Tensor], Uniform | Book]) -> Tensor:
        """Survivors whose removal would cost more error than the bits that they take.

        `(rows, d)` bool.  Costs are those of `sparsify.refit`; weights go in a few rounds, at
        most half of the survivors in each, as the others' worth changes when these are gone.
        """
        mask = self.weight != 0
        price = self.price / self.counts.clamp_min(1e-30)
        for _ in range(ROUNDS):
            if bool(mask.all()):
                target = self.weight
                saliency = target.square() / torch.linalg.inv(self.moment).diagonal()
            else:
                target, saliency = refit(self.weight, self.moment, mask)
            levels = self.fitted(fit, target)
            codes = _nearest(levels, target)
            priced = self._priced(levels, codes)
            value = priced.bits[codes[codes != 0].long() - priced.least].mean()
            # A mask that is all ones costs nothing: zeros only pay once there are more.
            saved = value + (priced.kept_bits - priced.zero_bits).clamp_min(0)
            worth = torch.where(mask, saliency / (price[:, None] * saved), float("inf"))
            doomed = int((worth < 1).sum())
            alive = int(mask.sum())
            if doomed < ENOUGH * alive:
                break
            gone = torch.sort(worth.flatten(), stable=True).indices[: min(doomed, alive // 2)]
            mask = mask.flatten().scatter(0, gone, False).reshape(mask.shape)
        return mask

    def fitted(self, fit: Callable[[Tensor], Uniform | Book], target: Tensor) -> Uniform | Book:
        """Levels fitted to a weight, their steps as long as the price of a bit makes them.

        What error feedback will leave of a rounding error `e` in column `j` is `(e / U_jj)^2`,
        so that steps are compared without a sweep.
        """
        levels = fit(target)
        if isinstance(levels, Book) or levels.bits == 1:
            return levels
        worth = self.counts[:, None] / pivots(self.moment).square()
        costs = []
        tried = [levels.coarser(factor) for factor in COARSER]
        for coarser in tried:
            codes = _nearest(coarser, target)
            change = coarser.stored(codes).dense().double() - target
            loss = float((change.square() * worth).sum())
            costs.append(loss + self.price * self._bits(self._priced(coarser, codes), codes))
        return tried[costs.index(min(costs))]

    def improved(self, found: _Rated, target: Tensor, sweeper: Sweeper) -> _Rated:
        """One more sweep, under the prices of the codes that there are."""
        priced = self._priced(found.levels, found.codes)
        swept = self.refitted(found.levels, sweeper.sweep(target, priced))
        return self.descended(swept, self.weight != 0)

    def descended(self, found: _Rated, mask: Tensor) -> _Rated:
        """The same after coordinate descent."""
        for _ in range(DESCENTS):
            priced = self._priced(found.levels, found.codes)
            codes = descend(found.codes, self.weight, priced, self.moment, mask)
            better = self.refitted(found.levels, codes)
            if better.cost >= found.cost:
                break
            found = better
        return found

    def refitted(self, levels: Uniform | Book, codes: Tensor) -> _Rated:
        """Codes with the levels that they were made for, or with such as fit them better."""
        rated = self.rated(levels, codes)
        refitted = levels.refitted(codes, self.weight, self.moment)
        return min(rated, self.rated(refitted, codes), key=_cost)

    def rated(self, levels: Uniform | Book, codes: Tensor) -> _Rated:
        change = levels.stored(codes).dense().double() - self.weight
        error = float((((change @ self.moment) * change).sum(1) * self.counts).sum())
        return _Rated(
            levels, codes, error + self.price * self._bits(self._priced(levels, codes), codes)
        )

    def _bits(self, priced: Priced, codes: Tensor) -> float:
        mask = torch.where(codes == 0, priced.zero_bits, priced.kept_bits).sum()
        return float(mask + priced.bits[codes[codes != 0].long() - priced.least].sum())

    def _priced(self, levels: Uniform | Book, codes: Tensor) -> Priced:
        least, count = _alphabet(levels)
        kept = codes != 0
        seen = torch.bincount(codes[kept].long() - least, minlength=count).double() + _UNSEEN
        rarest = PRIOR / (kept.numel() + 2 * PRIOR)
        share = density(kept, PRIOR).clamp(rarest, 1 - rarest)
        return Priced(
            levels,
            -torch.log2(seen / seen.sum()),
            least,
            -torch.log2(1 - share),
            -torch.log2(share),
            self.price / self.counts.clamp_min(1e-30),
        )


def _nearest(levels: Uniform | Book, weight: Tensor) -> Tensor:
    """Codes `(rows, d)` int16 of rounding to nearest; zeros stay zero."""
    rows, columns = weight.nonzero(as_tuple=True)
    values = weight[rows, columns]
    codes = torch.zeros(weight.shape, dtype=torch.int16)
    codes[rows, columns] = levels.choose(values, rows, columns, torch.ones_like(values)).short()
    return codes


def _alphabet(levels: Uniform | Book) -> tuple[int, int]:
    """The least code, and how many there are from it on."""
    if isinstance(levels, Book):
        return 1, len(levels.book)
    top = largest_code(levels.bits) if levels.zero is None else 2**levels.bits - 1
    return -top, 2 * top + 1
