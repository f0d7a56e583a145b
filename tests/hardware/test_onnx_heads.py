"""Attention heads that are removed: masked, physically narrower, in the ONNX file and archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compression.bank import Bank
from autocompress.compression.channels import Channels, order_pieces, usable
from autocompress.compression.moments import collect
from autocompress.compression.narrow import narrow_dense
from autocompress.compression.narrowed import Count, counts_of, narrowed, recounted
from autocompress.compression.stitch import stitched
from autocompress.compression.treated import Treated
from autocompress.deploy.archive import write_archive
from autocompress.deploy.onnx_file import OnnxModule, load_onnx, write_onnx
from autocompress.deploy.restore import load_archive
from autocompress.hardware.clock import feeds
from autocompress.hardware.device import get_device
from autocompress.hardware.profile import candidate_program
from autocompress.hardware.rest import tensor_shapes
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.runtimes.onnx_fused import check_fused
from autocompress.hardware.runtimes.onnx_graph import assemble, base_bytes, layer_bytes
from autocompress.model.channels import ChannelGroup
from autocompress.model.grouping import find_groups
from autocompress.model.layer import Layer
from autocompress.model.shrink import masked, shrink
from autocompress.model.trace import trace
from autocompress.search_space.option import Option
from autocompress.search_space.widths import share_widths

WIDTH, HEADS, SIZE, TOKENS, CLASSES = 32, 4, 8, 6, 5
KINDS = ("separate", "fused", "chunked", "heads first")


class Attention(nn.Module):
    """Self-attention; where queries, keys and values come from differs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.num_heads = kind, HEADS
        if kind == "separate":
            self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.value = nn.Linear(WIDTH, WIDTH)
        else:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        if self.kind == "separate":
            parts = [layer(x) for layer in (self.query, self.key, self.value)]
            q, k, v = (y.view(batch, tokens, self.num_heads, SIZE) for y in parts)
        elif self.kind == "chunked":
            parts = self.qkv(x).chunk(3, -1)
            q, k, v = (y.unflatten(2, (self.num_heads, SIZE)) for y in parts)
        elif self.kind == "heads first":
            q, k, v = self.qkv(x).view(batch, tokens, self.num_heads, 3, SIZE).unbind(3)
        else:
            q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, SIZE).unbind(2)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        if self.kind == "separate":
            y = (q @ k.transpose(2, 3) / SIZE**0.5).softmax(-1) @ v
        else:
            y = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, tokens, -1))
        return out


