"""Whatever bytes come, an archive is read or refused: nothing else, in bounded time and memory.

The checksum is made anew for every damaged file, so that it is the parser that meets the damage.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from autocompress.compression.bits import block, deflate, integer
from autocompress.compression.treated import Grid, Narrow, StoredTensor, Treated
from autocompress.deploy.archive import Archive, parse_archive, write_archive
from autocompress.deploy.inspect import inspect_archive
from autocompress.errors import ArchiveError

CODES_PER_BYTE = 4096  # what the format allows
DEFLATED_PER_BYTE = 1032
HEADER = 5


def stored(bits: int, rows: int, columns: int, zeros: float) -> StoredTensor:
    rng = np.random.default_rng([bits, rows])
    values = rng.normal(0, 1, (rows, columns)) * (rng.random((rows, columns)) >= zeros)
    if bits > 8:
        kind = torch.float16 if bits == 16 else torch.float32
        return StoredTensor(bits, torch.from_numpy(values).to(kind), None)
    top = 2 ** (bits - 1) - 1
    codes = np.clip(np.round(values * top / 2), -top, top).astype(np.int8)
    scale = torch.from_numpy(rng.uniform(0.01, 0.02, rows).astype(np.float16))
    return StoredTensor(bits, torch.from_numpy(codes), scale)


def small(path: Path, coder: str = "entropy") -> bytes:
    """An archive in which every kind of record occurs: a few hundred bytes."""
    grid = Grid.covering(-0.3, 2.7)
    codes = torch.tensor([[0, 1, 3, 2], [2, 0, 0, 1]], dtype=torch.uint8)
    book = torch.tensor([-0.5, 0.25, 1.0]).half()
    treated = {
        "a.conv": Treated((stored(4, 6, 18, 0.4),), torch.linspace(-1, 1, 6).half(), (grid, None)),
        "a.pair": Treated((stored(3, 2, 9, 0.0), stored(8, 40, 2, 0.9)), torch.randn(40)),
        "b.some": Treated(
            (stored(2, 3, 8, 0.5),),
            None,
            (),
            Narrow((5, 6), torch.tensor([0, 2, 4]), torch.tensor([1, 2, 3, 5])),
        ),
        "b.float": Treated((stored(16, 3, 8, 0.8),), torch.zeros(3).half()),
        "c.book": Treated((StoredTensor(2, codes, None, codebook=book),), None),
    }
    options = dict(zip(treated, ("w4-a8", "w3-r50", "w2-i75-o50", "w16-s80", "k4"), strict=True))
    rest = {"n.weight": torch.randn(7), "n.flags": torch.tensor([True, False])}
    torch.manual_seed(0)
    write_archive(path, treated, options, rest, {"study": "fuzz", "id": "0123"}, coder)
    return path.read_bytes()


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def attempt(data: bytes) -> Archive | None:
    """Reads `data`; only an ArchiveError may say that it is damaged, and what is read is sound."""
    try:
        found = parse_archive(data)
    except ArchiveError:
        return None
    size = sum(
        max(1, weight.codes.numel())
        for layer in found.treated.values()
        for weight in layer.weights
    )
    assert size <= CODES_PER_BYTE * len(data)
    for name, layer in found.treated.items():
        assert all(weight.dense().shape == weight.codes.shape for weight in layer.weights), name
        assert layer.bias is None or len(layer.bias) == len(layer.weights[-1].codes)
    return found


def flips(body: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Damage: flipped bits, other bytes, bytes left out, put in, moved and repeated."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(body)
        for _ in range(rng.randint(1, 3)):
            place, kind = rng.randrange(3, len(data)), rng.randrange(8)
            if kind < 3:
                data[place] ^= 1 << rng.randrange(8)
            elif kind < 5:
                data[place] = rng.choice((0, 1, 127, 128, 254, 255, rng.randrange(256)))
            elif kind == 5:
                del data[place : place + rng.randint(1, 4)]
            elif kind == 6:
                data[place:place] = rng.randbytes(rng.randint(1, 9))
            else:
                length = rng.randint(1, 40)
                data[place:place] = data[max(3, place - length) : place]
        yield bytes(data)


@pytest.mark.parametrize("coder", ["entropy", "zstd"])
def test_cut_anywhere(coder: str, tmp_path: Path) -> None:
    data = small(tmp_path / "m.acz", coder)
    assert len(data) < 1000
    found = attempt(data)
    assert found is not None
    assert found.coder == coder
    for length in range(len(data)):
        assert attempt(data[:length]) is None
        if length < len(data) - 4:
            assert attempt(sealed(data[:length])) is None


@pytest.mark.parametrize("coder", ["entropy", "zstd"])
def test_any_bit_flipped(coder: str, tmp_path: Path) -> None:
    """Every single bit, with and without a new checksum."""
    data = small(tmp_path / "m.acz", coder)
    body, refused = data[:-4], 0
    for place in range(len(body)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        assert attempt(bytes(flipped)) is None
        refused += attempt(sealed(bytes(flipped[:-4]))) is None
    assert 100 < refused < len(body), "either nothing is checked, or the checksum was met"


def damaged(tmp_path: Path, count: int, seed: int) -> None:
    for coder in ("entropy", "zstd"):
        body = small(tmp_path / "m.acz", coder)[:-4]
        outcomes = [attempt(sealed(data)) is None for data in flips(body, count, seed)]
        assert 0.2 * count < sum(outcomes) < count


def test_damage_of_every_kind(tmp_path: Path) -> None:
    damaged(tmp_path, 3000, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_damage_for_longer(seed: int, tmp_path: Path) -> None:
    damaged(tmp_path, 20_000, seed)


def test_noise_after_the_header() -> None:
    rng = random.Random(0)
    for _ in range(1500):
        body = b"ACZ\2" + bytes([rng.randrange(2)]) + rng.randbytes(rng.randrange(120))
        attempt(sealed(body))


def with_index(text: bytes, rest: bytes = b"") -> bytes:
    return sealed(b"ACZ\2\0" + integer(len(text)) + block(text) + rest)


def random_value(rng: random.Random, depth: int = 0) -> object:
    """JSON of any kind, at times what an index holds."""
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind < 6:
        numbers = (0, 1, 3, -1, 2**31, 2**47, 2**48, 2**63, 10**30, 1.5, 1e308)
        texts = ("f4", "b1", "i8", "", "a", "\ud800", "x" * 50)
        return (None, True, rng.choice(numbers), rng.choice(texts), "f2", 2)[kind]
    if kind == 6:
        return {str(rng.choice(("a", "b", "\ud800"))): random_value(rng, depth + 1)}
    return [random_value(rng, depth + 1) for _ in range(rng.randrange(5))]


def test_an_index_that_says_anything() -> None:
    rng = random.Random(0)
    for _ in range(1500):
        parts = [{}, {}, []]
        parts[rng.randrange(3)] = random_value(rng)  # type: ignore[call-overload]
        if rng.random() < 0.5:
            shape = [random_value(rng, 9) for _ in range(rng.randrange(4))]
            parts[1] = {"a": [rng.choice(("f4", "b1", "u1")), *shape]}
        text = json.dumps(parts if rng.random() < 0.9 else random_value(rng)).encode()
        attempt(with_index(text, block(b"\0" + bytes(rng.randrange(20)))))


def record(flags: int, *sizes: int, rest: bytes = b"") -> bytes:
    return bytes([flags]) + block(b"w4") + b"".join(map(integer, sizes)) + rest


HUGE = (1 << 20, 1 << 31, 1 << 40, 1 << 62)
HEADS = (
    b"\0",
    b"\x04",
    b"\x0c",
    b"\x0d",
    b"\x1c",
    b"\x05",
    b"\x06",
    b"\x20",
    b"\x28\x18",
    b"\x80",
)


def shapes(rows: int, columns: int) -> Iterator[bytes]:
    """A few bytes that claim a matrix of any size, under every kind of coding."""
    for head in HEADS:
        for fill in (b"\0", b"\x01", b"\x20", b"\x30", b"\xff"):
            for flags, sizes in ((0, (rows, columns)), (1, (rows, columns, 3)), (2, (3, 1))):
                body = record(flags, *sizes, rest=2 * block(head + 24 * fill))
                yield with_index(b'[{},{},["a"]]', body)
            for sizes in ((2, 2, rows, columns, 2), (rows, columns, 2, rows, columns)):
                body = bytes([6, 0]) + record(0, *sizes, rest=3 * block(head + 24 * fill))[1:]
                yield with_index(b'[{},{},["a"]]', body)


@pytest.mark.parametrize("rows", [0, 1, 7, *HUGE])
@pytest.mark.parametrize("columns", [0, 1, *HUGE])
def test_shapes_that_the_bytes_do_not_hold(rows: int, columns: int) -> None:
    for data in shapes(rows, columns):
        within(data, 2_000_000)


LIMITED = """
import importlib.util, resource, sys
spec = importlib.util.spec_from_file_location("fuzz", sys.argv[1])
fuzz = importlib.util.module_from_spec(spec)
sys.modules["fuzz"] = fuzz
spec.loader.exec_module(fuzz)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, size + 2**26))
for rows in (0, 1, 7, *fuzz.HUGE):
    for columns in (0, 1, *fuzz.HUGE):
        for data in fuzz.shapes(rows, columns):
            fuzz.attempt(data)
