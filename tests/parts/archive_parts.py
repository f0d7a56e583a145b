"""A net and treated layers of every kind that an archive holds."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.compression.bits import block, integer
from autocompress.compression.treated import Grid, StoredTensor, Treated
from autocompress.deploy.archive import (
    write_archive,
)

METADATA = {"study": "digits", "candidate": "a1b2c3", "autocompress": "0.1.0"}
GRID = Grid.covering(-0.3, 2.7)


class Net(nn.Module):
    """Convolutions, batch norm, a buffer of each odd kind, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()
        )
        self.hidden = nn.Linear(6 * 4 * 4, 20)
        self.head = nn.Linear(20, 5, bias=False)
        self.register_buffer("order", torch.arange(7, dtype=torch.int16))
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("levels", torch.randn(3).bfloat16())
        self.register_buffer("nothing", torch.zeros(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.body(x).flatten(1)).relu())


def stored(bits: int, rows: int, columns: int, sparsity: float = 0.5) -> StoredTensor:
    rng = np.random.default_rng(bits)
    values = rng.normal(0, 1, (rows, columns)) * (rng.random((rows, columns)) >= sparsity)
    if bits > 8:
        return StoredTensor(
            bits, torch.from_numpy(values).to(torch.float16 if bits == 16 else torch.float32), None
        )
    top = 2 ** (bits - 1) - 1
    codes = np.clip(np.round(values * top / 2), -top, top).astype(np.int8)
    scale = torch.from_numpy(rng.uniform(0.01, 0.02, rows).astype(np.float16))
    return StoredTensor(bits, torch.from_numpy(codes), scale)


def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    model.body[1].num_batches_tracked += 17
    return model.eval()


def layers() -> tuple[dict[str, Treated], dict[str, str]]:
    """A convolution on int8 grids, a factored layer, a sparse one without bias."""
    half, full = torch.linspace(-1, 1, 4).half(), torch.linspace(-0.3, 0.7, 20)
    treated = {
        "body.0": Treated((stored(8, 4, 9),), half, (GRID, None)),
        "hidden": Treated((stored(4, 3, 96), stored(6, 20, 3)), full),
        "head": Treated((stored(3, 5, 20, 0.8),), None),
    }
    return treated, {"body.0": "w8-a8", "hidden": "w4-r15", "head": "w3-s80"}


def rest_of(model: nn.Module, treated: dict[str, Treated]) -> dict[str, Tensor]:
    state = model.state_dict()
    return {key: state[key] for key in state if key.rpartition(".")[0] not in treated}


def write(path: Path, model: nn.Module | None = None) -> Path:
    treated, options = layers()
    write_archive(path, treated, options, rest_of(model or net(), treated), METADATA)
    return path


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def file(text: bytes, rest: bytes = b"") -> bytes:
    """An archive with this index of tensors, whatever it says."""
    return sealed(b"ACZ\2\0" + integer(len(text)) + block(text) + rest)


def layer(flags: int, *sizes: int, rest: bytes = b"", option: bytes = b"w8") -> bytes:
    """An archive with one layer, `a`."""
    record = bytes([flags]) + block(option) + b"".join(map(integer, sizes)) + rest
    return file(b'[{},{},["a"]]', record)
