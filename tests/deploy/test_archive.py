"""An archive gives back every bit, predicts its own size, and meets damage with an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.bits import block, deflate, integer, zstd
from autocompress.compression.stitch import stitched
from autocompress.compression.treated import Grid, StoredTensor, Treated, build_module
from autocompress.deploy.archive import (
    Archive,
    archive_bytes,
    base_bytes,
    layer_bytes,
    load_archive,
    read_archive,
    write_archive,
)
from autocompress.errors import ArchiveError, StorageError
from autocompress.model.fold import fold_batch_norms

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


def same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and bytes_of(first) == bytes_of(second)
    )


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(first: Treated, second: Treated) -> None:
    assert len(first.weights) == len(second.weights)
    for one, other in zip(first.weights, second.weights, strict=True):
        assert one.bits == other.bits
        assert same(one.codes, other.codes)
        if one.scale is None or other.scale is None:
            assert one.scale is other.scale
            continue
        live = (one.codes != 0).any(1)  # a row of zeros may lose its scale
        assert same(one.scale[live], other.scale[live])
    assert same(first.bias, second.bias)
    assert first.grids == second.grids
    assert first.is_dynamic == second.is_dynamic


TREATED = {
    **{f"w{bits}": Treated((stored(bits, 12, 30),), None) for bits in (2, 3, 4, 6, 8, 16, 32)},
    "sparse": Treated((stored(4, 12, 30, 0.95),), torch.randn(12)),
    "sparse floats": Treated((stored(16, 12, 30, 0.95),), torch.randn(12).half()),
    "factored": Treated((stored(8, 2, 30), stored(4, 12, 2)), torch.randn(12)),
    "factored floats": Treated((stored(16, 2, 30), stored(32, 12, 2)), None),
    "int8": Treated((stored(8, 12, 30),), torch.randn(12), (GRID, Grid.covering(-1, 1))),
    "rounded at each call": Treated((stored(4, 12, 30),), torch.randn(12), is_dynamic=True),
    "factored, rounded at each call": Treated(
        (stored(8, 2, 30), stored(4, 12, 2)), None, is_dynamic=True
    ),
    "int8 to float": Treated((stored(8, 12, 30),), None, (GRID, None)),
    "core": Treated((stored(8, 4, 6), stored(4, 5, 36), stored(6, 12, 5)), torch.randn(12)),
    "core of floats": Treated((stored(16, 1, 6), stored(32, 1, 9), stored(16, 12, 1)), None),
    "int8 core": Treated(
        (stored(8, 4, 6), stored(7, 5, 4), stored(8, 12, 5)),
        torch.randn(12).half(),
        (GRID, Grid(2.0**-9, 255), GRID, None),
    ),
    "int8 factored": Treated(
        (stored(8, 2, 30), stored(8, 12, 2)), torch.randn(12), (None, GRID, Grid(2.0**-9, 255))
    ),
}


@pytest.mark.parametrize("kind", TREATED)
def test_every_kind_of_layer_comes_back(kind: str, tmp_path: Path) -> None:
    treated = TREATED[kind]
    size = write_archive(tmp_path / "m.acz", {"a.b": treated}, {"a.b": "w4"}, {}, METADATA)
    archive = read_archive(tmp_path / "m.acz")
    assert_same(archive.treated["a.b"], treated)
    assert archive.options == {"a.b": "w4"}
    assert archive.metadata == METADATA
    assert archive.rest == {}
    assert size == base_bytes({}, METADATA, ["a.b"]) + layer_bytes("a.b", "w4", treated)
    assert size == archive.base_bytes + archive.sizes["a.b"].total


def test_sizes_add_up_exactly(tmp_path: Path) -> None:
    treated, options = layers()
    rest = rest_of(net(), treated)
    size = write_archive(tmp_path / "m.acz", treated, options, rest, METADATA)
    assert size == (tmp_path / "m.acz").stat().st_size
    assert size == archive_bytes(treated, options, rest, METADATA)
    parts = [layer_bytes(name, options[name], treated[name]) for name in treated]
    assert size == base_bytes(rest, METADATA, treated) + sum(parts)
    archive = read_archive(tmp_path / "m.acz")
    assert [archive.sizes[name].total for name in treated] == parts
    assert archive.base_bytes == base_bytes(rest, METADATA, treated)
    for record in archive.sizes.values():
        assert record.head + sum(record.weights) + record.bias <= record.total


def test_overhead_is_tens_of_bytes() -> None:
    assert base_bytes({}, {}) <= 21
    treated = Treated((stored(2, 1, 1),), None)
    assert layer_bytes("conv1", "w4-s90", treated) <= 16


def test_a_name_costs_little_beside_its_like() -> None:
    names = [f"stage{i}.{j}.conv{k}" for i in (1, 2, 3) for j in (0, 1, 2) for k in (1, 2)]
    cost = base_bytes({}, METADATA, names) - base_bytes({}, METADATA)
    assert cost <= 80
    assert cost < sum(map(len, names)) / 3


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 5), (4, 3, 2)])
def test_rest_comes_back(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = torch.randint(0, 2, shape).to(getattr(torch, dtype))
    rest = {"a": tensor, "b": torch.randn(5, 4).t(), "c": tensor + tensor}
    write_archive(tmp_path / "m.acz", {}, {}, rest, {})
    archive = read_archive(tmp_path / "m.acz")
    assert list(archive.rest) == ["a", "b", "c"]
    assert all(same(rest[key], archive.rest[key]) for key in rest)


def test_reloaded_model_is_bit_identical(tmp_path: Path) -> None:
    model, (treated, _) = net(), layers()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = net()
    for name, layer in treated.items():
        expected.set_submodule(name, build_module(expected.get_submodule(name), layer))
    torch.manual_seed(1)
    other = Net().eval()  # same architecture, other weights: all must come from the file
    loaded = load_archive(write(tmp_path / "m.acz", model), other)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded(x), expected(x))
    for key, value in expected.state_dict().items():
        assert same(value, loaded.state_dict()[key])
    assert not torch.equal(other(x), loaded(x))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_model_that_is_one_layer(tmp_path: Path) -> None:
    treated = Treated((stored(8, 5, 20),), None)
    write_archive(tmp_path / "m.acz", {"": treated}, {"": "w8"}, {}, {})
    loaded = load_archive(tmp_path / "m.acz", nn.Linear(20, 5, bias=False))
    assert torch.equal(loaded.weight, treated.matrix())


class Wider(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(21, 5, bias=False)


class Renamed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.top = self.head
        del self.head


class OtherKind(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LayerNorm(5)


class OtherNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.body[1] = nn.BatchNorm2d(5)


class OtherType(Net):
    def __init__(self) -> None:
        super().__init__()
        self.order = torch.arange(7)


class Fewer(Net):
    def __init__(self) -> None:
        super().__init__()
        del self.order


class More(Net):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.zeros(2))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Wider, r"layer 'head' is \(5, 20\) in the archive, \(5, 21\) here"),
        (Renamed, "layer 'head' is not in the model"),
        (OtherKind, "layer 'head' is a LayerNorm"),
        (OtherNorm, r"'body.1.weight' is torch.float32 \(4,\) in the archive"),
        (OtherType, "'order' is torch.int16"),
        (Fewer, "'order' of the archive is not in the model"),
        (More, "'extra' of the model is not in the archive"),
    ],
)
def test_another_model_is_named(other: type[nn.Module], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=message):
        load_archive(write(tmp_path / "m.acz"), other())


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    treated, options = layers()
    path = tmp_path / "m.acz"
    with pytest.raises(ValueError, match="options"):
        write_archive(path, treated, {}, {}, {})
    with pytest.raises(ValueError, match="head.weight"):
        write_archive(path, treated, options, {"head.weight": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="complex"):
        write_archive(path, {}, {}, {"a": torch.zeros(1, dtype=torch.complex64)}, {})
    with pytest.raises(ValueError, match="metadata"):
        write_archive(path, {}, {}, {}, {"seed": 1})  # type: ignore[dict-item]
    bad = Treated((stored(8, 2, 2),), None, (Grid(0.1, 0), None))
    with pytest.raises(ValueError, match="float32"):
        write_archive(path, {"a": bad}, {"a": "w8-a8"}, {}, {})
    with pytest.raises(ValueError, match="bias"):
        write_archive(path, {"a": Treated((stored(8, 2, 2),), torch.ones(3))}, {"a": "w8"}, {}, {})
    assert list(tmp_path.iterdir()) == []


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def attempt(path: Path, data: bytes) -> Archive | None:
    """Reads `data`; only an ArchiveError may say that it is damaged."""
    path.write_bytes(data)
    try:
        return read_archive(path)
    except ArchiveError:
        return None


def test_truncation_anywhere(tmp_path: Path) -> None:
    data = write(tmp_path / "m.acz").read_bytes()
    for length in range(len(data)):
        if length % 5 == 0:
            assert attempt(tmp_path / "cut", data[:length]) is None
        # A new checksum does not help: the base says how many layers there are.
        if length < len(data) - 4:
            assert attempt(tmp_path / "cut", sealed(data[:length])) is None
    assert attempt(tmp_path / "cut", data + b"\0") is None


def test_checksum_finds_every_flipped_bit(tmp_path: Path) -> None:
    data = write(tmp_path / "m.acz").read_bytes()
    for place in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        assert attempt(tmp_path / "flip", bytes(flipped)) is None


def test_parser_survives_damage_under_a_valid_checksum(tmp_path: Path) -> None:
    body = write(tmp_path / "m.acz").read_bytes()[:-4]
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(2500):
        flipped = bytearray(body)
        for place in rng.integers(4, len(body), rng.integers(1, 4)):
            flipped[place] = rng.integers(256)
        refused += attempt(tmp_path / "flip", sealed(bytes(flipped))) is None
    assert refused > 1000


def file(text: bytes, rest: bytes = b"") -> bytes:
    """An archive with this index of tensors, whatever it says."""
    return sealed(b"ACZ\2\0" + integer(len(text)) + block(text) + rest)


def layer(flags: int, *sizes: int, rest: bytes = b"", option: bytes = b"w8") -> bytes:
    """An archive with one layer, `a`."""
    record = bytes([flags]) + block(option) + b"".join(map(integer, sizes)) + rest
    return file(b'[{},{},["a"]]', record)


BOMB = zstd(bytes(10**8))  # a frame of a few kilobytes

HOSTILE = {
    "no json": file(b"{"),
    "no pair": file(b"[]"),
    "layers in a mapping": file(b"[{},{},{}]"),
    "four": file(b"[{},{},[],[]]"),
    "a list": file(b"[{},[],[]]"),
    "numbers": file(b"[1,2,3]"),
    "not utf-8": file(b'[{"\xff":"a"},{},[]]'),
    "metadata of numbers": file(b'[{"a":1},{},[]]'),
    "twice": file(b'[{},{"a":["f4",0],"a":["f4",0]},[]]'),
    "deep": file(b"[" * 100_000),
    "long number": file(b'[{},{"a":["f4",' + b"9" * 5000 + b"]}]"),
    "unknown type": file(b'[{},{"a":["x9",1]},[]]'),
    "type of types": file(b'[{},{"a":[["f4"],1]},[]]'),
    "no type": file(b'[{},{"a":[]},[]]'),
    "entry is null": file(b'[{},{"a":null},[]]'),
    "negative": file(b'[{},{"a":["f4",-1]},[]]', block(b"\0")),
    "fraction": file(b'[{},{"a":["f4",1.5]},[]]', block(b"\0")),
    "true": file(b'[{},{"a":["f4",true]},[]]', block(b"\0" + bytes(4))),
    "infinite": file(b'[{},{"a":["f4",Infinity]},[]]', block(b"\0")),
    "huge": file(b'[{},{"a":["f4",1000000000000]},[]]', block(b"\0" + bytes(40))),
    "huge deflated": file(b'[{},{"a":["f4",1000000000000]},[]]', block(b"\1" + bytes(40))),
    "huge beside empty": file(b'[{},{"a":["f4",0,9999999999999,9999999999999]},[]]', block(b"\0")),
    "many dimensions": file(
        json.dumps([{}, {"a": ["f4"] + [1] * 99}, []]).encode(), block(b"\0" * 5)
    ),
    "bool of 2": file(b'[{},{"a":["b1",1]},[]]', block(b"\0\2")),
    "index too long": sealed(b"ACZ\2\0" + integer(2**40) + block(deflate(b"[{},{},[]]"))),
    "index longer than said": sealed(b"ACZ\2\0" + integer(3) + block(deflate(bytes(10**6)))),
    "endless length": sealed(b"ACZ\2\0" + b"\xff" * 40),
    "length past the end": sealed(b"ACZ\2\0" + integer(2**50) + integer(2**50)),
    "layer twice": file(b'[{},{},["a","a"]]', 2 * (b"\0" + block(b"w8") + b"\1\1")),
    "layer of no name": file(b"[{},{},[1]]"),
    "layer missing": file(b'[{},{},["a"]]'),
    "bytes after the last layer": file(b"[{},{},[]]", b"\0"),
    "layer flags": layer(255, 1, 1),
    "layer option": layer(0, 1, 1, option=b"\xff"),
    "layer huge": layer(0, 2**40, 2**40, rest=block(b"\x04\0\0\0\0")),
    "layer huge coded": layer(0, 1, 2**50, rest=block(b"\x0c" * 9)),
    "core without flags": layer(6, 1, 1),
    "core with a bias of two kinds": layer(15, 0, 1, 1),
    "core with grids": layer(6, 4),
    "core of flags": layer(6, 64),
    "core of no columns": layer(6, 0, 2, 4, 3, 0, 2, rest=3 * block(b"\x0c" * 9)),
    "core of odd columns": layer(6, 0, 2, 4, 3, 9, 2, rest=3 * block(b"\x0c" * 9)),
    "core of no rows": layer(6, 0, 0, 4, 3, 9, 2, rest=3 * block(b"\x0c" * 9)),
    "core huge": layer(6, 0, 2, 4, 2**40, 18, 2, rest=3 * block(b"\x0c" * 9)),
    "layer huge rank": layer(1, 2**60, 1, 1, rest=block(b"\x0c" * 9)),
    "layer huge zstd": layer(0, 1, 2**20, rest=block(b"\x0c\0\0\x30" + BOMB)),
    "layer huge rows": layer(0, 2**40, 1, rest=block(b"\x80" * 9)),
    "layer huge columns": layer(0, 8, 2**40, rest=block(b"\x80\0" + b"\x0c" * 9)),
    "layer row beyond the last": layer(0, 1, 1, rest=block(b"\x80\x40\x0c\0\0\0\0")),
    "layer rows within rows": layer(0, 1, 1, rest=block(b"\x80\x80\x80\x80\0\0\0")),
    "layer empty": layer(0, 1, 1, rest=block(b"")),
    "coder 2": sealed(b"ACZ\2\2" + bytes(50)),
    "no magic": sealed(b"PK\3\4" + bytes(50)),
    "version 0": sealed(b"ACZ\0" + bytes(50)),
    "version 1": sealed(b"ACZ\1" + bytes(50)),
    "version 3": sealed(b"ACZ\3" + bytes(50)),
    "magic only": b"ACZ",
    "magic and version": b"ACZ\2",
    "empty": b"",
    "zeros": bytes(4096),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(kind: str, tmp_path: Path) -> None:
    tracemalloc.start()
    assert attempt(tmp_path / "bad.acz", HOSTILE[kind]) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def test_messages_say_what_is_wrong(tmp_path: Path) -> None:
    for data, message in [
        (b"", "not an archive"),
        (HOSTILE["version 1"], "version 1: this program reads version 2; .*export"),
        (write(tmp_path / "m.acz").read_bytes()[:-9], "checksum"),
        (HOSTILE["layer huge"], "layer 'a'"),
    ]:
        (tmp_path / "bad.acz").write_bytes(data)
        with pytest.raises(ArchiveError, match=f"bad.acz: .*{message}"):
            read_archive(tmp_path / "bad.acz")


@pytest.mark.parametrize("path", [".", "missing.acz", "m.acz/inside"])
def test_unreadable_paths(path: str, tmp_path: Path) -> None:
    write(tmp_path / "m.acz")
    with pytest.raises(StorageError, match="cannot be read"):
        read_archive(tmp_path / path)


def test_unwritable_paths(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "file" / "m.acz"):
        with pytest.raises(StorageError, match=str(path)):
            write_archive(path, {}, {}, {}, {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


FULL_DISK = """
import resource, sys, torch
from autocompress.deploy.archive import write_archive
from autocompress.errors import StorageError
rest = {"a": torch.randn(100_000)}
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_archive(sys.argv[1], {}, {}, rest, {})
except StorageError as error:
    assert sys.argv[1] in str(error), error
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m.acz")
    before = path.read_bytes()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], env=environment)
    assert done.returncode == 7
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("given", ["as the user has it", "folded"])
def test_an_archive_of_a_folded_model_loads_onto_the_original(tmp_path: Path, given: str) -> None:
    original, x = net(), torch.randn(3, 1, 8, 8)
    folded = fold_batch_norms(original, (x,))
    assert isinstance(folded.body[1], nn.Identity)
    treated, options = layers()
    for chosen in (treated, options):
        del chosen["body.0"]  # stays dense: its new bias is in the rest
    write_archive(tmp_path / "a.acz", treated, options, rest_of(folded, treated), METADATA)
    onto = original if given == "as the user has it" else folded
    loaded = load_archive(tmp_path / "a.acz", onto)
    expected = stitched(folded, treated)
    with torch.no_grad():
        assert torch.equal(loaded(x), expected(x))
    assert isinstance(original.body[1], nn.BatchNorm2d)
