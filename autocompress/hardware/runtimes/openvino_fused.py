"""Looks at the graph that OpenVINO really runs: int8 layers must be int8 there, and no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx

from autocompress.compression.treated import Treated
from autocompress.errors import DeviceError
from autocompress.hardware.runtimes.onnx_fused import outputs_after

if TYPE_CHECKING:
    import openvino

INTEGER = ("i8", "u8")
# Products of few rows may be one generated kernel together with what is around them: a subgraph.
# Its own type is that of its first input, float32 where it rounds by itself: the type of its
# arithmetic is the one in which its weights enter.
_ARITHMETIC = ("Convolution", "FullyConnected", "MatMul", "Subgraph")


def check_compiled(
    compiled: openvino.CompiledModel, proto: onnx.ModelProto, treated: Mapping[str, Treated]
) -> dict[str, str]:
    """Make sure that OpenVINO runs the candidate that was priced.

    Args:
        compiled: The candidate as compiled.
        proto: As written by `assemble`.
        treated: Layer name to what is stored; other layers are dense float32.

    Returns:
        Name of the step, `<layer>/step0`, to the operator, kernel and type of its arithmetic, such
        as `Convolution brgconv_avx512_vnni_I8 u8`.

    Raises:
        DeviceError: If an int8 layer does not run on integers, or a float layer does.
    """
    steps = [node for node in proto.graph.node if "/step" in node.name]
    operators = [
        _facts(node)
        for node in compiled.get_runtime_model().get_ordered_ops()
        if _facts(node)["layerType"] in _ARITHMETIC
    ]
    found = {}
    for step in steps:
        layer = step.name.rpartition("/step")[0]
        is_int8 = layer in treated and treated[layer].is_int8
        facts = _operator_of(step, operators, proto)
        kernel = _kernel(facts) if facts else "something else"
        runs_int8 = facts is not None and facts["runtimePrecision"] in INTEGER
        if is_int8 != runs_int8:
            wanted = "should run on int8 kernels" if is_int8 else "should stay float"
            raise DeviceError(
                f"layer {layer!r} {wanted}, but OpenVINO runs {kernel}; exclude this layer in the"
                " search space"
            )
        if facts:
            found[step.name] = kernel
    return found


def _operator_of(
    step: onnx.NodeProto, operators: Sequence[Mapping[str, Any]], proto: onnx.ModelProto
) -> Mapping[str, Any] | None:
    """What runs a step: fused operators keep the names of what they were made of, or of an output
    after it."""
    for facts in operators:
        names = facts["names"]
        if any(name == step.name or name.startswith(f"{step.name}/") for name in names):
            precision = facts["constants"].get(_weight_of(step), facts["runtimePrecision"])
            return {**facts, "runtimePrecision": precision}
    outputs = outputs_after(step.output[0], proto)
    products = (facts for facts in operators if facts["layerType"] != "Subgraph")
    return next((facts for facts in products if outputs & set(facts["names"])), None)


def _weight_of(step: onnx.NodeProto) -> str:
    """Name of the constant that holds the weights of a step, as `assemble` gives it."""
    layer, _, number = step.name.rpartition("/step")
    return f"{layer}/weight{number}"


def _facts(node: Any) -> dict[str, Any]:
    facts = {**dict.fromkeys(_KEYS, ""), **_info(node)}
    names = facts.pop("originalLayersNames").split(",")
    constants = {}
    if facts["layerType"] == "Subgraph":
        sources = [port.get_source_output().get_node() for port in node.inputs()]
        constants = {n.get_friendly_name(): _info(n)["runtimePrecision"] for n in sources}
    return {**facts, "names": [*names, node.get_friendly_name()], "constants": constants}


def _info(node: Any) -> dict[str, str]:
    info = node.get_rt_info()
    return {key: str(info[key].astype(str)) for key in _KEYS if key in info}


def _kernel(facts: Mapping[str, Any]) -> str:
    return f"{facts['layerType']} {facts['primitiveType']} {facts['runtimePrecision']}"


_KEYS = ("layerType", "primitiveType", "runtimePrecision", "originalLayersNames")
