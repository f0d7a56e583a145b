from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import ConfigError
from autocompress.model.layer import Layer
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.factors import factor_shapes, kernel_index
from autocompress.search_space.option import Option
from autocompress.search_space.preset import FOLDER, SpacePreset, load_space_preset
from autocompress.search_space.space import Space, build_space
from autocompress.search_space.widths import SharedWidth
from autocompress.toml import presets

SHIPPED = sorted(presets(FOLDER))


def layer(name: str, shape: tuple[int, ...] = (100, 80), reason: str = "") -> Layer:
    return Layer(name, "Linear", shape, 0, 0, 1, (), (), reason)


LAYERS = [layer("conv.0", (20, 2, 3, 3)), layer("norm", (), "BatchNorm2d is not treated")]
LAYERS += [layer("fc1"), layer("fc2")]


def accept(option: Option, layer: Layer) -> str:
    return ""


def write(folder: Path, text: str) -> Path:
    path = folder / "space.toml"
    path.write_text(text)
    return path


def test_the_shipped_presets_are_there() -> None:
    assert SHIPPED == [
        "everything",
        "int8_mixed",
        "low_rank",
        "squeeze",
        "storage",
        "structured",
        "uniform_bits",
        "weight_only",
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_preset_gives_options(name: str) -> None:
    preset, file = load_space_preset(name)
    assert file.endswith(f"{name}.toml")
    assert preset.description
    options = preset.options()
    assert options[0] == Option()
    assert sum(option.is_identity for option in options) == 1
    assert len({option.id for option in options}) == len(options) > 3
    more = {"everything": 5, "weight_only": 2}.get(name, 0)  # axes that say something
    assert len(preset.axes()) == 5 + (min(preset.channels) < 1) + more
    space = build_space(LAYERS, preset, accept, file)
    assert list(space.units) == ["conv.0", "fc1", "fc2"]
    for menu in space.units.values():
        assert menu[0] == Option()
        assert len(menu) > 3


def test_known_presets_offer_what_their_name_says() -> None:
    assert {option.id for option in load_space_preset("uniform_bits")[0].options()} == {
        *("dense", "w2", "w3", "w4", "w6", "w8", "w16")
    }
    storage = load_space_preset("storage")[0].options()
    assert Option(4, 0.9, 0.25, "int8") in storage
    # 5 widths, 7 shares, 3 ranks, 2 activations, and the identity.
    assert len(storage) == 5 * 7 * 3 * 2 + 1
    assert all(not o.sparsity for o in load_space_preset("low_rank")[0].options())


def test_a_path_is_read_from_beside_the_study(tmp_path: Path) -> None:
    write(tmp_path, "schema = 1\nbits = [8]\nsparsity = [0, 0.5]")
    preset, file = load_space_preset("space.toml", tmp_path)
    assert [option.id for option in preset.options()] == ["dense", "w8", "w8-s50"]
    assert file == str(tmp_path / "space.toml")


def test_combinations_that_make_no_sense_are_left_out() -> None:
    preset = SpacePreset(bits=[8, 16], rank=[1, 0.5], sparsity=[0, 0.5], composed=False,
                         activations=["float32", "int8"])  # fmt: skip
    ids = {option.id for option in preset.options()}
    assert "w8-s50-a8" in ids
    assert "w8-r50-a8" in ids
    assert not any("a8" in text and "w16" in text for text in ids)
    assert not any("r50" in text and "s50" in text for text in ids)


def test_what_can_be_combined_is_and_the_rest_is_left_out() -> None:
    preset = SpacePreset(
        bits=[4, 8, 16],
        activations=["float32", "int8"],
        codebook=[0, 16],
        scales=["channel", "tensor", 32],
        affine=[False, True],
        patterns=["none", "2:4"],
        rate=[0, 0.01],
    )
    ids = {option.id for option in preset.options()}
    assert {"w4-g32-z-l0.01-n2m4", "k16-l0.01-n2m4", "w4-gt-z-l0.01-a8", "w16-n2m4"} <= ids
    assert not any("a8" in text and ("k16" in text or "g32" in text) for text in ids)
    assert not any(text.startswith("w16") and ("-g" in text or "-l" in text) for text in ids)
    assert not any(text.startswith("w8") and "-z" in text for text in ids)
    alone = {option.id for option in preset.model_copy(update={"composed": False}).options()}
    assert {"w4-g32", "w4-z", "w4-l0.01", "k16", "w4-g32-n2m4"} <= alone
    assert not any(text.count("-g") + text.count("-z") + text.count("-l") > 1 for text in alone)
    assert not any("-l" in text and ("-n" in text or "k16" in text) for text in alone)


def test_patterns_are_not_offered_where_channels_are_gone() -> None:
    preset = SpacePreset(bits=[4], patterns=["none", "2:4"], channels=[1.0, 0.5])
    shared = SharedWidth("hidden", {"fc2": (1.0, 0.5)}, {"fc1": (1.0, 0.5)})
    space = build_space(LAYERS[2:], preset, accept, widths=[shared])
    patterned = [option for option in space.units["fc2"] if option.pattern]
    assert patterned
    assert all(option.inputs == 1 for option in patterned)


def test_the_identity_is_offered_once_whatever_the_methods() -> None:
    preset = SpacePreset(bits=[32, 8], methods=["nearest", "obs"])
    assert [option.id for option in preset.options()] == ["dense", "w8-nearest", "w8"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bits = [8]", "key 'schema' is missing; write `schema = 1`"),
        ("schema = 2", "key 'schema'.*1"),
        ("schema = 1\nbit = [8]", "unknown key 'bit'; allowed are schema, description, bits"),
        ("schema = 1\nbits = 8", "key 'bits'.*list"),
        ("schema = 1\ncodebook = [1]", "key 'codebook.*expected 0 or 2 to 256 values"),
        ("schema = 1\nscales = ['row']", "key 'scales.*'channel', 'tensor' or a number"),
        ("schema = 1\nscales = [1]", "key 'scales.*'channel', 'tensor' or a number"),
        ("schema = 1\npatterns = ['4:2']", "key 'patterns.*expected N:M such as '2:4'"),
        ("schema = 1\naffine = ['no']", "key 'affine"),
        ("schema = 1\nrate = [-1]", "key 'rate.*greater than or equal to 0"),
        ("schema = 1\nbits = []", "key 'bits'.*at least 1"),
        ("schema = 1\nbits = [5]", r"bits=5\): allowed are 1, 2, 3, 4"),
        ("schema = 1\nsparsity = [1.0]", r"key 'sparsity.0'.*less than 1 \(got 1.0\)"),
        ("schema = 1\nsparsity = [0, -0.5]", "key 'sparsity.1'.*greater than or equal to 0"),
        ("schema = 1\nrank = [0]", "key 'rank.0'.*greater than 0"),
        ("schema = 1\nrank = ['half']", "key 'rank.0'"),
        ("schema = 1\nactivations = ['int4']", "int4.*allowed are"),
        ("schema = 1\nmethods = ['magic']", "magic.*allowed are"),
        ("schema = 1\nmenu = 1", "key 'menu'.*greater than or equal to 2"),
        ("schema = 1\nbits = [8", "not valid TOML"),
    ],
)
def test_a_malformed_preset_names_file_key_and_what_is_allowed(
    tmp_path: Path, text: str, message: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_space_preset(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_preset_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="no preset 'storrage'; there are everything, int8_mixed"
    ):
        load_space_preset("storrage")
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        load_space_preset("none.toml", tmp_path)


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [
        (["*"], [], ["conv.0", "fc1", "fc2"]),
        (["fc*"], [], ["fc1", "fc2"]),
        (["fc?", "conv.0"], ["fc2"], ["conv.0", "fc1"]),
        (["*"], ["fc[12]"], ["conv.0"]),
        (["*"], ["norm"], ["conv.0", "fc1", "fc2"]),
    ],
)
def test_patterns_choose_the_layers(
    include: list[str], exclude: list[str], chosen: list[str]
) -> None:
    preset = SpacePreset(bits=[8], include=include, exclude=exclude)
    space = build_space(LAYERS, preset, accept)
    assert list(space.units) == chosen
    left_out = {"conv.0", "fc1", "fc2"} - set(chosen)
    for name in left_out:
        assert any("excluded by the search space" in r and name in r for r in space.removed)


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error(key: str) -> None:
    preset = SpacePreset(bits=[8], **{key: ["fc*", "Conv*"]})
    message = f"mine.toml: {key} pattern 'Conv\\*' matches no layer; there are: conv.0, norm, fc1"
    with pytest.raises(ConfigError, match=message):
        build_space(LAYERS, preset, accept, "mine.toml")


