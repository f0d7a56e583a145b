"""Parts of a packed archive as bytes and back: the untreated tensors, and a layer's record.

Nothing is allocated before its size was checked against the bytes that are there.
docs/archive.md gives every byte.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.compression import bits
from autocompress.compression.bits import Reader
from autocompress.compression.treated import Grid, Treated
from autocompress.deploy.floats import pack_floats, read_floats
from autocompress.deploy.narrow import pack_narrow, read_narrow
from autocompress.deploy.weights import pack_weight, read_weight, scale_bytes
from autocompress.deploy.words import pack_words, read_words
from autocompress.errors import ArchiveError

_DTYPES = {
    "f4": torch.float32,
    "f2": torch.float16,
    "bf": torch.bfloat16,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_BIAS = (None, torch.float16, torch.float32)
_GRID = struct.Struct("<fB")
_CORE = 3 << 1  # in the place of the bias: three tensors, a core in the middle; more flags follow


@dataclass(frozen=True)
class Base:
    """What an archive holds beside its layers.

    Args:
        metadata: Where it comes from.
        rest: Untreated tensors by key.
        layers: Names of the layers whose records follow, in their order.
        index_bytes: Of metadata, names and shapes.
    """

    metadata: dict[str, str]
    rest: dict[str, Tensor]
    layers: tuple[str, ...]
    index_bytes: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of a layer's record.

    Args:
        total: Of all.
        head: Flags, option id and shape.
        weights: Of each stored tensor.
        scales: The part of it that is no codes: steps, zero points, codebook.
        bias: Of the bias.
    """

    total: int
    head: int
    weights: tuple[int, ...]
    scales: tuple[int, ...]
    bias: int


@dataclass(frozen=True)
class Record:
    """A layer as it was read.

    Args:
        option: Its option id.
        treated: What is stored.
        sizes: Bytes of its parts.
    """

    option: str
    treated: Treated
    sizes: Sizes


def pack_base(
    rest: Mapping[str, Tensor], metadata: Mapping[str, str], layers: Iterable[str] = ()
) -> list[bytes]:
    """An index in JSON, deflated where that is smaller; then the tensors, one block for a type;
    in parts to be joined.

    Names of layers and tensors repeat each other: one deflated index shrinks them to a third and
    less, which each layer for itself could not.
    """
    index: dict[str, list[str | int]] = {}
    raw: dict[str, list[NDArray[np.uint8]]] = {}
    for key, tensor in rest.items():
        if tensor.dtype not in _NAMES:
            raise ValueError(f"archive: {key} is {tensor.dtype}; allowed are {', '.join(_DTYPES)}")
        dtype = _NAMES[tensor.dtype]
        index[key] = [dtype, *tensor.shape]
        raw.setdefault(dtype, []).append(_raw(tensor))
    if not all(isinstance(part, str) for pair in metadata.items() for part in pair):
        raise ValueError(f"archive: metadata must map strings to strings, not {dict(metadata)}")
    content = [dict(metadata), index, list(layers)]
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    small = bits.deflate(text)
    parts = [bits.integer(len(text)), bits.block(small if len(small) < len(text) else text)]
    for dtype, values in raw.items():
        squeezed = bits.squeezed_parts(values, _DTYPES[dtype].itemsize)
        parts += [bits.integer(sum(map(len, squeezed))), *squeezed]
    return parts


def read_base(reader: Reader) -> Base:
    """What `pack_base` wrote.

    Raises:
        ArchiveError: If it is damaged or cut.
    """
    start = reader.left
    size, text = reader.integer(), reader.block()
    index_bytes = start - reader.left
    if size != len(text):
        text = bits.inflate(text, size, raw=True)
    metadata, index, layers = _read_index(text)
    totals: dict[str, int] = {}
    for dtype, *shape in index.values():
        totals[dtype] = totals.get(dtype, 0) + math.prod(shape) * _DTYPES[dtype].itemsize
    readers = {}
    for dtype, total in totals.items():
        readers[dtype] = Reader(bits.unsqueeze(reader.block(), total, _DTYPES[dtype].itemsize))
    rest = {}
    for key, (dtype, *shape) in index.items():
        raw = readers[dtype].take(math.prod(shape) * _DTYPES[dtype].itemsize)
        rest[key] = _tensor(raw, _DTYPES[dtype], shape)
    return Base(metadata, rest, tuple(layers), index_bytes)


