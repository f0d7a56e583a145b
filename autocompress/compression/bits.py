"""Bytes of the packed archive: a checked reader, variable-length integers, bit packing, zlib
over byte planes, and zstd.  Everything that reads answers damaged data with `ArchiveError`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from autocompress.errors import ArchiveError

_LEAST_WINDOW = 1 << 10  # bytes, of the format
_AT_ONCE = 1 << 16  # values that are packed together, whole bytes of bits


class Reader:
    """Reads `data` from front to back; asking for more than is there is an `ArchiveError`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._position

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if not 0 <= count <= self.left:
            raise ArchiveError(f"truncated: {count} bytes are declared, {self.left} are left")
        self._position += count
        return self._data[self._position - count : self._position]

    def byte(self) -> int:
        return self.take(1)[0]

    def integer(self) -> int:
        """A number written by `integer`, below 2**63."""
        value = 0
        for shift in range(0, 63, 7):
            part = self.byte()
            value |= (part & 127) << shift
            if part < 128:
                return value
        raise ArchiveError("damaged: a length does not end")

    def block(self) -> bytes:
        """Bytes written by `block`."""
        return self.take(self.integer())

    def text(self) -> str:
        """A string written as a UTF-8 `block`."""
        try:
            return self.block().decode()
        except UnicodeDecodeError as error:
            raise ArchiveError("damaged: a name is not UTF-8") from error

    def finish(self) -> None:
        """Raises `ArchiveError` when bytes are left that nobody asked for."""
        if self.left:
            raise ArchiveError(f"damaged: {self.left} bytes too many")


def integer(value: int) -> bytes:
    """`value >= 0` in groups of seven bits, lowest first (LEB128)."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def block(data: bytes) -> bytes:
    """`data` after its length."""
    return integer(len(data)) + data


def pack(values: NDArray[Any], width: int) -> bytes:
    """Whole numbers in `[0, 2**width)`, `width` bits each, lowest bit first."""
    flat, places = values.reshape(-1), np.arange(width)
    return b"".join(
        np.packbits(
            (flat[start : start + _AT_ONCE, None] >> places & 1).astype(np.uint8),
            bitorder="little",
        ).tobytes()
        for start in range(0, len(flat), _AT_ONCE)
    )


def packed_bytes(count: int, width: int) -> int:
    """Length of what `pack` writes for `count` values."""
    return (count * width + 7) // 8


def unpack(data: bytes, count: int, width: int) -> NDArray[np.int32]:
    """The `count` values that `pack` wrote.

    Raises:
        ArchiveError: If `data` has another length.
    """
    if len(data) != packed_bytes(count, width):
        raise ArchiveError(f"damaged: {count} values of {width} bits in {len(data)} bytes")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width, bitorder="little")
    return bits.reshape(count, width) @ (1 << np.arange(width, dtype=np.int32))


def squeeze(raw: bytes, item: int) -> bytes:
    """`squeezed_parts` of one array, joined."""
    return b"".join(squeezed_parts([np.frombuffer(raw, np.uint8)], item))


def squeezed_parts(raw: Sequence[NDArray[np.uint8]], item: int) -> list[bytes]:
    """What is given, or where it is smaller zlib over its byte planes (all first bytes, all
    second ...), in parts to be joined: a large model is not to be held twice.

    Exponents share few values, mantissas hardly any: apart, the former compress.

    Args:
        raw: Values of `item` bytes each, in flat arrays.
        item: Bytes of a value.
    """
    # Runs and byte frequencies are all that weights offer: searching for repeats takes ten times
    # as long and finds none.
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
    small = [b"\1"]
    for plane in range(item):
        small += [packer.compress(values[plane::item].tobytes()) for values in raw]
    small.append(packer.flush())
    if sum(map(len, small)) <= sum(map(len, raw)):
        return small
    return [b"\0", *(values.tobytes() for values in raw)]


def unsqueeze(data: bytes, size: int, item: int) -> bytes:
    """The `size` bytes that `squeeze` was given.

    Raises:
        ArchiveError: If `data` is damaged or holds another number of bytes.
    """
    kind, body = data[:1], data[1:]
    if kind == b"\1":
        body = inflate(body, size, raw=True)
        return np.frombuffer(body, np.uint8).reshape(item, -1).T.tobytes()
    if kind != b"\0" or len(body) != size:
        raise ArchiveError(f"damaged: {size} bytes are declared, {len(body)} are there")
    return body


def deflate(raw: bytes) -> bytes:
    """zlib without header and checksum."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    return packer.compress(raw) + packer.flush()


def inflate(data: bytes, size: int, raw: bool = False) -> bytes:
    """Undoes zlib when the result has exactly `size` bytes.

    Args:
        data: Compressed bytes.
        size: Bytes expected; never more are allocated.
        raw: Whether the stream has no zlib header.

    Raises:
        ArchiveError: If `data` is damaged or holds another number of bytes.
    """
    # 1032 is the largest ratio that deflate reaches: a larger claim is refused before allocating.
    if size > 1032 * len(data):
        raise ArchiveError(f"damaged: {size} bytes are declared in {len(data)} compressed ones")
    unpacker = zlib.decompressobj(-15 if raw else 15)
    try:
        out = unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise ArchiveError(f"damaged: {error}") from error
    if len(out) != size or not unpacker.eof or unpacker.unused_data:
        raise ArchiveError(f"damaged: {size} bytes are declared, {len(out)} are there")
    return out


def zstd(raw: bytes) -> bytes:
    """A zstd frame without checksum or length: the archive has both."""
    packer = zstandard.ZstdCompressor(level=19, write_content_size=False, write_checksum=False)
    return packer.compress(raw)


def unzstd(data: bytes, size: int) -> bytes:
    """Undoes `zstd` when the result has exactly `size` bytes.

    Raises:
        ArchiveError: If `data` is damaged or holds another number of bytes.
    """
    # A frame may ask for a window of gigabytes, and declare a length that is allocated at once:
    # neither is believed.
    window = max(_LEAST_WINDOW, 1 << (max(1, size) - 1).bit_length())
    unpacker = zstandard.ZstdDecompressor(max_window_size=window)
    try:
        with unpacker.stream_reader(data) as stream:
            out = bytes(stream.read(size))
            more = stream.read(1)
    except zstandard.ZstdError as error:
        raise ArchiveError(f"damaged: {error}") from error
    if len(out) != size or more:
        raise ArchiveError(f"damaged: {size} bytes are declared, {len(out)} are there")
    return out
