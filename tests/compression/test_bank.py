from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from autocompress.compression import bank as bank_module
from autocompress.compression.bank import Bank, Entry, _pack, _read, fingerprint
from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import Statistics, collect
from autocompress.compression.treated import StoredTensor, Treated
from autocompress.errors import StorageError
from autocompress.model.layer import Layer
from autocompress.model.trace import trace
from autocompress.search_space.option import Option

OPTIONS = (
    Option(),
    Option(4, 0.5),
    Option(2),
    Option(16),
    Option(32, 0.5),
    Option(8, 0.0, 0.5, "int8"),
    Option(8, activations="int8"),
    Option(3, method="nearest"),
)
MADE = len(OPTIONS) - 1  # the identity is not stored


@pytest.fixture(scope="module")
def parts() -> tuple[nn.Sequential, Layer, Statistics, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    x = torch.randn(10, 2, 8, 8)
    layers = trace(model, (x[:1],))
    return model, layers[0], collect(model, layers, (x,))["0"], x


@pytest.fixture
def fill(
    parts: tuple[nn.Sequential, Layer, Statistics, torch.Tensor], tmp_path: Path
) -> Callable[..., Bank]:
    model, layer, statistics, x = parts

    def make(content: str = fingerprint(model, (x,)), layer: Layer = layer) -> Bank:
        bank = Bank(tmp_path / "bank", content)
        bank.fill(layer, model[0], lambda: statistics, OPTIONS)
        return bank

    return make


def assert_equal(one: Treated, other: Treated) -> None:
    assert one.grids == other.grids
    assert (one.bias is None) == (other.bias is None)
    if one.bias is not None and other.bias is not None:
        assert one.bias.dtype == other.bias.dtype
        assert torch.equal(one.bias, other.bias)
    for a, b in zip(one.weights, other.weights, strict=True):
        assert a.bits == b.bits
        assert a.codes.dtype == b.codes.dtype
        assert torch.equal(a.codes, b.codes)
        assert (a.scale is None) == (b.scale is None)
        if a.scale is not None and b.scale is not None:
            assert a.scale.dtype == b.scale.dtype
            assert torch.equal(a.scale, b.scale)


def test_entries_round_trip_bit_for_bit(
    fill: Callable[..., Bank], parts: tuple[nn.Sequential, Layer, Statistics, torch.Tensor]
) -> None:
    fill()
    bank = fill()
    model, layer, statistics, _ = parts
    for option, treated, error in compress_layer(layer, model[0], statistics, OPTIONS[1:]):
        assert_equal(bank["0", option].treated, treated)
        assert bank["0", option].error == error


def test_the_second_time_nothing_is_made_or_measured(
    fill: Callable[..., Bank], parts: tuple[nn.Sequential, Layer, Statistics, torch.Tensor]
) -> None:
    first = fill()
    assert (first.made, first.reused) == (MADE, 0)
    model, layer, _, _ = parts
    calls = []

    def never() -> Statistics:
        raise AssertionError("nothing is missing")

    second = Bank(first.folder, first.content)
    second.fill(layer, model[0], never, OPTIONS, lambda: calls.append(1))
    assert (second.made, second.reused, len(calls)) == (0, MADE, MADE)


def test_only_what_is_missing_is_made(
    fill: Callable[..., Bank], parts: tuple[nn.Sequential, Layer, Statistics, torch.Tensor]
) -> None:
    first = fill()
    model, layer, statistics, _ = parts
    more = Bank(first.folder, first.content)
    more.fill(layer, model[0], lambda: statistics, [*OPTIONS, Option(6)])
    assert (more.made, more.reused) == (1, MADE)
    assert more["0", Option(6)].treated.weights[0].bits == 6


def test_another_content_or_layer_has_other_entries(
    fill: Callable[..., Bank], parts: tuple[nn.Sequential, Layer, Statistics, torch.Tensor]
) -> None:
    fill()
    assert fill(content="other weights").made == MADE
    assert fill(layer=replace(parts[1], name="1")).made == MADE
    assert fill().made == 0


@pytest.mark.parametrize(
    "change", [{"activation": "relu6"}, {"source": "x"}, {"output_shape": (1, 6, 3, 3)}]
)
def test_another_surrounding_of_the_same_weights_has_other_entries(
    fill: Callable[..., Bank],
    parts: tuple[nn.Sequential, Layer, Statistics, torch.Tensor],
    change: dict[str, str],
) -> None:
    fill()
    assert fill(layer=replace(parts[1], **change)).made == MADE  # type: ignore[arg-type]


def test_the_fingerprint_sees_weights_buffers_and_inputs() -> None:
    def made() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    x = torch.arange(6.0).reshape(2, 3)
    prints = {fingerprint(made(), (x,))}
    assert fingerprint(made(), (x.clone(),)) in prints
    other = made()
    with torch.no_grad():
        other[0].weight[2, 1] += 1e-6
    prints.add(fingerprint(other, (x,)))
    other = made()
    other[1].running_mean[0] = 1
    prints.add(fingerprint(other, (x,)))
    prints.add(fingerprint(made(), (x + 1,)))
    prints.add(fingerprint(made(), (x[:1],)))
    prints.add(fingerprint(made(), (x.double(),)))
    prints.add(fingerprint(made(), (x, x)))
    prints.add(fingerprint(made(), (x.T,)))
    # The same bytes in another shape, of another type, under another name.
    prints.add(fingerprint(made(), (x.reshape(3, 2),)))
    prints.add(fingerprint(made(), (x.view(torch.int32),)))
    prints.add(fingerprint(nn.Sequential(OrderedDict(zip("ab", made(), strict=True))), (x,)))
    assert len(prints) == 11


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[:5],
        lambda _: b"",
        lambda _: b"garbage " * 100,
        lambda _: save({"codes0": torch.zeros(2)}),  # no entry in its metadata
        lambda _: save({}, {"entry": "{"}),
        lambda _: save({}, {"entry": '{"bits": [4], "grids": [], "error": 0.1}'}),
        lambda _: save({"codes0": torch.zeros(2)}, {"entry": '{"bits": [4]}'}),
        lambda _: save({"codes0": torch.zeros(2)}, {"entry": "[]"}),
    ],
)
def test_a_damaged_entry_is_made_again(
    fill: Callable[..., Bank], damage: Callable[[bytes], bytes]
) -> None:
    first = fill()
    path = sorted(first.folder.iterdir())[0]
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert fill().made == 1
    assert path.read_bytes() == good


