"""A list of tensors, of which those that do not fit an allowance are kept on disk."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from io import BufferedRandom

import torch
from torch import Tensor


class Shelf:
    """Tensors in order; read whole, written once.

    Args:
        memory: Bytes that may stay in memory; what comes later goes to a temporary file, which is
            gone with the object.
    """

    def __init__(self, memory: int) -> None:
        self._room = memory
        self._held: list[Tensor | tuple[int, torch.dtype, torch.Size]] = []
        self._file: BufferedRandom | None = None

    def append(self, tensor: Tensor) -> None:
        """Keeps a tensor; the caller may go on changing its own."""
        size = tensor.numel() * tensor.element_size()
        if size <= self._room:
            self._room -= size
            self._held.append(tensor.detach().clone())
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the object
            weakref.finalize(self, self._file.close)
        place = self._file.seek(0, 2)
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        self._file.write(raw.numpy().data)
        self._held.append((place, tensor.dtype, tensor.shape))

    def __iter__(self) -> Iterator[Tensor]:
        for held in self._held:
            if isinstance(held, Tensor):
                yield held.clone()  # a block may write into what it is given
                continue
            assert self._file is not None
            place, dtype, shape = held
            raw = bytearray(shape.numel() * dtype.itemsize)
            self._file.seek(place)
            self._file.readinto(raw)
            yield torch.frombuffer(raw, dtype=dtype).reshape(shape)

    def __len__(self) -> int:
        return len(self._held)
