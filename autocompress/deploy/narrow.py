"""Which channels a layer still has, as bytes and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autocompress.compression import bits
from autocompress.compression.bits import Reader
from autocompress.compression.treated import Narrow
from autocompress.errors import ArchiveError


def pack_narrow(narrow: Narrow | None) -> list[bytes]:
    """For outputs and inputs the channels of the whole layer, 0 where all stay, and a bit each."""
    if narrow is None:
        return []
    parts = []
    for size, kept in zip(narrow.sizes, (narrow.outputs, narrow.inputs), strict=True):
        parts.append(bits.integer(0 if kept is None else size))
        if kept is not None:
            mask = np.zeros(size, np.bool_)
            mask[kept.numpy()] = True
            parts.append(np.packbits(mask).tobytes())
    return parts


def read_narrow(reader: Reader, outputs: int, columns: int, has_core: bool) -> Narrow:
    """What `pack_narrow` wrote.

    Args:
        reader: At its first byte.
        outputs: Rows of the layer's last stored tensor.
        columns: Columns of its first one.
        has_core: Whether that has a column for each channel, not one for each tap of a channel.

    Raises:
        ArchiveError: If the channels do not fit what is stored.
    """
    sizes: list[int] = []
    found: list[Tensor | None] = []
    for stored, exact in ((outputs, True), (columns, has_core)):
        size = reader.integer()
        sizes.append(size)
        if not size:
            found.append(None)
            continue
        mask = np.unpackbits(np.frombuffer(reader.take(-(-size // 8)), np.uint8))
        if mask[size:].any():
            raise ArchiveError(f"damaged: a channel stays beyond the last of {size}")
        kept = torch.from_numpy(np.flatnonzero(mask))
        fits = len(kept) == stored if exact else len(kept) and stored % len(kept) == 0
        if not fits:
            raise ArchiveError(f"damaged: {len(kept)} channels stay where {stored} are stored")
        found.append(kept)
    return Narrow((sizes[0], sizes[1]), *found)
