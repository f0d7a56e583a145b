"""Widths that layers share: their steps, the menus that follow, and options back from ids."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from autocompress.errors import ConfigError
from autocompress.model.channels import ChannelGroup, Member
from autocompress.model.layer import Layer
from autocompress.search_space.option import Option
from autocompress.search_space.preset import SpacePreset, load_space_preset
from autocompress.search_space.space import Space, build_space
from autocompress.search_space.widths import (
    SharedWidth,
    at_levels,
    narrow_pairs,
    share_widths,
)

SHARES = (1.0, 0.75, 0.5, 0.25, 1 / 3, 0.0625, 0.015625, 0.999, 0.000001)


def layer(name: str, *shape: int, reason: str = "") -> Layer:
    return Layer(name, "Conv2d", shape, 0, 0, 1, (), (), reason)


def member(name: str, count: int, width: int = 1) -> Member:
    return Member(name, tuple(tuple(range(i * width, (i + 1) * width)) for i in range(count)))


# first -> depthwise -> second, second -> flatten -> head (four places each)
LAYERS = [
    layer("first", 32, 3, 3, 3),
    layer("depthwise", 32, 1, 3, 3),
    layer("second", 16, 32, 1, 1),
    layer("head", 10, 64),
]
BY_NAME = {item.name: item for item in LAYERS}
GROUPS = (
    ChannelGroup(
        "first", (member("first", 32),), (member("second", 32),), (member("depthwise", 32),)
    ),
    ChannelGroup("second", (member("second", 16),), (member("head", 16, 4),)),
)


def shared(shares: Sequence[float], step: int = 8) -> tuple[SharedWidth, ...]:
    return share_widths(GROUPS, BY_NAME, shares, step)


def accept(option: Option, layer: Layer) -> str:
    return ""


def space(channels: Sequence[float] = (1.0, 0.5), **keys: object) -> Space:
    preset = SpacePreset(bits=[32, 8], channels=list(channels), **keys)  # type: ignore[arg-type]
    return build_space(LAYERS, preset, accept, widths=shared(channels))


@pytest.mark.parametrize("inputs", SHARES)
@pytest.mark.parametrize("outputs", SHARES)
def test_ids_of_narrow_options_are_read_back(inputs: float, outputs: float) -> None:
    for plain in (Option(), Option(4, 0.5, 0.25, "int8"), Option(3, method="nearest")):
        option = Option(
            plain.bits,
            plain.sparsity,
            plain.rank,
            plain.activations,
            plain.method,
            inputs,
            outputs,
        )
        assert Option.parse(option.id) == option
        assert option.is_narrow == (inputs < 1 or outputs < 1)
        assert option.is_identity == (plain == Option() and not option.is_narrow)
        assert option.computed.outputs == 1
        assert option.computed.inputs == option.inputs
    assert Option(4, 0.5, 1, "int8", "obs", 0.75, 0.5).id == "w4-s50-i75-o50-a8"


def test_shares_of_channels_are_checked() -> None:
    for name, value in itertools.product(("inputs", "outputs"), (0.0, -0.5, 1.5)):
        with pytest.raises(ConfigError, match=rf"{name}={value}\): must lie in \(0, 1\]"):
            Option(**{name: value})
    with pytest.raises(ConfigError, match="expected 'dense' or an id"):
        Option.parse("w4-o50-i75")


def test_widths_are_whole_steps_nearest_to_the_shares() -> None:
    first, second = shared([1.0, 0.7, 0.5])
    # 32 channels in steps of 8: 24 and 16; 16 channels: 8 alone is left for both shares.
    assert first.inputs == {"second": (1.0, 0.75, 0.5)}
    assert first.outputs == {"first": (1.0, 0.75, 0.5), "depthwise": (1.0, 0.75, 0.5)}
    assert second.inputs == {"head": (1.0, 0.5)}
    assert second.outputs == {"second": (1.0, 0.5)}
    assert (first.levels, second.levels) == (3, 2)
    assert first.units == ("second", "first", "depthwise")


def test_a_group_too_small_for_the_step_or_without_shares_is_left_out() -> None:
    assert [width.name for width in shared([0.5], step=16)] == ["first"]
    assert shared([0.5], step=32) == ()
    assert shared([1.0]) == ()
    frozen = (ChannelGroup("first", *[(member("first", 32),)] * 2, frozen="because"),)
    assert share_widths(frozen, BY_NAME, [0.5], 8) == ()


def test_a_group_that_is_part_of_a_layer_leaves_the_rest_whole() -> None:
    """Half of the columns of `second` come from elsewhere."""
    group = ChannelGroup("first", (member("first", 16),), (member("second", 16),))
    (width,) = share_widths([group], BY_NAME, [0.5], 8)
    assert width.outputs == {"first": (1.0, 0.75)}
    assert width.inputs == {"second": (1.0, 0.75)}
    assert BY_NAME["second"].widths(0.75, 1.0) == (24, 16)


def test_a_layer_between_two_widths_has_every_pair() -> None:
    widths = shared([0.75, 0.5])
    assert narrow_pairs("first", widths) == [(1.0, 1.0), (1.0, 0.75), (1.0, 0.5)]
    assert narrow_pairs("head", widths) == [(1.0, 1.0), (0.5, 1.0)]
    assert narrow_pairs("second", widths) == list(itertools.product((1.0, 0.75, 0.5), (1.0, 0.5)))
    assert narrow_pairs("elsewhere", widths) == [(1.0, 1.0)]


def test_a_layer_in_one_width_on_both_sides_has_as_many_as_levels() -> None:
    width = SharedWidth("w", {"x": (1.0, 0.5)}, {"x": (1.0, 0.75)})
    assert narrow_pairs("x", [width]) == [(1.0, 1.0), (0.5, 0.75)]
    assert width.level("x", Option(inputs=0.5, outputs=0.75)) == 1
    assert width.level("x", Option(inputs=0.5)) is None


def test_every_option_of_a_menu_is_of_one_level() -> None:
    made = space([1.0, 0.75, 0.5], sparsity=[0, 0.5])
    first, second = made.widths
    for unit, menu in made.units.items():
        assert len(set(menu)) == len(menu)
        assert menu[0] == Option()
        for option in menu:
            for width in made.widths:
                if unit in width.units:
                    level = width.level(unit, option)
                    assert level is not None
                    if unit in width.inputs:
                        assert width.inputs[unit][level] == option.inputs
                    if unit in width.outputs:
                        assert width.outputs[unit][level] == option.outputs
        shares = {(option.inputs, option.outputs) for option in menu}
        assert shares == set(narrow_pairs(unit, made.widths))
    plain = len(
        build_space(LAYERS, SpacePreset(bits=[32, 8], sparsity=[0, 0.5]), accept).units["head"]
    )
    sizes = {unit: len(menu) // plain for unit, menu in made.units.items()}
    assert sizes == {"first": 3, "depthwise": 3, "second": 6, "head": 2}
    assert first.level("second", Option(inputs=0.9)) is None
    assert second.level("head", Option(8, inputs=0.5)) == 1


def test_what_differs_in_outputs_alone_computes_the_same() -> None:
    made = space([1.0, 0.75, 0.5])
    computed = made.computed
    assert computed.widths == made.widths
    assert all(option.outputs == 1 for menu in computed.units.values() for option in menu)
    assert [len(menu) for menu in computed.units.values()] == [2, 2, 6, 4]
    assert computed.with_outputs() == made
    assert computed.computed == computed
    # A thinned menu comes back with all outputs, but only in widths that go together.
    few = Space({**computed.units, "second": (Option(), Option(8, inputs=0.5))}, (), made.widths)
    second = few.with_outputs().units["second"]
    assert [option.id for option in second] == ["dense", "w8-i50", "w32-o50", "w8-i50-o50"]
    assert few.with_outputs().computed.units == few.units


def test_without_widths_nothing_changes() -> None:
    made = space([1.0])
    assert made.widths == ()
    assert made.computed == made == made.with_outputs()
    assert made.units == build_space(LAYERS, SpacePreset(bits=[32, 8]), accept).units


def test_a_width_with_a_layer_that_stays_dense_is_dropped() -> None:
    made = space(exclude=["depthwise"])
    assert [width.name for width in made.widths] == ["second"]
    assert [option.id for option in made.units["first"]] == ["dense", "w8"]
    assert {option.inputs for option in made.units["head"]} == {1.0, 0.5}


def test_channels_alone_are_something_to_choose_from() -> None:
    preset = SpacePreset(channels=[1.0, 0.5])
    made = build_space(LAYERS, preset, accept, widths=shared([0.5]))
    ids = {unit: [option.id for option in menu] for unit, menu in made.units.items()}
    assert ids == {
        "first": ["dense", "w32-o50"],
        "depthwise": ["dense", "w32-o50"],
        "second": ["dense", "w32-i50", "w32-o50", "w32-i50-o50"],
        "head": ["dense", "w32-i50"],
    }


def test_menus_at_levels_hold_exactly_those() -> None:
    made = space([1.0, 0.75, 0.5])
    names = [width.name for width in made.widths]
    seen: dict[str, set[Option]] = {unit: set() for unit in made.units}
    for levels in itertools.product(range(3), range(2)):
        menus = at_levels(made.units, made.widths, dict(zip(names, levels, strict=True)))
        assert all(menus.values())
        for unit, menu in menus.items():
            assert len({(option.inputs, option.outputs) for option in menu}) == 1
            seen[unit] |= set(menu)
    assert seen == {unit: set(menu) for unit, menu in made.units.items()}


def test_presets_take_shares_of_channels(tmp_path) -> None:
    path = tmp_path / "space.toml"
    path.write_text("schema = 1\nbits = [8]\nchannels = [1.0, 0.5]")
    preset, _ = load_space_preset(str(path))
    assert preset.channels == [1.0, 0.5]
    assert any("channels 100 %, 50 %" in line for line in preset.axes())
    for text in ("[0]", "[1.5]", "[]", "['half']"):
        path.write_text(f"schema = 1\nchannels = {text}")
        with pytest.raises(ConfigError, match="key 'channels"):
            load_space_preset(str(path))