def test_nothing_left_to_treat_is_an_error() -> None:
    for preset in (SpacePreset(bits=[8], exclude=["*"]), SpacePreset(), SpacePreset(include=[])):
        with pytest.raises(ConfigError, match="no layer can be treated"):
            build_space(LAYERS, preset, accept)
    with pytest.raises(ConfigError, match="no layer can be treated"):
        build_space(LAYERS, SpacePreset(bits=[8]), lambda option, layer: "the device refuses")


def test_a_rank_that_saves_nothing_is_removed_with_the_reason() -> None:
    # 100 x 80: a rank r holds 180 r weights of 8 000, so at most 44 ranks of 80 pay.
    preset = SpacePreset(bits=[8], rank=[1, 0.75, 0.55, 0.5])
    space = build_space([layer("fc1")], preset, accept)
    assert [option.id for option in space.units["fc1"]] == ["dense", "w8", "w8-r55", "w8-r50"]
    assert space.removed == ("the factors would hold more weights than the layer: fc1 w8-r75",)


def test_the_device_removes_options_with_its_reason() -> None:
    def reject(option: Option, layer: Layer) -> str:
        return "no int8 kernel" if option.activations == "int8" and layer.name == "fc1" else ""

    preset = SpacePreset(bits=[8], activations=["float32", "int8"])
    space = build_space(LAYERS, preset, reject)
    assert [option.id for option in space.units["fc1"]] == ["dense", "w8"]
    assert [option.id for option in space.units["fc2"]] == ["dense", "w8", "w8-a8"]
    assert space.removed == ("no int8 kernel: fc1 w8-a8",)
    # The identity is never asked about.
    everything = build_space(
        LAYERS, preset, lambda option, _: "" if option.bits == 8 else "only 8 bits"
    )
    assert all(menu[0] == Option() for menu in everything.units.values())


