"""PyTorch itself, eagerly and in float32: on the processor, or on a GPU with CUDA."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from autocompress.compression.treated import Treated
from autocompress.errors import DeviceError
from autocompress.hardware.runtimes.onnx_session import read_loader
from autocompress.hardware.runtimes.runtime import Program, Runner, Values, input_names


class TorchEager:
    """Runs modules call by call; what an ONNX model adds to them is the number of threads.

    Inputs come from the host's memory and outputs go back there, also where a GPU computes: that
    is part of the time, and no run ends before the GPU has.

    Args:
        place: `cpu` or `cuda`.
    """

    package = "torch"
    reads_onnx = False
    is_exact = True

    def __init__(self, place: str = "cpu") -> None:
        self.place = torch.device(place)
        # While a GPU works the process may sleep, so that its own time says nothing.
        self.clock = time.process_time_ns if place == "cpu" else time.perf_counter_ns

    def missing(self) -> str:
        if self.place.type == "cpu" or torch.cuda.is_available():
            return ""
        return (
            f"torch {torch.__version__} sees no GPU with CUDA: install a build of torch for CUDA"
            " on a machine with one"
        )

    def version(self) -> str:
        if reason := self.missing():
            raise DeviceError(reason)
        version = str(torch.__version__)
        if self.place.type == "cpu":
            return version
        return f"{version} on {torch.cuda.get_device_name(self.place)}"

    def open(self, program: Program, threads: int | None = None) -> Runner:
        if reason := self.missing():
            raise DeviceError(reason)
        if program.module is None:
            raise DeviceError("torch runs modules, and this operation exists only in ONNX models")
        module = program.module().eval()
        if self.place.type != "cpu":
            # What was given may be the user's own model, which stays where it is.
            module = copy.deepcopy(module).to(self.place)
        names = input_names(program.proto)
        count = read_loader(program.proto).threads if threads is None else threads

        def run(values: Values) -> list[NDArray[np.generic]]:
            if torch.get_num_threads() != count:
                torch.set_num_threads(count)
            with torch.inference_mode():
                inputs = (torch.from_numpy(values[name]).to(self.place) for name in names)
                return [module(*inputs).cpu().numpy()]

        return run

    def check(self, proto: onnx.ModelProto, treated: Mapping[str, Treated]) -> dict[str, str]:
        for name, layer in treated.items():
            if layer.is_int8:
                raise DeviceError(f"layer {name!r}: torch has no int8 kernels here")
        names = {"Conv": "aten::conv2d", "Gemm": "aten::linear"}
        return {
            n.name: names.get(n.op_type, n.op_type) for n in proto.graph.node if "/step" in n.name
        }
