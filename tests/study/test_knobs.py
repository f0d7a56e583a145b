"""The knobs of a study file: what each changes, and that nothing made under others is reused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autocompress.errors import ConfigError
from autocompress.model.layer import Layer
from autocompress.search_space.option import Option
from autocompress.study.config import Study, load_study
from autocompress.study.events import Silent
from autocompress.study.knobs import Knobs, protected, sparing
from autocompress.study.prepare import Prepared, prepare
from autocompress.study.subject import Model, look, made_from, space_key, trace_model


def with_knobs(folder: Path, text: str) -> Study:
    """The study of a folder with a table `[knobs]` added."""
    with (folder / "study.toml").open("a") as file:
        file.write(f"\n[knobs]\n{text}\n")
    return load_study(folder)


def layer(name: str, reason: str = "") -> Layer:
    return Layer(name, "Linear", (4, 4), 20, 16, 1, (1, 4), (1, 4), reason)


@pytest.fixture
def sized(make_study: Callable[..., Path], tmp_path: Path) -> Callable[[str], Model]:
    """The tiny study's model under some knobs."""
    return lambda text: trace_model(with_knobs(make_study(), text))


def test_calibration_and_share_cut_the_users_inputs(sized: Callable[[str], Model]) -> None:
    whole, part = sized(""), sized("calibration = 200\nsearch_share = 0.4")
    assert [len(whole.cost_inputs[0]), len(whole.search_inputs[0])] == [192, 64]
    assert [len(part.cost_inputs[0]), len(part.search_inputs[0])] == [120, 80]
    assert torch.equal(part.cost_inputs[0], whole.calibration[0][:120])
    assert torch.equal(part.search_inputs[0], whole.calibration[0][120:200])
    assert part.content == whole.content  # the user's model and data are the same


def test_damping_reaches_the_moments(sized: Callable[[str], Model]) -> None:
    assert {s.damping for s in sized("damping = 0.3").statistics.values()} == {0.3}


@pytest.mark.parametrize(
    "text", ["calibration = 200", "search_share = 0.5", "damping = 0.1", 'protect = "first"']
)
def test_a_knob_that_changes_losses_changes_every_key(
    make_study: Callable[..., Path], text: str
) -> None:
    plain, other = load_study(make_study()), with_knobs(make_study(), text)
    first, second = (look(study, Silent()) for study in (plain, other))
    assert space_key(*first) != space_key(*second)
    assert made_from(plain, *first) != made_from(other, *second)


@pytest.mark.parametrize("text", ["explore = 0.9", "swap_examples = 40"])
def test_a_knob_that_steers_only_lets_a_run_go_on(
    make_study: Callable[..., Path], text: str
) -> None:
    plain, other = load_study(make_study()), with_knobs(make_study(), text)
    assert made_from(plain, *look(plain, Silent())) == made_from(other, *look(other, Silent()))


def test_protected_ends_of_what_can_be_treated() -> None:
    layers = [layer("norm", "no matrix"), layer("a"), layer("b"), layer("c")]
    found = {end: protected(layers, end) for end in ("none", "first", "last", "both")}
    assert found == {"none": set(), "first": {"a"}, "last": {"c"}, "both": {"a", "c"}}


def test_protected_layer_keeps_plain_options_of_8_bits_and_more() -> None:
    rejects = sparing(lambda option, layer: "no kernel" if option.bits == 16 else "", {"a"})
    options = [Option(2), Option(8), Option(8, 0.5), Option(8, 0.0, 0.5), Option(16), Option()]
    kept = {
        name: [option.id for option in options if not rejects(option, layer(name))]
        for name in ("a", "b")
    }
    assert kept == {"a": ["w8", "dense"], "b": ["w2", "w8", "w8-s50", "w8-r50", "dense"]}


def prepared(study: Study, folder: Path) -> Prepared:
    return prepare(study, *look(study, Silent()), folder, Silent())


def test_changed_knobs_make_their_own_entries_and_prices(
    make_study: Callable[..., Path], with_device: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = with_device(tmp_path / "run")

    def key() -> str:
        return str(json.loads((folder / "prices.json").read_text())["key"])

    plain, first = prepared(load_study(make_study()), folder), key()
    assert plain.bank.reused == 0

    fewer = prepared(with_knobs(make_study(), "swap_examples = 16"), folder)
    assert fewer.bank.made == 0
    assert fewer.prices.swap_passes <= plain.prices.swap_passes
    assert key() != first

    damped = prepared(with_knobs(make_study(), "damping = 0.5"), folder)
    assert damped.bank.reused == 0
    entry = ("fc1", Option(3))
    assert damped.bank[entry].error != plain.bank[entry].error

    again = prepared(load_study(make_study()), folder)
    assert again.bank.made == 0
    assert key() == first
    assert [len(menu) for menu in again.space.units.values()] == [
        len(menu) for menu in plain.space.units.values()
    ]


def test_protected_menus_are_priced_by_a_device_recorded_without(
    make_study: Callable[..., Path], with_device: Callable[[Path], Path], tmp_path: Path
) -> None:
    found = prepared(with_knobs(make_study(), 'protect = "both"'), with_device(tmp_path / "run"))
    menus = {unit: [option.id for option in menu] for unit, menu in found.space.units.items()}
    assert menus["conv1"] == menus["fc2"] == ["dense", "w8"]
    assert len(menus["fc1"]) > 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "dampening = 1",
            r"study.toml: unknown key 'knobs.dampening'; allowed are calibration, search_share,",
        ),
        ("damping = 0", r"study.toml: key 'knobs.damping': Input should be greater than 0"),
        ('protect = "middle"', r"key 'knobs.protect': Input should be 'none', 'first', 'last' or"),
        ("search_share = 0.9", r"key 'knobs.search_share': Input should be less than or equal to"),
    ],
)
def test_malformed_knobs_name_file_key_and_what_is_allowed(
    make_study: Callable[..., Path], text: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        with_knobs(make_study(), text)


def test_too_few_calibration_examples_name_the_knob(sized: Callable[[str], Model]) -> None:
    with pytest.raises(ConfigError, match=r"calibration = 10: expected 0, .* or at least 32"):
        sized("calibration = 10")


def test_defaults_are_checked_like_what_a_user_writes() -> None:
    assert Knobs.model_validate(Knobs().model_dump()) == Knobs()
