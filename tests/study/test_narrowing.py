"""One export serves narrower models; where the graph fixes a width, the group keeps it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from autocompress.compression.channels import Channels
from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import Statistics, collect
from autocompress.compression.narrow import embed, narrow_dense, narrow_layer
from autocompress.compression.treated import Treated, build_module
from autocompress.hardware.memory import peak_bytes
from autocompress.hardware.rest import tensor_shapes
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.runtimes.onnx_graph import assemble
from autocompress.hardware.runtimes.onnx_session import open_session
from autocompress.model.grouping import find_groups
from autocompress.model.shrink import kept_channels, shrink
from autocompress.model.swap import swap
from autocompress.model.trace import trace
from autocompress.search_space.option import Option
from autocompress.study.narrowing import held_by_graph, ordered_channels


class Flat(nn.Module):
    """Convolution to Linear through a flatten; two Linear on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 12, 3, padding=1)
        self.c, self.d = nn.Linear(12, 20), nn.Linear(20, 8)
        self.e, self.f = nn.Linear(128, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu()).relu().flatten(2).transpose(1, 2)
        x = self.d(self.c(x).relu()).relu().flatten(1)
        return self.f(self.e(x).relu())


class Between(nn.Module):
    """A depthwise convolution between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.b, self.fc = nn.Conv2d(16, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.a(x).relu())
        return self.fc(self.b(x.relu()).relu().mean((2, 3)))


class Apart(nn.Module):
    """The channels of a head do not lie together: the graph counts those of a head, not heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(6, 16), nn.Linear(16, 48), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        parts = self.qkv(self.embed(x).tanh()).chunk(3, -1)
        q, k, v = (y.reshape(batch, tokens, 4, -1).permute(0, 3, 1, 2) for y in parts)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.permute(0, 2, 3, 1).flatten(2).mean(1))


NETS = {"flat": (Flat, (2, 3, 8, 8)), "between": (Between, (2, 3, 8, 8))}


@pytest.mark.parametrize("name", NETS)
def test_the_graph_of_the_original_gives_that_of_a_narrower_model(name: str) -> None:
    make, shape = NETS[name]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(*shape)
    layers = trace(model, (x,))
    graph = export_float(model, layers, (x,))
    before = graph.proto.SerializeToString()
    groups = [group for group in find_groups(model, layers, (x,), 4) if not group.frozen]
    assert groups
    assert held_by_graph(graph, model, groups, (x,)) == groups
    rng = np.random.default_rng(0)
    kept = {g: rng.permutation(g.size)[: g.size // 2].tolist() for g in groups}
    small, narrow = shrink(model, kept), assemble(graph, narrow_dense(model, kept))
    assert graph.proto.SerializeToString() == before
    # Another batch than the one that was exported.
    inputs = torch.randn(5, *shape[1:])
    with torch.no_grad():
        np.testing.assert_allclose(run(narrow, inputs), small(inputs), atol=1e-5)
        np.testing.assert_allclose(run(assemble(graph, {}), inputs), model(inputs), atol=1e-5)


def test_a_group_whose_width_the_graph_fixes_is_left_whole() -> None:
    torch.manual_seed(0)
    model, x = Apart().eval(), torch.randn(2, 5, 6)
    layers = trace(model, (x,))
    groups = [group for group in find_groups(model, layers, (x,), 4) if not group.frozen]
    heads = [group for group in groups if group.name == "qkv"]
    assert heads  # torch could do without some
    assert not heads[0].counters
    held = held_by_graph(export_float(model, layers, (x,)), model, groups, (x,))
    assert held == [group for group in groups if group.name != "qkv"]


def test_the_order_of_channels_is_read_back_and_only_for_what_it_was_made_from(tmp_path) -> None:
    torch.manual_seed(0)
    model, x = Flat().eval(), torch.randn(40, 3, 8, 8)
    layers = trace(model, (x[:1],))
    groups = tuple(g for g in find_groups(model, layers, (x[:1],), 4) if not g.frozen)
    statistics = collect(model, layers, (x,))
    path, asked = tmp_path / "channels.json", list[str]()

    def look(name: str) -> Statistics:
        asked.append(name)
        return statistics[name]

    first = ordered_channels(model, groups, look, "a", path)
    assert asked
    asked.clear()
    assert ordered_channels(model, groups, look, "a", path) == first
    assert not asked
    assert ordered_channels(model, groups, look, "b", path) == first
    assert asked
    written = json.loads(path.read_text())
    other = written | {"orders": [[0] * len(order) for order in written["orders"]]}
    for damage in ("", "[]", '{"schema": 1}', json.dumps(other)):
        path.write_text(damage)
        assert ordered_channels(model, groups, look, "b", path) == first
    assert ordered_channels(model, (), look, "b", tmp_path / "none.json") == Channels()
    assert not (tmp_path / "none.json").exists()


def run(proto: onnx.ModelProto, inputs: Tensor) -> np.ndarray:
    session = open_session(proto)
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return output


def test_reshapes_name_no_features() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 8)
    model = Flat().eval()
    graph = export_float(model, trace(model, (x,)), (x,)).proto.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    targets = [
        numpy_helper.to_array(stored[node.input[1]]).tolist()
        for node in graph.node
        if node.op_type == "Reshape"
    ]
    assert targets == [[0, 0, -1], [0, -1]]


def test_channels_bits_and_rank_together_in_one_file() -> None:
    torch.manual_seed(0)
    model, x = Flat().eval(), torch.randn(40, 3, 8, 8)
    layers = {layer.name: layer for layer in trace(model, (x[:1],))}
    statistics = collect(model, list(layers.values()), (x,))
    graph = export_float(model, list(layers.values()), (x[:1],))
    groups = find_groups(model, list(layers.values()), (x[:1],), 4)
    kept = {group: range(group.size // 2) for group in groups if not group.frozen}
    small, treated = shrink(model, kept), dict[str, Treated]()
    option = Option(bits=8, rank=0.5, activations="int8")
    for name, stays in kept_channels(model, kept).items():
        dense = model.get_submodule(name)
        narrow = narrow_layer(layers[name], dense, statistics[name], stays)
        ((_, stored, _),) = compress_layer(
            narrow.layer, narrow.module, narrow.statistics, [option]
        )
        treated[name] = embed(stored, dense, stays)
        swap(small, name, build_module(narrow.module, stored))
    with torch.no_grad():
        wanted = small(x).numpy()
    found = run(assemble(graph, treated), x)
    assert (found.argmax(1) == wanted.argmax(1)).mean() >= 0.95
    assert np.abs(found - wanted).max() <= 0.05 * np.abs(wanted).max()


def test_shapes_and_peak_memory_follow_the_widths() -> None:
    torch.manual_seed(0)
    model, x = Between().eval(), torch.randn(1, 3, 8, 8)
    layers = trace(model, (x,))
    graph = export_float(model, layers, (x,))
    half = {
        "a": Option(outputs=0.5),
        "depthwise": Option(outputs=0.5),
        "b": Option(inputs=0.5),
    }
    whole, narrow = tensor_shapes(graph, (x,)), tensor_shapes(graph, (x,), half)
    wide = {name for name, shape in whole.items() if shape == (1, 16, 8, 8)}
    assert wide
    for name, shape in whole.items():
        assert narrow[name] == ((1, 8, 8, 8) if name in wide else shape)
    # The depthwise convolution reads and writes sixteen channels of float32, or eight.
    assert peak_bytes(graph, whole, {}) == 2 * 4 * 16 * 64
    assert peak_bytes(graph, narrow, half) == 2 * 4 * 8 * 64
