from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.moments import activate
from autocompress.compression.stitch import stitched
from autocompress.compression.treated import Grid, StoredTensor, Treated, build_module
from autocompress.model.layer import Layer
from autocompress.model.sums import expose_sums
from autocompress.model.trace import trace


class Mixed(nn.Module):
    """Strides, padding, batch norms, a residual sum, and a Linear on three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        # Convolutions without bias: the exporter lets them share constants.
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(16, 16, 1, groups=2, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.tokens = nn.Linear(16, 24)
        self.hidden = nn.Linear(24, 24)
        self.head = nn.Linear(24, 5)
        for norm in (self.norm1, self.norm2):
            nn.init.uniform_(norm.running_mean, -0.2, 0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.stem(x)).relu()
        x = (self.norm2(self.conv(x)) + self.grouped(x)).relu()
        x = self.tokens(x.flatten(2).transpose(1, 2)).relu()
        return self.head(self.hidden(x.mean(1)).relu())


class Plain(nn.Module):
    """Three convolutions in a row and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.c = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16 * 16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x)).relu()
        x = nn.functional.max_pool2d(self.c(x), 2)
        return self.head(x.flatten(1))


class Mobile(nn.Module):
    """An inverted residual as in MobileNetV2: ReLU6, depthwise, zeros on two sides only."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 24, 1)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.depthwise = nn.Conv2d(24, 24, 3, stride=2, groups=24)
        self.project = nn.Conv2d(24, 8, 1)
        self.same = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)
        self.rectify = nn.ReLU6()
        with torch.no_grad():
            self.expand.weight *= 8  # so that values reach 6

    def forward(self, x: Tensor) -> Tensor:
        x = self.rectify(self.expand(x))
        x = self.project(self.rectify(self.depthwise(self.pad(x))))
        return self.head((x + self.same(x)).mean((2, 3)))


class Blocks(nn.Module):
    """Two residual blocks, rectified and not; the second sum is read by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.shortcut = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(16, 24, 1)
        self.left, self.right = nn.Conv2d(24, 8, 1), nn.Conv2d(24, 8, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (self.b(self.a(x).relu()) + x).relu()
        x = self.c(x) + self.shortcut(x)
        x = torch.cat([self.left(x), self.right(x)], 1)
        return self.head(x.relu().mean((2, 3)))


class Bench:
    """A model with what is needed to treat its layers, whatever the compression methods are."""

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        self.inputs = inputs
        self.example = (inputs[:1],)
        self.model = expose_sums(model.eval(), self.example)
        self.layers: tuple[Layer, ...] = trace(self.model, self.example)
        self.names = [layer.name for layer in self.layers if layer.is_treated]
        self._values = self._record()

    def treat(self, name: str, bits: int = 8, rank: int = 0, int8: bool = True) -> Treated:
        layer = next(layer for layer in self.layers if layer.name == name)
        module = self.model.get_submodule(name)
        matrix = module.weight.detach().flatten(1)
        parts = [matrix]
        if rank and layer.groups == 1:
            left, values, right = torch.linalg.svd(matrix, full_matrices=False)
            root = values[:rank].sqrt()
            parts = [root[:, None] * right[:rank], left[:, :rank] * root]
        stored = tuple(_stored(part, bits) for part in parts)
        bias = module.bias.detach() if module.bias is not None else None
        if not int8:
            return Treated(stored, bias)
        values_in, values_out = self._values[name]
        grid_in = self._grid(layer.source) if layer.source else _covering(values_in)
        middle = []
        if len(stored) > 1:
            first = build_module(module, Treated(stored[:1], None))
            middle = [_covering(first(values_in))]
        return Treated(stored, bias, (grid_in, *middle, self._grid(name)))

    def twin(self, treated: Mapping[str, Treated]) -> Tensor:
        with torch.no_grad():
            return stitched(self.model, treated)(self.inputs)

    def _grid(self, name: str) -> Grid:
        layer = next(layer for layer in self.layers if layer.name == name)
        values = self._values[name][1]
        return _covering(activate(values, layer.activation))

    @torch.no_grad()
    def _record(self) -> dict[str, tuple[Tensor, Tensor]]:
        found: dict[str, tuple[Tensor, Tensor]] = {}
        handles = [
            self.model.get_submodule(name).register_forward_hook(
                lambda _, inputs, output, name=name: found.update(
                    {name: (inputs[0].clone(), output.clone())}
                )
            )
            for name in self.names
        ]
        self.model(self.inputs)
        for handle in handles:
            handle.remove()
        return found


def _covering(values: Tensor) -> Grid:
    return Grid.covering(float(values.min()), float(values.max()))


def _stored(matrix: Tensor, bits: int) -> StoredTensor:
    if bits >= 16:
        return StoredTensor(bits, matrix.half() if bits == 16 else matrix, None)
    top = 2 ** (bits - 1) - 1
    scale = (matrix.abs().amax(1) / top).clamp_min(1e-6).half()
    codes = torch.round(matrix / scale.float()[:, None]).clamp(-top, top).to(torch.int8)
    return StoredTensor(bits, codes, scale)


def _bench(build: Callable[[], nn.Module], size: int) -> Bench:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Bench(build(), torch.randn(40, 3, size, size))


@pytest.fixture(scope="session")
def mixed() -> Bench:
    return _bench(Mixed, 16)


@pytest.fixture(scope="session")
def plain() -> Bench:
    return _bench(Plain, 8)


@pytest.fixture(scope="session")
def mobile() -> Bench:
    return _bench(Mobile, 9)


@pytest.fixture(scope="session")
def blocks() -> Bench:
    return _bench(Blocks, 12)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
