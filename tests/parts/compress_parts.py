"""A net with every kind of layer that options are made for, and what calibration says of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autocompress.compression.moments import Statistics, collect
from autocompress.model.layer import Layer
from autocompress.model.trace import trace


class Net(nn.Module):
    """Convolutions with and without bias, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 10, 3, padding=1)
        self.plain = nn.Conv2d(10, 8, 3, bias=False)
        self.hidden = nn.Linear(8, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.conv(x).relu()).mean((2, 3))
        return self.head(self.hidden(x).relu())


def traced_net() -> tuple[Net, dict[str, Layer], dict[str, Statistics]]:
    """The net, its layers by name, and their statistics."""
    torch.manual_seed(0)
    model = Net().eval()
    # Smooth images: their pixels are strongly correlated.
    x = nn.functional.avg_pool2d(torch.randn(40, 2, 10, 10), 3, 1)
    layers = trace(model, (x[:1],))
    return model, {layer.name: layer for layer in layers}, collect(model, layers, (x,))
