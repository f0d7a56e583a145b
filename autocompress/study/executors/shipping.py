"""Objects for other processes: their tensors as plain memory that is shared, not copied.

A pickle of a model holds its classes by value where they come from the user's own files, which
other processes cannot import under the same name, and its tensors as buffers beside it.  These
pickles are only read by processes that this one has started.
"""

from __future__ import annotations

import mmap
import pickle
import struct
import sys
import sysconfig
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.errors import ExecutorError

ALIGNMENT = 64  # bytes; of every buffer in a file
Buffers = list[NDArray[np.uint8]]


def pack(value: object) -> tuple[bytes, Buffers]:
    """An object as a pickle and the memory of its tensors and arrays, which is not copied.

    Raises:
        ExecutorError: If it holds what cannot be handed over, such as an open file.
    """
    buffers: Buffers = []

    def beside(buffer: pickle.PickleBuffer) -> bool:
        buffers.append(np.frombuffer(buffer.raw(), np.uint8))
        return False

    head = _dumps(value, beside)
    return head, buffers


def unpack(head: bytes, buffers: Sequence[Any]) -> Any:
    """The object, whose tensors lie in `buffers`; they must not be written to."""
    with warnings.catch_warnings():
        # Torch warns of memory that is not writable: nothing writes to it.
        warnings.simplefilter("ignore")
        return pickle.loads(head, buffers=buffers)


def pack_bytes(value: object) -> bytes:
    """A small object in one piece, its tensors copied."""
    return _dumps(value, None)


def save(value: object, path: Path) -> None:
    """Writes an object so that any number of processes map the same memory."""
    head, buffers = pack(value)
    parts = [memoryview(head), *(buffer.data for buffer in buffers)]
    with path.open("wb") as file:
        file.write(struct.pack(f"<{len(parts) + 1}q", len(parts), *(p.nbytes for p in parts)))
        for part in parts:
            file.write(bytes(-file.tell() % ALIGNMENT))
            file.write(part)


def load(path: Path) -> Any:
    """The object of a file that `save` wrote, its tensors mapped from it."""
    with path.open("rb") as file:
        memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    (count,) = struct.unpack_from("<q", memory)
    start = 8 * (count + 1)
    parts = []
    for size in struct.unpack_from(f"<{count}q", memory, 8):
        start += -start % ALIGNMENT
        parts.append(memory[start : start + size])
        start += size
    return unpack(bytes(parts[0]), parts[1:])


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is nn.Parameter and _is_plain(obj):
            return _parameter, (obj.detach(), obj.requires_grad)
        if type(obj) is Tensor and _is_plain(obj):
            flat = obj.detach().contiguous().reshape(-1)
            return _tensor, (flat.view(torch.uint8).numpy(), obj.dtype, tuple(obj.shape))
        return super().reducer_override(obj)


def _dumps(value: object, beside: Callable[[pickle.PickleBuffer], bool] | None) -> bytes:
    users = _users_modules()
    for module in users:
        cloudpickle.register_pickle_by_value(module)
    try:
        file = BytesIO()
        _Pickler(file, protocol=5, buffer_callback=beside).dump(value)
        return file.getvalue()
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise ExecutorError(
            f"the model cannot be handed to other processes ({error}); use the executor 'local'"
        ) from error
    finally:
        for module in users:
            cloudpickle.unregister_pickle_by_value(module)


def _users_modules() -> list[ModuleType]:
    """Modules that are neither installed nor part of this package or of Python."""
    paths = sysconfig.get_paths()
    known = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    known.append(str(Path(__file__).parents[2]))
    before = cloudpickle.list_registry_pickle_by_value()
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        is_user = isinstance(file, str) and not file.startswith(tuple(known))
        if is_user and name != "__main__" and name not in before and module.__name__ == name:
            found.append(module)
    return found


def _is_plain(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout == torch.strided


def _tensor(memory: NDArray[np.uint8], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not len(memory):
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(memory).view(dtype).view(shape)


def _parameter(tensor: Tensor, requires_grad: bool) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad)
