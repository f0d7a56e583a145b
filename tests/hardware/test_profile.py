from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from autocompress.errors import DeviceError, StorageError
from autocompress.hardware import profile as module
from autocompress.hardware.candidates import candidate_macs, stand_ins
from autocompress.hardware.clock import feeds, time_when_calm
from autocompress.hardware.device import get_device
from autocompress.hardware.measure import measure_table
from autocompress.hardware.profile import Profile, fit_latency
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.runtimes.onnx_fused import check_fused, optimized_graph
from autocompress.hardware.runtimes.onnx_graph import assemble
from autocompress.hardware.runtimes.single_op import layer_model
from autocompress.hardware.table import cached_table
from autocompress.search_space.option import Option

INT8 = Option(bits=7, activations="int8")
SMALL = Option(bits=4, sparsity=0.5)
HALF = Option(rank=0.5)
HALF8 = Option(bits=7, rank=0.5, activations="int8")


@pytest.fixture(scope="module")
def graph(mixed) -> FloatGraph:
    return export_float(mixed.model, mixed.layers, mixed.example)


@pytest.mark.parametrize("option", [INT8, HALF8])
def test_an_operation_alone_runs_the_kernel_it_stands_for(graph, option) -> None:
    for layer in graph.layers:
        proto = layer_model(layer, graph.modules[layer.name], option)
        operators = [node.op_type for node in optimized_graph(proto).graph.node]
        wanted = "QLinearConv" if layer.kind == "Conv2d" else "QGemm"
        assert operators.count(wanted) == (2 if option.is_factored else 1)
        assert not {"QuantizeLinear", "DequantizeLinear"} & set(operators)


def test_stand_ins_run_the_kernels_of_the_candidate(graph) -> None:
    candidate = {
        "stem": INT8,
        "grouped": INT8,
        "conv": HALF8,
        "tokens": HALF,
        "hidden": SMALL,
        "head": INT8,
    }
    treated = stand_ins(graph, candidate)
    assert "hidden" not in treated  # runs as dense float
    operators = check_fused(assemble(graph, treated), treated)
    assert operators["conv/step1"] == operators["grouped/step0"] == "QLinearConv"
    assert operators["tokens/step1"].endswith("Gemm")
    assert operators["head/step0"] == "QGemm"


def test_the_table_is_measured_once(graph, cache: Path) -> None:
    device = get_device("onnxruntime-cpu")
    classes = {"head": (Option(), INT8)}
    first = measure_table(graph, classes, device)
    assert all(entry.p20_ms > 0 and entry.blocks >= 15 for entry in first.entries.values())
    assert cached_table(device).entries == first.entries
    assert measure_table(graph, classes, device).entries == first.entries
    assert len(measure_table(graph, {"head": (HALF,)}, device).entries) == len(first.entries) + 1


def test_a_profile_prices_every_option_and_comes_back_from_json(
    mixed, graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCKS", 3)
    monkeypatch.setattr(module, "BLOCK_MS", 0.3)
    menus = {name: (INT8, SMALL, HALF) for name in mixed.names}
    menus["grouped"] = (INT8, SMALL)  # a device takes no factors of a grouped convolution
    stages = []
    profile = fit_latency(
        mixed.model,
        mixed.layers,
        mixed.example,
        menus,
        np.random.default_rng(0),
        graph=graph,
        held_out=6,
        seconds=0.1,
        progress=lambda stage, share: stages.append(stage),
    )
    assert set(profile.prices.unit_ms) == set(mixed.names)
    for name, prices in profile.prices.unit_ms.items():
        assert set(prices) == {"dense", *(option.id for option in menus[name])}
        assert prices["dense"] == prices[SMALL.id]
    assert sum(point.held_out for point in profile.fit.points) == 6
    assert len(profile.fit.points) >= 16
    assert profile.prices.predict({"conv": INT8}) > 0
    assert {edge.tail for edge in profile.prices.edges} >= {None, "head"}
    assert "timing operations" in stages
    assert "timing candidates" in stages
    assert Profile.from_dict(json.loads(json.dumps(profile.as_dict()))) == profile
    with pytest.raises(StorageError, match="profile"):
        Profile.from_dict({})


def test_a_space_without_other_kernels_has_one_latency(
    mixed, graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCKS", 3)
    profile = fit_latency(
        mixed.model,
        mixed.layers,
        mixed.example,
        {"head": (SMALL,), "conv": (SMALL,)},
        np.random.default_rng(0),
        graph=graph,
    )
    dense = profile.prices.predict({})
    assert profile.prices.predict({"head": SMALL, "conv": SMALL}) == dense
    assert dense == pytest.approx(profile.fit.points[0].measured_ms, rel=1e-3)


def test_nothing_to_treat_is_an_error(mixed, graph) -> None:
    with pytest.raises(DeviceError, match="no layer has options"):
        fit_latency(
            mixed.model, mixed.layers, mixed.example, {}, np.random.default_rng(0), graph=graph
        )


def test_multiply_adds_of_factored_layers(mixed) -> None:
    layers = [layer for layer in mixed.layers if layer.name == "hidden"]
    assert candidate_macs(layers, {}) == 24 * 24
    assert candidate_macs(layers, {"hidden": HALF}) == 12 * (24 + 24)


def test_timing_waits_for_a_calm_machine_but_not_for_ever(mixed, graph) -> None:
    models = {"dense": assemble(graph, {})}
    values = feeds(graph, mixed.example)
    found = time_when_calm(models, values, "dense", expected_ms=1e-9, seconds=0.1)
    assert found["dense"].p20_ms > 0
