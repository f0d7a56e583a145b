"""Layers on packed weights: `MatMulNBits` computes what the torch twin computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import collect
from autocompress.compression.stitch import stitched
from autocompress.compression.treated import DynamicQuantize, Treated
from autocompress.errors import DeviceError
from autocompress.hardware.candidates import draw_candidates
from autocompress.hardware.device import get_device, kernel_class, reject
from autocompress.hardware.profile import fit_latency
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.runtimes.onnx_fused import check_fused
from autocompress.hardware.runtimes.onnx_graph import assemble, base_bytes, layer_bytes
from autocompress.hardware.runtimes.onnx_session import open_session
from autocompress.hardware.runtimes.single_op import layer_model, layer_signature
from autocompress.model.canonical import canonical
from autocompress.model.trace import trace
from autocompress.search_space.option import Option


class Tokens(nn.Module):
    """Linear layers of widths that are no whole runs, one without bias and called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(100, 300)
        self.twice = nn.Linear(300, 300, bias=False)
        self.last = nn.Linear(300, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.last(self.twice(self.twice(x)).relu())


OPTIONS = [
    Option(bits=4, activations="dynamic"),
    Option(bits=8, activations="dynamic"),
    Option(bits=7, scales="tensor", activations="dynamic"),
    Option(bits=4, scales="32", activations="dynamic"),
    Option(bits=4, scales="16", affine=True, activations="dynamic"),
    Option(bits=3, scales="128", affine=True, activations="dynamic"),
    Option(bits=7, affine=True, activations="dynamic"),
    Option(bits=2, scales="64", sparsity=0.5, activations="dynamic"),
    Option(bits=4, rank=0.25, activations="dynamic"),
]


@pytest.fixture(scope="module")
def setting():
    torch.manual_seed(0)
    model, inputs = Tokens().eval(), torch.randn(16, 5, 100)
    layers = trace(model, (inputs,))
    statistics = collect(model, layers, (inputs,))
    return model, inputs, layers, statistics, export_float(model, layers, (inputs,))


def treat(setting, option: Option, *names: str) -> dict[str, Treated]:
    model, _, layers, statistics, _ = setting
    return {
        layer.name: next(
            compress_layer(
                layer, model.get_submodule(layer.name), statistics[layer.name], [option]
            )
        )[1]
        for layer in layers
        if layer.name in names
    }


def run(proto: onnx.ModelProto, inputs: Tensor) -> np.ndarray:
    session = open_session(proto)
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return output


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.id)
@pytest.mark.parametrize("format", ["archive", "onnx"])
def test_packed_layers_equal_their_torch_twin(setting, option: Option, format: str) -> None:
    model, inputs, _, _, graph = setting
    for names in (("first",), ("first", "twice", "last")):
        treated = treat(setting, option, *names)
        proto = assemble(graph, treated, format)
        expected = stitched(model, treated)(inputs).detach().numpy()
        # A value in the middle of a step may fall to the other side of it.
        scale = np.abs(expected).max()
        difference = np.abs(run(proto, inputs) - expected) / scale
        assert difference.max() < 1e-2
        assert np.median(difference) < 1e-5
        operators = check_fused(proto, treated)
        for name in names:
            assert operators[f"{name}/step0"] == "MatMulNBits"
        if option.bits == 8 and names == ("first",):
            # Inputs are rounded: it is no float layer.
            plain = {name: replace(part, is_dynamic=False) for name, part in treated.items()}
            assert not np.allclose(stitched(model, plain)(inputs).detach(), expected, atol=1e-4)


def test_the_file_is_as_large_as_the_prices_say(setting) -> None:
    _, _, _, _, graph = setting
    for option in (OPTIONS[0], OPTIONS[4]):
        treated = treat(setting, option, "first", "twice", "last")
        proto = assemble(graph, treated, "onnx")
        told = base_bytes(graph) + sum(
            layer_bytes(graph, name, part, "onnx") for name, part in treated.items()
        )
        assert abs(proto.ByteSize() - told) < 32  # the operators' domain, named once


def test_a_step_of_rounding_belongs_to_a_run_of_a_row() -> None:
    x = torch.tensor([[[127.0, 1.4, 0.0, 0.0, 12.7, 0.06]]])
    rounded = DynamicQuantize(4)(x)
    torch.testing.assert_close(rounded, torch.tensor([[[127.0, 1.0, 0.0, 0.0, 12.7, 0.1]]]))
    x = x.requires_grad_()
    DynamicQuantize(4)(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(1, 1, 6))


