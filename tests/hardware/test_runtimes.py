"""What every runtime keeps; run for those that are installed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from autocompress.compression.stitch import stitched
from autocompress.deploy.onnx_file import OnnxModule
from autocompress.errors import DeviceError
from autocompress.hardware import processor
from autocompress.hardware.candidates import stand_ins
from autocompress.hardware.clock import feeds, time_models
from autocompress.hardware.device import DEVICES, Device, machine_fingerprint, reject
from autocompress.hardware.measure import isolated_prices, measure_table
from autocompress.hardware.runtimes import openvino_cpu
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.runtimes.onnx_graph import assemble
from autocompress.hardware.runtimes.runtime import Program, batch_of, input_names
from autocompress.hardware.runtimes.unfold import unfolded
from autocompress.search_space.option import Option

INT8 = Option(bits=8, activations="int8")
INSTALLED = [device for device in DEVICES.values() if not device.engine.missing()]
WITH_INT8 = [device for device in INSTALLED if "int8" in device.precisions]
HAS_OPENVINO = not DEVICES["openvino-cpu"].engine.missing()
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")


def assert_close(device: Device, found: np.ndarray, wanted: np.ndarray) -> None:
    """To the last digits, or to those that are left where float layers run in bfloat16."""
    if device.engine.is_exact:
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    else:
        assert 0 < np.abs(found - wanted).max() <= 0.02 * np.abs(wanted).max()


def each(found: list[Device]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("device", found, ids=lambda device: device.name)


@pytest.fixture(autouse=True)
def _whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU rounds to fewer bits in convolutions unless it is told otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def graph(mixed) -> FloatGraph:
    return export_float(mixed.model, mixed.layers, mixed.example)


@pytest.fixture(scope="module")
def plain_graph(plain) -> FloatGraph:
    return export_float(plain.model, plain.layers, plain.example)


def outputs(device: Device, bench, proto: onnx.ModelProto, treated) -> np.ndarray:
    program = Program(proto, lambda: stitched(bench.model, treated))
    run = device.engine.open(program)
    (name,) = input_names(proto)
    (output,) = run({name: bench.inputs.numpy()})
    return output


@each(INSTALLED)
@pytest.mark.parametrize(("bits", "rank"), [(32, 0), (32, 4), (8, 3), (4, 0)])
def test_float_layers_give_the_same_outputs_everywhere(mixed, graph, device, bits, rank) -> None:
    treated = {name: mixed.treat(name, bits, rank, int8=False) for name in mixed.names}
    for format in ("archive", "onnx"):
        proto = assemble(graph, treated, format)
        operators = device.engine.check(proto, treated)
        assert operators.keys() == {node.name for node in proto.graph.node if "/step" in node.name}
        found = outputs(device, mixed, proto, treated)
        assert_close(device, found, mixed.twin(treated).numpy())


@each(WITH_INT8)
@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("bench", ["mixed", "plain"])
def test_int8_layers_run_as_int8_and_agree_with_their_twin(request, device, rank, bench) -> None:
    model = request.getfixturevalue(bench)
    holes = request.getfixturevalue("graph" if bench == "mixed" else "plain_graph")
    treated = {name: model.treat(name, device.int8_bits, rank) for name in model.names}
    proto = assemble(holes, treated)
    operators = device.engine.check(proto, treated)
    assert len(operators) == sum(len(layer.weights) for layer in treated.values())
    step = treated["head"].grids[-1].scale
    found, twin = outputs(device, model, proto, treated), model.twin(treated).numpy()
    assert np.abs(found - twin).max() <= 3.01 * step
    assert np.abs(found - twin).mean() < 0.5 * step


@each(WITH_INT8)
@pytest.mark.parametrize("format", ["archive", "onnx"])
@pytest.mark.parametrize("middle", ["b", "c"])
def test_a_float_layer_between_int8_layers_stays_float(
    plain, plain_graph, device, format, middle
) -> None:
    treated = {
        name: plain.treat(name, device.int8_bits, int8=name != middle) for name in plain.names
    }
    proto = assemble(plain_graph, treated, format)
    assert f"{middle}/step0" in device.engine.check(proto, treated)
    step = treated["head"].grids[-1].scale
    found, twin = outputs(device, plain, proto, treated), plain.twin(treated).numpy()
    assert np.abs(found - twin).max() <= 3.01 * step


@each(WITH_INT8)
def test_a_layer_of_the_other_type_is_refused(plain, plain_graph, device) -> None:
    bits = device.int8_bits
    proto = assemble(plain_graph, {"a": plain.treat("a", bits), "b": plain.treat("b", bits)})
    with pytest.raises(DeviceError, match="'c' should run on int8"):
        device.engine.check(proto, {name: plain.treat(name, bits) for name in ("a", "b", "c")})
    with pytest.raises(DeviceError, match="'b' should stay float"):
        device.engine.check(proto, {"a": plain.treat("a", bits)})


@each(INSTALLED)
def test_an_onnx_module_takes_any_number_of_rows(mixed, graph, device) -> None:
    module = OnnxModule(assemble(graph, {}), runtime=device.file_engine)
    assert batch_of(assemble(graph, {})) == module.static_batch == 0
    for rows in (1, 7, 3, 40, 2, 5, 7):  # more shapes than a runner keeps
        found, wanted = module(mixed.inputs[:rows]), mixed.twin({})[:rows]
        assert_close(device, found.numpy(), wanted.numpy())


@each(INSTALLED)
def test_every_operation_is_measured_and_adds_up(mixed, graph, device, cache) -> None:
    menu = [Option(), Option(rank=0.5), INT8, Option(bits=8, rank=0.5, activations="int8")]
    classes = {
        name: tuple(option for option in menu if option.activations in device.precisions)
        for name in ("conv", "head")
    }
    table = measure_table(graph, classes, device)
    assert all(entry.p20_ms > 0 for entry in table.entries.values())
    assert table.fingerprint["runtime"] == f"{device.runtime} {device.engine.version()}"
    prices = isolated_prices(graph, classes, table, device.precisions)
    assert prices.predict({"conv": Option(rank=0.5)}) > 0
    assert bool(prices.edges) == ("int8" in device.precisions)


@each(INSTALLED)
def test_whole_models_are_timed_with_the_threads_that_they_ask_for(mixed, graph, device) -> None:
    programs = {
        name: Program(
            assemble(graph, stand_ins(graph, candidate), threads=1),
            lambda candidate=candidate: stitched(mixed.model, stand_ins(graph, candidate)),
        )
        for name, candidate in {"dense": {}, "half": {"conv": Option(rank=0.5)}}.items()
    }
    values = feeds(graph, mixed.example)
    timed = time_models(programs, values, blocks=3, block_ms=0.5, runtime=device.engine)
    assert all(timing.p20_ms > 0 for timing in timed.values())


def test_torch_runs_float_modules_only(mixed, graph) -> None:
    device = DEVICES["torch-cpu"]
    assert "no int8 kernels" in reject(INT8, mixed.layers[0], device)
    with pytest.raises(DeviceError, match="'head'"):
        device.engine.check(assemble(graph, {}), {"head": mixed.treat("head")})
    with pytest.raises(DeviceError, match="modules"):
        device.engine.open(Program(assemble(graph, {})))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_device_says_so(graph) -> None:
    device = DEVICES["torch-cuda"]
    for ask in (
        device.engine.version,
        lambda: device.engine.open(Program(assemble(graph, {}), lambda: torch.nn.Identity())),
        lambda: machine_fingerprint(device),
    ):
        with pytest.raises(DeviceError, match="sees no GPU with CUDA"):
            ask()


def test_weights_are_unfolded_once_and_change_nothing(mixed, graph) -> None:
    treated = {name: mixed.treat(name, 4, int8=False) for name in mixed.names}
    packed = assemble(graph, treated, "onnx")
    plain_weights = unfolded(packed)
    assert not {"Cast", "Mul"} & {node.op_type for node in plain_weights.graph.node}
    onnx.checker.check_model(plain_weights)
    dense = assemble(graph, {})
    assert unfolded(dense) is dense
    for runtime in (DEVICES["onnxruntime-cpu"],):
        np.testing.assert_allclose(
            outputs(runtime, mixed, plain_weights, treated),
            outputs(runtime, mixed, packed, treated),
            atol=1e-6,
        )


def test_a_runtime_that_is_not_installed_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, graph
) -> None:
    monkeypatch.setattr(openvino_cpu, "find_spec", lambda name: None)
    device = DEVICES["openvino-cpu"]
    for ask in (
        device.engine.version,
        lambda: device.engine.open(Program(assemble(graph, {}))),
        lambda: machine_fingerprint(device),
    ):
        with pytest.raises(DeviceError, match=r"pip install 'autocompress\[openvino\]'"):
            ask()


@pytest.mark.parametrize(
    ("instructions", "machine", "bits"),
    [("none", "x86_64", 7), ("avx512_vnni", "x86_64", 8), ("avx_vnni", "AMD64", 8)]
    + [("asimddp", "aarch64", 8), ("none", "aarch64", 8)],
)
def test_where_int8_sums_overflow_only_narrower_weights_are_offered(
    monkeypatch: pytest.MonkeyPatch, mixed, instructions: str, machine: str, bits: int
) -> None:
    monkeypatch.setattr(processor, "int8_instructions", lambda: instructions)
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    device = replace(DEVICES["openvino-cpu"], int8_bits=processor.exact_bits())
    layer = next(layer for layer in mixed.layers if layer.name == "conv")
    assert device.int8_bits == bits
    assert ("overflow" in reject(INT8, layer, device)) == (bits < 8)
    assert reject(replace(INT8, bits=6), layer, device) == ""


@needs_openvino
def test_threads_of_openvino_are_what_was_asked_for(mixed, graph) -> None:
    engine = DEVICES["openvino-cpu"].engine
    values = feeds(graph, mixed.example)
    for asked, loader in ((None, 2), (1, 2)):
        runner = engine.open(Program(assemble(graph, {}, threads=loader)), asked)
        runner(values)
        compiled = runner.at(values)
        assert compiled.get_property("INFERENCE_NUM_THREADS") == (asked or loader)
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
