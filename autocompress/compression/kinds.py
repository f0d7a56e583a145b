"""What the bytes of a stored tensor say beyond one step a row: signs, steps of the whole tensor or
of runs of columns, zero points, codebooks.

A byte of settings: bits of a code less one (0-2), which steps (3-4), whether there are zero points
(5).  Then the length of a run, or the values of a codebook less one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.compression import bits
from autocompress.compression.bits import Reader
from autocompress.compression.stored import StoredTensor, spread_steps
from autocompress.errors import ArchiveError

_ROW, _TENSOR, _RUNS, _CODEBOOK = range(4)
MOST_VALUES = 255  # of a codebook, so that a code takes a byte
_SIDE = 127  # symbols of one sign that the coder takes, and one more that is negative

Integers = NDArray[Any]


@dataclass(frozen=True)
class Kind:
    """What the settings say.

    Args:
        bits: Of a code, 1-8.
        which: `_ROW`, `_TENSOR`, `_RUNS` or `_CODEBOOK`.
        affine: Whether there are zero points.
        count: Columns of a run, or values of a codebook; else 0.
    """

    bits: int
    which: int
    affine: bool
    count: int

    def steps(self, shape: tuple[int, int]) -> int:
        """How many steps, or values of a codebook, are stored."""
        if self.which == _RUNS:
            rows, runs = self._runs(shape)
            return rows * runs
        return shape[0] if self.which == _ROW else 1 if self.which == _TENSOR else self.count

    def read_zero(self, reader: Reader, shape: tuple[int, int]) -> Tensor | None:
        """The zero points, which come after the steps."""
        if not self.affine:
            return None
        count = self.steps(shape)
        body = reader.take(bits.packed_bytes(count, self.bits))
        return torch.from_numpy(bits.unpack(body, count, self.bits).astype(np.uint8))

    def top(self, steps: Tensor) -> int:
        """The largest symbol that the coder was given."""
        if self.which == _CODEBOOK:
            split = _split(steps)
            return max(split, self.count - split)
        return (1 << self.bits) - 1 if self.affine else _largest(self.bits)

    def codes(self, symbols: Integers, steps: Tensor, zero: Tensor | None) -> Integers:
        """Codes of the coder's symbols.

        Raises:
            ArchiveError: If a code cannot be.
        """
        wide = symbols.astype(np.int16)
        if self.which == _CODEBOOK:
            split = _split(steps)
            codes = np.where(wide == 0, 0, wide + split + (wide < 0))
            wrong = ((wide != 0) & (codes < 1)) | (codes > self.count)
            return self._checked(codes, wrong).astype(np.uint8)
        return self._checked(wide, self._outside(wide, zero)).astype(np.int8)

    def unpack(
        self, body: bytes, shape: tuple[int, int], steps: Tensor, zero: Tensor | None
    ) -> Integers:
        """Codes of what `pack` wrote: the smallest unsigned code, bits, the differences to it.

        Raises:
            ArchiveError: If a code cannot be.
        """
        del steps
        reader = Reader(body)
        low, width = reader.byte() - 128, reader.byte()
        if width > 9:
            raise ArchiveError(f"damaged: codes of {width} bits")
        found = bits.unpack(reader.take(reader.left), shape[0] * shape[1], width).reshape(shape)
        if self.which == _CODEBOOK:
            codes = found + (low + 128)
            return self._checked(codes, codes > self.count).astype(np.uint8)
        codes = found + low
        if zero is not None:
            codes = codes + 128 - self._zeros(zero, shape)
        return self._checked(codes, self._outside(codes, zero)).astype(np.int8)

    def tensor(self, codes: Integers, steps: Tensor, zero: Tensor | None) -> StoredTensor:
        """The stored tensor of these parts."""
        stored = torch.from_numpy(codes)
        if self.which == _CODEBOOK:
            return StoredTensor(self.bits, stored, None, codebook=steps)
        if self.which == _RUNS:
            runs = self._runs(codes.shape)
            zero = None if zero is None else zero.reshape(runs)
            return StoredTensor(self.bits, stored, steps.reshape(runs), self.count, zero)
        return StoredTensor(self.bits, stored, steps, zero=zero)

    def _runs(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return shape[0], -(-shape[1] // self.count)

    def _zeros(self, zero: Tensor, shape: tuple[int, ...]) -> Integers:
        group = self.count if self.which == _RUNS else 0
        flat = zero.reshape(self._runs(shape)) if group else zero
        like = torch.zeros(()).expand(shape)
        return spread_steps(flat, group, like).numpy().astype(np.int16)

    def _outside(self, codes: Integers, zero: Tensor | None) -> Integers:
        if zero is None:
            return np.asarray(np.abs(codes) > _largest(self.bits))
        unsigned = codes + self._zeros(zero, codes.shape)
        return np.asarray((unsigned < 0) | (unsigned >= 2**self.bits))

    def _checked(self, codes: Integers, wrong: Integers) -> Integers:
        if wrong.any():
            raise ArchiveError(f"damaged: code {codes[wrong][0]} in a tensor of {self.bits} bits")
        return codes


def is_plain(tensor: StoredTensor) -> bool:
    """Whether the tensor is of floats, or of symmetric codes of 2-8 bits with one step a row."""
    further = (
        tensor.group or tensor.bits == 1 or tensor.zero is not None or tensor.codebook is not None
    )
    if further or tensor.scale is None:
        return not further
    return tensor.scale.shape != (1,) or len(tensor.codes) == 1


def check(tensor: StoredTensor) -> None:
    """Refuses a tensor whose parts do not fit each other.

    Raises:
        ValueError: Naming the part.
    """
    codes, scale, zero, book = tensor.codes, tensor.scale, tensor.zero, tensor.codebook
    kind = torch.int8 if book is None else torch.uint8
    if not 1 <= tensor.bits <= 8 or codes.ndim != 2 or codes.dtype != kind:
        raise ValueError(
            f"StoredTensor: {tensor.bits} bits in {codes.dtype} of shape {tuple(codes.shape)}; "
            f"allowed are 1 to 8 in a matrix of {kind}"
        )
    if book is not None:
        if scale is not None or zero is not None or tensor.group:
            raise ValueError("StoredTensor: a codebook needs neither scales nor zero points")
        if book.dtype != torch.float16 or book.ndim != 1 or not 1 <= len(book) <= MOST_VALUES:
            raise ValueError(
                f"StoredTensor: codebook {book.dtype} {tuple(book.shape)}; allowed are 1 to"
                f" {MOST_VALUES} values of float16"
            )
        if codes.numel() and int(codes.max()) > len(book):
            raise ValueError(f"StoredTensor: codes must lie in [0, {len(book)}]")
        return
    if tensor.group < 0 or (tensor.bits == 5 and zero is None):
        raise ValueError(f"StoredTensor: {tensor.bits} bits in runs of {tensor.group} columns")
    rows, columns = codes.shape
    if tensor.group:
        allowed: tuple[tuple[int, ...], ...] = ((rows, -(-columns // tensor.group)),)
    else:
        allowed = ((rows,), (1,))
    if scale is None or scale.dtype != torch.float16 or tuple(scale.shape) not in allowed:
        found = "None" if scale is None else f"{scale.dtype} {tuple(scale.shape)}"
        raise ValueError(f"StoredTensor: scale {found}: float16 of shape {allowed}")
    if zero is not None and (
        zero.dtype != torch.uint8 or zero.shape != scale.shape or tensor.bits not in range(2, 8)
    ):
        raise ValueError(
            f"StoredTensor: zero points {zero.dtype} {tuple(zero.shape)} of {tensor.bits} bits:"
            f" uint8 of {tuple(scale.shape)}, 2 to 7 bits"
        )
    low, high = 0, 2**tensor.bits - 1
    if zero is None:
        high = _largest(tensor.bits)
        low = -high
    elif zero.numel() and int(zero.max()) > high:
        raise ValueError(f"StoredTensor: zero points of {tensor.bits} bits lie in [0, {high}]")
    unsigned = codes.short() + tensor.zeros()
    if codes.numel() and not (low <= int(unsigned.min()) and int(unsigned.max()) <= high):
        raise ValueError(
            f"StoredTensor: codes of {tensor.bits} bits, zero points added, must lie in"
            f" [{low}, {high}]"
        )


def head(tensor: StoredTensor) -> bytes:
    """The settings of a checked tensor."""
    if tensor.codebook is not None:
        which, more = _CODEBOOK, bytes([len(tensor.codebook) - 1])
    elif tensor.group:
        which, more = _RUNS, bits.integer(tensor.group)
    else:
        assert tensor.scale is not None
        shared = tensor.scale.shape == (1,) and len(tensor.codes) != 1
        which, more = (_TENSOR if shared else _ROW), b""
    return bytes([tensor.bits - 1 | which << 3 | (tensor.zero is not None) << 5]) + more


def read_head(reader: Reader) -> Kind:
    """What `head` wrote.

    Raises:
        ArchiveError: If the settings are none.
    """
    settings = reader.byte()
    width, which, affine = 1 + (settings & 7), settings >> 3 & 3, bool(settings >> 5 & 1)
    odd = width == 5 and not affine and which != _CODEBOOK
    if settings >= 64 or odd or (affine and (which == _CODEBOOK or width not in range(2, 8))):
        raise ArchiveError(f"damaged: kind {settings} of codes is unknown")
    count = 0
    if which == _CODEBOOK:
        count = reader.byte() + 1
        if count > MOST_VALUES:
            raise ArchiveError(f"damaged: a codebook of {count} values")
    elif which == _RUNS:
        count = reader.integer()
        if count < 1:
            raise ArchiveError("damaged: runs of no columns")
    return Kind(width, which, affine, count)


def symbols(tensor: StoredTensor) -> tuple[Integers, int]:
    """Small whole numbers around zero for the coder, and the largest there may be.

    Entries of a codebook are counted outwards from zero, so that neighbours in value are
    neighbours in number.
    """
    codes = np.ascontiguousarray(tensor.codes.detach().cpu().numpy())
    if tensor.codebook is None:
        affine = tensor.zero is not None
        return codes, (1 << tensor.bits) - 1 if affine else _largest(tensor.bits)
    split, count = _split(tensor.codebook), len(tensor.codebook)
    wide = codes.astype(np.int16)
    found = np.where(wide == 0, 0, wide - split - (wide <= split))
    return found.astype(np.int8), max(split, count - split)


def packed_bytes(tensor: StoredTensor) -> int:
    """Length of what `pack` writes."""
    low, high = _range(_unsigned(tensor))
    return 2 + bits.packed_bytes(tensor.codes.numel(), (high - low).bit_length())


def pack(tensor: StoredTensor) -> bytes:
    """The smallest unsigned code, bits of the differences to it, the differences."""
    codes = _unsigned(tensor)
    low, high = _range(codes)
    width = (high - low).bit_length()
    return bytes([low + 128, width]) + bits.pack(codes - low, width)


def pack_zero(tensor: StoredTensor) -> bytes:
    """The zero points, in as many bits as a code."""
    if tensor.zero is None:
        return b""
    return bits.pack(tensor.zero.detach().cpu().numpy().astype(np.int16), tensor.bits)


def _unsigned(tensor: StoredTensor) -> Integers:
    """Codes with their zero points, between -128 and 127."""
    codes = tensor.codes.detach().cpu().numpy().astype(np.int16)
    if tensor.codebook is not None:
        return np.asarray(codes - 128)
    if tensor.zero is not None:
        return np.asarray(codes + tensor.zeros().numpy() - 128)
    return np.asarray(codes)


def _range(codes: Integers) -> tuple[int, int]:
    return (int(codes.min()), int(codes.max())) if codes.size else (0, 0)


def _largest(width: int) -> int:
    """The largest symmetric code: 1 for signs."""
    return max(1, (1 << (width - 1)) - 1)


def _split(codebook: Tensor) -> int:
    """How many of the values are numbered downwards: the negative ones, if a byte holds them."""
    negative = int((codebook < 0).sum())
    return min(max(negative, len(codebook) - _SIDE), _SIDE + 1)
