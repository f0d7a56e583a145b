"""Narrow layers in the bank: nested widths, entries that come back, and smaller models."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.bank import Bank
from autocompress.compression.channels import Channels, order_pieces, usable
from autocompress.compression.compress import compress_layer
from autocompress.compression.moments import Statistics, collect
from autocompress.compression.narrow import weight_columns
from autocompress.compression.resolve import resolve
from autocompress.compression.stitch import Stitcher, stitched
from autocompress.compression.treated import Narrow, StoredTensor, Treated, build_module
from autocompress.model.channels import ChannelGroup
from autocompress.model.grouping import find_groups
from autocompress.model.layer import Layer
from autocompress.model.matrix import rows_of
from autocompress.model.shrink import shrink
from autocompress.model.trace import trace
from autocompress.objective.quality import Proxy
from autocompress.search_space.option import Option
from autocompress.search_space.widths import SharedWidth, share_widths


class Net(nn.Module):
    """An inverted residual, a residual, and a convolution that is flattened into a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.up, self.down = nn.Conv2d(8, 24, 1), nn.Conv2d(24, 8, 1, bias=False)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.last = nn.Conv2d(8, 12, 3, padding=1)
        self.fc, self.head = nn.Linear(192, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.up(x))))
        x = nn.functional.max_pool2d(self.last(x + self.down(y)).relu(), 2)
        return self.head(self.fc(x.flatten(1)).relu())


@dataclass(frozen=True)
class Parts:
    model: Net
    layers: dict[str, Layer]
    statistics: dict[str, Statistics]
    groups: tuple[ChannelGroup, ...]
    widths: tuple[SharedWidth, ...]
    channels: Channels
    inputs: Tensor
    fresh: Tensor


@cache
def parts(seed: int = 0) -> Parts:
    """The net, taught a little, with groups in steps of four channels."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(5, 3, 16, 16, generator=generator)
    patterns = nn.functional.avg_pool2d(patterns, 3, 1, 1) * 3
    labels = torch.randint(5, (500,), generator=generator)
    x = patterns[labels] + torch.randn(500, 3, 16, 16, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Net()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(25):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[:200]), labels[:200]).backward()
        optimiser.step()
    model.eval().requires_grad_(False)
    records = trace(model, (x[:1],))
    layers = {layer.name: layer for layer in records}
    inputs, fresh = x[200:350], x[350:]
    statistics = collect(model, records, (inputs,))
    groups = tuple(usable(find_groups(model, records, (x[:1],), 4), layers))
    widths = share_widths(groups, layers, [0.75, 0.5, 0.25], 4)
    channels = Channels(groups, order_pieces(model, groups, statistics.__getitem__))
    return Parts(model, layers, statistics, groups, widths, channels, inputs, fresh)


DENSE = Option()


def options_at(made: Parts, levels: dict[str, int], base: Option = DENSE) -> dict[str, Option]:
    """Every layer with the widths of some levels, compressed further like `base`."""
    choices = {}
    for name in made.layers:
        inputs = outputs = 1.0
        for width in made.widths:
            inputs = width.inputs.get(name, (inputs,) * 9)[levels[width.name]]
            outputs = width.outputs.get(name, (outputs,) * 9)[levels[width.name]]
        own = replace(base, rank=1.0) if made.layers[name].groups > 1 else base
        choices[name] = replace(own, inputs=inputs, outputs=outputs)
    return choices


def banked(made: Parts, folder: Path, choices: dict[str, Option]) -> Bank:
    bank = Bank(folder, "content", made.channels)
    for name, option in choices.items():
        module = made.model.get_submodule(name)
        bank.fill(
            made.layers[name],
            module,
            lambda n=name: made.statistics[n],
            [option],  # type: ignore[misc]
        )
    return bank


def shipped(made: Parts, bank: Bank, choices: dict[str, Option]) -> dict[str, Treated]:
    return {
        name: bank.stored(made.layers[name], made.model.get_submodule(name), option)
        for name, option in choices.items()
        if not option.is_identity
    }


def halves(made: Parts) -> dict[str, int]:
    return {width.name: width.levels // 2 for width in made.widths}


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


def test_the_net_has_the_groups_that_these_tests_are_about() -> None:
    found = {group.name: group for group in parts().groups}
    # The residual keeps the stem and the projection together.
    assert {member.name for member in found["stem"].producers} == {"stem", "down"}
    assert {member.name for member in found["up"].passing} == {"depthwise"}
    assert found["last"].consumers[0].width == 16
    assert list(found) == ["stem", "up", "last", "fc"]


def test_kept_sets_are_nested_and_go_from_the_least_to_the_most_wanted() -> None:
    made = parts()
    for group, order in zip(made.groups, made.channels.orders, strict=True):
        members = [(m, True) for m in group.consumers]
        members += [(m, False) for m in (*group.producers, *group.passing)]
        for member, reads in members:
            layer = made.layers[member.name]
            width = layer.weight_shape[int(reads)]
            before = set(range(width))
            for gone in range(1, group.size):
                share = 1 - gone * member.width / width
                option = Option(inputs=share) if reads else Option(outputs=share)
                kept = made.channels.kept(layer, option)
                assert kept is not None
                assert kept.sizes == layer.weight_shape[:2]
                stays, other = (
                    (kept.inputs, kept.outputs) if reads else (kept.outputs, kept.inputs)
                )
                assert other is None
                assert stays is not None
                assert stays.dtype == torch.int64
                assert stays.tolist() == sorted(stays.tolist())
                after = set(stays.tolist())
                assert before - after == set(member.pieces[order[gone - 1]])
                before = after
        assert made.channels.kept(made.layers[members[0][0].name], Option(4)) is None


def test_members_of_a_group_keep_the_same_channels() -> None:
    made = parts()
    for level in range(1, 4):
        kept = {
            name: made.channels.kept(made.layers[name], option)
            for name, option in options_at(
                made, {w.name: min(level, w.levels - 1) for w in made.widths}
            ).items()
        }
        stem, down, up = kept["stem"], kept["down"], kept["up"]
        assert torch.equal(stem.outputs, down.outputs)
        assert torch.equal(stem.outputs, up.inputs)
        assert torch.equal(stem.outputs, kept["last"].inputs)
        assert torch.equal(up.outputs, kept["depthwise"].outputs)
        assert torch.equal(up.outputs, down.inputs)
        flat = (kept["last"].outputs[:, None] * 16 + torch.arange(16)).flatten()
        assert torch.equal(kept["fc"].inputs, flat)


def test_the_order_of_a_group_does_not_depend_on_the_run() -> None:
    made = parts()
    again = order_pieces(made.model, made.groups, made.statistics.__getitem__)
    assert again == made.channels.orders
    for group, order in zip(made.groups, again, strict=True):
        assert len(set(order)) == len(order) >= group.size - 1


class Halving(nn.Module):
    """A grouped convolution that reads two channels for each that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.grouped = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 3, groups=8)
        self.b = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.grouped(self.a(x).relu()).relu()).mean((2, 3))


