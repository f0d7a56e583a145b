"""Which channels of a group stay: the same for all of its members, in one order."""

from __future__ import annotations

import itertools

import pytest
import torch
from channel_parts import kept_pieces, options_at, parts
from torch import Tensor, nn

from autocompress.compression.channels import order_pieces, usable
from autocompress.model.grouping import find_groups
from autocompress.model.shrink import shrink
from autocompress.model.trace import trace
from autocompress.search_space.option import Option


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
