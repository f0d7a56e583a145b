from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.errors import ConfigError
from autocompress.objective.audit import audit_proxy
from autocompress.objective.budget import Limit, budget_from, parse_budget, parse_limit
from autocompress.objective.preset import FOLDER, ObjectivePreset, load_objective
from autocompress.toml import presets


@pytest.mark.parametrize(
    ("name", "text", "value", "is_relative"),
    [
        ("size", "25%", 0.25, True),
        ("size", "12.5 %", 0.125, True),
        ("size", "500 B", 500, False),
        ("size", "2kB", 2e3, False),
        ("size", "2 KB", 2e3, False),
        ("size", "1.5 MB", 1.5e6, False),
        ("size", "1GB", 1e9, False),
        ("size", "3 KiB", 3072, False),
        ("size", " 2 MiB ", 2 * 2**20, False),
        ("latency", "50%", 0.5, True),
        ("latency", "3 ms", 3, False),
        ("latency", "250us", 0.25, False),
        ("latency", "0.5 s", 500, False),
        ("quality", "-0.5pt", -0.5, False),
        ("quality", "0.5 pt", 0.5, False),
        ("quality", "-2", -2, False),
        ("quality", "0pt", 0, False),
        ("quality", "-1%", -0.01, True),
    ],
)
def test_every_form_of_a_limit(name: str, text: str, value: float, is_relative: bool) -> None:
    limit = parse_limit(name, text)
    assert limit == Limit(name, text.strip(), limit.value, is_relative)
    assert limit.value == pytest.approx(value)
    assert parse_budget([f"{name}={text}"]) == budget_from({name: text}) == {name: limit}


@pytest.mark.parametrize(
    ("text", "original", "higher", "bound"),
    [
        ("size=25%", 1000, False, 250),
        ("size=2 kB", 1000, False, 2000),
        ("latency=50%", 8, True, 4),
        ("latency=3 ms", 8, False, 3),
        # Points: of an accuracy, and of an error or a loss.
        ("quality=-0.5pt", 98.0, True, 97.5),
        ("quality=0.5pt", 98.0, True, 97.5),
        ("quality=-0.5pt", 2.0, False, 2.5),
        ("quality=-1%", 98.0, True, 97.02),
        ("quality=-10%", 2.0, False, 2.2),
        # Metrics below zero, such as a log-likelihood: a share is still a loss.
        ("quality=-10%", -50.0, True, -55.0),
        ("quality=-10%", -50.0, False, -45.0),
        ("quality=0pt", 98.0, True, 98.0),
    ],
)
def test_bounds(text: str, original: float, higher: bool, bound: float) -> None:
    (limit,) = parse_budget([text]).values()
    assert limit.bound(original, higher) == pytest.approx(bound)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed=2", "budget speed=2: unknown limit 'speed'; allowed are size, latency, quality"),
        ("size=25", r"expected a number and a unit \(%, B, kB, KB, MB, GB, KiB, MiB\)"),
        ("size=", "budget size=: expected a number and a unit"),
        ("size=2 ms", "expected a number and a unit"),
        ("size=2 mb", "expected a number and a unit"),
        ("size=two MB", "expected a number and a unit"),
        ("size=1 2 MB", "expected a number and a unit"),
        ("size=nan%", "expected a number and a unit"),
        ("latency=3 MB", r"expected a number and a unit \(%, us, ms, s\)"),
        ("quality=-1 dB", r"expected a number and a unit \(%, pt\)"),
        ("size=-25%", "must be greater than zero"),
        ("size=0 B", "must be greater than zero"),
        ("latency=0ms", "must be greater than zero"),
        ("quality=+0.5pt", "says how much may be lost, such as -0.5pt"),
        ("size", "budget 'size': expected NAME=VALUE, such as size=25%"),
    ],
)
def test_anything_else_says_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_budget([text])


def test_a_limit_given_twice_is_an_error_and_several_keep_their_order() -> None:
    with pytest.raises(ConfigError, match="'size' is given twice"):
        parse_budget(["size=25%", "latency=1ms", "size=2MB"])
    assert list(parse_budget(["quality=-1pt", "size = 25%"])) == ["quality", "size"]


@pytest.mark.parametrize("name", sorted(presets(FOLDER)))
def test_every_shipped_objective_loads(name: str) -> None:
    preset, file = load_objective(name)
    assert file.endswith(f"{name}.toml")
    assert preset.description
    assert "quality" in preset.limits()
    # What is made small is not limited as well.
    assert preset.minimise not in preset.limits() or preset.minimise == "quality"


def test_the_shipped_objectives_are_known() -> None:
    assert sorted(presets(FOLDER)) == ["balanced", "fastest", "smallest"]
    limits = load_objective("balanced")[0].limits()
    assert limits["size"].bound(1000) == 250
    assert limits["quality"].bound(90, higher_is_better=True) == 89.5
    assert ObjectivePreset().limits() == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minimise = 'size'", "key 'schema' is missing"),
        ("schema = 1\nminimize = 'size'", "unknown key 'minimize'; allowed are schema"),
        ("schema = 1\nminimise = 'energy'", "key 'minimise'.*'quality', 'size' or 'latency'"),
        ("schema = 1\nproxy = 'l1'", "key 'proxy'.*'kl' or 'mse'"),
        ("schema = 1\nfinalists = 0", "key 'finalists'.*greater than or equal to 1"),
        ("schema = 1\nsize = '25'", "budget size=25: expected a number and a unit"),
        ("schema = 1\nquality = '+1pt'", "says how much may be lost"),
    ],
)
def test_a_malformed_objective_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_objective("mine.toml", tmp_path)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="no preset 'mine'; there are balanced, fastest"):
        load_objective("mine")


def test_a_perfect_proxy_ranks_as_the_metric_and_has_no_regret() -> None:
    audit = audit_proxy([0.1, 0.2, 0.4], [99.0, 98.0, 90.0], higher_is_better=True)
    assert audit.spearman == pytest.approx(1)
    assert audit.regret == 0
    audit = audit_proxy([0.1, 0.2, 0.4], [1.0, 2.0, 9.0], higher_is_better=False)
    assert audit.spearman == pytest.approx(1)
    assert audit.regret == 0


def test_a_proxy_that_chooses_wrongly_has_regret() -> None:
    # Ranks 1 2 3 4 against 2 1 3 4: 1 - 6 * 2 / (4 * 15).
    audit = audit_proxy([1, 2, 3, 4], [97.0, 98.5, 96.0, 95.0], higher_is_better=True)
    assert audit.spearman == pytest.approx(0.8)
    assert audit.regret == pytest.approx(1.5)
    audit = audit_proxy([1, 2, 3], [3.0, 2.0, 1.0], higher_is_better=False)
    assert audit.spearman == pytest.approx(-1)
    assert audit.regret == pytest.approx(2)


@pytest.mark.parametrize(
    ("losses", "qualities"), [([1, 2], [9, 8]), ([1, 2, 3], [5, 5, 5]), ([2, 2, 2], [1, 2, 3])]
)
def test_no_rank_correlation_where_there_is_nothing_to_rank(
    losses: list[float], qualities: list[float]
) -> None:
    audit = audit_proxy(losses, qualities, higher_is_better=True)
    assert audit.spearman is None
    assert audit.regret >= 0
