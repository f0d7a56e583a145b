"""Narrow layers in an archive: bit for bit, in the bytes that were counted, and on guard."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.bits import Reader, block, integer
from autocompress.compression.coding import encode
from autocompress.compression.stitch import stitched
from autocompress.compression.treated import Grid, Narrow, StoredTensor, Treated
from autocompress.deploy.archive import (
    archive_bytes,
    base_bytes,
    layer_bytes,
    read_archive,
    write_archive,
)
from autocompress.deploy.records import pack_layer, read_layer
from autocompress.deploy.restore import load_archive
from autocompress.errors import ArchiveError

GRID = Grid.covering(-0.3, 2.7)
ROWS, COLUMNS, TAPS = 12, 10, 9


class Net(nn.Module):
    """Two convolutions, a depthwise one between them, a flatten, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, COLUMNS, 3, padding=1)
        self.between = nn.Conv2d(COLUMNS, COLUMNS, 3, padding=1, groups=COLUMNS)
        self.b = nn.Conv2d(COLUMNS, ROWS, 3, padding=1, bias=False)
        self.head = nn.Linear(ROWS * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.a(x).relu()).relu()
        return self.head(self.b(x).relu().flatten(1))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net().eval().requires_grad_(False)


def stored(bits: int, rows: int, columns: int) -> StoredTensor:
    rng = np.random.default_rng([bits, rows, columns])
    values = rng.normal(0, 1, (rows, columns)) * (rng.random((rows, columns)) > 0.4)
    if bits > 8:
        kind = torch.float16 if bits == 16 else torch.float32
        return StoredTensor(bits, torch.from_numpy(values).to(kind), None)
    top = 2 ** (bits - 1) - 1
    codes = np.clip(np.round(values * top / 2), -top, top).astype(np.int8)
    scale = torch.from_numpy(rng.uniform(0.01, 0.02, rows).astype(np.float16))
    return StoredTensor(bits, torch.from_numpy(codes), scale)


def channels(count: int, size: int) -> Tensor:
    return torch.from_numpy(np.sort(np.random.default_rng(count).permutation(size)[:count]))