def test_no_half_written_file_is_left(fill: Callable[..., Bank]) -> None:
    bank = fill()
    names = [path.name for path in bank.folder.iterdir()]
    assert len(names) == MADE
    assert all(name.endswith(".safetensors") and not name.startswith(".") for name in names)


def test_a_folder_that_cannot_be_made_is_named(
    parts: tuple[nn.Sequential, Layer, Statistics, torch.Tensor], tmp_path: Path
) -> None:
    model, layer, statistics, _ = parts
    (tmp_path / "file").write_text("")
    bank = Bank(tmp_path / "file" / "bank", "content")
    with pytest.raises(StorageError, match="bank"):
        bank.fill(layer, model[0], lambda: statistics, OPTIONS)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_named(
    parts: tuple[nn.Sequential, Layer, Statistics, torch.Tensor], tmp_path: Path
) -> None:
    model, layer, statistics, _ = parts
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="ermission"):
            Bank(tmp_path / "bank", "content").fill(layer, model[0], lambda: statistics, OPTIONS)
    finally:
        tmp_path.chmod(0o700)


def test_an_entry_that_was_never_made_is_a_key_error(fill: Callable[..., Bank]) -> None:
    with pytest.raises(KeyError):
        fill()["0", Option(6)]


@pytest.mark.parametrize(
    "stored",
    [
        StoredTensor(
            3,
            torch.tensor([[1, 0, -3], [2, 2, 1]], dtype=torch.int8),
            torch.tensor([[0.5, 0.25], [1, 2]]).half(),
            group=2,
            zero=torch.tensor([[3, 4], [2, 1]], dtype=torch.uint8),
        ),
        StoredTensor(
            2,
            torch.tensor([[1, 0, 3], [2, 2, 1]], dtype=torch.uint8),
            None,
            codebook=torch.tensor([-1.0, 0.5, 2.0]).half(),
        ),
    ],
)
def test_every_part_of_a_stored_tensor_is_kept(stored: StoredTensor, tmp_path: Path) -> None:
    path = tmp_path / "entry.safetensors"
    path.write_bytes(_pack(Entry(Treated((stored,), None), 0.5)))
    entry = _read(path)
    assert entry is not None
    (found,) = entry.treated.weights
    assert (found.bits, found.group) == (stored.bits, stored.group)
    for part in ("codes", "scale", "zero", "codebook"):
        one, other = getattr(found, part), getattr(stored, part)
        assert (one is None) == (other is None)
        assert one is None or (one.dtype == other.dtype and torch.equal(one, other))


def test_entries_that_are_no_longer_mapped_are_mapped_again(
    fill: Callable[..., Bank], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = fill()
    monkeypatch.setattr(bank_module, "MAPPED", 1)
    bank = fill()
    assert bank.reused == MADE
    for option in (*OPTIONS[1:], *OPTIONS[1:]):
        assert_equal(bank["0", option].treated, wanted["0", option].treated)
        assert bank["0", option].error == wanted["0", option].error
        assert list(bank._mapped) == [("0", option)]
    for path in bank.folder.iterdir():
        path.unlink()
    with pytest.raises(StorageError, match=r"layer '0' under w4-s50 is gone or damaged"):
        bank["0", OPTIONS[1]]
    with pytest.raises(KeyError):
        bank["1", OPTIONS[1]]