for make in fuzz.BOMBS.values():
    assert fuzz.attempt(make()) is None
print("sound")
"""


def test_the_whole_process_stays_small() -> None:
    """All of it again, torch's own memory included, where 64 MB more are all there is."""
    out = subprocess.run(
        [sys.executable, "-c", LIMITED, __file__], capture_output=True, text=True, timeout=120
    )
    assert out.stdout == "sound\n", out.stderr


def within(data: bytes, limit: int) -> None:
    """Reads `data` with at most `limit` bytes of Python's and numpy's memory."""
    tracemalloc.start()
    try:
        attempt(data)
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_no_more_memory_than_the_bytes_justify(tmp_path: Path) -> None:
    """The worst that a file can ask for is what its own length allows."""
    body = small(tmp_path / "m.acz")[:-4]
    for data in flips(body, 150, seed=7):
        within(sealed(data), CODES_PER_BYTE * len(data))


BOMBS: dict[str, Callable[[], bytes]] = {
    "index": lambda: sealed(b"ACZ\2\0" + integer(10**9) + block(deflate(bytes(10**6)))),
    "tensors": lambda: with_index(
        b'[{},{"a":["f4",250000000]},[]]', block(b"\1" + deflate(bytes(10**6)))
    ),
    "brackets": lambda: with_index(b"[" * 10**6),
    "deflated brackets": lambda: sealed(
        b"ACZ\2\0" + integer(10**6) + block(deflate(b"[" * 10**6))
    ),
    "names": lambda: with_index(json.dumps([{}, {}, ["a"] * 10**5]).encode()),
    "many names": lambda: with_index(
        json.dumps([{}, {}, [str(i) for i in range(10**5)]]).encode()
    ),
    "many tensors": lambda: with_index(
        json.dumps([{}, {str(i): ["f4", 0] for i in range(10**4)}, ["x"]]).encode(), block(b"\0")
    ),
    "lengths in lengths": lambda: with_index(b'[{},{},["a"]]', b"".join(map(integer, HUGE)) * 50),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs(kind: str) -> None:
    data = BOMBS[kind]()
    within(data, max(40_000_000, 20 * len(data)))
    assert attempt(data) is None


def test_layers_that_occur_twice() -> None:
    one = record(0, 1, 1, rest=block(b"\x06\0" + bytes(4)))
    assert attempt(with_index(b'[{},{},["a"]]', one)) is not None
    assert attempt(with_index(b'[{},{},["a","a"]]', 2 * one)) is None
    assert attempt(with_index(b'[{},{},["a","b"]]', 2 * one)) is not None
    assert attempt(with_index(b'[{},{},["a"]]', 2 * one)) is None


def test_what_is_read_can_be_looked_into_and_written(tmp_path: Path) -> None:
    """Damage that passes gives an archive like any other."""
    body, passed = small(tmp_path / "m.acz")[:-4], 0
    for data in flips(body, 300, seed=3):
        found = attempt(sealed(data))
        if found is None:
            continue
        passed += 1
        (tmp_path / "bad").write_bytes(sealed(data))
        content = inspect_archive(tmp_path / "bad")
        assert content.size_bytes == len(data) + 4
        assert sum(content.bytes.values()) == content.size_bytes
        json.dumps(content.as_dict(), allow_nan=False)
    assert passed > 10
