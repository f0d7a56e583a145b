"""Stored tensors come back bit for bit, in close to the bytes that theory allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autocompress.compression.coding import coded_bytes, decode, encode, entropy_bytes
from autocompress.compression.treated import StoredTensor
from autocompress.errors import ArchiveError

INTEGER_BITS = (2, 3, 4, 6, 8)


def integer_tensor(bits: int, shape: tuple[int, int], sparsity: float, seed: int) -> StoredTensor:
    rng = np.random.default_rng(seed)
    top = 2 ** (bits - 1) - 1
    codes = np.clip(np.round(rng.normal(0, max(0.7, top / 3), shape)), -top, top)
    codes[rng.random(shape) < sparsity] = 0
    scale = np.exp(rng.normal(-5, 0.4, shape[0]))
    return StoredTensor(
        bits, torch.from_numpy(codes.astype(np.int8)), torch.from_numpy(scale.astype(np.float16))
    )


def float_tensor(bits: int, shape: tuple[int, int], sparsity: float, seed: int) -> StoredTensor:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.05, shape)
    values[rng.random(shape) < sparsity] = 0
    dtype = torch.float16 if bits == 16 else torch.float32
    return StoredTensor(bits, torch.from_numpy(values).to(dtype), None)


def patterns(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy().view(f"u{tensor.element_size()}")


def assert_same(first: StoredTensor, second: StoredTensor) -> None:
    assert first.bits == second.bits
    assert first.codes.dtype == second.codes.dtype
    assert first.codes.shape == second.codes.shape
    np.testing.assert_array_equal(patterns(first.codes), patterns(second.codes))
    assert (first.scale is None) == (second.scale is None)
    if first.scale is not None and second.scale is not None:
        assert second.scale.dtype == torch.float16
        np.testing.assert_array_equal(patterns(first.scale), patterns(second.scale))


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (7, 5), (50, 300)])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("bits", INTEGER_BITS)
def test_integer_codes_come_back(bits: int, sparsity: float, shape: tuple[int, int]) -> None:
    tensor = integer_tensor(bits, shape, sparsity, seed=bits)
    data = encode(tensor)
    assert_same(tensor, decode(data, shape))
    assert coded_bytes(tensor) == len(data)
    assert len(data) <= 2 + 2 * shape[0] + 80 + tensor.codes.numel() * bits // 8 + 1


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (50, 300)])
@pytest.mark.parametrize("sparsity", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("bits", [16, 32])
def test_floats_come_back(bits: int, sparsity: float, shape: tuple[int, int]) -> None:
    tensor = float_tensor(bits, shape, sparsity, seed=bits)
    data = encode(tensor)
    assert_same(tensor, decode(data, shape))
    assert len(data) <= 2 + tensor.codes.numel() * bits // 8


@pytest.mark.parametrize("bits", [16, 32])
def test_every_float_pattern_comes_back(bits: int) -> None:
    values = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 6e-8, -1.5, 65504.0]
    dtype = torch.float16 if bits == 16 else torch.float32
    tensor = StoredTensor(bits, torch.tensor([values * 40], dtype=dtype), None)
    assert_same(tensor, decode(encode(tensor), (1, 320)))


@pytest.mark.parametrize("bits", INTEGER_BITS)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_no_codes(bits: int, shape: tuple[int, int]) -> None:
    scale = torch.ones(shape[0], dtype=torch.float16)
    tensor = StoredTensor(bits, torch.zeros(shape, dtype=torch.int8), scale)
    assert_same(tensor, decode(encode(tensor), shape))


@pytest.mark.parametrize("bits", INTEGER_BITS)
@pytest.mark.parametrize("symbol", [-1, 0, 1])
def test_one_symbol_and_one_exception(bits: int, symbol: int) -> None:
    top = 2 ** (bits - 1) - 1
    codes = torch.full((200, 300), symbol * top, dtype=torch.int8)
    tensor = StoredTensor(bits, codes, torch.ones(200, dtype=torch.float16))
    data = encode(tensor)
    assert_same(tensor, decode(data, (200, 300)))
    # One byte for 4096 codes is the floor that bounds what damaged files can claim.
    assert len(data) <= 60_000 // 4096 + 1 + 2 * top + 10
    codes = codes.clone()
    codes[77, 123] = -top if symbol >= 0 else top
    tensor = StoredTensor(bits, codes, torch.ones(200, dtype=torch.float16))
    data = encode(tensor)
    assert_same(tensor, decode(data, (200, 300)))
    assert len(data) <= 60_000 // 4096 + 1 + 2 * top + 20


@pytest.mark.parametrize("bits", INTEGER_BITS)
def test_every_code_equally_often_costs_no_more_than_packed(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    codes = torch.arange(-top, top + 1, dtype=torch.int8).repeat(64, 4)
    tensor = StoredTensor(bits, codes, torch.ones(64, dtype=torch.float16))
    assert_same(tensor, decode(encode(tensor), tuple(codes.shape)))
    assert coded_bytes(tensor) <= 1 + 3 + (codes.numel() * bits + 7) // 8


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("bits", INTEGER_BITS)
def test_close_to_the_entropy_on_independent_codes(bits: int, sparsity: float) -> None:
    """Nothing but the order-0 histogram can be used here: all else is overhead."""
    tensor = integer_tensor(bits, (300, 600), sparsity, seed=1)
    scales = 2 * 300
    assert coded_bytes(tensor) - scales <= 1.02 * entropy_bytes(tensor.codes.numpy())


def test_uneven_rows_and_columns_cost_less_than_the_entropy() -> None:
    rng = np.random.default_rng(0)
    density = np.outer(rng.uniform(0, 1, 300), rng.uniform(0, 1, 400) ** 3)
    codes = (rng.random(density.shape) < density) * rng.choice([-3, -2, 2, 3], density.shape)
    tensor = StoredTensor(
        3, torch.from_numpy(codes.astype(np.int8)), torch.ones(300, dtype=torch.float16)
    )
    assert coded_bytes(tensor) < 0.85 * entropy_bytes(codes)
    assert_same(tensor, decode(encode(tensor), (300, 400)))


def test_sparse_floats_pay_for_what_is_left() -> None:
    tensor = float_tensor(16, (200, 300), 0.9, seed=0)
    kept = int((tensor.codes != 0).sum())
    mask = entropy_bytes((tensor.codes != 0).numpy())
    assert coded_bytes(tensor) <= 1.02 * (2 * kept + mask)


def test_entropy_of_known_histograms() -> None:
    assert entropy_bytes(np.zeros(0, np.int8)) == 0
    assert entropy_bytes(np.zeros((5, 5), np.int8)) == 0
    assert entropy_bytes(np.array([0, 1] * 8)) == 2
    assert entropy_bytes(np.array([0, 1, 2, 3] * 8)) == 8


@pytest.mark.parametrize(
    ("coder", "written"),
    [
        ("entropy", "19003c00217f001c7259d2d29e15e969696984449084fbc67ff6fcbc"),
        ("zstd", "19003c003128b52ffd00006d000038f3b48ddbd66df30100021523"),
    ],
)
def test_format_is_fixed(coder: str, written: str) -> None:
    """Files must stay readable, on any machine: these bytes were written by version 2."""
    codes = torch.tensor([[0, 3, 0, -1, 0, 0, 0, 1], [0, 0, 0, 0, 2, 0, 0, 0]] * 8)
    tensor = StoredTensor(3, codes.to(torch.int8), torch.ones(16, dtype=torch.float16))
    assert_same(tensor, decode(bytes.fromhex(written), (16, 8)))
    if coder == "entropy":  # another version of zstd may find a shorter frame
        assert encode(tensor, coder).hex() == written


def test_few_weights_pay_few_bytes_for_their_tables() -> None:
    """What a coding of 576 normal weights costs beyond their entropy, tables and all."""
    for bits in (2, 3, 4, 6):
        tensor = integer_tensor(bits, (8, 72), 0.0, seed=3)
        codes = tensor.codes.numpy()
        head = 1 + 3 + 2 * 8  # settings, and no more than this for the scales
        # Half a nat a symbol: by so much the entropy of a sample is below that of its source.
        sample = np.unique(codes).size / 2 / np.log(2) / 8
        assert coded_bytes(tensor) <= entropy_bytes(codes) + sample + head + 6


@pytest.mark.parametrize("sparsity", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("bits", [*INTEGER_BITS, 16, 32])
def test_the_plain_alternative_gives_back_the_same(bits: int, sparsity: float) -> None:
    make = float_tensor if bits > 8 else integer_tensor
    tensor = make(bits, (50, 300), sparsity, bits)
    data = encode(tensor, "zstd")
    assert_same(tensor, decode(data, (50, 300)))
    if bits < 8:
        assert len(encode(tensor)) < len(data)


@pytest.mark.parametrize(
    "tensor",
    [
        StoredTensor(5, torch.zeros(2, 2, dtype=torch.int8), torch.ones(2).half()),
        StoredTensor(4, torch.zeros(2, 2), torch.ones(2).half()),
        StoredTensor(4, torch.zeros(2, 2, dtype=torch.int8), None),
        StoredTensor(4, torch.zeros(2, 2, dtype=torch.int8), torch.ones(2)),
        StoredTensor(4, torch.zeros(2, 2, dtype=torch.int8), torch.ones(3).half()),
        StoredTensor(4, torch.full((2, 2), 8, dtype=torch.int8), torch.ones(2).half()),
        StoredTensor(8, torch.full((2, 2), -128, dtype=torch.int8), torch.ones(2).half()),
        StoredTensor(16, torch.zeros(2, 2), None),
        StoredTensor(32, torch.zeros(2, 2), torch.ones(2).half()),
        StoredTensor(32, torch.zeros(4), None),
    ],
)
def test_what_is_no_stored_tensor_is_refused(tensor: StoredTensor) -> None:
    with pytest.raises(ValueError, match="StoredTensor"):
        encode(tensor)


def every_kind() -> list[StoredTensor]:
    integers = [integer_tensor(bits, (6, 9), 0.5, bits) for bits in INTEGER_BITS]
    dense = [integer_tensor(3, (40, 40), 0.8, 0), integer_tensor(8, (3, 2), 0, 0)]
    floats = [float_tensor(bits, (6, 9), s, 0) for bits in (16, 32) for s in (0, 0.9)]
    return integers + dense + floats


@pytest.mark.parametrize("tensor", every_kind(), ids=lambda t: f"{t.bits}-{tuple(t.codes.shape)}")
@pytest.mark.parametrize("coder", ["entropy", "zstd"])
def test_damage_raises_or_gives_a_tensor_of_that_shape(tensor: StoredTensor, coder: str) -> None:
    """No checksum here: whatever comes, the answer is an ArchiveError or a valid tensor."""
    data, shape = encode(tensor, coder), (tensor.codes.shape[0], tensor.codes.shape[1])
    rng = np.random.default_rng(0)
    cases = [data[:length] for length in range(len(data))] + [data + b"\1"]
    for _ in range(300):
        flipped = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            flipped[place] ^= 1 << rng.integers(8)
        cases.append(bytes(flipped))
    cases += [rng.bytes(rng.integers(1, 60)) for _ in range(300)]
    for case in cases:
        try:
            found = decode(case, shape)
        except ArchiveError:
            continue
        assert found.codes.shape == shape
        if found.bits <= 8:
            assert int(found.codes.abs().max()) < 2 ** (found.bits - 1)


@pytest.mark.parametrize("shape", [(10**9, 10**9), (10**15, 0), (0, 10**15), (-1, 5), (2**62, 4)])
@pytest.mark.parametrize("tensor", every_kind()[::3], ids=lambda t: str(t.bits))
def test_absurd_shapes_are_refused(tensor: StoredTensor, shape: tuple[int, int]) -> None:
    with pytest.raises(ArchiveError, match=r"damaged|truncated"):
        decode(encode(tensor), shape)
