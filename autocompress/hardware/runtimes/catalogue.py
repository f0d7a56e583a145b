"""The runtimes by the name that devices give them."""

from __future__ import annotations

from autocompress.hardware.runtimes.onnxruntime_cpu import OnnxRuntime
from autocompress.hardware.runtimes.openvino_cpu import OpenVino
from autocompress.hardware.runtimes.runtime import Runtime
from autocompress.hardware.runtimes.torch_eager import TorchEager

RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": OnnxRuntime(),
    "openvino": OpenVino(),
    "openvino-bf16": OpenVino("bf16"),
    "torch": TorchEager(),
    "torch-cuda": TorchEager("cuda"),
}
DEFAULT = RUNTIMES["onnxruntime"]
