"""An archive that is cut, changed or made to do harm, and unusable paths, end in an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from archive_parts import file, layer, sealed, write

from autocompress.compression.bits import block, deflate, integer, zstd
from autocompress.deploy.archive import (
    Archive,
    read_archive,
    write_archive,
)
from autocompress.errors import ArchiveError, StorageError


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
