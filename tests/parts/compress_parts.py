"""A net with every kind of layer that options are made for."""

from __future__ import annotations

from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 10, 3, padding=1)
        self.plain = nn.Conv2d(10, 8, 3, bias=False)
        self.hidden = nn.Linear(8, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.conv(x).relu()).mean((2, 3))
        return self.head(self.hidden(x).relu())
