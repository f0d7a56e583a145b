"""The runtimes by the name of their package."""

from __future__ import annotations

from autocompress.hardware.runtimes.onnxruntime_cpu import OnnxRuntime
from autocompress.hardware.runtimes.openvino_cpu import OpenVino
from autocompress.hardware.runtimes.runtime import Runtime
from autocompress.hardware.runtimes.torch_cpu import TorchCpu

RUNTIMES: dict[str, Runtime] = {
    runtime.package: runtime for runtime in (OnnxRuntime(), OpenVino(), TorchCpu())
}
DEFAULT = RUNTIMES["onnxruntime"]
