"""PyTorch on the processor: the stitched module itself, call by call, in float32."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from autocompress.compression.treated import Treated
from autocompress.errors import DeviceError
from autocompress.hardware.runtimes.onnx_session import read_loader
from autocompress.hardware.runtimes.runtime import Program, Runner, Values, input_names


class TorchCpu:
    """Runs modules eagerly; what an ONNX model adds to them is the number of threads."""

    package = "torch"
    reads_onnx = False

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return str(torch.__version__)

    def open(self, program: Program, threads: int | None = None) -> Runner:
        if program.module is None:
            raise DeviceError("torch runs modules, and this operation exists only in ONNX models")
        module = program.module().eval()
        names = input_names(program.proto)
        count = read_loader(program.proto).threads if threads is None else threads

        def run(values: Values) -> list[NDArray[np.generic]]:
            if torch.get_num_threads() != count:
                torch.set_num_threads(count)
            with torch.inference_mode():
                output = module(*(torch.from_numpy(values[name]) for name in names))
            return [output.numpy()]

        return run

    def check(self, proto: onnx.ModelProto, treated: Mapping[str, Treated]) -> dict[str, str]:
        for name, layer in treated.items():
            if layer.is_int8:
                raise DeviceError(f"layer {name!r}: torch-cpu has no int8 kernels here")
        names = {"Conv": "aten::conv2d", "Gemm": "aten::linear"}
        return {
            n.name: names.get(n.op_type, n.op_type) for n in proto.graph.node if "/step" in n.name
        }
