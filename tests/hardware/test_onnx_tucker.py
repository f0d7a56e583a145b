"""Convolutions around a Tucker core: the file computes what the torch twin computes, on the
kernels that were priced, and no price is missing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from autocompress.compression.moments import middle_grids
from autocompress.compression.quantize import round_to_nearest
from autocompress.compression.stitch import stitched
from autocompress.compression.stored import StoredTensor
from autocompress.compression.treated import Treated, build_module
from autocompress.compression.tucker import tucker2
from autocompress.hardware import profile as module
from autocompress.hardware.candidates import candidate_macs, stand_ins
from autocompress.hardware.device import DEVICES, get_device, kernel_class, reject
from autocompress.hardware.operations import operations_of
from autocompress.hardware.profile import Profile, fit_latency
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.runtimes.onnx_fused import check_fused, optimized_graph
from autocompress.hardware.runtimes.onnx_graph import assemble
from autocompress.hardware.runtimes.onnx_session import open_session
from autocompress.hardware.runtimes.runtime import Program, input_names
from autocompress.hardware.runtimes.single_op import layer_model, layer_signature
from autocompress.hardware.table import cached_table
from autocompress.search_space.factors import factor_shapes
from autocompress.search_space.option import Option

CORE = Option(tucker=0.5)
CORE8 = Option(bits=7, tucker=0.5, activations="int8")
CONVOLUTIONS = {"mixed": ("stem", "conv"), "plain": ("a", "b", "c")}


@pytest.fixture(scope="module", params=list(CONVOLUTIONS))
def bench(request, mixed, plain):
    """Strides, padding and a residual sum; convolutions with biases in a row."""
    return {"mixed": mixed, "plain": plain}[request.param]


@pytest.fixture(scope="module")
def graph(bench) -> FloatGraph:
    return export_float(bench.model, bench.layers, bench.example)


def around_core(bench, name: str, bits: int, int8: bool) -> Treated:
    """A layer of half of the channels within; grids of its ends as without a core."""
    layer = next(layer for layer in bench.layers if layer.name == name)
    dense = bench.model.get_submodule(name)
    weight = dense.weight.detach().flatten(1).double()
    plain = torch.eye(weight.shape[1], dtype=torch.float64)
    factors = tucker2(weight, plain, weight[0].numel() // layer.weight_shape[1], *layer.core(0.5))
    if bits == 32:
        stored = tuple(StoredTensor(32, factor.float(), None) for factor in factors)
    else:
        stored = tuple(round_to_nearest(f, bits, torch.ones(f.shape[1])) for f in factors)
    whole = bench.treat(name, bits, int8=int8)
    treated = Treated(stored, whole.bias)
    if not int8:
        return treated
    values = bench._values[name][0]
    middle = middle_grids(list(build_module(dense, treated)), values, whole.grids[0])
    return replace(treated, grids=(whole.grids[0], *middle, whole.grids[-1]))


def treat_all(bench, bits: int, int8: bool) -> dict[str, Treated]:
    convolutions = [name for name in ("stem", "conv", "a", "b", "c") if name in bench.names]
    treated = {name: bench.treat(name, bits, int8=int8) for name in bench.names}
    return treated | {name: around_core(bench, name, bits, int8) for name in convolutions}


def run(proto, inputs: Tensor) -> np.ndarray:
    session = open_session(proto)
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return output


@pytest.mark.parametrize("format", ["archive", "onnx"])
@pytest.mark.parametrize("bits", [32, 8, 4])
def test_float_layers_equal_their_twin(bench, graph, bits: int, format: str) -> None:
    treated = treat_all(bench, bits, int8=False)
    proto = assemble(graph, treated, format)
    output = run(proto, bench.inputs)
    np.testing.assert_allclose(output, bench.twin(treated).numpy(), rtol=1e-4, atol=1e-5)
    operators = check_fused(proto, treated)
    assert len(operators) == sum(len(layer.weights) for layer in treated.values())
    assert not any(operator.startswith("Q") for operator in operators.values())


def test_int8_layers_are_fused_and_decide_as_their_twin(bench, graph) -> None:
    treated = treat_all(bench, 7, int8=True)
    proto = assemble(graph, treated)
    operators = check_fused(proto, treated)
    assert len(operators) == sum(len(layer.weights) for layer in treated.values())
    assert set(operators.values()) == {"QLinearConv", "QGemm"}
    file, twin = run(proto, bench.inputs), bench.twin(treated).numpy()
    step = treated["head"].grids[-1].scale
    assert np.abs(file - twin).max() <= 2.01 * step
    assert (np.abs(file - twin) > 0.5 * step).mean() < 0.05
    clear = np.sort(twin, 1)[:, -1] - np.sort(twin, 1)[:, -2] > 2 * step
    assert clear.sum() > 10
    assert (file.argmax(1) == twin.argmax(1))[clear].all()


INSTALLED = [device for device in DEVICES.values() if not device.missing()]


@pytest.mark.parametrize("device", INSTALLED, ids=lambda device: device.name)
@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_every_runtime_runs_what_was_priced(bench, graph, device, activations: str) -> None:
    if activations not in device.precisions:
        pytest.skip(f"{device.name} has no {activations} kernels")
    int8 = activations == "int8"
    treated = treat_all(bench, 7 if int8 else 32, int8)
    proto = assemble(graph, treated)
    operators = device.engine.check(proto, treated)
    assert len(operators) == sum(len(layer.weights) for layer in treated.values())
    program = Program(proto, lambda: stitched(bench.model, treated))
    (name,) = input_names(proto)
    (found,) = device.engine.open(program)({name: bench.inputs.numpy()})
    wanted = bench.twin(treated).numpy()
    room = 1e-4 if device.engine.is_exact else 0.02 * np.abs(wanted).max()
    if int8:
        room = 3.01 * treated["head"].grids[-1].scale
    assert np.abs(found - wanted).max() <= room


def test_an_operation_alone_is_three_kernels(bench, graph) -> None:
    for layer in graph.layers:
        if layer.name not in ("stem", "conv", "a", "b", "c"):
            continue
        for option in (CORE, CORE8, replace(CORE8, inputs=0.5, outputs=0.5)):
            if layer.name in ("stem", "a") and option.inputs < 1:
                continue  # of three channels
            proto = layer_model(layer, graph.modules[layer.name], option)
            operators = [node.op_type for node in optimized_graph(proto).graph.node]
            kernel = "QLinearConv" if option.activations == "int8" else "Conv"
            assert sum(operator.endswith(kernel) for operator in operators) == 3
            assert not {"QuantizeLinear", "DequantizeLinear"} & set(operators)


def test_stand_ins_have_the_shapes_and_kernels_of_the_candidate(plain) -> None:
    graph = export_float(plain.model, plain.layers, plain.example)
    candidate = {"a": CORE, "b": CORE8, "c": CORE8}
    treated = stand_ins(graph, candidate)
    for layer in graph.layers[:3]:
        shapes = [tuple(weight.codes.shape) for weight in treated[layer.name].weights]
        assert tuple(shapes) == factor_shapes(layer, candidate[layer.name])
    operators = check_fused(assemble(graph, treated), treated)
    assert [operators[f"b/step{index}"] for index in range(3)] == ["QLinearConv"] * 3


def test_signatures_name_the_core(plain) -> None:
    graph = export_float(plain.model, plain.layers, plain.example)
    layer = graph.layers[1]
    signatures = {
        option: layer_signature(layer, graph.modules["b"], option)
        for option in (Option(), CORE, Option(tucker=0.25), Option(rank=0.5))
    }
    assert len(set(signatures.values())) == 4
    assert "core=8x8" in signatures[CORE]
    assert kernel_class(Option(4, tucker=0.5, activations="int8")) == CORE8
    assert kernel_class(Option(4, tucker=0.5)) == CORE
    works = [operation.work for operation in operations_of(graph, {"b": (CORE,)}).values()]
    assert max(map(len, works)) == 3
    # 64 places: 16 to 8 channels, the taps on 8, back to 16.
    assert candidate_macs([layer], {"b": CORE}) == 64 * (16 * 8 + 9 * 8 * 8 + 8 * 16)


def test_every_option_around_a_core_has_a_price(plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCKS", 3)
    monkeypatch.setattr(module, "BLOCK_MS", 0.3)
    menus = {name: (Option(), Option(bits=4, tucker=0.5), CORE8) for name in ("b", "c")}
    profile = fit_latency(
        plain.model,
        plain.layers,
        plain.example,
        menus,
        np.random.default_rng(0),
        held_out=4,
        seconds=0.1,
    )
    for name in menus:
        prices = profile.prices.unit_ms[name]
        assert {"w4-t50", "w7-t50-a8"} <= prices.keys()
    assert profile.prices.predict({"b": CORE8, "c": Option(bits=4, tucker=0.5)}) > 0
    graph = export_float(plain.model, plain.layers, plain.example)
    table = cached_table(get_device("onnxruntime-cpu"))
    for option in (CORE, CORE8):
        assert table.p20_ms(layer_signature(graph.layers[1], graph.modules["b"], option)) > 0
    assert Profile.from_dict(json.loads(json.dumps(profile.as_dict()))) == profile


@pytest.mark.parametrize(
    ("name", "option", "reason"),
    [
        ("tokens", CORE, "a Tucker core needs a Conv2d larger than 1x1"),
        ("grouped", CORE, "a convolution in 2 groups is not factored"),
        ("conv", Option(4, 0.5, tucker=0.5), "factors around a Tucker core are not pruned"),
        ("conv", Option(tucker=0.99), "a core of 0.99 of 16 and 16 channels leaves nothing out"),
        ("conv", CORE, ""),
        ("conv", CORE8, ""),
    ],
)
def test_layers_without_a_core_say_why(mixed, name: str, option: Option, reason: str) -> None:
    layer = next(layer for layer in mixed.layers if layer.name == name)
    found = reject(option, layer, get_device("onnxruntime-cpu"))
    assert found.startswith(reason)
    assert bool(found) == bool(reason)
