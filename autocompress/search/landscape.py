"""A guess at the loss of any candidate: a quadratic form over units, times a factor an option.

With `w_u` the push that the option of unit `u` gives to the outputs, in the metric in which the
loss is a squared length, the loss of a candidate is about `|sum_u w_u|^2`: entries `|w_u|^2` of an
additive table plus the products of different units.  Both come from the same swaps.  Without the
products this is the additive model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from autocompress.search.problem import Candidate, Floats, Integers, Tables

LEAST = 0.05  # of the additive sum: pushes never cancel further than that


@dataclass(frozen=True, eq=False)
class Landscape:
    """Predicted losses, cheap enough to look at every pair of switches.

    Args:
        table: `(options,)` per unit: loss of an option by itself.
        products: `(all options, all options)` inner products of the pushes of any two options:
            what two of different units add together, counted once for each order.  None for an
            additive model.
        factors: `(all options,)` logarithm of a factor on the loss for each option chosen.
        scale: Of the quadratic form.
        shift: `(all options,)` what each option chosen adds to the scaled form.
        offset: What every candidate adds to it.
    """

    table: Tables
    products: Floats | None = None
    factors: Floats | None = field(default=None)
    scale: float = 1.0
    shift: Floats | None = field(default=None)
    offset: float = 0.0

    @cached_property
    def starts(self) -> Integers:
        """Place of each unit's first option in the flat order of all options."""
        return np.cumsum([0, *(len(values) for values in self.table[:-1])])

    @cached_property
    def flat(self) -> Floats:
        """The table in the flat order."""
        return np.concatenate(list(self.table))

    @cached_property
    def between(self) -> Floats | None:
        """The products with zeros between options of one unit."""
        if self.products is None:
            return None
        unit = np.repeat(np.arange(len(self.table)), [len(values) for values in self.table])
        return np.where(unit[:, None] == unit[None, :], 0.0, self.products)

    def with_factors(self, factors: Floats) -> Landscape:
        """The same quadratic form with other factors."""
        return self._but(factors=factors)

    def shifted(self, scale: float, shift: Floats, offset: float) -> Landscape:
        """The quadratic form scaled, with a shift for each option chosen, and one for all."""
        return self._but(scale=scale, shift=shift, offset=offset)

    def _but(self, **changes: Any) -> Landscape:
        other = replace(self, **changes)
        other.__dict__.update(starts=self.starts, flat=self.flat, between=self.between)
        return other

    def quadratic(self, candidates: Integers) -> Floats:
        """Losses `(n,)` of candidates `(n, units)` without the factors."""
        chosen = self.starts + candidates
        total = self.flat[chosen].sum(axis=1)
        if self.between is None:
            return np.asarray(total)
        value = total + self.between[chosen[:, :, None], chosen[:, None, :]].sum(axis=(1, 2))
        if self.shift is not None:
            value = self.scale * value + self.shift[chosen].sum(axis=1) + self.offset
        return np.asarray(np.maximum(value, LEAST * total))

    def values(self, candidates: Integers) -> Floats:
        """Losses `(n,)` of candidates `(n, units)`."""
        total = self.quadratic(candidates)
        if self.factors is None:
            return total
        return np.asarray(total * np.exp(self.factors[self.starts + candidates].sum(axis=1)))

    def near(self, candidate: Candidate, options: Integers, units: Integers) -> Near:
        """The landscape around a candidate.

        Args:
            candidate: Where.
            options: `(m,)` single switches, as places in the flat order.
            units: `(m,)` which unit each changes.
        """
        here = self.starts + np.array(candidate)
        old = here[units]
        gain = self.flat[options] - self.flat[old]
        crossed = None
        total = float(self.flat[here].sum())
        if self.between is not None:
            pull = 2 * self.between[:, here].sum(axis=1)
            total += float(pull[here].sum()) / 2
            gain = gain + pull[options] - pull[old]
            block = self.between[options]
            crossed = 2 * (
                block[:, options]
                - block[:, old]
                - self.between[old][:, options]
                + self.between[old][:, old]
            )
        if self.shift is not None:
            total = self.scale * total + float(self.shift[here].sum()) + self.offset
            gain = self.scale * gain + self.shift[options] - self.shift[old]
            crossed = None if crossed is None else self.scale * crossed
        factors = np.zeros(len(options))
        start = 0.0
        if self.factors is not None:
            factors = self.factors[options] - self.factors[old]
            start = float(self.factors[here].sum())
        return Near(total, gain, crossed, factors, start)


@dataclass(frozen=True, eq=False)
class Near:
    """Losses of one or two switches at a candidate.

    Args:
        total: Quadratic loss of the candidate itself.
        gain: `(m,)` what each switch adds to it.
        crossed: `(m, m)` what two switches add beyond their sum; None for none.
        factors: `(m,)` log factor of each switch.
        start: Log factor of the candidate itself.
    """

    total: float
    gain: Floats
    crossed: Floats | None
    factors: Floats
    start: float

    @property
    def here(self) -> float:
        """Loss of the candidate itself."""
        return float(self.total * np.exp(self.start))

    def singles(self) -> Floats:
        """Losses `(m,)` after one switch."""
        total = np.maximum(self.total + self.gain, LEAST * abs(self.total))
        return np.asarray(total * np.exp(self.start + self.factors))

    def pairs(self) -> Floats:
        """Losses `(m, m)` after two switches of different units."""
        total = self.total + self.gain[:, None] + self.gain[None, :]
        if self.crossed is not None:
            total = total + self.crossed
            total = np.maximum(total, LEAST * abs(self.total))
        return np.asarray(
            total * np.exp(self.start + self.factors[:, None] + self.factors[None, :])
        )
