"""Narrow layers: against least squares, compressed further, and back in full width."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import Statistics, collect
from autocompress.compression.narrow import compensate, embed, narrow_layer, weight_columns
from autocompress.compression.treated import build_module
from autocompress.model.layer import Layer
from autocompress.model.matrix import rows_of
from autocompress.model.shrink import Kept
from autocompress.model.trace import trace
from autocompress.search_space.option import Option

OPTIONS = [
    Option(bits=8),
    Option(bits=4, sparsity=0.5),
    Option(bits=8, rank=0.5, activations="int8"),
    Option(bits=8, activations="int8"),
    Option(bits=16, sparsity=0.5, rank=0.5),
]


def made(
    kind: str, bias: bool, damping: float = 0.01
) -> tuple[Layer, nn.Module, Statistics, Tensor]:
    """A layer in the middle of a net, its record and statistics, and its inputs."""
    torch.manual_seed(0)
    if kind == "Conv2d":
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 3, 2, 1, bias=bias), nn.Flatten()
        )
        x = torch.randn(60, 3, 8, 8)
    else:
        net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 10, bias=bias), nn.Flatten())
        x = torch.randn(200, 3, 5)
    net.eval()
    layers = {layer.name: layer for layer in trace(net, (x[:1],))}
    statistics = collect(net, [layers["2"]], (x,), damping=damping)["2"]
    with torch.no_grad():
        return layers["2"], net[2], statistics, net[:2](x)


@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
@pytest.mark.parametrize("bias", [False, True])
def test_compensation_is_least_squares_on_the_data(kind: str, bias: bool) -> None:
    layer, module, statistics, x = made(kind, bias, damping=1e-10)
    kept = Kept(columns=torch.tensor([0, 2, 3, 7]))
    narrow = narrow_layer(layer, module, statistics, kept)
    with torch.no_grad():
        rows = rows_of(module, x).double()
        wanted = rows @ module.weight.flatten(1).double().T
        data = rows[:, weight_columns(module, kept.columns)]
        if bias:
            data = torch.cat([data, torch.ones(len(data), 1)], 1)
            wanted = wanted + module.bias.double()
        best = data @ torch.linalg.lstsq(data, wanted, driver="gelsd").solution
        found = unfold_output(
            narrow.module(x.index_select(x.ndim - 1 if kind == "Linear" else 1, kept.columns))
        )
    assert torch.allclose(found.double(), best, atol=1e-4)
    spread = wanted - wanted.mean(0) if bias else wanted
    error = float((best - wanted).square().sum() / spread.square().sum())
    assert narrow.error == pytest.approx(error, rel=1e-3)


def unfold_output(values: Tensor) -> Tensor:
    """`(n, channels)`."""
    if values.ndim == 4:
        values = values.permute(0, 2, 3, 1)
    return values.reshape(-1, values.shape[-1])


def test_nothing_is_lost_where_others_can_make_up_for_it() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 4, dtype=torch.float64)
    x[:, 3] = x[:, 0] - 2 * x[:, 1]
    weight = torch.randn(2, 4, dtype=torch.float64)
    fitted = compensate(weight, x.T @ x, torch.tensor([0, 1, 2]))
    assert torch.allclose(x[:, :3] @ fitted.T, x @ weight.T)


@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
@pytest.mark.parametrize("rows", [None, [1, 4, 5, 9]])
def test_a_narrow_layer_is_compressed_further_and_embedded(
    kind: str, rows: list[int] | None
) -> None:
    layer, module, statistics, x = made(kind, bias=True)
    kept = Kept(torch.tensor(rows) if rows else None, torch.tensor([0, 2, 3, 4, 5, 7]))
    before = module.weight.clone()
    narrow = narrow_layer(layer, module, statistics, kept)
    assert torch.equal(module.weight, before)
    assert narrow.layer.weight_shape == tuple(narrow.module.weight.shape)
    assert narrow.layer.parameters == sum(p.numel() for p in narrow.module.parameters())
    channel = x.ndim - 1 if kind == "Linear" else 1
    few = x.index_select(channel, kept.columns)
    assert narrow.layer.input_shape[1:] == tuple(few.shape[1:])
    again = {entry.name: entry for entry in trace(nn.Sequential(narrow.module), (few[:1],))}["0"]
    assert again.macs == narrow.layer.macs
    assert again.output_shape == narrow.layer.output_shape
    done = list(compress_layer(narrow.layer, narrow.module, narrow.statistics, OPTIONS))
    assert {option for option, _, _ in done} == set(OPTIONS)
    for option, treated, error in done:
        assert 0 < error < (0.9 if option.rank < 1 or option.sparsity else 0.05)
        with torch.no_grad():
            small = build_module(narrow.module, treated)(few)
            full = build_module(module, embed(treated, module, kept))(x)
        if rows:
            gone = [row for row in range(10) if row not in rows]
            assert not full.index_select(channel, torch.tensor(gone)).any()
            full = full.index_select(channel, kept.rows)
        assert torch.allclose(small, full, atol=1e-5)
