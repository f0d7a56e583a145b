"""Entropy coding of a sparse matrix of small integers: where it is zero, then what the rest is.

Rows and columns of a pruned layer differ widely in density (inputs that are rarely active lose
nearly all their weights).  Each row and column is put in one of a few classes of equal count by
its number of nonzeros, or by its sum of magnitudes; zeros are coded with one probability for each
pair of classes, values with one histogram for each row class.  One class each is order-0 coding.
The coder is the range coder of `constriction` (Bamler, arXiv:2201.01741): its asymmetric numeral
systems are faster, but cost 24 bits a stream, which is what small layers cannot pay.

The plain alternative is zstd over the codes, a byte each or packed; of dense layers, whose
neighbours are alike, it makes a little less than order 0, and is taken where it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from autocompress.compression import bits, histogram
from autocompress.compression.bits import Reader
from autocompress.errors import ArchiveError

GROUPS = (1, 2, 4, 8)
CODERS = ("entropy", "zstd")
_KINDS = 3  # of histograms
_BYTES, _PACKED = 48, 49  # zstd over codes of a byte each, or of as many bits as they need
_LEAST_REPEATS = 4096  # codes of a matrix in which zstd finds any
_TRIES = 3  # codings made in full: order 0, and those that promise fewest bytes

Integers = NDArray[Any]


@dataclass(frozen=True)
class _Classes:
    """Classes `(rows,)` and `(columns,)`: numbers below `groups[0]` and `groups[1]`."""

    groups: tuple[int, int]
    rows: Integers
    columns: Integers

    def cells(self) -> list[Integers]:
        """For each pair of classes, the flat indices of its cells."""
        pair = (self.rows[:, None] * self.groups[1] + self.columns).astype(np.uint8).reshape(-1)
        count = self.groups[0] * self.groups[1]
        if count == 1:
            return [np.arange(pair.size)]
        order = np.argsort(pair, kind="stable")
        ends = np.cumsum(np.bincount(pair, minlength=count))
        return np.split(order, ends[:-1])


def encode_matrix(codes: Integers, top: int, coder: str = "entropy") -> bytes:
    """The smallest coding of a matrix.

    Args:
        codes: `(rows, columns)` whole numbers in `[-top, top]`.
        top: Largest magnitude; 0 codes only where `codes` is not zero.
        coder: `entropy`, or `zstd` for the plain alternative alone.

    Returns:
        One byte of settings; then tables and the coded stream, or a zstd frame.
    """
    if coder == "zstd":
        return _zstd(codes, top)
    mask = codes != 0
    found = [_encode(codes, mask, top, classes) for classes in _promising(codes, top)]
    if codes.size >= _LEAST_REPEATS and np.count_nonzero(mask) > 0.4 * codes.size:
        # Neighbours in dense layers are alike, which packed together they show.
        found.append(_packed(codes, top))
    return min(found, key=len)


def decode_matrix(data: bytes, shape: tuple[int, int], top: int) -> NDArray[np.int8]:
    """The matrix that `encode_matrix` was given (0 and 1 when `top` is 0).

    Raises:
        ArchiveError: If `data` is damaged.
    """
    reader = Reader(data)
    settings = reader.byte()
    kind, groups = settings >> 4, (GROUPS[settings >> 2 & 3], GROUPS[settings & 3])
    if kind >= _KINDS:
        return _unpacked(settings, reader.take(reader.left), shape, top)
    masks = [histogram.mask_model(level) for level in reader.take(groups[0] * groups[1])]
    size = histogram.table_bytes(top, kind)
    values = [
        histogram.read_table(reader.take(size), top, kind) for _ in range(groups[0] if top else 0)
    ]
    coder = _decoder(reader.take(reader.left))
    try:
        return _decode(coder, groups, shape, top, masks, values)
    except AssertionError as error:  # what the range decoder raises
        raise ArchiveError(f"damaged: {error}") from error


def _decode(
    coder: Any,
    groups: tuple[int, int],
    shape: tuple[int, int],
    top: int,
    masks: list[Any],
    values: list[Any],
) -> NDArray[np.int8]:
    rows, columns = (_read_classes(coder, *pair) for pair in zip(groups, shape, strict=True))
    classes = _Classes(groups, rows, columns)
    flat = np.zeros(shape[0] * shape[1], np.int8)
    for cells, model in zip(classes.cells(), masks, strict=True):
        flat[cells] = coder.decode(model, cells.size)
    codes = flat.reshape(shape)
    for group, model in enumerate(values):
        chosen = (classes.rows == group)[:, None] & (codes != 0)
        codes[chosen] = _magnitudes(top)[coder.decode(model, int(chosen.sum()))]
    return codes


def entropy_bytes(codes: Integers) -> float:
    """Order-0 entropy of whole numbers in bytes: what one ideal and free histogram reaches."""
    counts = np.unique(codes, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8) if codes.size else 0.0


def _promising(codes: Integers, top: int) -> list[_Classes]:
    """The few classes that promise the fewest bytes, from entropies alone."""
    mask = codes != 0
    found: list[tuple[float, int, tuple[int, int], list[Integers]]] = []
    for weight in (mask, np.abs(codes.astype(np.int32)))[: 2 if top > 1 else 1]:
        ranks = [_ranks(weight.sum(axis), GROUPS[-1]) for axis in (1, 0)]
        for estimate, groups in _estimates(codes, mask, top, ranks):
            found.append((estimate, len(found), groups, ranks))
    plain = found[0]  # one class: estimates are worst where it is best
    found = [plain, *sorted(found[1:], key=lambda entry: entry[:2])]
    return [
        _Classes(
            groups, *(rank * of // GROUPS[-1] for rank, of in zip(ranks, groups, strict=True))
        )
        for _, _, groups, ranks in found[:_TRIES]
    ]


def _ranks(sums: Integers, groups: int) -> Integers:
    """Class of each row or column by its sum: 0 for the smallest `1 / groups` of them."""
    place = np.empty(sums.size, np.int32)
    place[np.argsort(sums, kind="stable")] = np.arange(sums.size)
    return np.asarray(place * groups // max(1, sums.size))


def _estimates(
    codes: Integers, mask: NDArray[np.bool_], top: int, ranks: list[Integers]
) -> Iterator[tuple[float, tuple[int, int]]]:
    """Bytes that a coding would take with each number of row and column classes."""
    most = GROUPS[-1]
    rows, columns = (np.eye(most)[rank] for rank in ranks)
    ones, sizes = rows.T @ mask @ columns, np.outer(rows.sum(0), columns.sum(0))
    symbols = _symbols(codes[mask], top) if top else np.zeros(0, np.int32)
    place = np.broadcast_to(ranks[0][:, None], mask.shape)[mask] if top else symbols
    counts = np.bincount(place * 2 * top + symbols, minlength=most * 2 * top).reshape(most, -1)
    for high in GROUPS:
        # Halving the number of classes joins neighbours, as `_ranks` rounds down.
        joined = counts.reshape(high, most // high, -1).sum(1)
        share = joined / np.maximum(1, joined.sum(1, keepdims=True))
        values = (joined.sum(1) * entr(share).sum(1)).sum() / np.log(2) if top else 0.0
        # Two bytes, and what a smooth table leaves of the entropy of a sample: half a nat a symbol
        # that occurs.
        table = (16 * high if top > 1 else 0) + 0.72 * np.count_nonzero(joined)
        for wide in GROUPS:
            blocks = (high, most // high, wide, most // wide)
            size = sizes.reshape(blocks).sum((1, 3))
            share = ones.reshape(blocks).sum((1, 3)) / np.maximum(1, size)
            zeros = (size * (entr(share) + entr(1 - share))).sum() / np.log(2)
            classes = mask.shape[0] * np.log2(high) + mask.shape[1] * np.log2(wide)
            yield zeros + values + classes + 8 * high * wide + table, (high, wide)


def _encode(codes: Integers, mask: NDArray[np.bool_], top: int, classes: _Classes) -> bytes:
    groups, flat = classes.groups, mask.reshape(-1).astype(np.int32)
    parts, levels = [], bytearray()
    for symbols, count in ((classes.rows, groups[0]), (classes.columns, groups[1])):
        if count > 1:
            parts.append((symbols.astype(np.int32), histogram.uniform(count)))
    for cells in classes.cells():
        symbols = flat[cells]
        levels.append(histogram.mask_level(int(np.count_nonzero(symbols)), symbols.size))
        parts.append((symbols, histogram.mask_model(levels[-1])))
    kept = [codes[(classes.rows == group)[:, None] & mask] for group in range(groups[0])]
    counts = [np.bincount(_symbols(part, top), minlength=2 * top) for part in kept if top]
    tables, kind = histogram.value_tables(counts, top) if top else ([], 0)
    for part, table in zip(kept, tables, strict=False):
        parts.append((_symbols(part, top), histogram.read_table(table, top, kind)))
    coder = constriction.stream.queue.RangeEncoder()
    for symbols, model in parts:
        coder.encode(symbols, model)
    settings = kind << 4 | GROUPS.index(groups[0]) << 2 | GROUPS.index(groups[1])
    return bytes([settings]) + bytes(levels) + b"".join(tables) + _stream(coder)


def _stream(coder: Any) -> bytes:
    """The fewest bytes that decode to what was encoded, followed by zeros.

    Any number in `[lower, lower + extent)` will do for the 64 bits that are not settled: here the
    one with most zero bytes at its end.
    """
    place, (lower, extent) = coder.pos()
    words: Integers = coder.get_compressed()
    if lower + extent <= 1 << 64:
        for length in range(9):
            unit = 1 << (64 - 8 * length)
            number: int = -(-lower // unit) * unit
            if number < lower + extent:
                settled: bytes = words[:place].astype(">u4").tobytes()
                found = settled + number.to_bytes(8, "big")
                return found.rstrip(b"\0")
    # A carry may still change words before: these are sealed as they are.
    sealed: bytes = words.astype(">u4").tobytes()
    return sealed.rstrip(b"\0")


def _decoder(data: bytes) -> Any:
    """A decoder over big-endian words; zero bytes at the end carry nothing and are not stored."""
    words = np.frombuffer(data + bytes(-len(data) % 4), ">u4")
    return constriction.stream.queue.RangeDecoder(words.astype(np.uint32))


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


def _zstd(codes: Integers, top: int) -> bytes:
    """Codes under zstd, of a byte each or packed."""
    raw = _shifted(codes, top).astype(np.uint8).tobytes()
    return min(bytes([_BYTES]) + bits.zstd(raw), _packed(codes, top), key=len)


def _packed(codes: Integers, top: int) -> bytes:
    """Codes packed, under zstd, which sees several at once."""
    return bytes([_PACKED]) + bits.zstd(
        bits.pack(_shifted(codes, top), (2 * top or 1).bit_length())
    )


def _shifted(codes: Integers, top: int) -> Integers:
    return codes.astype(np.int16) + top if top else (codes != 0).astype(np.int16)


def _unpacked(settings: int, data: bytes, shape: tuple[int, int], top: int) -> NDArray[np.int8]:
    count, width = shape[0] * shape[1], (2 * top or 1).bit_length()
    found: Integers
    if settings == _BYTES:
        found = np.frombuffer(bits.unzstd(data, count), np.uint8).astype(np.int16)
    elif settings == _PACKED:
        found = bits.unpack(bits.unzstd(data, bits.packed_bytes(count, width)), count, width)
    else:
        raise ArchiveError(f"damaged: coding {settings} is unknown")
    if found.size and found.max() > (2 * top or 1):
        raise ArchiveError(f"damaged: a code of {found.max() - top} where {top} is the most")
    return (found - top).astype(np.int8).reshape(shape)
