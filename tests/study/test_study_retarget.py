"""A new budget on a finished run: answered from what is known, measured, written, recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autocompress.deploy.archive import read_archive
from autocompress.deploy.restore import load_archive
from autocompress.model.task import load_task
from autocompress.study.storage import load_records

Cli = Callable[..., tuple[int, str, str]]


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_new_budget_is_answered_and_recorded(cli: Cli, run_copy: Path, trained: Path) -> None:
    before = load_records(run_copy / "study.journal")
    kept = (run_copy / "result.json").read_bytes()
    code, out, err = cli("retarget", run_copy, "--budget", "size=18%")
    assert code == 0, err
    assert "budget met, as measured" in out
    folder = run_copy / "retargeted"
    result = read(one(folder, "*.result.json"))
    best, budget = result["best"], result["budget"]
    assert result["budget_met"]
    assert result["binding"] is None
    # The limit that was not named stays.
    assert (budget["size"]["text"], budget["quality"]["text"]) == ("18%", "-5pt")
    assert best["size_bytes"] <= budget["size"]["limit"] < 0.19 * result["original"]["size_bytes"]
    assert best["measured"]["quality"] >= budget["quality"]["limit"]
    # The file is what was measured.
    model = one(folder, "*.acz")
    assert model.stat().st_size == best["size_bytes"]
    assert model.stem == best["candidate"]
    task = load_task(trained)
    loaded = load_archive(model, task.model())
    assert task.evaluate(loaded, "selection") == pytest.approx(best["quality"])
    plan = read(one(folder, "*.plan.json"))
    assert plan["candidate"] == best["candidate"]
    assert read_archive(model).options == plan["choices"]
    # What was found is in the journal; the run's own result stays.
    after = load_records(run_copy / "study.journal")
    assert [record.id for record in after][: len(before)] == [record.id for record in before]
    assert len(after) == len(before) + result["evaluations"]
    assert best["candidate"] in {record.id for record in after}
    assert (run_copy / "result.json").read_bytes() == kept
    assert read(run_copy / "run.json")["finished"]
    assert (
        cli("export", run_copy, "-o", run_copy / "x.acz", "--candidate", best["candidate"])[0] == 0
    )
    assert torch.equal(
        load_archive(run_copy / "x.acz", task.model())(task.example_inputs()[0]),
        loaded(task.example_inputs()[0]),
    )


def test_asked_again_nothing_is_measured_twice(cli: Cli, run_copy: Path) -> None:
    assert cli("retarget", run_copy, "--budget", "size=18%")[0] == 0
    first = load_records(run_copy / "study.journal")
    best = read(one(run_copy / "retargeted", "*.result.json"))["best"]
    assert cli("retarget", run_copy, "--budget", "size=18%")[0] == 0
    second = load_records(run_copy / "study.journal")
    assert len({record.id for record in second}) == len(second)
    again = read(
        max((run_copy / "retargeted").glob("*.result.json"), key=lambda p: p.stat().st_mtime)
    )
    # Which of the best few is delivered, metric and clock decide: it may be another one.
    known = {record.id for record in second}
    assert {best["candidate"], again["best"]["candidate"]} <= known
    assert again["budget_met"]
    assert [record.id for record in second[: len(first)]] == [record.id for record in first]


def test_out_of_reach_says_which_limit_binds(cli: Cli, run_copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.onnx"
    code, out, err = cli("retarget", run_copy, "--budget", "size=1%", "--out", file)
    assert code == 3, err
    assert "budget not met: the limit on size binds" in " ".join(out.split())
    result = read(tmp_path / "small.result.json")
    assert (result["budget_met"], result["binding"]) == (False, "size")
    assert file.is_file()


def test_a_goal_replaces_what_the_run_was_after(cli: Cli, run_copy: Path) -> None:
    goal = "as small as possible within 6 points"
    code, out, err = cli("retarget", run_copy, "--goal", goal)
    assert code == 0, err
    result = read(one(run_copy / "retargeted", "*.result.json"))
    assert list(result["budget"]) == ["quality"]
    assert result["best"]["size_bytes"] < read(run_copy / "result.json")["best"]["size_bytes"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--budget", "--goal"]),
        (["--budget", "weight=3%"], ["'weight'", "size, latency, energy, quality"]),
        (["--budget", "size=20%", "--out", "model.txt"], ["'.txt'", "onnx", "archive"]),
        (["--goal", "make it nice"], ["make it nice"]),
    ],
)
def test_mistakes(cli: Cli, run_copy: Path, arguments: list[str], words: list[str]) -> None:
    code, _, err = cli("retarget", run_copy, *arguments)
    assert code == 2, err
    for word in words:
        assert word in err
    assert not (run_copy / "retargeted").exists()


def test_a_folder_without_a_run(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("retarget", tmp_path, "--budget", "size=20%")
    assert code == 2
    assert "not a run directory" in err
