"""Histograms in a few bytes: logarithmic levels of the frequencies, and the coder's model of them.

Three kinds of tables: `FULL` has a level for each symbol, `SHORT` for each of a few magnitudes,
`SHAPED` the width and exponent of a generalised normal density, how values pile up at the largest
magnitude and lack at the smallest: two bytes, which a layer of a few hundred weights can pay.

Every probability is a whole number out of `TOTAL`, a power of two, so that the fixed-point model
built from it involves exact products only and is the same on every machine.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from autocompress.errors import ArchiveError

TOTAL = 1 << 20
_STEPS = 8  # levels in an octave: rounding to them costs less than 0.001 bit a symbol
_TOP_LEVEL = 20 * _STEPS + 1
_OCTAVE = (65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194)  # 65536 * 2**(k / 8)
_POWERS = np.array([0] + [_OCTAVE[k % _STEPS] << (k // _STEPS) >> 16 for k in range(_TOP_LEVEL)])
_KNOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)

FULL, SHORT, SHAPED = range(3)
_HALF_POWERS = (1, 2, 3, 4, 5, 6)  # twice the exponent of the density's falling part
_CURVE_BITS = 12
# A shape, lowest bits first: width (6), power (3), pile (4), dip (3).
_WIDTH_STEP, _WIDTHS = 3, 64  # levels of a unit of the width
_PILE_STEP, _PILE_ZERO = 4, 5  # levels of a unit of pile and dip; the number that means no pile
_MOST_PILE, _MOST_DIP = 10, 7

Integers = NDArray[Any]


def uniform(count: int) -> Any:
    """Model of `count` symbols that are equally likely."""
    return constriction.stream.model.Categorical(np.ones(count), perfect=False)


def mask_level(ones: int, size: int) -> int:
    """Byte for the share of ones: the rarer symbol's in eighths of an octave below one half."""
    rare = min(ones, size - ones)
    depth = 127 if rare == 0 else min(126, round(_STEPS * (float(np.log2(size / rare)) - 1)))
    return depth | (128 if 2 * ones > size else 0)


def mask_model(level: int) -> Any:
    """Model of a mask: 127 means that the rarer symbol never occurs."""
    depth = level & 127
    rare = 0 if depth == 127 else int(_POWERS[_TOP_LEVEL - _STEPS - depth])
    shares = (rare, TOTAL - rare) if level & 128 else (TOTAL - rare, rare)
    return constriction.stream.model.Categorical(np.array(shares, np.float64), perfect=False)


def _knots(top: int) -> Integers:
    """Magnitudes at which a short table holds a level; clipping piles up at the last."""
    return np.array(sorted({m for m in (*_KNOTS, top - 1, top) if 1 <= m <= top}))


def value_tables(counts: list[Integers], top: int) -> tuple[list[bytes], int]:
    """The cheapest kind of table for histograms of the symbols `0 ... 2 * top - 1`.

    Returns:
        Each table as it is stored, and their common kind.
    """
    made = (
        [_levels(part).tobytes() for part in counts],
        [_short_levels(part, top).tobytes() for part in counts],
        [_shape(part, top) for part in counts],
    )
    costs = []
    for kind, tables in enumerate(made):
        levels = [_spread(np.frombuffer(table, np.uint8), top, kind) for table in tables]
        shares = [(_shares(table) + TOTAL / 2**24) / TOTAL for table in levels]
        bits = -sum(float(part @ np.log2(p)) for part, p in zip(counts, shares, strict=True))
        costs.append(bits / 8 + sum(map(len, tables)))
    kind = int(np.argmin(costs))
    return made[kind], kind


def table_bytes(top: int, kind: int) -> int:
    """Length of a stored table."""
    if kind == SHAPED:
        return 2 if top > 1 else 0
    return len(_knots(top)) if kind == SHORT else 2 * top


def read_table(data: bytes, top: int, kind: int) -> Any:
    """The model of a table of `table_bytes` bytes.

    Raises:
        ArchiveError: If a frequency or a shape is unknown.
    """
    stored = np.frombuffer(data, np.uint8)
    if kind != SHAPED and stored.size and stored.max() > _TOP_LEVEL:
        raise ArchiveError(f"damaged: a frequency of level {stored.max()}")
    if kind == SHAPED and top > 1 and int.from_bytes(data, "little") >> 6 & 7 >= len(_HALF_POWERS):
        raise ArchiveError(f"damaged: a histogram of shape {data.hex()}")
    return _model(_spread(stored, top, kind))


def _levels(counts: Integers) -> Integers:
    """Logarithmic byte of each count; 0 for none, which costs 24 bits should it occur."""
    share = counts * (TOTAL / max(1.0, float(counts.sum())))
    levels = np.round(_STEPS * np.log2(np.maximum(share, 1))) + 1
    return np.where(counts > 0, np.minimum(levels, _TOP_LEVEL), 0).astype(np.uint8)


