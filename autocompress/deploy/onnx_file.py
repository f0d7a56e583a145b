"""A whole model as an ONNX file: written at once, opened with the settings it was priced under."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from autocompress.errors import DataError, StorageError
from autocompress.files import write_bytes
from autocompress.hardware.runtimes.catalogue import DEFAULT
from autocompress.hardware.runtimes.onnx_session import open_session, read_proto
from autocompress.hardware.runtimes.onnxruntime_cpu import session_runner
from autocompress.hardware.runtimes.runtime import Program, Runtime, batch_of, input_names


def write_onnx(path: str | Path, proto: onnx.ModelProto) -> int:
    """Write a model whole or not at all.

    Args:
        path: Where to; its folder is made.
        proto: A model written by `assemble`.

    Returns:
        The size of the file in bytes.

    Raises:
        StorageError: If the file cannot be written, or is above the 2 GB that ONNX allows.
    """
    target = Path(path)
    try:
        content = proto.SerializeToString()
    except Exception as error:  # the encoder's error class is private to protobuf
        raise StorageError(f"{target}: the model cannot be serialised ({error})") from error
    write_bytes(target, content)
    return len(content)


def load_onnx(path: str | Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """A session with the settings that the file carries.

    A bare `InferenceSession(path)` would turn some float layers into int8 ones.

    Args:
        path: A file written by `write_onnx`.
        threads: Overrides the number of threads in the file.

    Raises:
        StorageError: If the file cannot be read or is no ONNX model.
    """
    return open_session(path, threads)


class OnnxModule(nn.Module):
    """An ONNX model in the place of the torch model, for instance in a user's `evaluate(model)`.

    Args:
        model: A session, a model, or the path of its file.
        static_batch: Rows of one run when the graph is bound to them, 0 when it takes any.
        runtime: What runs it; a session has onnxruntime already.
    """

    def __init__(
        self,
        model: onnxruntime.InferenceSession | onnx.ModelProto | str | Path,
        static_batch: int | None = None,
        runtime: Runtime = DEFAULT,
    ) -> None:
        super().__init__()
        if isinstance(model, onnxruntime.InferenceSession):
            self.names = tuple(value.name for value in model.get_inputs())
            shape = model.get_inputs()[0].shape
            fixed = shape[0] if shape and isinstance(shape[0], int) else 0
            self.run = session_runner(model)
        else:
            proto = model if isinstance(model, onnx.ModelProto) else read_proto(model)
            self.names, fixed = input_names(proto), batch_of(proto)
            self.run = runtime.open(Program(proto))
        self.static_batch = fixed if static_batch is None else static_batch

    def forward(self, *inputs: Tensor) -> Tensor:
        """Tensors whose first dimension is the batch to one tensor of outputs.

        Raises:
            DataError: If the number of rows does not fit a graph that is bound to its batch.
        """
        arrays = [value.detach().cpu().numpy() for value in inputs]
        size = self.static_batch
        if not size:
            return torch.from_numpy(self._run(arrays))
        rows = len(arrays[0])
        if rows % size:
            raise DataError(f"{rows} rows: this ONNX model takes them in batches of {size}")
        parts = [
            self._run([array[start : start + size] for array in arrays])
            for start in range(0, rows, size)
        ]
        return torch.from_numpy(np.concatenate(parts))

    def _run(self, arrays: list[np.ndarray]) -> np.ndarray:
        (output, *_) = self.run(dict(zip(self.names, arrays, strict=True)))
        return np.asarray(output)