class Block(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), Attention(kind)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    """Two layers, and a classifier of the mean token."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Linear(7, WIDTH)
        self.blocks = nn.Sequential(Block(kind), Block(kind))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.embed(x)).mean(1))
        return out


class Made:
    """An encoder with everything that a run knows of it."""

    def __init__(self, kind: str) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = Encoder(kind).eval().requires_grad_(False)
            self.inputs = torch.randn(96, TOKENS, 7)
        self.kind, self.example = kind, (self.inputs[:1],)
        self.layers: tuple[Layer, ...] = trace(self.model, self.example)
        self.named = {layer.name: layer for layer in self.layers if layer.is_treated}
        self.groups = tuple(usable(find_groups(self.model, self.layers, self.example), self.named))
        self.graph = export_float(self.model, self.layers, self.example)

    @property
    def heads(self) -> list[ChannelGroup]:
        return [group for group in self.groups if "attention" in group.name]

    def half(self) -> dict[ChannelGroup, list[int]]:
        rng = np.random.default_rng(0)
        return {g: sorted(rng.permutation(g.size)[: g.size // 2].tolist()) for g in self.groups}


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest) -> Made:
    return Made(request.param)


def run(proto: onnx.ModelProto, inputs: Tensor) -> Tensor:
    found: Tensor = OnnxModule(proto)(inputs)
    return found


def test_heads_are_groups_of_whole_heads_beside_hidden_units(made: Made) -> None:
    assert [group.size for group in made.groups] == [HEADS, 64, HEADS, 64]
    for block, group in enumerate(made.heads):
        (reader,) = group.consumers
        assert reader.name == f"blocks.{block}.attention.out"
        blocks = tuple(tuple(range(SIZE * h, SIZE * (h + 1))) for h in range(HEADS))
        assert reader.pieces == blocks
        assert sum(member.width for member in group.producers) == 3 * SIZE
        assert group.counts(8) == (1, 2, 3)
        (counter,) = group.counters
        assert (counter.attribute, counter.each) == ("num_heads", 1)
    shares = share_widths(made.groups, made.named, [0.5], 8)
    name = "blocks.0.attention." + ("query" if made.kind == "separate" else "qkv")
    assert shares[0].outputs[name] == (1.0, 0.5)
    assert shares[0].inputs["blocks.0.attention.out"] == (1.0, 0.5)


@pytest.mark.parametrize("kept", [[2], [0, 3], [0, 1, 3]])
def test_narrower_torch_model_masked_model_and_file_agree(made: Made, kept: list[int]) -> None:
    # Not the same heads in both layers, nor as many.
    choice = {made.heads[0]: kept, made.heads[1]: [1, 2]}
    small, whole = shrink(made.model, choice), masked(made.model, choice)
    treated = narrow_dense(made.model, choice)
    proto, twin = assemble(made.graph, treated), stitched(made.model, treated)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in whole.parameters())
    assert small.get_submodule("blocks.0.attention").num_heads == len(kept)
    # Another batch than the one that was exported.
    inputs = made.inputs[:9]
    wanted = whole(inputs)
    assert not torch.allclose(wanted, made.model(inputs), atol=1e-3)  # something is gone
    counts = counts_of(made.groups)
    assert [Count.parse(str(count)) for count in counts] == list(counts)
    paths = [f"blocks.{block}.attention.num_heads" for block in (0, 1)]
    left = dict(zip(paths, (len(kept), 2), strict=True))
    assert recounted(made.model, counts, treated) == left
    own = narrowed(made.model, treated, counts)
    for found in (small(inputs), twin(inputs), run(proto, inputs), own(inputs)):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_made_up_narrow_models_run_where_torch_is_timed(made: Made) -> None:
    shares: dict[str, dict[str, float]] = {name: {} for name in made.named}
    for width in share_widths(made.groups, made.named, [0.5], 8):
        for side in ("inputs", "outputs"):
            for name, levels in getattr(width, side).items():
                shares[name][side] = levels[-1]
    device = get_device("torch-cpu")
    for rank in (1.0, 0.5):
        choice = {name: Option(rank=rank, **shares[name]) for name in made.named}
        program = candidate_program(made.model, made.graph, choice, device, made.groups)
        (output,) = device.engine.open(program)(feeds(made.graph, (made.inputs,)))
        assert output.shape == (len(made.inputs), CLASSES)


def test_the_graph_counts_the_heads_itself(made: Made) -> None:
    stored = {t.name: numpy_helper.to_array(t) for t in made.graph.proto.graph.initializer}
    targets = [
        stored[node.input[1]].tolist()
        for node in made.graph.proto.graph.node
        if node.op_type == "Reshape" and node.input[1] in stored
    ]
    split = {
        "separate": [0, 0, -1, SIZE],
        "chunked": [0, 0, -1, SIZE],
        "fused": [0, 0, 3, -1, SIZE],
        "heads first": [0, 0, -1, 3, SIZE],
    }[made.kind]
    assert split in targets
    assert [0, 0, -1] in targets
    assert all(target in (split, [0, 0, -1]) for target in targets)
    torch.testing.assert_close(
        run(assemble(made.graph, {}), made.inputs), made.model(made.inputs), rtol=1e-4, atol=1e-5
    )


def test_tensors_between_the_layers_shrink_with_the_heads(made: Made) -> None:
    maker = ("query", "key", "value") if made.kind == "separate" else ("qkv",)
    half = {f"blocks.0.attention.{name}": Option(outputs=0.5) for name in maker}
    half["blocks.0.attention.out"] = Option(inputs=0.5)
    whole = tensor_shapes(made.graph, made.example)
    narrow = tensor_shapes(made.graph, made.example, half)
    scores = (1, HEADS, TOKENS, TOKENS)
    count = sum(shape == scores for shape in whole.values())
    assert count
    assert sum(shape == scores for shape in narrow.values()) == count / 2
    assert (1, HEADS // 2, TOKENS, TOKENS) in narrow.values()


@pytest.mark.parametrize(
    "option", [Option(4), Option(8, 0.5, 0.5), Option(7, activations="int8")], ids=str
)
def test_bits_zeros_rank_and_heads_together_in_both_files(
    made: Made, option: Option, tmp_path: Path
) -> None:
    statistics = collect(made.model, list(made.named.values()), (made.inputs,))
    order = order_pieces(made.model, made.groups, statistics.__getitem__)
    bank = Bank(tmp_path / "bank", "content", Channels(made.groups, order))
    shares: dict[str, dict[str, float]] = {name: {} for name in made.named}
    for width in share_widths(made.groups, made.named, [0.5], 8):
        for side in ("inputs", "outputs"):
            for name, levels in getattr(width, side).items():
                shares[name][side] = levels[-1]
    options, treated = {}, dict[str, Treated]()
    for name, layer in made.named.items():
        module = made.model.get_submodule(name)
        options[name] = Option(
            option.bits, option.sparsity, option.rank, option.activations, **shares[name]
        )
        bank.fill(layer, module, lambda n=name: statistics[n], [options[name]])  # type: ignore[misc]
        treated[name] = bank.stored(layer, module, options[name])
    proto, twin = assemble(made.graph, treated), stitched(made.model, treated)
    check_fused(proto, treated)
    # Every byte of it is known before it is written.
    counted = base_bytes(made.graph) + sum(
        layer_bytes(made.graph, name, layer, "archive") for name, layer in treated.items()
    )
    assert abs(counted - proto.ByteSize()) <= 8
    write_onnx(tmp_path / "model.onnx", proto)
    found, wanted = OnnxModule(load_onnx(tmp_path / "model.onnx"))(made.inputs), twin(made.inputs)
    if option.activations == "int8":
        # A rounding decision that goes the other way moves a value by a step of its grid.
        assert (found - wanted).abs().max() <= 0.05 * wanted.abs().max()
    else:
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    rest = {
        key: tensor
        for key, tensor in made.model.state_dict().items()
        if key.rpartition(".")[0] not in treated
    }
    ids = {name: chosen.id for name, chosen in options.items()}
    write_archive(tmp_path / "model.acz", treated, ids, rest, {})
    loaded = load_archive(tmp_path / "model.acz", Encoder(made.kind).eval())
    assert torch.equal(loaded(made.inputs), twin(made.inputs))
    stored = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    assert stored["blocks.1.attention.out/weight0"][1] == WIDTH // 2