def _read_index(text: bytes) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """Metadata, `key: [type, *shape]` with every type known and every size a whole number, and
    the layers' names."""
    try:
        metadata, index, layers = json.loads(text, object_pairs_hook=_unique)
        valid = (
            isinstance(layers, list)
            and all(isinstance(text, str) for text in (*metadata.values(), *layers))
            and all(entry[0] in _DTYPES and _is_shape(entry[1:]) for entry in index.values())
        )
        if valid and len(set(layers)) < len(layers):
            raise ValueError("a layer occurs twice")
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise ArchiveError(f"damaged: index of the tensors: {error}") from error
    if not valid:
        raise ArchiveError("damaged: index of the tensors: a type or shape that cannot be")
    return metadata, index, layers


def _is_shape(sizes: list[Any]) -> bool:
    """Whether torch can hold it: strides count even beside an empty dimension."""
    whole = all(type(size) is int and 0 <= size < 2**48 for size in sizes)
    return whole and len(sizes) <= 32 and math.prod(max(1, size) for size in sizes) < 2**48


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def pack_layer(name: str, option_id: str, treated: Treated, coder: str = "entropy") -> bytes:
    """One or two bytes of flags, option, shape, stored tensors, bias, grids, channels.

    Args:
        name: Of the layer, for messages: it is stored in the base.
        option_id: ASCII.
        treated: What is stored.
        coder: Of the codes, `entropy` or `zstd`.

    Raises:
        ValueError: If the parts do not belong together or hold what an archive cannot store.
    """
    weights, bias, grids = treated.weights, treated.bias, treated.grids
    if len(weights) not in (1, 2, 3) or len(grids) not in (0, len(weights) + 1):
        raise ValueError(f"{name}: {len(weights)} weights with {len(grids)} grids")
    shape = _pack_shape(name, [weight.codes.shape for weight in weights])
    kind = None if bias is None else bias.dtype
    if kind not in _BIAS or (bias is not None and bias.shape != weights[-1].codes.shape[:1]):
        raise ValueError(f"{name}: bias must be float16 or float32, one for each output")
    if treated.is_dynamic and (grids or len(weights) == 3):
        raise ValueError(f"{name}: inputs are rounded at each call, which takes no grids, no core")
    present = sum((grid is not None) << index for index, grid in enumerate(grids))
    # Grids that are announced, and none of them there: none is needed, inputs are measured.
    flags = (bool(grids) or treated.is_dynamic) << 3 | bool(treated.narrow) << 7
    if len(weights) == 3:
        head = bytes([flags | _CORE, _BIAS.index(kind) | present << 2])
    else:
        head = bytes([flags | len(weights) - 1 | _BIAS.index(kind) << 1 | present << 4])
    parts = [head, bits.block(pack_words(option_id))]
    parts += [bits.integer(size) for size in shape]
    # An integer kernel adds its bias in steps of the row's scale, which therefore stays.
    drops = [not grids or weight is not weights[-1] for weight in weights]
    parts += [
        bits.block(pack_weight(weight, coder, drop))
        for weight, drop in zip(weights, drops, strict=True)
    ]
    parts += [pack_floats(bias, coder)] if bias is not None else []
    parts += [_pack_grid(name, grid) for grid in grids if grid]
    return b"".join([*parts, *pack_narrow(treated.narrow)])


