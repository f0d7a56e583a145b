"""What the benchmark of runtimes makes narrower, and that its models run."""

from __future__ import annotations

import torch
from families.transformer import Encoder
from runtimes import WIDTHS, candidates, measure
from torch import Tensor, nn

from autocompress.compression.channels import usable
from autocompress.hardware.device import get_device
from autocompress.model.grouping import find_groups
from autocompress.model.trace import trace


class Residual(nn.Module):
    """A stream of 16 channels that two blocks add to, each with 32 of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.wide = nn.ModuleList(nn.Conv2d(16, 32, 3, padding=1) for _ in range(2))
        self.back = nn.ModuleList(nn.Conv2d(32, 16, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for wide, back in zip(self.wide, self.back, strict=True):
            x = (x + back(wide(x).relu())).relu()
        return self.head(x.mean((2, 3)))


def test_hidden_channels_are_those_of_one_producer() -> None:
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(1, 3, 8, 8)
    layers = {layer.name: layer for layer in trace(model, (x,))}
    made = candidates(layers, usable(find_groups(model, list(layers.values()), (x,)), layers), 8)
    widths = [width for width in WIDTHS if width != "heads halved"]  # it has none
    assert list(made) == [(kind, width) for width in widths for kind in ("float32", "int8")]
    kept = {
        width: {
            name: (option.inputs, option.outputs)
            for name, option in made["int8", width].items()
            if option.is_narrow
        }
        for width in widths
    }
    assert not kept["full"]
    assert kept["hidden halved"] == {
        **{f"wide.{i}": (1.0, 0.5) for i in range(2)},
        **{f"back.{i}": (0.5, 1.0) for i in range(2)},
    }
    assert kept["all halved"] == {
        "stem": (1.0, 0.5),
        **{f"wide.{i}": (0.5, 0.5) for i in range(2)},
        **{f"back.{i}": (0.5, 0.5) for i in range(2)},
        "head": (0.5, 1.0),
    }
    rows = measure(model, (x,), get_device("onnxruntime-cpu"))
    assert [(row["activations"], row["width"]) for row in rows] == list(made)
    rows = measure(model, (x,), get_device("torch-cpu"))
    assert [(row["activations"], row["width"]) for row in rows] == [
        key for key in made if key[0] == "float32"
    ]
    assert rows[0]["latency_percent"] == 100
    assert all(row["latency_ms"] > 0 for row in rows)


def test_heads_are_halved_alone_and_with_all_others() -> None:
    torch.manual_seed(0)
    model, x = Encoder(width=32, layers=2, heads=4, tokens=6).eval(), torch.randn(1, 6, 32)
    layers = {layer.name: layer for layer in trace(model, (x,)) if layer.is_treated}
    groups = usable(find_groups(model, trace(model, (x,)), (x,)), layers)
    made = candidates(layers, groups, 8)
    assert {width for _, width in made} == set(WIDTHS)
    halved = {
        width: {
            name.split(".")[-1]
            for name, option in made["float32", width].items()
            if option.is_narrow
        }
        for width in WIDTHS
    }
    attention = {"query", "key", "value", "output"}
    assert halved["heads halved"] == attention
    assert halved["hidden halved"] == {"up", "down"}
    assert halved["all halved"] == attention | {"up", "down"}
    rows = measure(model, (x,), get_device("onnxruntime-cpu"))
    assert [(row["activations"], row["width"]) for row in rows] == list(made)
