"""Bank entries of layers that have fewer channels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from channel_parts import Parts, banked, parts

from autocompress.compression.bank import Bank
from autocompress.compression.channels import Channels
from autocompress.compression.moments import Statistics
from autocompress.compression.narrow import weight_columns
from autocompress.compression.treated import Narrow, StoredTensor, Treated
from autocompress.search_space.option import Option


def assert_equal(one: Treated, other: Treated) -> None:
    assert one.grids == other.grids
    assert (one.narrow is None) == (other.narrow is None)
    tensors = []
    for treated in (one, other):
        narrow = treated.narrow
        tensors.append(
            [treated.bias]
            + [t for weight in treated.weights for t in (weight.codes, weight.scale)]
            + ([narrow.outputs, narrow.inputs] if narrow else [])
        )
    for first, second in zip(*tensors, strict=True):
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            assert first.dtype == second.dtype
            assert torch.equal(first, second)
    assert [weight.bits for weight in one.weights] == [weight.bits for weight in other.weights]


MENU = [
    Option(),
    Option(16),
    Option(4, 0.5),
    Option(8, 0.0, 0.5),
    Option(8, activations="int8"),
    Option(7, 0.3, 0.5, "int8"),
    Option(3, method="nearest"),
]


def menu_of(made: Parts, name: str) -> list[Option]:
    shares = next((w.inputs[name] for w in made.widths if name in w.inputs), (1.0,))
    return [replace(option, inputs=share) for share in shares for option in MENU]


@pytest.mark.parametrize("name", ["last", "fc", "down"])
def test_narrow_entries_come_back_from_disk(name: str, tmp_path: Path) -> None:
    made = parts()
    layer, module = made.layers[name], made.model.get_submodule(name)
    menu = menu_of(made, name)
    first = Bank(tmp_path, "content", made.channels)
    first.fill(layer, module, lambda: made.statistics[name], menu)

    def never() -> Statistics:
        raise AssertionError("nothing is missing")

    again = Bank(tmp_path, "content", made.channels)
    again.fill(layer, module, never, menu)
    assert (first.made, first.reused) == (len(menu) - 1, 0)
    assert (again.made, again.reused) == (0, len(menu) - 1)
    for option in menu:
        if option.is_identity:
            continue
        one, other = first[name, option], again[name, option]
        assert_equal(one.treated, other.treated)
        assert one.error == other.error
        assert one.treated.shape == (layer.weight_shape[0], module.weight[0].numel())
        assert one.treated.matrix().shape == one.treated.shape
        kept = made.channels.kept(layer, option)
        if kept is None:
            assert one.treated.narrow is None
            continue
        # What is stored is narrow, whatever else is done to it.
        taps = module.weight[0, 0].numel()
        assert one.treated.weights[0].codes.shape[1] == len(kept.inputs) * taps
        gone = torch.ones(module.weight[0].numel(), dtype=torch.bool)
        gone[weight_columns(module, kept.inputs)] = False
        assert not one.treated.matrix()[:, gone].any()


def test_a_narrow_entry_costs_what_its_channels_and_the_rest_do(tmp_path: Path) -> None:
    made = parts()
    bank = banked(made, tmp_path, {})
    layer, module = made.layers["down"], made.model.down
    menu = menu_of(made, "down")
    bank.fill(layer, module, lambda: made.statistics["down"], menu)
    shares = sorted({option.inputs for option in menu}, reverse=True)
    errors = [bank["down", Option(inputs=share)].error for share in shares if share < 1]
    assert 0 < errors[0] < errors[1] < errors[2] < 1
    for share in shares[1:]:
        for option in MENU[1:]:
            narrow = bank["down", replace(option, inputs=share)].error
            assert narrow > bank["down", Option(inputs=share)].error


def test_entries_are_made_again_when_other_channels_stay(tmp_path: Path) -> None:
    made = parts()
    layer, module = made.layers["last"], made.model.last
    menu = [Option(8), Option(8, inputs=0.5), Option(inputs=0.5)]
    bank = banked(made, tmp_path, {})
    bank.fill(layer, module, lambda: made.statistics["last"], menu)
    assert bank.made == 3
    orders = tuple(tuple(reversed(order)) for order in made.channels.orders)
    other = Bank(tmp_path, "content", Channels(made.groups, orders))
    other.fill(layer, module, lambda: made.statistics["last"], menu)
    assert (other.made, other.reused) == (2, 1)
    kept = bank["last", menu[1]].treated.narrow, other["last", menu[1]].treated.narrow
    assert not torch.equal(kept[0].inputs, kept[1].inputs)
    third = banked(made, tmp_path, {})
    third.fill(layer, module, lambda: made.statistics["last"], menu)
    assert third.made == 0


def test_a_damaged_narrow_entry_is_made_again(tmp_path: Path) -> None:
    made = parts()
    choices = {"last": Option(4, inputs=0.5)}
    banked(made, tmp_path, choices)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    # The kept channels are gone under their name.
    path.write_bytes(good.replace(b'"inputs"', b'"imputs"'))
    assert banked(made, tmp_path, choices).made == 1
    assert path.read_bytes() == good


@pytest.mark.parametrize("base", MENU, ids=lambda option: option.id)
def test_fewer_outputs_are_rows_of_the_same_entry(base: Option, tmp_path: Path) -> None:
    made = parts()
    for name in ("last", "stem", "depthwise", "down"):
        layer, module = made.layers[name], made.model.get_submodule(name)
        own = replace(base, rank=1.0) if layer.groups > 1 else base
        whole = replace(own, inputs=0.5) if name in ("last", "down") else own
        bank = banked(made, tmp_path, {name: whole})
        full = bank.stored(layer, module, whole)
        for share in (0.75, 0.5):
            option = replace(whole, outputs=share)
            few = bank.stored(layer, module, option)
            kept = made.channels.kept(layer, option)
            assert few.shape == full.shape
            assert len(few.weights[-1].codes) == len(kept.outputs) == share * len(module.weight)
            matrix = full.matrix().clone()
            mask = torch.ones(len(matrix), dtype=torch.bool)
            mask[kept.outputs] = False
            matrix[mask] = 0
            assert torch.equal(few.matrix(), matrix)
            if full.bias is not None:
                assert torch.equal(few.bias, full.bias[kept.outputs])
                wide = few.widened().bias
                assert torch.equal(wide[kept.outputs], few.bias)
                assert not wide[mask].any()
            if whole.is_factored:
                assert_equal(Treated(few.weights[:1], None), Treated(full.weights[:1], None))
        assert bank.made + bank.reused == (not whole.is_identity)


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("bits", [4, 16, 32])
def test_full_width_puts_zeros_where_channels_are_gone(bits: int, factored: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def stored(rows: int, columns: int) -> StoredTensor:
        codes = torch.randint(-7, 8, (rows, columns), generator=generator)
        if bits == 4:
            scale = torch.rand(rows, generator=generator).half() + 0.5
            return StoredTensor(4, codes.to(torch.int8), scale)
        return StoredTensor(bits, codes.to(torch.float16 if bits == 16 else torch.float32), None)

    rows, columns, taps = torch.tensor([1, 2, 5]), torch.tensor([0, 3]), 4
    weights = (stored(2, 8), stored(3, 2)) if factored else (stored(3, 8),)
    bias = torch.tensor([1.0, 2.0, 3.0])
    treated = Treated(weights, bias, (), Narrow((6, 5), rows, columns))
    assert treated.shape == (6, 20)
    expected = torch.zeros(6, 20)
    product = weights[0].dense() if not factored else weights[1].dense() @ weights[0].dense()
    for i, row in enumerate(rows.tolist()):
        for j, column in enumerate(columns.tolist()):
            for tap in range(taps):
                expected[row, column * taps + tap] = product[i, j * taps + tap]
    assert torch.equal(treated.matrix(), expected)
    wide = treated.widened()
    assert wide.narrow is None
    assert torch.equal(wide.matrix(), expected)
    assert wide.bias.tolist() == [0, 1, 2, 0, 0, 3]
    assert [weight.codes.dtype for weight in wide.weights] == [w.codes.dtype for w in weights]
    for weight in wide.weights:
        assert weight.scale is None or weight.scale.isfinite().all()
    whole = Treated(weights, bias)
    assert whole.widened() is whole
    assert torch.equal(whole.with_outputs(torch.tensor([0, 2])).matrix()[[0, 2]], product[[0, 2]])