def read_layer(reader: Reader) -> Record:
    """What `pack_layer` wrote.

    Raises:
        ArchiveError: If it is damaged or cut.
    """
    start = reader.left
    flags = reader.byte()
    count, kind, has_grid = _read_flags(reader, flags)
    option = read_words(reader.block())
    shapes = _read_shapes(reader, count)
    head = start - reader.left
    blocks = [reader.block() for _ in shapes]
    weights = [read_weight(block, shape) for block, shape in zip(blocks, shapes, strict=True)]
    before = reader.left
    dtype, outputs = _BIAS[kind], shapes[-1][0]
    bias = None if dtype is None else read_floats(reader, outputs, dtype)
    bias_bytes = before - reader.left
    grids: tuple[Grid | None, ...] = ()
    is_dynamic = bool(flags & 8) and not has_grid
    if flags & 8 and not is_dynamic:
        present = [bool(has_grid >> index & 1) for index in range(count + 1)]
        grids = tuple(_read_grid(reader) if here else None for here in present)
    # The first factor of a core has a column a channel, other tensors one for each of its taps.
    narrow = read_narrow(reader, outputs, shapes[0][1], count == 3) if flags & 128 else None
    treated = Treated(tuple(weights), bias, grids, narrow, is_dynamic)
    scales = tuple(map(scale_bytes, blocks, weights))
    sizes = Sizes(start - reader.left, head, tuple(map(len, blocks)), scales, bias_bytes)
    return Record(option, treated, sizes)


def _pack_shape(name: str, shapes: Sequence[Sequence[int]]) -> list[int]:
    """Rows and columns of the first tensor, then rows of each other one, whose columns are the
    rows before; columns of a core besides, of which each channel has as many as there are taps."""
    (rows, columns), *others = shapes
    packed = [rows, columns]
    for index, (more, read) in enumerate(others):
        is_core = len(shapes) == 3 and index == 0
        if read != rows and not (is_core and rows and read % rows == 0):
            raise ValueError(f"{name}: factors {', '.join(str(tuple(shape)) for shape in shapes)}")
        packed += [more, read] if is_core else [more]
        rows = more
    return packed


def _read_flags(reader: Reader, flags: int) -> tuple[int, int, int]:
    """Number of tensors, kind of bias, and a bit for each grid that is there."""
    more, count, kind, has_grid = 0, 1 + (flags & 1), flags >> 1 & 3, flags >> 4 & 7
    if flags & _CORE == _CORE:
        more = reader.byte()
        count, kind, has_grid = 3, more & 3, more >> 2
    wrong = count == 3 and flags & 0b1110001
    if wrong or kind >= len(_BIAS) or has_grid >= 2 ** (count + 1 if flags & 8 else 0):
        raise ArchiveError(f"damaged: layer flags {flags} {more} are unknown")
    return count, kind, has_grid


def _read_shapes(reader: Reader, count: int) -> list[tuple[int, int]]:
    rows, columns = reader.integer(), reader.integer()
    shapes = [(rows, columns)]
    if count == 3:
        makes, read = reader.integer(), reader.integer()
        if not rows or not columns or not read or read % rows:
            raise ArchiveError(f"damaged: a core of {read} columns for {rows} channels")
        shapes.append((makes, read))
        rows = makes
    if count > 1:
        shapes.append((reader.integer(), rows))
    return shapes


def _pack_grid(name: str, grid: Grid) -> bytes:
    packed = _GRID.pack(grid.scale, grid.zero_point)
    if _GRID.unpack(packed)[0] != grid.scale:
        raise ValueError(f"{name}: the scale {grid.scale} of a grid is no float32")
    return packed


def _read_grid(reader: Reader) -> Grid:
    scale, zero_point = _GRID.unpack(reader.take(_GRID.size))
    if not (math.isfinite(scale) and scale > 0):
        raise ArchiveError(f"damaged: a grid of scale {scale}")
    return Grid(scale, zero_point)


def _raw(tensor: Tensor) -> NDArray[np.uint8]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()


def _tensor(raw: bytes, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if dtype is torch.bool and raw.translate(None, b"\0\1"):
        raise ArchiveError("damaged: a truth value is neither 0 nor 1")
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)