@pytest.mark.parametrize("outputs", [8, 16, 32])
def test_only_depthwise_convolutions_lie_between_narrow_layers(outputs: int) -> None:
    torch.manual_seed(0)
    model, x = Halving().eval(), torch.randn(2, 3, 8, 8)
    model.grouped = nn.Conv2d(16, outputs, 3, groups=8 if outputs == 8 else 16)
    model.b = nn.Conv2d(outputs, 4, 1)
    layers = trace(model, (x,))
    groups = find_groups(model, layers, (x,), 4)
    names = {layer.name: layer for layer in layers}
    assert any(member.name == "grouped" for group in groups for member in group.passing)
    assert bool(usable(groups, names)) == (outputs == 16)


def test_a_layer_that_is_not_treated_keeps_its_group_whole() -> None:
    made = parts()
    for name in made.layers:
        left = {key: layer for key, layer in made.layers.items() if key != name}
        for group in usable(made.groups, left):
            members = (*group.producers, *group.consumers, *group.passing)
            assert name not in {member.name for member in members}


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


def kept_pieces(made: Parts, levels: dict[str, int]) -> dict[ChannelGroup, list[int]]:
    kept = {}
    for group, order, width in zip(made.groups, made.channels.orders, made.widths, strict=True):
        producer = group.producers[0]
        share = width.outputs[producer.name][levels[width.name]]
        count = round(share * made.layers[producer.name].weight_shape[0]) // producer.width
        kept[group] = sorted(set(range(group.size)) - set(order[: group.size - count]))
    return kept


