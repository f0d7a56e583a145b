"""Which inputs a model is given while something runs, each remembered by a hash."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Seen:
    """Examples that a model met.

    Args:
        rows: Hash of each example, in the order in which they came.
        shapes: Of one example of each input, sorted.
        total: Sum over all floating values.
        squares: Of their squares, likewise.
        values: How many there were.
        calls: Forward passes.
    """

    rows: list[bytes] = field(default_factory=list)
    shapes: tuple[tuple[int, ...], ...] = ()
    total: float = 0.0
    squares: float = 0.0
    values: int = 0
    calls: int = 0

    def add(self, inputs: Sequence[Tensor]) -> None:
        """Remembers the examples of one pass."""
        self.calls += 1
        if not inputs:
            return
        self.rows += row_hashes(inputs)
        self.shapes = tuple(sorted(tuple(tensor.shape[1:]) for tensor in inputs))
        for tensor in inputs:
            if tensor.is_floating_point():
                self.total += float(tensor.sum(dtype=torch.float64))
                self.squares += float(tensor.double().square().sum())
                self.values += tensor.numel()

    @property
    def mean(self) -> float:
        """Of all floating values; 0 where there are none."""
        return self.total / self.values if self.values else 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation of all floating values; 0 where there are none."""
        spread = self.squares / self.values - self.mean**2 if self.values else 0.0
        return math.sqrt(max(spread, 0.0))


def seen(inputs: Sequence[Tensor]) -> Seen:
    """What a model would see that is given all of these at once."""
    found = Seen()
    found.add(inputs)
    return found


@contextmanager
def watching(model: nn.Module) -> Iterator[Seen]:
    """Remembers every example that the model is given while the context lasts."""
    found = Seen()

    def look(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        del module
        found.add(list(_tensors([arguments, named])))

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor among the arguments of a call."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def row_hashes(inputs: Sequence[Tensor]) -> list[bytes]:
    """A hash for each example, over its rows of all inputs in whatever order; one for all where
    their lengths differ."""
    tensors = [tensor.detach().cpu().contiguous() for tensor in inputs]
    is_batch = all(tensor.ndim for tensor in tensors) and len({len(t) for t in tensors}) == 1
    count = len(tensors[0]) if is_batch else 1
    parts: list[list[bytes]] = [[] for _ in range(count)]
    for tensor in tensors:
        # Bytes, not values: also of types that numpy lacks.
        flat = tensor.reshape(count, -1) if tensor.numel() else tensor.new_zeros(count, 0)
        for part, row in zip(parts, flat.view(torch.uint8).numpy(), strict=True):
            part.append(_digest(str(tensor.dtype).encode(), row.data))
    return [_digest(*sorted(part)) for part in parts]


def state_hash(model: nn.Module) -> bytes:
    """A hash of every parameter and buffer, whatever their names."""
    tensors = model.state_dict().values()
    return _digest(*(row_hashes([tensor.reshape(1, -1)])[0] for tensor in tensors))


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()
