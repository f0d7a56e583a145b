"""Residual additions between int8 layers: done on integers, equal to the twin, in known bytes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from autocompress.compression.rounded import rounded_sums
from autocompress.compression.stitch import stitched
from autocompress.compression.treated import Treated, stored_dense
from autocompress.hardware.candidates import stand_ins
from autocompress.hardware.device import DEVICES, Device
from autocompress.hardware.measure import isolated_prices, measure_table
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.runtimes.onnx_fused import check_fused, optimized_graph
from autocompress.hardware.runtimes.onnx_graph import assemble, base_bytes, layer_bytes, sum_bytes
from autocompress.hardware.runtimes.onnx_session import open_session
from autocompress.hardware.runtimes.runtime import Program, input_names
from autocompress.search_space.option import Option

INT8 = Option(bits=8, activations="int8")
ONNX = [d for d in DEVICES.values() if not d.engine.missing() and d.engine.reads_onnx]
# Which layers are float, and how many additions are then done on integers.
FLOAT = [((), 2), (("head",), 2), (("left",), 1), (("stem",), 1), (("c",), 0)]


@pytest.fixture(scope="module")
def graph(blocks) -> FloatGraph:
    return export_float(blocks.model, blocks.layers, blocks.example)


def treat(blocks, floats: tuple[str, ...], rank: int = 0) -> dict[str, Treated]:
    return {name: blocks.treat(name, 7, rank, int8=name not in floats) for name in blocks.names}


def additions(proto: onnx.ModelProto) -> list[str]:
    return sorted(n.op_type for n in optimized_graph(proto).graph.node if "Add" in n.op_type)


@pytest.mark.parametrize("format", ["archive", "onnx"])
@pytest.mark.parametrize(("floats", "count"), FLOAT)
def test_onnxruntime_adds_integers_where_all_around_is_int8(
    blocks, graph, floats, count, format
) -> None:
    treated = treat(blocks, floats)
    proto = assemble(graph, treated, format)
    assert len(rounded_sums(graph.sums, treated.get)) == count
    assert additions(proto).count("QLinearAdd") == count
    check_fused(proto, treated)


def test_all_on_integers_leaves_no_step_on_floats_between(blocks, graph) -> None:
    nodes = optimized_graph(assemble(graph, treat(blocks, ()))).graph.node
    kinds = [node.op_type for node in nodes]
    assert kinds.count("QLinearConv") == 7
    # Floats are at the input, and around the concatenation, the mean and the head alone.
    first, last = kinds.index("QLinearConv"), len(kinds) - kinds[::-1].index("QLinearConv")
    assert not {"DequantizeLinear", "Relu", "Add"} & set(kinds[first : last - 2])


@pytest.mark.parametrize("device", ONNX, ids=lambda device: device.name)
@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("floats", [floats for floats, _ in FLOAT])
def test_every_runtime_agrees_with_the_twin(blocks, graph, device: Device, floats, rank) -> None:
    treated = treat(blocks, floats, rank)
    proto = assemble(graph, treated)
    device.engine.check(proto, treated)
    run = device.engine.open(Program(proto, lambda: stitched(blocks.model, treated)))
    (name,) = input_names(proto)
    (found,) = run({name: blocks.inputs.numpy()})
    twin = blocks.twin(treated).numpy()
    spread = twin.max() - twin.min()
    # A tie that float kernels of another processor break otherwise may move an output by a step.
    assert np.abs(found - twin).max() <= 0.03 * spread
    if device.name == "onnxruntime-cpu":
        assert np.isclose(found, twin, rtol=0, atol=1e-5 * spread).mean() > 0.75
    assert (found.argmax(1) == twin.argmax(1)).all()


def test_bytes_are_those_of_the_file(blocks, graph) -> None:
    for floats, _ in FLOAT:
        treated = treat(blocks, floats)
        predicted = base_bytes(graph) + sum(
            layer_bytes(graph, name, value, "onnx") for name, value in treated.items()
        )
        predicted += sum(sum_bytes(graph, name) for name in rounded_sums(graph.sums, treated.get))
        actual = len(assemble(graph, treated, "onnx").SerializeToString())
        assert abs(predicted - actual) <= 3


def test_a_candidate_for_the_clock_adds_where_the_real_one_does(blocks, graph) -> None:
    names = [layer.name for layer in graph.layers]
    for floats, count in FLOAT:
        chosen = {name: Option() if name in floats else INT8 for name in names}
        assert additions(assemble(graph, stand_ins(graph, chosen))).count("QLinearAdd") == count


def test_what_a_sum_spares_is_priced(blocks, graph, cache) -> None:
    device = DEVICES["onnxruntime-cpu"]
    classes = {layer.name: (Option(), INT8) for layer in graph.layers}
    table = measure_table(graph, classes, device)
    prices = isolated_prices(graph, classes, table, device.precisions)
    around = {found.layers: found for found in prices.sums}
    assert set(around) == {found.around.layers for found in graph.sums.values()}
    assert all(found.saved_ms > 0 and found.boundaries > 0 for found in around.values())
    every = dict.fromkeys(classes, INT8)
    spared = sum(found.saved_ms for found in around.values())
    plain = type(prices)(prices.constant_ms, prices.unit_ms, prices.edges)
    assert prices.predict(every) == pytest.approx(plain.predict(every) - spared)


def test_a_graph_of_another_model_has_its_own_sums(plain, plain_export) -> None:
    assert not plain_export.sums
    assert not [n for n in plain_export.proto.graph.node if n.name in plain_export.sums]


@pytest.fixture(scope="module")
def plain_export(plain) -> FloatGraph:
    return export_float(plain.model, plain.layers, plain.example)


def test_the_dense_model_is_written_as_before(blocks, graph) -> None:
    session = open_session(assemble(graph, {}))
    (found,) = session.run(None, {session.get_inputs()[0].name: blocks.inputs.numpy()})
    np.testing.assert_allclose(found, blocks.twin({}).numpy(), atol=1e-5)
    dense = {name: stored_dense(blocks.model.get_submodule(name)) for name in blocks.names}
    assert not rounded_sums(graph.sums, dense.get)
