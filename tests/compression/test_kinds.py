"""Signs, steps of the whole tensor and of runs, zero points and codebooks: what they mean, and
that they come back from bytes bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from autocompress.compression.coding import coded_bytes, decode, encode, entropy_bytes
from autocompress.compression.stored import StoredTensor
from autocompress.errors import ArchiveError

KINDS = ("signs", "signs-g4", "tensor", "g3", "g100", "affine", "affine-t", "affine-g4", "book")
_WORDS = {torch.int8: torch.int8, torch.uint8: torch.uint8, torch.float16: torch.int16}


def make(kind: str, shape: tuple[int, int], zeros: float = 0.4, seed: int = 0) -> StoredTensor:
    rng = np.random.default_rng(seed)
    name, _, way = kind.partition("-")
    group = int(way[1:] or 0) if way.startswith("g") else 0
    group = int(name[1:]) if name[0] == "g" else group
    steps: tuple[int, ...] = (shape[0], -(-shape[1] // group)) if group else (shape[0],)
    steps = (1,) if name == "tensor" or way == "t" else steps
    scale = torch.from_numpy(np.exp(rng.normal(-5, 0.4, steps)).astype(np.float16))
    gone = torch.from_numpy(rng.random(shape) < zeros)
    if name == "book":
        count = 11
        codes = torch.from_numpy(rng.integers(1, count + 1, shape).astype(np.uint8))
        codes[gone] = 0
        values = torch.from_numpy(np.sort(rng.normal(0, 1, count)).astype(np.float16))
        return StoredTensor(4, codes, None, codebook=values)
    bits, zero = {"signs": 1, "affine": 5}.get(name, 3), None
    if name == "affine":
        zero = torch.from_numpy(rng.integers(0, 32, steps).astype(np.uint8))
        unsigned = torch.from_numpy(rng.integers(0, 32, shape).astype(np.int16))
        empty = StoredTensor(bits, torch.zeros(shape, dtype=torch.int8), scale, group, zero)
        codes = (unsigned - empty.zeros()).to(torch.int8)
    else:
        low, high = ((-1, 1) if bits == 1 else (-3, 3))[0], (1 if bits == 1 else 3)
        codes = torch.from_numpy(rng.integers(low, high + 1, shape).astype(np.int8))
        if bits == 1:
            codes[codes == 0] = 1
    codes[gone] = 0
    return StoredTensor(bits, codes, scale, group, zero)


def assert_same(one: StoredTensor, other: StoredTensor) -> None:
    assert (one.bits, one.group) == (other.bits, other.group)
    for part in ("codes", "scale", "zero", "codebook"):
        left, right = getattr(one, part), getattr(other, part)
        assert (left is None) == (right is None), part
        if left is not None:
            assert left.dtype == right.dtype, part
            # As bits: what is read from damaged bytes need not be a number.
            assert torch.equal(left.view(_WORDS[left.dtype]), right.view(_WORDS[left.dtype])), part


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (7, 5), (40, 130), (0, 4), (4, 0)])
@pytest.mark.parametrize("zeros", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_comes_back(kind: str, zeros: float, shape: tuple[int, int]) -> None:
    tensor = make(kind, shape, zeros)
    data = encode(tensor)
    assert_same(tensor, decode(data, shape))
    assert coded_bytes(tensor) == len(data)


@pytest.mark.parametrize("count", [1, 2, 3, 128, 200, 255])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_codebooks_of_any_length_and_sign_come_back(count: int, shift: float) -> None:
    rng = np.random.default_rng(count)
    codes = torch.from_numpy(rng.integers(0, count + 1, (20, 60)).astype(np.uint8))
    values = torch.from_numpy(np.sort(rng.normal(shift, 1, count)).astype(np.float16))
    tensor = StoredTensor(count.bit_length(), codes, None, codebook=values)
    assert_same(tensor, decode(encode(tensor), (20, 60)))


def test_what_codes_mean() -> None:
    codes = torch.tensor([[-1, 0, 1, 1, -1]], dtype=torch.int8).repeat(2, 1)
    runs = torch.tensor([[1.0, 2.0, 4.0], [0.5, 0.25, 8.0]]).half()
    signs = StoredTensor(1, codes, runs, group=2)
    assert signs.dense().tolist() == [[-1, 0, 2, 2, -4], [-0.5, 0, 0.25, 0.25, -8]]
    shared = StoredTensor(3, 3 * codes, torch.tensor([0.5]).half())
    assert shared.dense().tolist() == [[-1.5, 0, 1.5, 1.5, -1.5]] * 2
    assert shared.row_steps().tolist() == [0.5, 0.5]
    affine = replace(shared, bits=2, codes=codes, zero=torch.tensor([1], dtype=torch.uint8))
    assert affine.dense().tolist() == [[-0.5, 0, 0.5, 0.5, -0.5]] * 2
    assert (affine.codes + affine.zeros()).tolist() == [[0, 1, 2, 2, 0]] * 2
    index = torch.tensor([[0, 1, 3]], dtype=torch.uint8)
    book = StoredTensor(2, index, None, codebook=torch.tensor([-1.0, 0.5, 2.0]).half())
    assert book.dense().tolist() == [[0, -1, 2]]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_columns_that_are_gone(kind: str) -> None:
    tensor = make(kind, (6, 9))
    dense, rows, columns = tensor.dense(), torch.tensor([0, 2, 5]), torch.tensor([1, 4, 7])
    assert torch.equal(tensor.rows(rows).dense(), dense[rows])
    tall = torch.zeros(11, 9)
    tall[torch.arange(2, 8)] = dense
    spread = tensor.spread_rows(torch.arange(2, 8), 11)
    assert torch.equal(spread.dense(), tall)
    assert_same(spread, decode(encode(spread), (11, 9)))
    wide = torch.zeros(3, 40)
    wide[:, columns * 4] = dense[rows][:, columns]
    narrow = tensor.rows(rows)
    if not tensor.group:
        narrow = replace(narrow, codes=narrow.codes[:, columns])
        assert torch.equal(narrow.spread_columns(columns * 4, 40).dense(), wide)
    else:  # runs are torn apart: the values themselves take their place
        assert torch.equal(tensor.spread_columns(4 * torch.arange(9), 36).dense()[:, ::4], dense)


@pytest.mark.parametrize("kind", KINDS)
def test_close_to_the_entropy(kind: str) -> None:
    tensor = make(kind, (300, 600), 0.5)
    steps = sum(
        part.numel() * part.element_size()
        for part in (tensor.scale, tensor.zero, tensor.codebook)
        if part is not None
    )
    free = entropy_bytes(tensor.codes.numpy())
    assert coded_bytes(tensor) - steps <= 1.02 * free + 80


def test_signs_take_a_bit_each() -> None:
    codes = torch.from_numpy(np.random.default_rng(0).choice([-1, 1], (64, 512)).astype(np.int8))
    tensor = StoredTensor(1, codes, torch.ones(1, dtype=torch.float16))
    assert coded_bytes(tensor) <= 64 * 512 // 8 + 16


def test_every_code_equally_often_costs_no_more_than_packed() -> None:
    codes = torch.arange(-7, 9, dtype=torch.int16).repeat(32, 8)
    tensor = StoredTensor(
        4,
        codes.to(torch.int8),
        torch.ones(1, dtype=torch.float16),
        zero=torch.tensor([7], dtype=torch.uint8),
    )
    assert_same(tensor, decode(encode(tensor), tuple(codes.shape)))
    assert coded_bytes(tensor) <= codes.numel() // 2 + 8


@pytest.mark.parametrize(
    "tensor",
    [
        replace(make("tensor", (3, 4)), scale=torch.ones(2).half()),
        replace(make("g3", (3, 4)), scale=torch.ones(3).half()),
        replace(make("g3", (3, 4)), group=2, scale=torch.ones(3, 3).half()),
        replace(make("signs", (3, 4)), codes=torch.full((3, 4), 2, dtype=torch.int8)),
        replace(make("affine", (3, 4)), bits=8),
        replace(make("affine", (3, 4)), codes=torch.full((3, 4), 32, dtype=torch.int8)),
        replace(make("affine", (3, 4)), zero=torch.ones(1, dtype=torch.uint8)),
        replace(make("book", (3, 4)), codes=torch.full((3, 4), 12, dtype=torch.uint8)),
        replace(make("book", (3, 4)), codes=torch.zeros(3, 4, dtype=torch.int8)),
        replace(make("book", (3, 4)), scale=torch.ones(3).half()),
        replace(make("book", (3, 4)), codebook=torch.ones(256).half()),
    ],
)
def test_what_is_no_stored_tensor_is_refused(tensor: StoredTensor) -> None:
    with pytest.raises(ValueError, match="StoredTensor"):
        encode(tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_raises_or_gives_a_tensor_that_can_be_stored(kind: str) -> None:
    tensor = make(kind, (6, 9))
    data, rng = encode(tensor), np.random.default_rng(0)
    cases = [data[:length] for length in range(len(data))] + [data + b"\1"]
    for _ in range(600):
        flipped = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            flipped[place] ^= 1 << rng.integers(8)
        cases.append(bytes(flipped))
    cases += [
        bytes([32 | rng.integers(0, 32)]) + rng.bytes(rng.integers(1, 60)) for _ in range(500)
    ]
    valid = 0
    for case in cases:
        try:
            found = decode(case, (6, 9))
        except ArchiveError:
            continue
        valid += 1
        assert found.codes.shape == (6, 9)
        assert_same(found, decode(encode(found), (6, 9)))
    assert valid


@pytest.mark.parametrize("shape", [(10**9, 10**9), (10**15, 0), (0, 10**15), (-1, 5), (2**62, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_absurd_shapes_are_refused(kind: str, shape: tuple[int, int]) -> None:
    with pytest.raises(ArchiveError, match=r"damaged|truncated"):
        decode(encode(make(kind, (6, 9))), shape)
