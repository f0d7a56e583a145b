"""Where a goal may stand: in `study.toml`, on the command line, beside a budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import autocompress
from autocompress.errors import ConfigError
from autocompress.model.task import load_task
from autocompress.study.config import Study, load_study

Cli = Callable[..., tuple[int, str, str]]

GOAL = "minimise latency subject to size<=25% and accuracy>=80"


def asked(study: Study) -> tuple[str, dict[str, str]]:
    limits = {name: limit.text for name, limit in study.budget.items()}
    return study.objective.minimise, limits


def test_a_goal_of_the_file_replaces_the_objectives(make_study: Any) -> None:
    study = load_study(make_study({}, goal=GOAL, objective="balanced"))
    assert asked(study) == ("latency", {"size": "25%", "quality": "80"})
    assert study.budget["quality"].is_value
    # The metric has that name only where the file gives it.
    with pytest.raises(
        ConfigError, match="'accuracy'; allowed are size, latency, energy, quality, f1"
    ):
        load_study(make_study({}, goal=GOAL, metric="f1"))


def test_a_budget_of_the_file_adds_to_its_goal(make_study: Any) -> None:
    study = load_study(make_study({"latency": "80%"}, goal="as small as possible within 1pt"))
    assert asked(study) == ("size", {"quality": "-1pt", "latency": "80%"})


def test_a_goal_of_the_command_line_replaces_goal_and_budget_of_the_file(make_study: Any) -> None:
    folder = make_study({"size": "3%", "latency": "9%"}, goal="maximise quality")
    study = load_study(folder, {"goal": GOAL})
    assert asked(study) == ("latency", {"size": "25%", "quality": "80"})
    study = load_study(folder, {"goal": GOAL}, ["latency=50%"])
    assert asked(study)[1] == {"size": "25%", "quality": "80", "latency": "50%"}
    assert study.given_budget == ("latency=50%",)
    assert study.overrides == {"goal": GOAL}
    with pytest.raises(ConfigError, match="budget limits quality as well"):
        load_study(folder, {"goal": GOAL}, ["accuracy>=90"])


def test_a_budget_of_the_command_line_replaces_limits_of_the_files_goal(make_study: Any) -> None:
    study = load_study(make_study({}, goal=GOAL), None, ["size~10%"])
    assert asked(study) == ("latency", {"size": "10%", "quality": "80"})
    assert study.budget["size"].soft


def test_a_front_is_asked_for_by_goal_or_preset(make_study: Any) -> None:
    by_goal = load_study(make_study({}, goal="front of quality, size and latency"))
    by_preset = load_study(make_study({}, objective="pareto"))
    assert by_goal.objective.front == by_preset.objective.front == ("size", "latency")
    assert by_goal.budget == by_preset.budget == {}


def test_settings_that_stop_the_search(make_study: Any) -> None:
    settings = load_study(make_study()).settings
    assert (settings.patience, settings.stop_when_met, settings.workers) == (0, False, 0)
    given = {"patience": 30, "stop_when_met": True, "workers": 2, "goal": None}
    settings = load_study(make_study(), given).settings
    assert (settings.patience, settings.stop_when_met, settings.workers) == (30, True, 2)


def test_a_missed_soft_limit_is_reported_and_the_run_is_good(
    cli: Cli, make_study: Any, with_device: Any, tmp_path: Path
) -> None:
    folder, study = with_device(tmp_path / "run"), make_study({"size": "1%"}, evaluations=6)
    goal = "maximise accuracy subject to size<=60% and latency<=1% (soft)"
    code, out, err = cli("run", study, "--out", folder, "--goal", goal)
    assert code == 0, err
    assert "soft limit on latency missed: 1% was aimed at" in out
    assert "the soft limit latency_ms <=" in out
    assert "is out of reach" in out
    details = json.loads((folder / "details.json").read_text())
    assert any(row["feasible"] for row in details["history"]), "a soft limit made all infeasible"
    assert "budget met, as measured" in out
    result = json.loads((folder / "result.json").read_text())
    assert result["budget_met"] is True
    assert result["budget"]["size"]["met"] is True
    assert (result["budget"]["latency"]["soft"], result["budget"]["latency"]["met"]) == (1, 0)
    assert result["binding"] == "latency"
    assert "(soft)" in (folder / "report.html").read_text()
    # What comes after knows the goal.
    code, out, err = cli("export", folder, "-o", tmp_path / "again.acz")
    assert code == 0, err
    assert result["best"]["candidate"] in out


def test_a_front_without_limits_delivers_its_knee(
    cli: Cli, make_study: Any, with_device: Any, tmp_path: Path
) -> None:
    folder, study = with_device(tmp_path / "run"), make_study({}, evaluations=8)
    code, out, err = cli("run", study, "--out", folder, "--goal", "front of quality and size")
    assert code == 0, err
    assert "no limits to meet" in out
    details = json.loads((folder / "details.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    first = [row["candidate"] for row in details["finalists"] if "than the" not in row["reason"]]
    worse = [row["candidate"] for row in details["finalists"] if "than the" in row["reason"]]
    assert result["best"]["candidate"] == first[0]
    assert details["knee"] in [first[0], *worse], "only what is worse than the original gives way"
    assert (result["budget"], result["budget_met"]) == ({}, True)


def test_the_search_stops_when_all_limits_are_met(
    cli: Cli, make_study: Any, with_device: Any, tmp_path: Path
) -> None:
    folder, study = with_device(tmp_path / "run"), make_study({}, evaluations=60)
    goal = "maximise accuracy subject to size<=50% and accuracy>=-10pt"
    code, out, err = cli("run", study, "--out", folder, "--goal", goal, "--stop-when-met")
    assert code == 0, err
    assert "the budget is met" in out
    assert json.loads((folder / "result.json").read_text())["evaluations"] < 30


def test_an_absolute_floor_that_the_original_misses_is_not_met(
    trained: Path, with_device: Any, tmp_path: Path
) -> None:
    task = load_task(trained)
    result = autocompress.compress(
        task.make_model(),
        calibration=task.make_calibration(),
        example_inputs=task.make_example_inputs(),
        evaluate=task.evaluator,
        goal="maximise accuracy subject to size<=60% and accuracy>=99.99",
        space=str(trained / "space.toml"),
        evaluations=4,
        clock_patience="0.1s",
        out=with_device(tmp_path / "run"),
    )
    assert not result.budget_met
    quality = result.summary["budget"]["quality"]
    assert (quality["limit"], quality["direction"], quality["met"]) == (99.99, "at least", False)
    assert result.summary["binding"] == "quality"
    assert result.summary["budget"]["size"]["met"]
