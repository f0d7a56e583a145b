"""Entropy coding of a sparse matrix of small integers: where it is zero, then what the rest is.

Rows and columns of a pruned layer differ widely in density (inputs that are rarely active lose
nearly all their weights).  Each row and column is put in one of `groups` classes of equal count by
its number of nonzeros; zeros are coded with one probability for each pair of classes, values with
one histogram for each row class.  On LeNet-5's pruned layers that is 2-9 % below the order-0
entropy; `groups = 1` is order-0 coding.  The coder is the asymmetric numeral system of
`constriction` (Bamler, arXiv:2201.01741).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from autocompress.compression import histogram
from autocompress.compression.bits import Reader
from autocompress.errors import ArchiveError

GROUPS = (1, 2, 4, 8)

Integers = NDArray[Any]


@dataclass(frozen=True)
class _Classes:
    """Classes `(rows,)` and `(columns,)`, and the cells of the matrix in order of their pair."""

    groups: int
    rows: Integers
    columns: Integers

    def cells(self) -> list[Integers]:
        """For each pair of classes, the flat indices of its cells."""
        pair = (self.rows[:, None] * self.groups + self.columns).astype(np.uint8).reshape(-1)
        if self.groups == 1:
            return [np.arange(pair.size)]
        order = np.argsort(pair, kind="stable")
        ends = np.cumsum(np.bincount(pair, minlength=self.groups**2))
        return np.split(order, ends[:-1])


def encode_matrix(codes: Integers, top: int) -> bytes:
    """The smallest coding of a matrix over `GROUPS`.

    Args:
        codes: `(rows, columns)` whole numbers in `[-top, top]`.
        top: Largest magnitude; 0 codes only where `codes` is not zero.

    Returns:
        One byte of settings, the tables, the coded stream.
    """
    mask = codes != 0
    return min((_encode(codes, mask, top, groups) for groups in _worthwhile(mask)), key=len)


def decode_matrix(data: bytes, shape: tuple[int, int], top: int) -> NDArray[np.int8]:
    """The matrix that `encode_matrix` was given (0 and 1 when `top` is 0).

    Raises:
        ArchiveError: If `data` is damaged.
    """
    reader = Reader(data)
    settings = reader.byte()
    if settings >= 2 * len(GROUPS):
        raise ArchiveError(f"damaged: coding {settings} is unknown")
    groups, short = GROUPS[settings >> 1], bool(settings & 1)
    masks = [histogram.mask_model(level) for level in reader.take(groups**2)]
    values = [histogram.read_table(reader, top, short) for _ in range(groups if top else 0)]
    coder = _coder(reader.take(reader.left))
    rows, columns = (_read_classes(coder, groups, count) for count in shape)
    classes = _Classes(groups, rows, columns)
    flat = np.zeros(shape[0] * shape[1], np.int8)
    for cells, model in zip(classes.cells(), masks, strict=True):
        flat[cells] = coder.decode(model, cells.size)
    codes = flat.reshape(shape)
    for group, model in enumerate(values):
        chosen = (classes.rows == group)[:, None] & (codes != 0)
        codes[chosen] = _magnitudes(top)[coder.decode(model, int(chosen.sum()))]
    if not coder.is_empty():
        raise ArchiveError("damaged: the coded weights do not end where they should")
    return codes


def entropy_bytes(codes: Integers) -> float:
    """Order-0 entropy of whole numbers in bytes: what one ideal and free histogram reaches."""
    counts = np.unique(codes, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8) if codes.size else 0.0


def _worthwhile(mask: NDArray[np.bool_]) -> list[int]:
    """The two `groups` whose masks promise the fewest bytes, from entropies alone."""
    rows, columns = (np.eye(GROUPS[-1])[_by_density(mask, axis, GROUPS[-1])] for axis in (1, 0))
    ones = rows.T @ mask @ columns
    sizes = np.outer(rows.sum(0), columns.sum(0))
    found = []
    for groups in GROUPS:
        # Halving the number of classes joins neighbours, as `_by_density` rounds down.
        blocks = (groups, GROUPS[-1] // groups, groups, GROUPS[-1] // groups)
        size = sizes.reshape(blocks).sum((1, 3))
        share = ones.reshape(blocks).sum((1, 3)) / np.maximum(1, size)
        bits = (size * (entr(share) + entr(1 - share))).sum() / np.log(2)
        found.append((bits + sum(mask.shape) * np.log2(groups) + 8 * groups**2, groups))
    return [groups for _, groups in sorted(found)[:2]]


def _by_density(mask: NDArray[np.bool_], axis: int, groups: int) -> Integers:
    """Class of each row (`axis` 1) or column (`axis` 0): 0 for the emptiest `1 / groups`."""
    counts = mask.sum(axis)
    place = np.empty(counts.size, np.int32)
    place[np.argsort(counts, kind="stable")] = np.arange(counts.size)
    return np.asarray(place * groups // max(1, counts.size))


def _encode(codes: Integers, mask: NDArray[np.bool_], top: int, groups: int) -> bytes:
    classes = _Classes(groups, *(_by_density(mask, axis, groups) for axis in (1, 0)))
    flat = mask.reshape(-1).astype(np.int32)
    parts, levels = [], bytearray()
    for cells in classes.cells():
        symbols = flat[cells]
        levels.append(histogram.mask_level(int(np.count_nonzero(symbols)), symbols.size))
        parts.append((symbols, histogram.mask_model(levels[-1])))
    kept = [codes[(classes.rows == group)[:, None] & mask] for group in range(groups)]
    counts = [np.bincount(_symbols(part, top), minlength=2 * top) for part in kept if top]
    tables, short = histogram.value_tables(counts, top)
    for part, table in zip(kept, tables, strict=False):
        parts.append((_symbols(part, top), histogram.model(table)))
    coder = constriction.stream.stack.AnsCoder()
    for symbols, model in reversed(parts):
        coder.encode_reverse(symbols, model)
    if groups > 1:
        for symbols in (classes.columns, classes.rows):
            coder.encode_reverse(symbols, histogram.uniform(groups))
    words: bytes = coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
    settings = GROUPS.index(groups) << 1 | short
    stored = b"".join(histogram.stored_table(table, top, short) for table in tables)
    return bytes([settings]) + bytes(levels) + stored + words


def _coder(data: bytes) -> Any:
    """A coder over little-endian words; zero bytes at the end carry nothing and are not stored."""
    data = data.rstrip(b"\0")
    data += bytes(-len(data) % 4)
    return constriction.stream.stack.AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))


def _read_classes(coder: Any, groups: int, count: int) -> Integers:
    if groups == 1:
        return np.zeros(count, np.int32)
    decoded: Integers = coder.decode(histogram.uniform(groups), count)
    return decoded


def _magnitudes(top: int) -> Integers:
    """Values that the symbols `0 ... 2 * top - 1` stand for: zero is left out."""
    return np.concatenate([np.arange(-top, 0), np.arange(1, top + 1)]).astype(np.int8)


def _symbols(values: Integers, top: int) -> Integers:
    values = values.astype(np.int32)
    return values + top - (values > 0)
