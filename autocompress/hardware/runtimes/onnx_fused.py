"""Looks at the graph that onnxruntime really runs: int8 layers must be int8 there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx

from autocompress.compression.treated import Treated
from autocompress.errors import DeviceError
from autocompress.hardware.runtimes.onnx_nodes import ACCURACY_LEVEL, PACKED
from autocompress.hardware.runtimes.onnx_session import open_session

INTEGER_OPERATORS = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")
_ARITHMETIC = ("Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def optimized_graph(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model after onnxruntime's own passes, under the loader settings that it carries."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(proto, optimized_path=path)
        return onnx.load(str(path))


def fused_ops(proto: onnx.ModelProto) -> dict[str, str]:
    """What each step of each layer became.

    Args:
        proto: A model written by `assemble`.

    Returns:
        Name of the step, `<layer>/step0` and for a factored layer `<layer>/step1`, to the operator
        that runs it, such as `QLinearConv` or `FusedGemm`.  An operator that computes its weight
        anew at each call has the suffix ` of run-time weights`.
    """
    steps = {node.name: node for node in proto.graph.node if "/step" in node.name}
    graph = optimized_graph(proto).graph
    made_by = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type not in (*INTEGER_OPERATORS, *_ARITHMETIC, PACKED):
            continue
        step = _step_of(node, steps, proto)
        if step is None:
            continue
        if node.op_type == PACKED:
            level = next((a.i for a in node.attribute if a.name == "accuracy_level"), 0)
            found[step] = PACKED + (
                f" of accuracy level {level}" if level != ACCURACY_LEVEL else ""
            )
            continue
        late = node.op_type in _ARITHMETIC and _is_unpacked(node.input[1], made_by, stored)
        found[step] = node.op_type + (" of run-time weights" if late else "")
    return found


def check_fused(proto: onnx.ModelProto, treated: Mapping[str, Treated]) -> dict[str, str]:
    """Make sure that onnxruntime runs the candidate that was priced.

    Args:
        proto: The candidate, written by `assemble`.
        treated: Layer name to what is stored; other layers are dense float32.

    Returns:
        What `fused_ops` found.

    Raises:
        DeviceError: If an int8 layer did not become an integer operator, or a float layer did not
            stay a float one; names the layer and the operator.
    """
    found = fused_ops(proto)
    for node in proto.graph.node:
        name, mark, _ = node.name.rpartition("/step")
        if not mark:
            continue
        is_int8 = name in treated and treated[name].is_int8
        is_dynamic = name in treated and treated[name].is_dynamic
        operator = found.get(node.name.split("/call")[0], found.get(node.name, ""))
        if is_int8 and operator not in INTEGER_OPERATORS:
            raise DeviceError(
                f"layer {name!r} should run on int8 kernels, but onnxruntime runs "
                f"{operator or 'something else'}; leave this layer float"
            )
        if is_dynamic and operator != PACKED:
            raise DeviceError(
                f"layer {name!r} should run on packed weights, but onnxruntime runs "
                f"{operator or 'something else'}; leave this layer float"
            )
        is_float = not is_int8 and not is_dynamic
        odd = (*INTEGER_OPERATORS, PACKED)
        if is_float and (operator.startswith(odd) or operator.endswith("weights")):
            raise DeviceError(
                f"layer {name!r} should stay float, but onnxruntime runs {operator}; "
                "open the file with load_onnx, which sets the passes that it needs"
            )
    return found


def _step_of(
    node: onnx.NodeProto, steps: Mapping[str, onnx.NodeProto], proto: onnx.ModelProto
) -> str | None:
    """Which step an optimised node runs: passes name it after the step or after its output."""
    words = node.name.removeprefix("fused ")
    for step in steps:
        if words == step or words.startswith(f"{step}_"):
            return step
    outputs = {*node.output, words.removesuffix("_nchwc"), words.removesuffix("_nhwc")}
    for step, original in steps.items():
        if outputs & outputs_after(original.output[0], proto):
            return step
    return None


def outputs_after(name: str, proto: onnx.ModelProto) -> set[str]:
    """A step's output and the outputs of what onnxruntime may fuse into it."""
    absorbed = ("Relu", "Clip", "BatchNormalization", "Add", "QuantizeLinear")
    names = {name, f"{name}_pre_q", f"{name}_q"}
    for node in proto.graph.node:
        if node.op_type in absorbed and names & set(node.input):
            names |= {node.output[0], f"{node.output[0]}_pre_q", f"{node.output[0]}_q"}
    return names


def _is_unpacked(name: str, made_by: Mapping[str, onnx.NodeProto], stored: set[str]) -> bool:
    node = made_by.get(name)
    return node is not None and node.op_type == "DequantizeLinear" and node.input[0] in stored
