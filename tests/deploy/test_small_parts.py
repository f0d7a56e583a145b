"""What a small layer pays beside its codes: biases, scales of rows that are gone, option ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autocompress.compression.bits import Reader
from autocompress.compression.coding import encode, entropy_bytes
from autocompress.compression.treated import Grid, StoredTensor, Treated
from autocompress.deploy.archive import layer_bytes
from autocompress.deploy.floats import pack_floats, read_floats
from autocompress.deploy.records import pack_layer, read_layer
from autocompress.deploy.weights import pack_weight, read_weight
from autocompress.deploy.words import WORDS, pack_words, read_words
from autocompress.errors import ArchiveError
from autocompress.search_space.option import Option

FLOATS = (torch.float16, torch.float32)
SPECIAL = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 6e-8, -1.5, 65504.0, -6e-8]


def normal(count: int, dtype: torch.dtype, zeros: float = 0.0, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(count) >= zeros, rng.normal(0, 0.1, count), 0)
    return torch.from_numpy(values).to(dtype)


def back(values: torch.Tensor, coder: str = "entropy") -> int:
    """Bytes of floats that were written and read."""
    data = pack_floats(values, coder)
    reader = Reader(data)
    found = read_floats(reader, len(values), values.dtype)
    reader.finish()
    assert found.dtype == values.dtype
    kind = torch.int16 if values.dtype is torch.float16 else torch.int32
    assert torch.equal(found.view(kind), values.view(kind))
    return len(data)


@pytest.mark.parametrize("coder", ["entropy", "zstd"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [0, 1, 7, 64, 500])
@pytest.mark.parametrize("zeros", [0.0, 0.6, 1.0])
def test_floats_come_back(count: int, dtype: torch.dtype, zeros: float, coder: str) -> None:
    assert back(normal(count, dtype, zeros), coder) <= 1 + count * dtype.itemsize


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_pattern_comes_back(dtype: torch.dtype) -> None:
    back(torch.tensor(SPECIAL, dtype=dtype))
    back(torch.tensor(SPECIAL * 40, dtype=dtype))
    kind = np.uint16 if dtype is torch.float16 else np.uint32
    for high in (2**10, np.iinfo(kind).max):
        patterns = np.random.default_rng(0).integers(0, high, 3000, kind, endpoint=True)
        back(
            torch.from_numpy(patterns.view(np.int16 if kind is np.uint16 else np.int32)).view(
                dtype
            )
        )


def test_floats_pay_for_what_they_say() -> None:
    """Ten bits of mantissa, the entropy of signs and exponents, and a few bytes for all."""
    values = normal(500, torch.float16)
    high = values.view(torch.int16).numpy() >> 10
    assert back(values) <= 500 * 10 / 8 + entropy_bytes(high) + 24 < 0.88 * 1000
    # Zeros have no mantissa.
    values = normal(600, torch.float16, 1 / 3)
    high, kept = values.view(torch.int16).numpy() >> 10, int((values != 0).sum())
    assert back(values) <= kept * 10 / 8 + entropy_bytes(high) + 24
    # Of mantissas that have five bits no more are stored.
    patterns = normal(500, torch.float32).view(torch.int32) >> 18
    rounded = (patterns << 18).view(torch.float32)
    assert back(rounded) <= 500 * 5 / 8 + entropy_bytes((patterns >> 5).numpy()) + 24
    assert back(torch.zeros(1000, dtype=torch.float16)) <= 12
    assert back(torch.ones(1000, dtype=torch.float32)) <= 12


def test_damaged_floats() -> None:
    data = pack_floats(normal(200, torch.float16))
    assert data[0] < 24
    for length in range(len(data)):
        with pytest.raises(ArchiveError):
            read_floats(Reader(data[:length]), 200, torch.float16)
    rng = np.random.default_rng(0)
    for count in (1, 200, 2**40):
        for _ in range(300):
            flipped = bytearray(data)
            flipped[rng.integers(len(data) if rng.random() < 0.5 else 12)] ^= 1 << rng.integers(8)
            try:
                found = read_floats(Reader(bytes(flipped)), count, torch.float16)
            except ArchiveError:
                continue
            assert len(found) == count < 2**40


def with_dead_rows(bits: int, dead: int, rows: int = 64) -> StoredTensor:
    rng = np.random.default_rng(bits)
    codes = rng.integers(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1), (rows, 30)).astype(np.int8)
    codes[:, 0] = 1
    codes[rng.permutation(rows)[:dead]] = 0
    scale = np.exp(rng.normal(-5, 0.4, rows)).astype(np.float16)
    return StoredTensor(bits, torch.from_numpy(codes), torch.from_numpy(scale))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dead", [0, 1, 30, 63, 64])
def test_rows_of_zeros_pay_no_scale(bits: int, dead: int) -> None:
    weight = with_dead_rows(bits, dead)
    data = pack_weight(weight)
    found = read_weight(data, (64, 30))
    assert torch.equal(found.codes, weight.codes)
    assert torch.equal(found.dense(), weight.dense())
    # Eleven bits and more of each scale, for a bit of each row.
    assert len(data) <= len(encode(weight)) - max(0, dead * 11 // 8 - 10)
    assert pack_weight(weight, drop=False) == encode(weight)


def test_an_int8_layer_keeps_the_scales_that_its_bias_is_rounded_by() -> None:
    weight, grid = with_dead_rows(8, 40), Grid.covering(-1, 1)
    bias = normal(64, torch.float16)
    for grids in ((), (grid, None)):
        treated = Treated((weight,), bias, grids)
        found = read_layer(Reader(pack_layer("a", "w8", treated))).treated.weights[0]
        assert found.scale is not None
        assert weight.scale is not None
        assert torch.equal(found.scale, weight.scale) == bool(grids)
    assert layer_bytes("a", "w8", Treated((weight,), bias)) < layer_bytes(
        "a", "w8", Treated((weight,), bias, (grid, None))
    )


def test_every_option_id_comes_back_in_few_bytes() -> None:
    for option in (
        Option(),
        Option(bits=4),
        Option(bits=3, sparsity=0.97, rank=0.125),
        Option(bits=8, sparsity=0.5, rank=0.5, activations="int8"),
        Option(bits=6, inputs=0.256, outputs=0.4),
    ):
        data = pack_words(option.id)
        assert read_words(data) == option.id
        assert len(data) <= (len(option.id) + 1) // 2 + 3
    assert len(pack_words("w4-s50-i50-o25-a8")) == 5
    for text in ("", "-", "w", "w44", "-s90.5", "dense-dense", "w4--", "anything at all"):
        assert read_words(pack_words(text)) == text
    for word in WORDS:
        assert len(pack_words(word)) == 1
    assert len(set(WORDS)) == len(WORDS) <= 128


def test_option_ids_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="ASCII"):
        pack_words("w4-ü")
    with pytest.raises(ArchiveError, match="255"):
        read_words(b"w4\xff")
