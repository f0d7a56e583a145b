"""A stored tensor in a layer's record: as `coding` writes it, less the rows that are all zero.

A row of zeros needs no scale: where leaving such rows out is smaller, a bit for each row says
which are stored.
"""

from __future__ import annotations

import numpy as np
import torch

from autocompress.compression import coding
from autocompress.compression.treated import StoredTensor
from autocompress.errors import ArchiveError

_SOME_ROWS = 128  # in place of `coding`'s first byte, which is smaller
_CODES_PER_BYTE = 4096  # at most, as in `coding`: bounds what a damaged shape can claim


def pack_weight(weight: StoredTensor, coder: str = "entropy", drop: bool = True) -> bytes:
    """Everything but the shape.

    Args:
        weight: What to store.
        coder: Of the codes, `entropy` or `zstd`.
        drop: Whether the scale of a row of zeros means nothing.

    Raises:
        ValueError: If `coding.encode` refuses the tensor.
    """
    whole = coding.encode(weight, coder)
    scale, codes = weight.scale, weight.codes
    if not drop or scale is None or len(scale) != len(codes):
        return whole
    live = (codes != 0).any(1)
    if bool(live.all()):
        return whole
    mask = np.packbits(live.numpy()).tobytes()
    some = weight.rows(torch.from_numpy(np.flatnonzero(live)))
    packed = bytes([_SOME_ROWS]) + mask + coding.encode(some, coder)
    fits = codes.numel() <= _CODES_PER_BYTE * len(packed)
    return packed if fits and len(packed) < len(whole) else whole


def read_weight(data: bytes, shape: tuple[int, int]) -> StoredTensor:
    """The tensor that `pack_weight` was given; the scale of a row that was left out is one.

    Raises:
        ArchiveError: If `data` is damaged, or too short for a tensor of this shape.
    """
    if data[:1] != bytes([_SOME_ROWS]):
        return coding.decode(data, shape)
    rows, columns = shape
    end = 1 + -(-rows // 8)
    if max(1, rows) * max(1, columns) > _CODES_PER_BYTE * len(data) or end > len(data):
        raise ArchiveError(f"damaged: a tensor of shape {shape} in {len(data)} bytes")
    live = np.unpackbits(np.frombuffer(data[1:end], np.uint8))
    if live[rows:].any():
        raise ArchiveError(f"damaged: a row is stored beyond the last of {rows}")
    place = torch.from_numpy(np.flatnonzero(live))
    some = coding.decode(data[end:], (len(place), columns))
    if some.scale is None or len(some.scale) != len(place):
        raise ArchiveError("damaged: rows left out of a tensor without scales of rows")
    return some.spread_rows(place, rows)


def scale_bytes(data: bytes, weight: StoredTensor) -> int:
    """Bytes of `data` that are no codes: steps, zero points or codebook, and which rows there are.

    Args:
        data: What `pack_weight` wrote.
        weight: What `read_weight` made of it.
    """
    if data[0] != _SOME_ROWS:
        return min(len(data), coding.scale_bytes(weight))
    end = 1 + -(-len(weight.codes) // 8)
    live = np.flatnonzero(np.unpackbits(np.frombuffer(data[1:end], np.uint8)))
    return min(len(data), end + coding.scale_bytes(weight.rows(torch.from_numpy(live))))