def narrow(
    outputs: int | None,
    inputs: int | None,
    bits: int = 4,
    rank: int = 0,
    grids: bool = False,
    core: int = 0,
) -> Treated:
    rows, columns = outputs or ROWS, (inputs or COLUMNS) * TAPS
    matrices = [(rank, columns), (rows, rank)] if rank else [(rows, columns)]
    if core:
        matrices = [(core, columns // TAPS), (core + 1, core * TAPS), (rows, core + 1)]
    return Treated(
        tuple(stored(bits, *shape) for shape in matrices),
        torch.linspace(-1, 1, rows).half(),
        (GRID, *[Grid(2.0**-9, 255)] * (len(matrices) - 1), None) if grids else (),
        Narrow(
            (ROWS, COLUMNS),
            None if outputs is None else channels(outputs, ROWS),
            None if inputs is None else channels(inputs, COLUMNS),
        ),
    )


TREATED = {
    "outputs": narrow(5, None),
    "inputs": narrow(None, 3),
    "both": narrow(5, 3),
    "one of each": narrow(1, 1),
    "all that there are": narrow(ROWS, COLUMNS),
    "floats": narrow(7, 4, bits=32),
    "half": narrow(7, 4, bits=16),
    "factored": narrow(5, 3, bits=8, rank=2),
    "int8": narrow(8, 8, bits=7, grids=True),
    "core": narrow(5, 3, bits=16, core=2),
    "core of all inputs": narrow(5, None, bits=32, core=2),
    "int8 core": narrow(8, 8, bits=8, core=4, grids=True),
    "int8 factored": narrow(8, 8, bits=8, rank=4, grids=True),
}


def same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.dtype == second.dtype and torch.equal(first, second)


def assert_same(first: Treated, second: Treated) -> None:
    assert first.grids == second.grids
    assert same(first.bias, second.bias)
    for one, other in zip(first.weights, second.weights, strict=True):
        assert one.bits == other.bits
        assert same(one.codes, other.codes)
        assert same(one.scale, other.scale)
    assert (first.narrow is None) == (second.narrow is None)
    if first.narrow is not None and second.narrow is not None:
        assert same(first.narrow.outputs, second.narrow.outputs)
        assert same(first.narrow.inputs, second.narrow.inputs)
    assert first.shape == second.shape
    assert torch.equal(first.matrix(), second.matrix())


@pytest.mark.parametrize("kind", TREATED)
def test_every_kind_of_narrow_layer_comes_back(kind: str, tmp_path: Path) -> None:
    treated = TREATED[kind]
    options = {"a.b": "w4-i50-o50"}
    size = write_archive(tmp_path / "m.acz", {"a.b": treated}, options, {}, {})
    archive = read_archive(tmp_path / "m.acz")
    assert_same(archive.treated["a.b"], treated)
    assert archive.options == options
    counted = base_bytes({}, {}, ["a.b"]) + layer_bytes("a.b", options["a.b"], treated)
    assert size == (tmp_path / "m.acz").stat().st_size == counted
    # What was read is written in the same way.
    again = write_archive(tmp_path / "n.acz", archive.treated, archive.options, {}, {})
    assert again == size
    assert (tmp_path / "n.acz").read_bytes() == (tmp_path / "m.acz").read_bytes()


def test_which_channels_stay_costs_a_bit_each() -> None:
    for outputs, inputs in ((5, None), (None, 3), (5, 3)):
        treated = narrow(outputs, inputs)
        plain = Treated(treated.weights, treated.bias, treated.grids)
        more = layer_bytes("a", "w4", treated) - layer_bytes("a", "w4", plain)
        # A length each, and two bytes for twelve or ten channels.
        assert more == 2 + 2 * (outputs is not None) + 2 * (inputs is not None)
    assert layer_bytes("a", "w4", narrow(5, 3)) < layer_bytes("a", "w4", narrow(12, 10)) / 3


def whole() -> tuple[dict[str, Treated], dict[str, str]]:
    """A model in which every layer is narrow, on the same channels as its neighbours."""
    left, right = channels(4, COLUMNS), channels(6, ROWS)
    flat = (right[:, None] * 16 + torch.arange(16)).flatten()
    treated = {
        "a": Treated(
            (stored(8, 4, 18),), torch.randn(4).half(), (GRID, GRID), Narrow((10, 2), left)
        ),
        "between": Treated((stored(6, 4, 9),), torch.randn(4), (), Narrow((10, 1), left)),
        "b": Treated((stored(4, 6, 36),), None, (), Narrow((12, 10), right, left)),
        "head": Treated(
            (stored(16, 3, 96), stored(16, 5, 3)), torch.randn(5), (), Narrow((5, 192), None, flat)
        ),
    }
    options = dict(zip(treated, ("w8-o40-a8", "w6-o40", "w4-i40-o50", "w16-r60-i50"), strict=True))
    return treated, options


def test_a_narrow_model_is_the_same_after_loading(tmp_path: Path) -> None:
    treated, options = whole()
    path = tmp_path / "m.acz"
    size = write_archive(path, treated, options, {}, {"study": "x"})
    assert size == archive_bytes(treated, options, {}, {"study": "x"})
    parts = [layer_bytes(name, options[name], layer) for name, layer in treated.items()]
    assert size == base_bytes({}, {"study": "x"}, treated) + sum(parts)
    x = torch.randn(9, 2, 4, 4)
    loaded = load_archive(path, net(seed=1))  # all must come from the file
    assert torch.equal(loaded(x), stitched(net(), treated)(x))


def test_a_model_in_its_real_width_computes_the_same(tmp_path: Path) -> None:
    treated, options = whole()
    core = (stored(7, 3, 4), stored(4, 5, 27), stored(6, 6, 5))
    kept = Narrow((12, 10), channels(6, ROWS), channels(4, COLUMNS))
    path = tmp_path / "m.acz"
    x = torch.randn(9, 2, 4, 4)
    for layer in (treated["b"], Treated(core, None, (), kept)):
        treated["b"] = layer
        write_archive(path, treated, options, {}, {})
        wide, small = load_archive(path, net(1)), load_archive(path, net(1), narrow=True)
        torch.testing.assert_close(small(x), wide(x), rtol=1e-5, atol=1e-5)
        assert small.between.groups == small.between.out_channels == 4
        count = sum(tensor.numel() for tensor in small.parameters())
        assert count == sum(w.codes.numel() for t in treated.values() for w in t.weights) + sum(
            t.bias.numel() for t in treated.values() if t.bias is not None
        )


HOSTILE_COUNTS = (
    "heads",
    "heads=",
    "heads=1/2",
    "heads=0/2*a",
    "heads=-1/2*a",
    "heads=1/0*a",
    "heads=9/1*a",  # none would be left
    "heads=1/2*z",
    "a.heads=1/2*a",
    "training=1/2*a",
)


@pytest.mark.parametrize("counts", HOSTILE_COUNTS)
def test_counts_that_are_none_of_the_model_are_refused(counts: str, tmp_path: Path) -> None:
    treated, options = whole()
    model = net()
    model.heads = 5  # type: ignore[assignment]
    write_archive(tmp_path / "m.acz", treated, options, {}, {"counts": "heads=1/2*a"})
    assert load_archive(tmp_path / "m.acz", model, narrow=True).heads == 2
    write_archive(tmp_path / "m.acz", treated, options, {}, {"counts": f"heads=1/2*a {counts}"})
    assert load_archive(tmp_path / "m.acz", model).heads == 5
    with pytest.raises(ArchiveError, match="what counts channels does not fit the model"):
        load_archive(tmp_path / "m.acz", model, narrow=True)


def test_a_core_is_the_same_after_loading(tmp_path: Path) -> None:
    treated, options = whole()
    path = tmp_path / "m.acz"
    kept = Narrow((12, 10), channels(6, ROWS), channels(4, COLUMNS))
    core = (stored(7, 3, 4), stored(4, 5, 27), stored(6, 6, 5))
    treated["b"], options["b"] = Treated(core, None, (), kept), "w7-t50-i40-o50"
    write_archive(path, treated, options, {}, {})
    x = torch.randn(9, 2, 4, 4)
    loaded = load_archive(path, net(seed=1))
    assert torch.equal(loaded(x), stitched(net(), treated)(x))
    # As many weights in all, but taps that the convolution does not have.
    other = (stored(7, 3, 12), stored(4, 5, 9), stored(6, 12, 5))
    treated["b"] = Treated(other, None, (), Narrow((12, 30), None, channels(12, 30)))
    write_archive(path, treated, options, {}, {})
    with pytest.raises(ArchiveError, match="layer 'b' has 9 taps here; a core of 3 was stored"):
        load_archive(path, net())
    flat = (stored(8, 2, 192), stored(8, 3, 2), stored(8, 5, 3))
    treated, options = whole()
    treated["head"] = Treated(flat, torch.randn(5))
    write_archive(path, treated, options, {}, {})
    with pytest.raises(ArchiveError, match="layer 'head' is no convolution; a core was stored"):
        load_archive(path, net())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("b", Narrow((13, 10), channels(6, 13), channels(4, 10)), r"\(13, 90\).*\(12, 90\) here"),
        ("b", Narrow((12, 11), channels(6, 12), channels(4, 11)), r"\(12, 99\).*\(12, 90\) here"),
        ("b", Narrow((12, 10), None, channels(4, 10)), r"\(6, 90\).*\(12, 90\) here"),
        ("head", Narrow((5, 200), None, channels(96, 200)), r"\(5, 200\).*\(5, 192\) here"),
    ],
)
def test_channels_of_another_model_are_refused(
    name: str, change: Narrow, message: str, tmp_path: Path
) -> None:
    treated, options = whole()
    treated[name] = Treated(treated[name].weights, treated[name].bias, (), change)
    write_archive(tmp_path / "m.acz", treated, options, {}, {})
    with pytest.raises(ArchiveError, match=f"layer '{name}' is {message}"):
        load_archive(tmp_path / "m.acz", net())


