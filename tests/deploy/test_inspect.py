"""What `inspect` says of an archive: known answers, every byte accounted for, hostile files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from autocompress.compression.coding import encode, scale_bytes
from autocompress.compression.treated import Grid, Narrow, StoredTensor, Treated
from autocompress.deploy.archive import layer_bytes, write_archive
from autocompress.deploy.inspect import inspect_archive
from autocompress.errors import ArchiveError, StorageError

Cli = Callable[..., tuple[int, str, str]]


def codes(rows: int, columns: int) -> StoredTensor:
    """As many zeros as ones, twos and minus ones: two bits of entropy a weight."""
    values = np.resize(np.array([0, 1, 2, -1], np.int8), rows * columns)
    values = np.random.default_rng(0).permutation(values).reshape(rows, columns)
    scale = torch.from_numpy(np.linspace(0.01, 0.02, rows).astype(np.float16))
    return StoredTensor(4, torch.from_numpy(values), scale)


def write(path: Path, coder: str = "entropy") -> dict[str, Treated]:
    treated = {
        "body.0": Treated((codes(40, 100),), torch.ones(40).half(), (Grid.covering(0, 1), None)),
        "body.1": Treated((codes(10, 100), codes(40, 10)), None),
        "head": Treated(
            (codes(20, 50),), torch.randn(20), (), Narrow((40, 50), torch.arange(0, 40, 2))
        ),
        "whole": Treated((StoredTensor(32, torch.randn(3, 5), None),), None),
    }
    options = dict(zip(treated, ("w4-a8", "w4-r25", "w4-o50", "dense"), strict=True))
    rest = {"norm.weight": torch.randn(40), "norm.count": torch.tensor(3)}
    write_archive(path, treated, options, rest, {"study": "tiny", "id": "0123456789"}, coder)
    return treated


@pytest.mark.parametrize("coder", ["entropy", "zstd"])
def test_every_byte_is_accounted_for(coder: str, tmp_path: Path) -> None:
    treated = write(tmp_path / "m.acz", coder)
    content = inspect_archive(tmp_path / "m.acz")
    data = (tmp_path / "m.acz").read_bytes()
    assert content.size_bytes == len(data) == sum(content.bytes.values())
    assert content.checksum == f"{zlib.crc32(data[:-4]):08x}"
    assert (content.version, content.coder) == (2, coder)
    assert content.metadata == {"study": "tiny", "id": "0123456789"}
    assert content.tensors == 2
    # Three layers with a quarter each of zeros, one dense, 40 floats and an int64.
    weights = 40 * 100 + 40 * 100 + 40 * 50 + 15
    assert content.float32_bytes == 4 * (weights + 40 + 40 + 40) + 8
    for layer in content.layers:
        assert layer.total_bytes == sum(layer.bytes.values())
        assert layer.total_bytes == layer_bytes(
            layer.name, layer.option, treated[layer.name], coder
        )
        count = layer.shape[0] * layer.shape[1]
        assert layer.bits_per_weight == 8 * layer.total_bytes / count


def test_known_entropy_zeros_and_parts(tmp_path: Path) -> None:
    treated = write(tmp_path / "m.acz")
    first, pair, head, whole = inspect_archive(tmp_path / "m.acz").layers
    assert (first.name, first.option, first.shape) == ("body.0", "w4-a8", (40, 100))
    assert (first.bits, first.zeros, first.entropy_bytes) == ((4,), 0.25, 1000.0)
    stored = treated["body.0"].weights[0]
    assert first.bytes["codes"] == first.coded_bytes == len(encode(stored)) - scale_bytes(stored)
    assert first.bytes["scales"] == scale_bytes(stored)
    assert 1000 <= first.bytes["codes"] <= 1025  # a table of fourteen bytes, three of settings
    assert pair.stored == ((10, 100), (40, 10))
    assert (pair.shape, pair.entropy_bytes) == ((40, 100), 350.0)
    assert (head.shape, head.stored) == ((40, 50), ((20, 50),))
    assert head.bytes["grids"] > pair.bytes["grids"]  # a bit for each of forty channels
    assert (whole.entropy_bytes, whole.coded_bytes, whole.zeros) == (None, None, 0)
    assert (whole.bytes["scales"], whole.bytes["bias"]) == (0, 0)


def test_command_shows_and_writes_it(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "m.acz")
    code, out, err = cli("inspect", tmp_path / "m.acz", "--json", tmp_path / "m.json")
    assert (code, err) == (0, "")
    content = inspect_archive(tmp_path / "m.acz")
    for words in ("version 2", content.checksum, "study: tiny", "coded / order-0 entropy", "file"):
        assert words in out
    figures = json.loads((tmp_path / "m.json").read_text())
    assert figures["schema"] == 1
    assert figures["size_bytes"] == (tmp_path / "m.acz").stat().st_size
    assert [layer["name"] for layer in figures["layers"]] == ["body.0", "body.1", "head", "whole"]
    assert figures["layers"][0]["entropy_bytes"] == 1000
    assert figures["bytes"] == content.bytes


def test_an_archive_without_layers(cli: Cli, tmp_path: Path) -> None:
    write_archive(tmp_path / "m.acz", {}, {}, {}, {})
    code, out, _ = cli("inspect", tmp_path / "m.acz")
    assert code == 0
    assert "21 B" in out


def test_names_do_not_redraw_the_terminal(cli: Cli, tmp_path: Path) -> None:
    name = "\x1b[2Jé\u202e"
    write_archive(
        tmp_path / "m.acz", {name: Treated((codes(4, 4),), None)}, {name: "w4"}, {}, {"a": "\x1b"}
    )
    code, out, _ = cli("inspect", tmp_path / "m.acz")
    assert code == 0
    assert "\x1b" not in out
    assert "\u202e" not in out


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("m.acz", lambda data: data[:-1], "checksum"),
        ("m.acz", lambda data: data[:-9] + b"\0" + data[-8:], "checksum"),
        ("m.acz", lambda data: data[:3] + b"\1" + data[4:], "version 1"),
        ("m.acz", lambda data: b"PK\3\4" + data, "not an archive"),
        ("m.onnx", lambda data: data, "ONNX"),
        ("none.acz", None, "cannot be read"),
    ],
)
def test_what_is_no_sound_archive_ends_with_one_line(
    name: str, change: Callable[[bytes], bytes] | None, words: str, cli: Cli, tmp_path: Path
) -> None:
    path = tmp_path / name
    if change is not None:
        write(path)
        path.write_bytes(change(path.read_bytes()))
    code, out, err = cli("inspect", path)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path}: ")
    assert words in err
    assert err.count("\n") == 1
    with pytest.raises((ArchiveError, StorageError)):
        inspect_archive(path)
