"""Small models of the families whose channels are coupled in different ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Residual(nn.Module):
    """Two stages; the second has a projection shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 8), conv(8, 12), conv(12, 8)
        self.c, self.d, self.shortcut = conv(8, 16, 3, 2), conv(16, 16), conv(8, 16, 1, 2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (self.b(self.a(x).relu()) + x).relu()
        x = (self.d(self.c(x).relu()) + self.shortcut(x)).relu()
        return self.fc(x.mean((2, 3)))


class LeNet(nn.Module):
    """Its flatten gives each channel sixteen features."""

    def __init__(self, hard: bool = False) -> None:
        super().__init__()
        self.hard = hard
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 12, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(192, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.conv1(x).relu(), 2)
        x = functional.max_pool2d(self.conv2(x).relu(), 2)
        x = x.view(-1, 192) if self.hard else x.flatten(1)
        return self.fc2(self.fc1(x).relu())


class Mobile(nn.Module):
    """An inverted residual, with squeeze and excite or without."""

    def __init__(self, gate: bool = False) -> None:
        super().__init__()
        self.stem, self.up = conv(3, 8), conv(8, 24, 1)
        self.depthwise, self.down = conv(24, 24, 3, 1, 24), conv(24, 8, 1)
        self.gate = gate
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.stem(x))
        y = functional.relu6(self.depthwise(functional.relu6(self.up(x))))
        if self.gate:
            z = self.squeeze(y.mean((2, 3), keepdim=True)).relu()
            y = y * functional.hardsigmoid(self.excite(z))
        return self.fc((x + self.down(y)).mean((2, 3)))


class Dense(nn.Module):
    """Every layer reads all before it, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.norm1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(12), nn.Conv2d(12, 4, 3, padding=1)
        self.norm3, self.fc = nn.BatchNorm2d(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = torch.cat([x, self.conv1(self.norm1(x).relu())], 1)
        x = torch.cat([x, self.conv2(self.norm2(x).relu())], 1)
        return self.fc(self.norm3(x).relu().mean((2, 3)))


class Encoder(nn.Module):
    """A transformer block with fused queries, keys and values.

    Its heads are `free`, or `fixed` in the forward pass, or `counted` in attributes.
    """

    def __init__(self, heads: str = "free") -> None:
        super().__init__()
        self.kind, self.num_heads, self.inner = heads, 3, 24
        self.embed = nn.Linear(6, 24)
        self.position = nn.Parameter(torch.randn(10, 24))
        self.norm1, self.qkv, self.out = nn.LayerNorm(24), nn.Linear(24, 72), nn.Linear(24, 24)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(24), nn.Linear(24, 48), nn.Linear(48, 24)
        self.norm3, self.head = nn.LayerNorm(24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        batch, tokens, _ = x.shape
        heads = {"free": -1, "fixed": 3, "counted": self.num_heads}[self.kind]
        q, k, v = (
            self.qkv(self.norm1(x)).reshape(batch, tokens, 3, heads, 8).permute(2, 0, 3, 1, 4)
        )
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        y = y.reshape(batch, tokens, self.inner if self.kind == "counted" else -1)
        x = x + self.out(y)
        x = x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return self.head(self.norm3(x).mean(1))


class Grouped(nn.Module):
    """A convolution in groups of four, a group norm of pairs, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.grouped, self.b = conv(3, 24, 1), conv(24, 24, 3, 1, 6), conv(24, 8, 1)
        self.norm, self.c = nn.GroupNorm(4, 8), nn.Conv2d(8, 6, 1)
        self.transposed, self.d = nn.ConvTranspose2d(6, 4, 2, 2), nn.Conv2d(4, 8, 1)
        self.act, self.fc = nn.PReLU(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.b(self.grouped(self.a(x).relu()).relu()))
        x = self.transposed(self.c(x.relu()).relu())
        return self.fc(self.act(self.d(x)).mean((2, 3)))


class Open(nn.Module):
    """Half of a layer's channels are read from outside; the input is added to another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.c = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        return torch.cat([self.c(self.b(y) + x), y[:, :8]], 1)


def images(make: Callable[[], nn.Module]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                for tensor in (module.weight, module.running_var):
                    tensor.uniform_(0.5, 2)
                for tensor in (module.bias, module.running_mean):
                    tensor.normal_()
    return model, (torch.randn(2, 3, 16, 16),)


def tokens(heads: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Encoder(heads).eval(), (torch.randn(2, 10, 6),)


NETS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "residual": lambda: images(Residual),
    "lenet": lambda: images(LeNet),
    "hard lenet": lambda: images(lambda: LeNet(hard=True)),
    "mobile": lambda: images(Mobile),
    "gated mobile": lambda: images(lambda: Mobile(gate=True)),
    "dense": lambda: images(Dense),
    "encoder": lambda: tokens("free"),
    "hard encoder": lambda: tokens("fixed"),
    "counted encoder": lambda: tokens("counted"),
    "grouped": lambda: images(Grouped),
    "open": lambda: images(Open),
}


@pytest.fixture
def net() -> Callable[[str], tuple[nn.Module, tuple[Tensor, ...]]]:
    """Gives a model in evaluation mode and its example inputs by name."""

    def make(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
        torch.manual_seed(0)
        return NETS[name]()

    return make
