"""One stored tensor as bytes and back, bit for bit: the smaller of entropy-coded and packed.

Layout: a byte of settings (bits, of the codes, of the scales), the scales, the codes.  Where codes
are anything but multiples of one step a row, the settings say that a second byte follows
(`compression/kinds.py`).  The shape is not stored: whoever reads knows it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autocompress.compression import bits, kinds
from autocompress.compression.bits import Reader
from autocompress.compression.entropy import decode_matrix, encode_matrix, entropy_bytes
from autocompress.compression.treated import StoredTensor
from autocompress.errors import ArchiveError

__all__ = ["coded_bytes", "decode", "encode", "entropy_bytes"]

_PLAIN, _CODED = 0, 1
_WIDTHS = (2, 3, 4, 6, 8, 16, 32, 7)  # by their number in a file: new ones come last
# Nothing is stored denser: a damaged shape cannot claim memory of over 4096 times the file.
_CODES_PER_BYTE = 4096
_FURTHER = 32  # a second byte of settings follows
_FLOATS = {16: ("<f2", "<u2"), 32: ("<f4", "<u4")}


def encode(tensor: StoredTensor, coder: str = "entropy") -> bytes:
    """Everything of a stored tensor but its shape.

    Args:
        tensor: What to store.
        coder: Of the codes, `entropy` or `zstd`.

    Raises:
        ValueError: If the tensor is no matrix, its types do not fit its bits, a code is out of
            range, or its scales are not float16 of a shape that fits.
    """
    if not kinds.is_plain(tensor):
        return _encode_further(tensor, coder)
    _check(tensor)
    codes = np.ascontiguousarray(tensor.codes.detach().cpu().numpy())
    scales, packed_scales = (b"", 0) if tensor.scale is None else _encode_scales(tensor.scale)
    if tensor.bits > 8:
        plain, coded = _encode_floats(codes, tensor.bits, coder)
    else:
        top = 2 ** (tensor.bits - 1) - 1
        coded = encode_matrix(codes, top, coder)
        # Packing is slow and seldom smaller, which its length tells beforehand.
        is_coded = len(coded) < bits.packed_bytes(codes.size, tensor.bits)
        plain = coded if is_coded else bits.pack(codes.astype(np.int16) + top, tensor.bits)
    head = bytes([_WIDTHS.index(tensor.bits) | packed_scales << 4])
    return _smaller(head, scales, plain, coded, codes.shape)


def _encode_further(tensor: StoredTensor, coder: str) -> bytes:
    """Any kind of integer codes: two bytes of settings, scales or codebook, zero points, codes."""
    kinds.check(tensor)
    steps = tensor.scale if tensor.codebook is None else tensor.codebook
    assert steps is not None
    scales, packed_scales = _encode_scales(steps)
    head = bytes([_FURTHER | packed_scales << 4]) + kinds.head(tensor)
    symbols, top = kinds.symbols(tensor)
    coded = encode_matrix(symbols, top, coder)
    is_coded = len(coded) < kinds.packed_bytes(tensor)
    plain = coded if is_coded else kinds.pack(tensor)
    return _smaller(head, scales + kinds.pack_zero(tensor), plain, coded, symbols.shape)


def _smaller(
    head: bytes, before: bytes, plain: bytes, coded: bytes, shape: tuple[int, ...]
) -> bytes:
    """Settings, what comes before the codes, and the smaller form of these."""
    least = _least(shape) - len(head) - len(before)
    if len(plain) < len(coded) and len(plain) >= least:
        return head + before + plain
    # Zero bytes at the end of a coded stream say nothing: they may fill it up.
    head = bytes([head[0] | _CODED << 3]) + head[1:]
    return head + before + coded + bytes(max(0, least - len(coded)))


def coded_bytes(tensor: StoredTensor) -> int:
    """Bytes that `encode` needs: codes, scales and tables."""
    return len(encode(tensor))


def scale_bytes(tensor: StoredTensor) -> int:
    """Bytes of what `encode` writes that give the codes their meaning: steps, zero points or
    codebook."""
    steps = tensor.scale if tensor.codebook is None else tensor.codebook
    return 0 if steps is None else len(_encode_scales(steps)[0]) + len(kinds.pack_zero(tensor))


def decode(data: bytes, shape: tuple[int, int]) -> StoredTensor:
    """The tensor that `encode` was given, bit for bit.

    Args:
        data: What `encode` returned.
        shape: `(rows, columns)`.

    Raises:
        ArchiveError: If `data` is damaged, or too short for a tensor of this shape.
    """
    reader = Reader(data)
    head = reader.byte()
    is_further = bool(head & _FURTHER)
    if head >= 2 * _FURTHER or (is_further and head & 7):
        raise ArchiveError(f"damaged: tensor settings {head} are unknown")
    width, layout, packed_scales = _WIDTHS[head & 7], head >> 3 & 1, head >> 4 & 1
    if min(shape) < 0 or len(data) < _least(shape):
        raise ArchiveError(f"damaged: a tensor of shape {shape} in {len(data)} bytes")
    if is_further:
        return _decode_further(reader, shape, layout, packed_scales)
    if width > 8:
        values = _decode_floats(reader.take(reader.left), shape, width, layout)
        return StoredTensor(width, torch.from_numpy(values), None)
    scale = torch.from_numpy(_decode_scales(reader, shape[0], packed_scales))
    body, top = reader.take(reader.left), 2 ** (width - 1) - 1
    if layout == _CODED:
        codes = decode_matrix(body, shape, top)
    else:
        found = bits.unpack(body, shape[0] * shape[1], width) - top
        if found.size and found.max() > top:
            raise ArchiveError(f"damaged: code {found.max()}, allowed are at most {top}")
        codes = found.astype(np.int8).reshape(shape)
    return StoredTensor(width, torch.from_numpy(codes), scale)


def _decode_further(
    reader: Reader, shape: tuple[int, int], layout: int, packed_scales: int
) -> StoredTensor:
    kind = kinds.read_head(reader)
    found = torch.from_numpy(_decode_scales(reader, kind.steps(shape), packed_scales))
    zero = kind.read_zero(reader, shape)
    body = reader.take(reader.left)
    if layout == _CODED:
        top = kind.top(found)
        codes = kind.codes(decode_matrix(body, shape, top), found, zero)
    else:
        codes = kind.unpack(body, shape, found, zero)
    return kind.tensor(codes, found, zero)


def _least(shape: tuple[int, ...]) -> int:
    """Fewest bytes that a tensor of `shape` may take."""
    return -(-max(1, shape[0]) * max(1, shape[1]) // _CODES_PER_BYTE)


def _check(tensor: StoredTensor) -> None:
    codes, scale, top = tensor.codes, tensor.scale, 2 ** (tensor.bits - 1) - 1
    kind = {16: torch.float16, 32: torch.float32}.get(tensor.bits, torch.int8)
    if tensor.bits not in _WIDTHS or codes.ndim != 2 or codes.dtype != kind:
        raise ValueError(
            f"StoredTensor: {tensor.bits} bits in {codes.dtype} of shape {tuple(codes.shape)}; "
            f"allowed are bits {_WIDTHS} in a matrix of int8, float16 or float32"
        )
    if (scale is None) != (tensor.bits > 8):
        raise ValueError(
            f"StoredTensor: {tensor.bits} bits {'without' if scale is None else 'with'} scale"
        )
    if scale is None:
        return
    if scale.dtype != torch.float16 or scale.shape != codes.shape[:1]:
        raise ValueError(
            f"StoredTensor: scale {scale.dtype} {tuple(scale.shape)}: float16 of {codes.shape[:1]}"
        )
    if codes.numel() and int(codes.abs().max()) > top or bool((codes == -128).any()):
        raise ValueError(f"StoredTensor: codes of {tensor.bits} bits must lie in [{-top}, {top}]")


def _encode_scales(scale: torch.Tensor) -> tuple[bytes, int]:
    """Float16 patterns as they are (0), or less their smallest in as few bits as hold them (1)."""
    patterns = scale.detach().cpu().numpy().astype("<f2").view("<u2").reshape(-1)
    plain = patterns.tobytes()
    low = int(patterns.min(initial=65535))
    width = int(patterns.max(initial=low) - low).bit_length()
    packed = low.to_bytes(2, "little") + bytes([width]) + bits.pack(patterns - low, width)
    return (packed, 1) if len(packed) < len(plain) else (plain, 0)


def _decode_scales(reader: Reader, count: int, packed: int) -> NDArray[np.float16]:
    if not packed:
        return np.frombuffer(reader.take(2 * count), "<f2").astype(np.float16)
    low, width = int.from_bytes(reader.take(2), "little"), reader.byte()
    if width > 16:
        raise ArchiveError(f"damaged: scales of {width} bits")
    patterns = low + bits.unpack(reader.take(bits.packed_bytes(count, width)), count, width)
    if patterns.size and patterns.max() > 65535:
        raise ArchiveError(f"damaged: a scale of pattern {patterns.max()}")
    return patterns.astype(np.uint16).view(np.float16)


def _encode_floats(values: NDArray[Any], width: int, coder: str) -> tuple[bytes, bytes]:
    """All values; or where they are not zero, then these values alone."""
    patterns = values.astype(_FLOATS[width][0]).view(_FLOATS[width][1])
    plain = bits.squeeze(patterns.tobytes(), width // 8)
    mask = patterns != 0  # as bits: minus zero is a value
    kept = bits.squeeze(patterns[mask].tobytes(), width // 8)
    return plain, bits.block(kept) + encode_matrix(mask.astype(np.int8), 0, coder)


def _decode_floats(
    data: bytes, shape: tuple[int, int], width: int, layout: int
) -> NDArray[np.float16] | NDArray[np.float32]:
    count, item = shape[0] * shape[1], width // 8
    if layout == _PLAIN:
        raw = bits.unsqueeze(data, count * item, item)
        return _floats(raw, width).reshape(shape)
    reader = Reader(data)
    kept = reader.block()
    mask = decode_matrix(reader.take(reader.left), shape, 0) != 0
    values = _floats(bits.unsqueeze(kept, int(mask.sum()) * item, item), width)
    out = np.zeros(shape, values.dtype)
    out[mask] = values
    return out


def _floats(raw: bytes, width: int) -> NDArray[Any]:
    return np.frombuffer(raw, _FLOATS[width][0]).astype(_FLOATS[width][0][1:])