def space() -> Space:
    menus: dict[str, Any] = {
        "a": (Option(), Option(8), Option(4)),
        "b": (Option(4), Option()),
        "c": (Option(),),
    }
    return Space(menus)


def test_numbers_and_candidates_are_each_others_inverse() -> None:
    seen = set()
    for numbers in itertools.product(range(3), range(2), range(1)):
        candidate = space().candidate(numbers)
        assert space().indices(candidate) == numbers
        assert space().indices(Candidate.from_dict(candidate.as_dict())) == numbers
        seen.add(candidate.id)
    assert len(seen) == 6
    assert space().candidate((2, 0, 0)).as_dict() == {"a": "w4", "b": "w4", "c": "dense"}


def test_a_candidate_of_another_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="unit 'a' has no option 'w2'; there are: dense, w8, w4"):
        space().indices(Candidate.from_dict({"a": "w2", "b": "w4", "c": "dense"}))
    for choices in ({"a": "w8"}, {"b": "w4", "a": "w8", "c": "dense"}):
        with pytest.raises(ConfigError, match=r"has the units \[.*\], the space"):
            space().indices(Candidate.from_dict(choices))
    with pytest.raises(ValueError, match="shorter"):
        space().candidate((0, 0))


def test_cores_go_with_neither_rank_nor_zeros(tmp_path: Path) -> None:
    text = "sparsity = [0, 0.5]\nrank = [1.0, 0.5]\ntucker = [1.0, 0.5, 0.25]\n"
    preset, _ = load_space_preset(str(write(tmp_path, "schema = 1\nbits = [4]\n" + text)))
    ids = [option.id for option in preset.options()]
    assert ids == ["dense", "w4", "w4-s50", "w4-t50", "w4-t25", "w4-r50", "w4-s50-r50"]
    assert "Tucker core 100 %, 50 %, 25 %" in preset.axes()
    only = preset.model_copy(update={"tucker": [0.5], "sparsity": [0.0]})
    assert [option.id for option in only.options()] == ["dense", "w4-t50"]


@pytest.mark.parametrize("value", ["[]", "[0]", "[1.5]", "0.5", '["half"]'])
def test_shares_of_a_core_that_cannot_be_are_refused(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f"schema = 1\nbits = [4]\ntucker = {value}\n")
    with pytest.raises(ConfigError, match=r"space\.toml.*tucker"):
        load_space_preset(str(path))


def test_a_core_that_saves_nothing_is_removed_with_the_reason(tmp_path: Path) -> None:
    text = "schema = 1\nbits = [32]\ntucker = [1.0, 0.9, 0.5]\n"
    preset, _ = load_space_preset(str(write(tmp_path, text)))
    convolution = Layer("conv", "Conv2d", (20, 20, 3, 3), 0, 0, 1, (), ())
    (menu,) = build_space([convolution], preset, accept).units.values()
    # 18 * 20 + 18 * 18 * 9 + 20 * 18 of 3 600 weights; 10 channels hold 1 300.
    assert [option.id for option in menu] == ["dense", "w32-t50"]
    space = build_space([convolution], preset, accept)
    assert space.removed == ("the factors would hold more weights than the layer: conv w32-t90",)


def test_matrices_of_factored_layers() -> None:
    convolution = Layer("c", "Conv2d", (16, 8, 3, 3), 1152, 1152, 1, (1, 8, 4, 4), (1, 16, 2, 2))
    assert factor_shapes(convolution, Option()) == ((16, 72),)
    assert factor_shapes(convolution, Option(rank=0.5)) == ((8, 72), (16, 8))
    assert factor_shapes(convolution, Option(tucker=0.5)) == ((4, 8), (8, 36), (16, 8))
    # Half of the inputs, of which the core keeps half; outputs are cut at the end.
    narrow = Option(tucker=0.5, inputs=0.5, outputs=0.25)
    assert factor_shapes(convolution, narrow) == ((2, 4), (8, 18), (4, 8))
    # One channel in gives nine rows at the most.
    few = Layer("f", "Conv2d", (64, 1, 3, 3), 576, 576, 1, (1, 1, 4, 4), (1, 64, 4, 4))
    assert factor_shapes(few, Option(tucker=0.5)) == ((1, 1), (9, 9), (64, 9))
    assert [kernel_index(count) for count in (1, 2, 3)] == [0, 0, 1]
