from __future__ import annotations

import torch
from torch import Tensor, nn

from autocompress.model.dataflow import Flow, dataflow


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.body = nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout())
        self.first = nn.Linear(36, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.conv(x)).flatten(1)
        return self.last(torch.sigmoid(self.first(x)))


def test_relu_pooling_and_reshapes_carry_values_but_sigmoid_does_not() -> None:
    flows = dataflow(Chain().eval(), (torch.randn(1, 1, 8, 8),))
    assert flows == {
        "conv": Flow("relu", ""),
        "first": Flow("", "conv"),
        "last": Flow("", ""),
    }


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x.relu()) + x


def test_a_relu_that_is_not_the_only_reader_is_no_activation() -> None:
    flows = dataflow(Residual().eval(), (torch.randn(2, 4),))
    assert flows["a"] == Flow("", "")
    assert flows["b"] == Flow("", "a")


class Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.once = nn.Linear(4, 4)
        self.alias = self.once
        self.end = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(x).relu()).relu()
        return self.end(self.alias(self.once(x)).relu())


def test_layers_that_run_twice_have_no_flow() -> None:
    flows = dataflow(Repeated().eval(), (torch.randn(2, 4),))
    assert flows["twice"] == flows["once"] == flows["alias"] == Flow("", "")
    assert flows["end"] == Flow("", "")


class Fickle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if float(x.sum()) > 0 else x


def test_a_model_that_cannot_be_exported_gives_no_information() -> None:
    assert dataflow(Fickle().eval(), (torch.randn(2, 4),)) == {}
