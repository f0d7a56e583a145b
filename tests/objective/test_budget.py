from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.errors import ConfigError
from autocompress.objective.audit import audit_proxy
from autocompress.objective.budget import (
    Limit,
    Metric,
    budget_from,
    parse_budget,
    parse_limit,
)
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
        ("energy", "40%", 0.4, True),
        ("energy", "500 uJ", 0.5, False),
        ("energy", "20µJ", 0.02, False),
        ("energy", "3 mJ", 3, False),
        ("energy", "1.5 J", 1500, False),
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


ACCURACY = Metric("accuracy", higher_is_better=True)
ERROR = Metric("error", higher_is_better=False)


@pytest.mark.parametrize(
    ("text", "metric", "limit"),
    [
        ("size<=25%", ACCURACY, Limit("size", "25%", 0.25, True)),
        ("size <= 2 MB", ACCURACY, Limit("size", "2 MB", 2e6, False)),
        ("size~25%", ACCURACY, Limit("size", "25%", 0.25, True, soft=True)),
        ("size<=25% (soft)", ACCURACY, Limit("size", "25%", 0.25, True, soft=True)),
        ("size=25%( soft )", ACCURACY, Limit("size", "25%", 0.25, True, soft=True)),
        ("latency<=3ms", ERROR, Limit("latency", "3ms", 3, False)),
        ("quality>=-0.5pt", ACCURACY, Limit("quality", "-0.5pt", -0.5, False)),
        ("quality>=-0.5 points", ACCURACY, Limit("quality", "-0.5 points", -0.5, False)),
        ("quality>=-1point", ACCURACY, Limit("quality", "-1point", -1, False)),
        ("quality~-1%", ACCURACY, Limit("quality", "-1%", -0.01, True, soft=True)),
        ("accuracy>=98.5", ACCURACY, Limit("quality", "98.5", 98.5, False, True)),
        ("quality>=98.5", ACCURACY, Limit("quality", "98.5", 98.5, False, True)),
        ("quality ~ 98.5", ACCURACY, Limit("quality", "98.5", 98.5, False, True, True)),
        ("accuracy=-1%", ACCURACY, Limit("quality", "-1%", -0.01, True)),
        # A metric that is to be small: what is lost is added to it.
        ("error<=2.5", ERROR, Limit("quality", "2.5", 2.5, False, True)),
        ("quality<=2.5", ERROR, Limit("quality", "2.5", 2.5, False, True)),
        ("error<=+0.5pt", ERROR, Limit("quality", "+0.5pt", 0.5, False)),
        ("error<=+10%", ERROR, Limit("quality", "+10%", 0.1, True)),
        ("quality>=-0.5pt", ERROR, Limit("quality", "-0.5pt", -0.5, False)),
    ],
)
def test_limits_with_a_sign_of_comparison(text: str, metric: Metric, limit: Limit) -> None:
    found = parse_budget([text], metric)[limit.name]
    assert found == replace(limit, value=found.value)
    assert found.value == pytest.approx(limit.value)
    name, sign = re.match(r"(\w+) ?(.*)", text).groups()  # type: ignore[union-attr]
    assert budget_from({name: sign}, metric) == {limit.name: found}


@pytest.mark.parametrize(
    ("text", "metric", "message"),
    [
        ("size>=25%", ACCURACY, "budget size>=25%: size is made small; write size<=25%"),
        ("latency>=3ms", ACCURACY, "latency is made small; write latency<=3ms"),
        ("size<25%", ACCURACY, "the sign must be one of <=, >=, = and ~"),
        ("size==25%", ACCURACY, "the sign must be one of"),
        ("size~25", ACCURACY, r"budget size~25: expected a number and a unit"),
        ("accuracy<=98", ACCURACY, "accuracy is better when large: write >="),
        ("error>=2", ERROR, "error is better when small: write <="),
        ("error<=-0.5pt", ERROR, r"how much may be lost, such as \+0.5pt"),
        ("accuracy>=+1pt", ACCURACY, "how much may be lost, such as -0.5pt"),
        # Could be the metric's value as well as what may be lost.
        ("quality=98.5", ACCURACY, "write quality>=98.5 for the value .* quality>=-98.5pt for"),
        ("quality>=0.5pt", ACCURACY, "write quality>=0.5 for the value .* quality>=-0.5pt for"),
        ("accuracy>=99%", ACCURACY, "write accuracy>=99 for the value .* quality>=-99% for"),
        ("quality>=-1", ACCURACY, "quality>=-1pt for what may be lost"),
        ("error=3", ERROR, "write error<=3 for the value"),
        (
            "error>=-0.5pt",
            ACCURACY,
            "'error'; allowed are size, latency, energy, quality, accuracy",
        ),
        ("accuracy>=98", Metric(), "'accuracy'; allowed are size, latency, energy, quality$"),
    ],
)
def test_a_wrong_sign_says_what_to_write(text: str, metric: Metric, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_budget([text], metric)


def test_both_names_of_quality_are_one_limit() -> None:
    with pytest.raises(ConfigError, match="'quality' is given twice"):
        parse_budget(["quality=-1pt", "accuracy>=98"], ACCURACY)
    with pytest.raises(ConfigError, match="'quality' is given twice"):
        budget_from({"quality": "-1pt", "accuracy": ">=98"}, ACCURACY)
    # A metric cannot take the name of another limit.
    assert parse_budget(["size<=2MB"], Metric("size"))["size"].name == "size"


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
        ("quality~97", 98.0, True, 97.0),
        ("quality~97", 98.0, False, 97.0),
    ],
)
def test_bounds(text: str, original: float, higher: bool, bound: float) -> None:
    (limit,) = parse_budget([text]).values()
    assert limit.bound(original, higher) == pytest.approx(bound)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "speed=2",
            "budget speed=2: unknown limit 'speed'; allowed are size, latency, energy, quality",
        ),
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
    assert preset.front or "quality" in preset.limits()
    # What is made small is not limited as well.
    assert preset.minimise not in preset.limits() or preset.minimise == "quality"


def test_the_shipped_objectives_are_known() -> None:
    assert sorted(presets(FOLDER)) == ["balanced", "fastest", "pareto", "smallest"]
    limits = load_objective("balanced")[0].limits()
    assert limits["size"].bound(1000) == 250
    assert limits["quality"].bound(90, higher_is_better=True) == 89.5
    assert ObjectivePreset().limits() == load_objective("pareto")[0].limits() == {}
    assert load_objective("pareto")[0].front == ("size", "latency")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minimise = 'size'", "key 'schema' is missing"),
        ("schema = 1\nminimize = 'size'", "unknown key 'minimize'; allowed are schema"),
        ("schema = 1\nminimise = 'energy'", "key 'minimise'.*'quality', 'size' or 'latency'"),
        ("schema = 1\nproxy = 'l1'", "key 'proxy'.*'kl', 'mse' or 'task'"),
        ("schema = 1\nfront = ['energy']", "key 'front.0'.*'size' or 'latency'"),
        ("schema = 1\nfront = 'size'", "key 'front'.*'size'"),
        ("schema = 1\nfront = ['size', 'size']", "key 'front'.*twice"),
        ("schema = 1\nfront = ['size']\nminimise = 'latency'", "must be 'quality'.*'latency'"),
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