def _short_levels(counts: Integers, top: int) -> Integers:
    """Levels at the knots: of the mean count around each, both signs together."""
    folded = counts[:top][::-1] + counts[top:]
    knots = _knots(top)
    ends = np.append((knots[1:] + knots[:-1] + 1) // 2, top + 1)
    starts = np.append(1, ends[:-1])
    sums = np.append(0, np.cumsum(folded))
    return _levels((sums[ends - 1] - sums[starts - 1]) / (ends - starts))


def _widened(levels: Integers, top: int) -> Integers:
    """A level for each symbol: straight lines between knots, in whole numbers."""
    knots, levels = _knots(top), levels.astype(np.int64)
    place = np.arange(1, top + 1)
    left = np.minimum(np.searchsorted(knots, place, "right") - 1, max(0, len(knots) - 2))
    right = np.minimum(left + 1, len(knots) - 1)
    span = np.maximum(1, knots[right] - knots[left])
    line = levels[left] + (levels[right] - levels[left]) * (place - knots[left]) // span
    return np.concatenate([line[::-1], line])


def _spread(stored: Integers, top: int, kind: int) -> Integers:
    """A level for each symbol from a stored table."""
    if kind == SHORT:
        return _widened(stored, top)
    return _shaped(stored, top) if kind == SHAPED else stored


def _shaped(stored: Integers, top: int) -> Integers:
    """Levels that fall with magnitude `m` by `width * (m / top)**power`, in whole numbers, but for
    more or fewer of the largest and fewer of the smallest."""
    fall = np.zeros(top, np.int64)
    if top > 1:
        shape = int(stored[0]) | int(stored[1]) << 8
        width, power, pile, dip = shape & 63, shape >> 6 & 7, shape >> 9 & 15, shape >> 13
        fall = _WIDTH_STEP * width * _curves(top)[power] >> _CURVE_BITS
        fall[-1] -= _PILE_STEP * (pile - _PILE_ZERO)
        fall[0] += _PILE_STEP * dip
    line = np.clip(_TOP_LEVEL - fall + fall.min(), 1, _TOP_LEVEL)
    return np.concatenate([line[::-1], line])


@cache
def _curves(top: int) -> Integers:
    """`(m / top)**power` for all powers and magnitudes, in units of `2**-_CURVE_BITS`."""
    # Whole numbers throughout: floating powers differ between machines in the last bit.
    return np.array(
        [
            [math.isqrt((m**power << 2 * _CURVE_BITS) // top**power) for m in range(1, top + 1)]
            for power in _HALF_POWERS
        ]
    )


@cache
def _every_shape(top: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Levels `(powers, widths, top)` by which densities fall, and the weights that these mean."""
    widths = _WIDTH_STEP * np.arange(_WIDTHS)
    falls = (widths[:, None] * _curves(top)[:, None, :]) >> _CURVE_BITS
    return falls.astype(np.float64), np.exp2(-falls / _STEPS)


def _shape(counts: Integers, top: int) -> bytes:
    """The shape that codes a histogram in the fewest bits, of all widths and powers."""
    if top == 1:
        return b""
    folded = (counts[:top][::-1] + counts[top:]).astype(np.float64)
    falls, weights = _every_shape(top)
    start = 1 if top > 2 else 0
    middle, among = weights[..., start:-1].sum(-1), folded[start:-1].sum()

    def units(place: int) -> NDArray[np.float64]:
        """By how many units the magnitude stands out beside those in the middle."""
        ratio = (folded[place] + 0.1) / (among + 0.1) * middle / weights[..., place]
        return np.asarray(np.round(np.log2(ratio) * _STEPS / _PILE_STEP))

    piles = np.clip(units(-1), -_PILE_ZERO, _MOST_PILE)
    dips = np.clip(-units(0), 0, _MOST_DIP) * start
    falls = falls.copy()
    falls[..., -1] -= _PILE_STEP * piles
    falls[..., 0] += _PILE_STEP * dips
    total = np.exp2(-falls / _STEPS).sum(-1)
    bits = folded.sum() * np.log2(total) + falls @ folded / _STEPS
    power, width = np.unravel_index(int(bits.argmin()), bits.shape)
    pile, dip = int(piles[power, width]) + _PILE_ZERO, int(dips[power, width])
    shape = int(width) | int(power) << 6 | pile << 9 | dip << 13
    return shape.to_bytes(2, "little")


def _shares(levels: Integers) -> Integers:
    """Whole frequencies that sum to `TOTAL`; the remainder goes to the commonest symbol."""
    powers = _POWERS[np.where(levels.any(), levels, 1)]
    shares = powers * TOTAL // powers.sum()
    shares[shares.argmax()] += TOTAL - shares.sum()
    return np.asarray(shares)


def _model(levels: Integers) -> Any:
    return constriction.stream.model.Categorical(_shares(levels).astype(np.float64), perfect=False)
