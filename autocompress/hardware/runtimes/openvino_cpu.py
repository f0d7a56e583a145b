"""OpenVINO on the processor: the same ONNX files, compiled for the shapes that they are given."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from autocompress.compression.treated import Treated
from autocompress.errors import DeviceError
from autocompress.hardware.runtimes.onnx_session import read_loader
from autocompress.hardware.runtimes.openvino_fused import check_compiled
from autocompress.hardware.runtimes.runtime import Program, Runner, Values, input_names
from autocompress.hardware.runtimes.unfold import unfolded

if TYPE_CHECKING:
    import openvino

KEPT_SHAPES = 4  # compiled models that one runner keeps
# One stream and a fixed number of threads: a latency that belongs to one request.
SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",
    # Models that are timed in turn would all sit on the same core, whoever else is there.
    "ENABLE_CPU_PINNING": False,
}


class OpenVino:
    """Runs ONNX models written by `assemble`.

    Args:
        floats: What float layers run in, whatever the processor has: `f32`, which is what the
            candidate computes elsewhere, or `bf16`.
    """

    package = "openvino"
    reads_onnx = True
    clock = staticmethod(time.process_time_ns)

    def __init__(self, floats: str = "f32") -> None:
        self.floats = floats
        self.is_exact = floats == "f32"

    def missing(self) -> str:
        if find_spec("openvino") is None:
            return "openvino is not installed: pip install 'autocompress[openvino]'"
        if not self.is_exact and "BF16" not in _capabilities():
            return "this processor has no instructions for bfloat16"
        return ""

    def version(self) -> str:
        self._need()
        import openvino

        # The build number and branch after it say nothing that a release does not.
        return str(openvino.__version__).split("-")[0]

    def open(self, program: Program, threads: int | None = None) -> Runner:
        self._need()
        return _Compiled(program.proto, threads, self.floats)

    def check(self, proto: onnx.ModelProto, treated: Mapping[str, Treated]) -> dict[str, str]:
        self._need()
        values = _one_row(proto)
        return check_compiled(_Compiled(proto, None, self.floats).at(values), proto, treated)

    def _need(self) -> None:
        if self.missing():
            raise DeviceError(self.missing())


class _Compiled:
    """A model compiled anew for each set of input shapes.

    With free dimensions OpenVINO plans its memory and picks its kernels at every run: 5 to 25 %
    slower on LeNet-5 and ResNet-20.
    """

    def __init__(self, proto: onnx.ModelProto, threads: int | None, floats: str) -> None:
        self._content = unfolded(proto).SerializeToString()
        self._names = input_names(proto)
        count = read_loader(proto).threads if threads is None else threads
        self._settings = {
            **SETTINGS,
            "INFERENCE_PRECISION_HINT": floats,
            "INFERENCE_NUM_THREADS": count,
        }
        self._requests: dict[tuple[tuple[int, ...], ...], Any] = {}

    def __call__(self, values: Values) -> list[NDArray[np.generic]]:
        arrays = [values[name] for name in self._names]
        request = self._request(arrays)
        request.infer(dict(enumerate(arrays)), share_inputs=True)
        # Copies: the tensors are overwritten by the next run.
        return [np.array(tensor.data) for tensor in request.output_tensors]

    def at(self, values: Values) -> openvino.CompiledModel:
        """The compiled model for the shapes of some inputs."""
        return self._request([values[name] for name in self._names]).get_compiled_model()

    def _request(self, arrays: list[NDArray[np.generic]]) -> Any:
        shapes = tuple(array.shape for array in arrays)
        if shapes not in self._requests:
            while len(self._requests) >= KEPT_SHAPES:
                del self._requests[next(iter(self._requests))]
            model = _core().read_model(self._content)
            model.reshape({index: list(shape) for index, shape in enumerate(shapes)})
            compiled = _core().compile_model(model, "CPU", self._settings)
            self._requests[shapes] = compiled.create_infer_request()
        return self._requests[shapes]


@functools.cache
def _core() -> openvino.Core:
    import openvino

    return openvino.Core()


@functools.cache
def _capabilities() -> tuple[str, ...]:
    """Types that the processor has instructions for, such as `BF16`."""
    return tuple(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _one_row(proto: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """Arrays of the inputs' shapes, one row where the batch is free."""
    values: dict[str, NDArray[np.generic]] = {}
    for value in proto.graph.input:
        kind = value.type.tensor_type
        shape = [max(1, int(dim.dim_value)) for dim in kind.shape.dim]
        values[value.name] = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return values
