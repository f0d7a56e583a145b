"""A few floats, such as biases, in few bytes and back, bit for bit.

Signs and exponents share few values and go through the entropy coder, mantissas go as they are
without the trailing zeros that all have in common.  A zero is a symbol of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.compression import bits
from autocompress.compression.bits import Reader
from autocompress.compression.entropy import decode_matrix, encode_matrix
from autocompress.errors import ArchiveError

_PLAIN = 255  # in place of the number of mantissa bits
_FIELDS = {torch.float16: ("<u2", 10, 31), torch.float32: ("<u4", 23, 255)}
_MOST = 127  # exponents that a table of the coder holds
_SYMBOLS_PER_BYTE = 4096  # at most, which bounds what a damaged count can claim

Integers = NDArray[Any]


def pack_floats(values: Tensor, coder: str = "entropy") -> bytes:
    """`(n,)` float16 or float32: the smaller of plain and split.

    Args:
        values: Any patterns, minus zero and NaN included.
        coder: Of signs and exponents, `entropy` or `zstd`.
    """
    kind, mantissa, _ = _FIELDS[values.dtype]
    raw = values.detach().cpu().contiguous().numpy().tobytes()
    patterns = np.frombuffer(raw, kind).astype(np.int64)
    plain = bytes([_PLAIN]) + raw
    found = _split(patterns, mantissa, values.element_size() * 8 - 1, coder)
    return found if found is not None and len(found) < len(plain) else plain


def read_floats(reader: Reader, count: int, dtype: torch.dtype) -> Tensor:
    """The `count` floats that `pack_floats` was given.

    Raises:
        ArchiveError: If they are damaged or cut.
    """
    kind, mantissa, most = _FIELDS[dtype]
    width, item = reader.byte(), np.dtype(kind).itemsize
    if width == _PLAIN:
        return _tensor(np.frombuffer(reader.take(count * item), kind), dtype)
    top, span = reader.byte(), reader.byte()
    if width > mantissa or span > min(top, _MOST - 1) or top > most:
        raise ArchiveError(f"damaged: floats of {width} bits, exponents {top} less {span}")
    coded = reader.block()
    if count > _SYMBOLS_PER_BYTE * (len(coded) + 1):
        raise ArchiveError(f"damaged: {count} floats in {len(coded)} bytes")
    symbols = decode_matrix(coded, (1, count), span + 1)[0].astype(np.int64)
    kept = symbols != 0
    low = bits.unpack(
        reader.take(bits.packed_bytes(int(kept.sum()), width)), int(kept.sum()), width
    )
    patterns = np.zeros(count, np.int64)
    exponents = top + 1 - np.abs(symbols[kept])
    sign = (symbols[kept] < 0).astype(np.int64) << (8 * item - 1)
    patterns[kept] = sign | exponents << mantissa | low.astype(np.int64) << (mantissa - width)
    return _tensor(patterns.astype(kind), dtype)


def _split(patterns: Integers, mantissa: int, sign: int, coder: str) -> bytes | None:
    """Mantissa bits that are stored, the largest exponent, the span of exponents; symbols, and
    the mantissas of what is not zero.  None where exponents span too much."""
    kept = patterns != 0  # minus zero is a value
    some = patterns[kept]
    exponents = some >> mantissa & ((1 << (sign - mantissa)) - 1)
    top = int(exponents.max(initial=0))
    span = top - int(exponents.min(initial=top))
    if span >= _MOST:
        return None
    symbols = np.zeros((1, patterns.size), np.int8)
    symbols[0, kept] = np.where(some >> sign, -1, 1) * (top + 1 - exponents)
    low = some & ((1 << mantissa) - 1)
    together = int(np.bitwise_or.reduce(low, initial=0))
    width = mantissa - ((together & -together).bit_length() - 1 if together else mantissa)
    coded = encode_matrix(symbols, span + 1, coder)
    if patterns.size > _SYMBOLS_PER_BYTE * (len(coded) + 1):
        return None
    return (
        bytes([width, top, span]) + bits.block(coded) + bits.pack(low >> (mantissa - width), width)
    )


def _tensor(patterns: Integers, dtype: torch.dtype) -> Tensor:
    return (
        torch.frombuffer(bytearray(patterns.tobytes()), dtype=dtype)
        if patterns.size
        else (torch.empty(0, dtype=dtype))
    )
