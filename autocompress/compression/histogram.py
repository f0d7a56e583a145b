"""Histograms in a few bytes: logarithmic levels of the frequencies, and the coder's model of them.

Every probability is a whole number out of `TOTAL`, a power of two, so that the fixed-point model
built from it involves exact products only and is the same on every machine.
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from autocompress.compression.bits import Reader
from autocompress.errors import ArchiveError

TOTAL = 1 << 20
_STEPS = 8  # levels in an octave: rounding to them costs less than 0.001 bit a symbol
_TOP_LEVEL = 20 * _STEPS + 1
_OCTAVE = (65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194)  # 65536 * 2**(k / 8)
_POWERS = np.array([0] + [_OCTAVE[k % _STEPS] << (k // _STEPS) >> 16 for k in range(_TOP_LEVEL)])
_KNOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)

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


def value_tables(counts: list[Integers], top: int) -> tuple[list[Integers], bool]:
    """Levels of each histogram: one for each symbol, or short, whichever costs less."""
    full = [_levels(part) for part in counts]
    short = [_widened(_short_levels(part, top), top) for part in counts]
    costs = []
    for tables, size in ((full, 2 * top), (short, len(_knots(top)))):
        shares = [(_shares(table) + TOTAL / 2**24) / TOTAL for table in tables]
        bits = -sum(float(part @ np.log2(p)) for part, p in zip(counts, shares, strict=True))
        costs.append(bits / 8 + size * len(tables))
    return (short, True) if costs[1] < costs[0] else (full, False)


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


def stored_table(table: Integers, top: int, short: bool) -> bytes:
    """Bytes of a table: a short one holds its levels at the knots."""
    return (table[top + _knots(top) - 1] if short else table).astype(np.uint8).tobytes()


def read_table(reader: Reader, top: int, short: bool) -> Any:
    count = len(_knots(top)) if short else 2 * top
    levels = np.frombuffer(reader.take(count), np.uint8)
    if levels.size and levels.max() > _TOP_LEVEL:
        raise ArchiveError(f"damaged: a frequency of level {levels.max()}")
    return model(_widened(levels, top) if short else levels)


def _shares(levels: Integers) -> Integers:
    """Whole frequencies that sum to `TOTAL`; the remainder goes to the commonest symbol."""
    powers = _POWERS[np.where(levels.any(), levels, 1)]
    shares = powers * TOTAL // powers.sum()
    shares[shares.argmax()] += TOTAL - shares.sum()
    return np.asarray(shares)


def model(levels: Integers) -> Any:
    return constriction.stream.model.Categorical(_shares(levels).astype(np.float64), perfect=False)
