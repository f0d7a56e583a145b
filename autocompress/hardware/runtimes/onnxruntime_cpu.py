"""onnxruntime on the processor."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from autocompress.compression.treated import Treated
from autocompress.hardware.runtimes.onnx_fused import check_fused
from autocompress.hardware.runtimes.onnx_session import open_session
from autocompress.hardware.runtimes.runtime import Program, Runner, Values


class OnnxRuntime:
    """Runs ONNX models under the loader settings that they carry."""

    package = "onnxruntime"
    reads_onnx = True
    is_exact = True
    clock = staticmethod(time.process_time_ns)

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return str(onnxruntime.__version__)

    def open(self, program: Program, threads: int | None = None) -> Runner:
        return session_runner(open_session(program.proto, threads))

    def check(self, proto: onnx.ModelProto, treated: Mapping[str, Treated]) -> dict[str, str]:
        return check_fused(proto, treated)


def session_runner(session: onnxruntime.InferenceSession) -> Runner:
    """A session as a function of its inputs."""

    def run(values: Values) -> list[NDArray[np.generic]]:
        outputs: list[NDArray[np.generic]] = session.run(None, values)
        return outputs

    return run
