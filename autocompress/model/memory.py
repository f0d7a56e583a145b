"""How much memory a model takes, what may be held beside it, and copies that take none."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import torch
from safetensors.torch import save
from torch import Tensor, nn

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of `mallopt`


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy whose modules may be swapped and whose tensors are those of the model.

    Parameters and buffers are objects of their own over the same memory: giving the copy another
    type or device leaves the model as it is; only what writes into a tensor would change both.
    """
    own: dict[int, object] = {}
    for parameter in model.parameters():
        # A class or attributes of the user's own are copied as they are.
        if type(parameter) is nn.Parameter and not parameter.__dict__:
            own[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
    own.update({id(buffer): buffer.detach() for buffer in model.buffers()})
    # A weight that is computed before each pass (`torch.nn.utils.weight_norm`) is no parameter,
    # and has a history that cannot be copied.
    own.update(
        {
            id(value): value.detach()
            for module in model.modules()
            for value in vars(module).values()
            if isinstance(value, Tensor) and not value.is_leaf
        }
    )
    return copy.deepcopy(model, own)


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, each memory counted once."""
    sizes: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def allowance(model: nn.Module, share: float, least: int, most: int | None = None) -> int:
    """Bytes that may be held beside a model: a share of its own size, within bounds.

    Args:
        model: The dense model.
        share: Of `model_bytes`.
        least: Granted to small models too, whose activations are larger than their weights.
        most: Granted to the largest; None for no bound.
    """
    granted = max(least, int(share * model_bytes(model)))
    return granted if most is None else min(granted, most)


def give_back() -> None:
    """Returns freed memory to the system, where the C library keeps it (glibc does).

    The gaps that large matrices of many sizes leave between one another add up to several of them.
    """
    trim = _in_c("malloc_trim")
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def large_blocks_apart() -> Iterator[None]:
    """While it is entered, every block of some megabytes is mapped by itself and returned as soon
    as it is freed, where the C library can do that (glibc can): what works on matrices of many
    sizes takes a quarter less."""
    _map_from(2**22)
    try:
        yield
    finally:
        _map_from(2**25)  # as far as glibc goes of its own accord


def _map_from(size: int) -> None:
    option = _in_c("mallopt")
    if option is not None:
        option(_MMAP_THRESHOLD, size)
        # Setting one stops glibc from raising the other, and a heap that is cut back at every
        # turn costs ten times what is done in it.
        option(_TRIM_THRESHOLD, 2**26)


@cache
def _in_c(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where there is no such."""
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Size of the safetensors file of some tensors, exactly, without making it.

    Args:
        tensors: By name; none shares its memory with another.
    """
    # The order of the tensors is told by a file of empty ones.
    empty = save({name: torch.empty(0, dtype=tensor.dtype) for name, tensor in tensors.items()})
    length = int.from_bytes(empty[:8], "little")
    header = json.loads(empty[8 : 8 + length])
    end = 0
    for name, entry in header.items():
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        entry.update(shape=list(tensor.shape), data_offsets=[start, end])
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    return 8 + -(-len(text.encode()) // 8) * 8 + end