@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_masked_model_is_the_smaller_model(level: int, tmp_path: Path) -> None:
    """Float entries in full width, with zeros for what is gone, against modules with less."""
    made = parts()
    levels = {width.name: min(level, width.levels - 1) for width in made.widths}
    choices = options_at(made, levels)
    bank = banked(made, tmp_path, choices)
    stored = shipped(made, bank, choices)
    small = shrink(made.model, kept_pieces(made, levels))
    for name, treated in stored.items():
        module = small.get_submodule(name)
        assert treated.weights[0].codes.numel() == module.weight.numel()
        module.weight.copy_(treated.weights[0].dense().reshape(module.weight.shape))
        if treated.bias is not None:
            assert module.bias.shape == treated.bias.shape
            module.bias.copy_(treated.bias)
    masked = stitched(made.model, stored)
    torch.testing.assert_close(masked(made.fresh), small(made.fresh), rtol=1e-4, atol=1e-5)
    # Outputs that nothing reads may stay: the search measures candidates with all of them.
    stitcher = Stitcher(made.model, lambda name, option: bank[name, option].treated)
    torch.testing.assert_close(
        stitcher.stitch(choices)(made.fresh), masked(made.fresh), rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(masked(made.fresh), made.model(made.fresh), atol=1e-3)


@pytest.mark.parametrize(
    "base",
    [Option(8), Option(3, 0.5), Option(8, 0.0, 0.5), Option(8, activations="int8")],
    ids=lambda option: option.id,
)
def test_outputs_that_nothing_reads_change_nothing(base: Option, tmp_path: Path) -> None:
    made = parts()
    choices = options_at(made, halves(made), base)
    bank = banked(made, tmp_path, choices)
    stitcher = Stitcher(made.model, lambda name, option: bank[name, option].treated)
    cut = stitched(made.model, shipped(made, bank, choices))(made.fresh)
    # Sums over more zeros are rounded in another order, and may fall on another step of a grid.
    difference = (stitcher.stitch(choices)(made.fresh) - cut).abs()
    assert float((difference > 1e-4).float().mean()) < 0.02
    assert float(difference.max()) < 0.1 * float(cut.abs().max())


@pytest.mark.parametrize(
    "base",
    [Option(), Option(4, 0.3), Option(8, 0.0, 0.5), Option(8, activations="int8")],
    ids=lambda option: option.id,
)
def test_fitting_in_sequence_lowers_the_loss_of_narrow_models(
    base: Option, tmp_path: Path
) -> None:
    plain = sequential = torch.zeros(2)
    for seed in range(2):
        made = parts(seed)
        choices = options_at(made, halves(made), base)
        computed = {name: option.computed for name, option in choices.items()}
        bank = banked(made, tmp_path / str(seed), choices)
        entries = {
            name: bank[name, option].treated
            for name, option in computed.items()
            if not option.is_identity
        }
        fitted = resolve(
            made.model, tuple(made.layers.values()), entries, computed, (made.inputs,)
        )
        assert fitted.keys() == entries.keys()
        for name, treated in fitted.items():
            before, after = entries[name].narrow, treated.narrow
            assert (before is None) == (after is None)
            assert treated.shape == entries[name].shape
            assert treated.matrix().isfinite().all()
            if before is not None:
                assert torch.equal(before.inputs, after.inputs)
                module = made.model.get_submodule(name)
                mask = torch.ones(module.weight[0].numel(), dtype=torch.bool)
                mask[weight_columns(module, before.inputs)] = False
                assert not treated.matrix()[:, mask].any()
        proxies = [Proxy(made.model, (x,)) for x in (made.inputs, made.fresh)]
        for losses, stored in ((0, entries), (1, fitted)):
            found = torch.tensor([proxy(stitched(made.model, stored)).value for proxy in proxies])
            assert found.isfinite().all()
            if losses:
                sequential = sequential + found
            else:
                plain = plain + found
    assert bool((sequential < plain).all())


def test_the_fit_of_grouped_layers_restores_the_mean_of_each_channel() -> None:
    made = parts()
    layer, module = made.layers["depthwise"], made.model.depthwise
    option = Option(2)
    ((_, entry, _),) = compress_layer(layer, module, made.statistics["depthwise"], [option])
    choices = {"depthwise": option}
    fitted = resolve(
        made.model, tuple(made.layers.values()), {"depthwise": entry}, choices, (made.inputs,)
    )["depthwise"]
    assert torch.equal(fitted.matrix(), entry.matrix())
    y = nn.functional.relu6(made.model.up(made.model.stem(made.inputs).relu()))
    wanted = module(y).mean((0, 2, 3))
    errors = [
        (build_module(module, treated)(y).mean((0, 2, 3)) - wanted).abs().max()
        for treated in (entry, fitted)
    ]
    assert float(errors[1]) < 2e-3 < float(errors[0])


def depthwise_inputs(proportional: bool) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A depthwise convolution whose channels see the same image, each at its own scale."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.1, 1.0, 4.0, 0.5, 2.0, 8.0])
    images = torch.randn(40, 1 if proportional else 6, 9, 9, generator=generator)
    images = nn.functional.avg_pool2d(images, 3, 1, 1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(6, 6, 3, groups=6, bias=False)).eval()
    return net.requires_grad_(False), images * scales[:, None, None], scales


def own_errors(net: nn.Sequential, x: Tensor, matrix: Tensor) -> Tensor:
    """What a changed weight costs each output channel: the mean square on its own inputs."""
    module = net[0]
    rows = rows_of(module, x).double().reshape(-1, 6, 9)
    change = matrix.double() - module.weight.flatten(1).double()
    return torch.einsum("ngi,gi->ng", rows, change).square().mean(0)


def test_proportional_groups_share_a_moment_without_loss() -> None:
    net, x, scales = depthwise_inputs(proportional=True)
    layers = trace(net, (x[:1],))
    found = collect(net, layers, (x,), batch=16)["0"]
    rows = rows_of(net[0], x).double().reshape(-1, 6, 9)
    for group in range(6):
        own = rows[:, group].T @ rows[:, group] / len(rows)
        torch.testing.assert_close(
            found.row_weights[group] * found.second_moment, own, rtol=1e-4, atol=1e-7
        )
    ratios = found.row_weights / found.row_weights[1]
    torch.testing.assert_close(ratios, scales.double().square(), rtol=1e-4, atol=0)
    assert float(found.second_moment.diagonal().mean()) == pytest.approx(1)
    # So the error that is reported is the real one, each channel by its own inputs.
    undamped = replace(found, damping=1e-12)
    options = [Option(3), Option(32, 0.5), Option(4, 0.3)]
    for _, treated, error in compress_layer(layers[0], net[0], undamped, options):
        whole = own_errors(net, x, torch.zeros(6, 9)).sum()
        assert error == pytest.approx(float(own_errors(net, x, treated.matrix()).sum() / whole))


def test_weights_of_weak_channels_go_first() -> None:
    net, x, scales = depthwise_inputs(proportional=True)
    layers = trace(net, (x[:1],))
    statistics = collect(net, layers, (x,))["0"]
    plain = replace(statistics, row_weights=None)
    options = [Option(32, 0.5)]
    ((_, weighted, _),) = compress_layer(layers[0], net[0], statistics, options)
    ((_, unweighted, _),) = compress_layer(layers[0], net[0], plain, options)
    left = (weighted.matrix() != 0).sum(1)
    assert int(left[scales.argmin()]) < int(left[scales.argmax()])
    assert float(own_errors(net, x, weighted.matrix()).sum()) < 0.5 * float(
        own_errors(net, x, unweighted.matrix()).sum()
    )


@pytest.mark.parametrize("multiple", [1, 2])
def test_groups_that_differ_share_the_mean_shape(multiple: int) -> None:
    _, x, _ = depthwise_inputs(proportional=False)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(6, 6 * multiple, 3, groups=6)).eval().requires_grad_(False)
    found = collect(net, trace(net, (x[:1],)), (x,), batch=7)["0"]
    rows = rows_of(net[0], x).double().reshape(-1, 6, 9)
    moments = torch.einsum("ngi,ngj->gij", rows, rows) / len(rows)
    scale = moments.diagonal(dim1=1, dim2=2).mean(1)
    torch.testing.assert_close(
        found.second_moment, (moments / scale[:, None, None]).mean(0), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        found.row_weights, scale.repeat_interleave(multiple), rtol=1e-4, atol=1e-9
    )
    assert collect(net, trace(net, (x[:1],)), (0 * x,))["0"].row_weights.isfinite().all()


def test_narrow_records_follow_the_modules() -> None:
    made = parts()
    for level in itertools.product(range(2), repeat=len(made.widths)):
        levels = dict(zip([width.name for width in made.widths], level, strict=True))
        small = shrink(made.model, kept_pieces(made, levels))
        again = {layer.name: layer for layer in trace(small, (made.inputs[:1],))}
        for name, option in options_at(made, levels).items():
            layer = made.layers[name]
            narrow = layer.narrowed(*layer.widths(option.inputs, option.outputs))
            wanted = again[name]
            assert narrow.weight_shape == wanted.weight_shape
            assert narrow.input_shape == wanted.input_shape
            assert narrow.output_shape == wanted.output_shape
            assert narrow.parameters == wanted.parameters
            assert narrow.macs == wanted.macs
            assert narrow.groups == wanted.groups