def layer_record(parts: Sequence[bytes], rows: int = 2, columns: int = 4) -> bytes:
    """What `read_layer` reads: a layer of 2 x 4 with these bytes for its channels."""
    weight = StoredTensor(32, torch.ones(rows, columns), None)
    head = bytes([128]) + block(b"w4") + integer(rows) + integer(columns)
    return head + block(encode(weight)) + b"".join(parts)


def mask(*bits: int) -> bytes:
    return np.packbits(np.array(bits, np.uint8)).tobytes()


NONE = integer(0)
HOSTILE = {
    "too many outputs": [integer(5), mask(1, 1, 1), NONE],
    "too few outputs": [integer(5), mask(1), NONE],
    "no outputs": [integer(5), mask(0), NONE],
    "no inputs": [NONE, integer(5), mask(0)],
    "inputs that do not divide the columns": [NONE, integer(5), mask(1, 1, 1)],
    "more inputs than columns": [NONE, integer(8), mask(1, 1, 1, 1, 1)],
    "an output beyond the last": [integer(5), mask(1, 0, 0, 0, 0, 1), NONE],
    "outputs and one beyond the last": [integer(5), mask(1, 1, 0, 0, 0, 1), NONE],
    "an input beyond the last": [NONE, integer(5), mask(1, 1, 0, 0, 0, 0, 0, 1)],
    "a mask that is cut": [integer(90), mask(1, 1), NONE],
    "a mask that is missing": [integer(5)],
    "sizes that are missing": [],
    "the second size missing": [NONE],
    "huge": [integer(2**60), mask(1, 1), NONE],
    "huge inputs": [NONE, integer(2**62), mask(1, 1)],
    "a size without end": [b"\xff" * 30],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_masks(kind: str, tmp_path: Path) -> None:
    record = layer_record(HOSTILE[kind])
    index = b'[{},{},["a"]]'
    body = b"ACZ\2\0" + integer(len(index)) + block(index) + record
    (tmp_path / "bad.acz").write_bytes(body + zlib.crc32(body).to_bytes(4, "little"))
    tracemalloc.start()
    with pytest.raises(ArchiveError, match=r"bad\.acz: layer 'a': (damaged|truncated)"):
        read_archive(tmp_path / "bad.acz")
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


def test_the_record_that_hostile_ones_are_made_of_is_sound() -> None:
    good = layer_record([integer(5), mask(0, 1, 0, 0, 1), integer(3), mask(1, 0, 1)])
    reader = Reader(good)
    treated = read_layer(reader).treated
    assert not reader.left
    assert treated.narrow is not None
    assert treated.narrow.outputs is not None
    assert treated.narrow.inputs is not None
    assert treated.narrow.outputs.tolist() == [1, 4]
    assert treated.narrow.inputs.tolist() == [0, 2]
    assert treated.shape == (5, 6)  # two taps a channel


def test_damage_under_a_valid_checksum(tmp_path: Path) -> None:
    treated, options = whole()
    write_archive(tmp_path / "m.acz", treated, options, {}, {})
    body = (tmp_path / "m.acz").read_bytes()[:-4]
    rng, refused = np.random.default_rng(0), 0
    for _ in range(600):
        flipped = bytearray(body)
        for place in rng.integers(4, len(body), rng.integers(1, 4)):
            flipped[place] = rng.integers(256)
        data = bytes(flipped)
        (tmp_path / "bad.acz").write_bytes(data + zlib.crc32(data).to_bytes(4, "little"))
        try:
            load_archive(tmp_path / "bad.acz", net())  # what loads also runs
        except ArchiveError:
            refused += 1
    assert refused > 50


def test_truncated_channels_are_refused() -> None:
    treated, options = whole()
    record = pack_layer("b", options["b"], treated["b"])
    for length in range(len(record)):
        with pytest.raises(ArchiveError):
            read_layer(Reader(record[:length]))
    found = read_layer(Reader(record))
    assert found.option == options["b"]
    assert_same(found.treated, treated["b"])
