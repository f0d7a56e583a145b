"""Opening an ONNX file as it must be opened: with the settings under which it was priced."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from autocompress.errors import StorageError
from autocompress.hardware.processor import exact_bits

LOADER_KEY = "autocompress.loader"
EXACT_KEY = "session.x64quantprecision"


@dataclass(frozen=True)
class Loader:
    """Settings of a session.

    Args:
        threads: Threads inside one operator.
        disabled_optimizers: Passes of onnxruntime that must not run.  `WeightBiasQuantization`
            turns a float layer between two int8 layers into an int8 one.
    """

    threads: int = 1
    disabled_optimizers: tuple[str, ...] = ("WeightBiasQuantization",)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_loader(proto: onnx.ModelProto) -> Loader:
    """The settings that a file carries, or the default ones.

    Raises:
        StorageError: If they cannot be read.
    """
    for entry in proto.metadata_props:
        if entry.key == LOADER_KEY:
            try:
                fields = json.loads(entry.value)
                return Loader(int(fields["threads"]), tuple(fields["disabled_optimizers"]))
            except (ValueError, KeyError, TypeError) as error:
                raise StorageError(f"ONNX metadata {LOADER_KEY!r} is damaged: {error}") from error
    return Loader()


def open_session(
    model: onnx.ModelProto | str | Path,
    threads: int | None = None,
    optimized_path: str | Path | None = None,
) -> onnxruntime.InferenceSession:
    """A session on the CPU with the settings that the model carries.

    Args:
        model: A model, or the path of its file.
        threads: Overrides the number of threads in the file.
        optimized_path: Where onnxruntime writes the graph that it really runs.

    Raises:
        StorageError: If the file cannot be read or is no ONNX model.
    """
    if not isinstance(model, onnx.ModelProto):
        model = read_proto(model)
    loader = read_loader(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = loader.threads if threads is None else threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Where a code is above 64, the fast kernels of some processors overflow: sums are silently
    # wrong.  With this the runtime takes slower, exact ones; it does so on every x86 processor, so
    # that it is asked for only where it is needed.
    if exact_bits() < 8 and largest_code(model) > 64:
        options.add_session_config_entry(EXACT_KEY, "1")
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    return onnxruntime.InferenceSession(
        model.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(loader.disabled_optimizers),
    )


def largest_code(model: onnx.ModelProto) -> int:
    """The largest absolute int8 code among the stored tensors; 0 where there are none."""
    codes = [
        numpy_helper.to_array(tensor).astype(np.int16)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8
    ]
    return max((int(np.abs(code).max(initial=0)) for code in codes), default=0)


def read_proto(path: str | Path) -> onnx.ModelProto:
    """Parse an ONNX file.

    Raises:
        StorageError: If the file cannot be read or is no ONNX model.
    """
    try:
        proto = onnx.load(str(path))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # noqa: BLE001 - the parser's error class is private to protobuf
        raise StorageError(f"{path}: not an ONNX model ({error})") from error
    if not proto.graph.node:
        raise StorageError(f"{path}: not an ONNX model (it has no nodes)")
    return proto