class Tied(nn.Module):
    """An embedding that reads the weight of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(40, 64), nn.Linear(64, 40, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.words(ids).relu())


def test_an_embedding_reads_the_weight_of_a_packed_head() -> None:
    torch.manual_seed(0)
    ids = torch.randint(40, (6, 7))
    model = canonical(Tied().eval(), (ids,)).model
    layers = [layer for layer in trace(model, (ids,)) if layer.is_treated]
    (head,) = layers
    statistics = collect(model, layers, (ids,))
    graph = export_float(model, layers, (ids,))
    made = compress_layer(head, model.head, statistics["head"], [OPTIONS[1]])
    treated = {"head": next(made)[1]}
    proto = assemble(graph, treated)
    expected = stitched(model, treated)(ids).detach().numpy()
    np.testing.assert_allclose(run(proto, ids), expected, atol=5e-3 * np.abs(expected).max())
    assert check_fused(proto, treated) == {"head/step0": "MatMulNBits"}


def test_a_kernel_that_computes_otherwise_is_refused(setting) -> None:
    _, _, _, _, graph = setting
    treated = treat(setting, OPTIONS[0], "first")
    proto = assemble(graph, treated)
    node = next(node for node in proto.graph.node if node.op_type == "MatMulNBits")
    level = next(part for part in node.attribute if part.name == "accuracy_level")
    level.i = 0
    with pytest.raises(DeviceError, match="'first' should run on packed weights.*level 0"):
        check_fused(proto, treated)
    with pytest.raises(DeviceError, match="'first' should stay float.*MatMulNBits"):
        check_fused(proto, {})


def test_what_has_no_such_kernel_is_said(setting) -> None:
    layers = {layer.name: layer for layer in setting[2]}
    first = layers["first"]
    convolution = replace(first, kind="Conv2d")
    assert "linear layers" in reject(OPTIONS[0], convolution)
    assert "all have to be there" in reject(replace(OPTIONS[0], inputs=0.5), first)
    assert "2 to 8 bits" in reject(Option(bits=1, activations="dynamic"), first)
    assert "no dynamic kernels" in reject(OPTIONS[0], first, get_device("openvino-cpu"))
    assert "4 or 8 bits" in reject(Option(bits=3, activations="dynamic"), first, format="onnx")
    assert reject(OPTIONS[4], first, format="onnx") == ""
    tied = replace(first, tied=("words",))
    assert "twice, packed and for words" in reject(OPTIONS[4], tied, format="onnx")
    assert reject(OPTIONS[4], tied) == ""
    overflows = replace(get_device("onnxruntime-cpu"), int8_bits=7)
    assert "overflow" in reject(OPTIONS[1], first, overflows)
    assert overflows.suited(OPTIONS[1]).bits == 7
    assert overflows.suited(OPTIONS[5]) == OPTIONS[5]


def test_kernels_differ_by_bits_runs_and_zero_points(setting) -> None:
    model, _, layers, _, _ = setting
    first = next(layer for layer in layers if layer.name == "first")
    classes = {kernel_class(option) for option in OPTIONS}
    signatures = {layer_signature(first, model.first, option) for option in classes}
    assert len(signatures) == len(classes) == 8
    assert kernel_class(Option(bits=3, activations="dynamic")) == kernel_class(OPTIONS[0])
    for option in classes:
        proto = layer_model(first, model.first, option)
        assert run(proto, torch.full(first.input_shape, 0.1)).shape == first.output_shape


def test_calibration_draws_all_kinds_of_kernels() -> None:
    menu = (Option(), Option(bits=7, activations="int8"), OPTIONS[0])
    drawn = draw_candidates(dict.fromkeys("abcdef", menu), 60, np.random.default_rng(0))
    kinds = [{option.activations for option in one.values()} for one in drawn]
    for wanted in ({"float32"}, {"int8"}, {"dynamic"}, {"float32", "int8", "dynamic"}):
        assert wanted in kinds
    before = draw_candidates(dict.fromkeys("abcdef", menu[:2]), 20, np.random.default_rng(0))
    assert all(option in menu[:2] for one in before for option in one.values())


def test_a_model_with_packed_weights_is_profiled(setting, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    model, inputs, layers, _, graph = setting
    menus = {layer.name: (Option(), OPTIONS[0], OPTIONS[3]) for layer in layers}
    profile = fit_latency(
        model,
        layers,
        (inputs[:1],),
        menus,
        np.random.default_rng(0),
        graph=graph,
        held_out=2,
        seconds=1.0,
    )
    for name, menu in menus.items():
        for option in menu:
            assert profile.prices.unit(name, option) > 0
