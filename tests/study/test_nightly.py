"""Nights are compared with the baseline: what moved, by how much and why."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from night_studies import DEVICE, STUDY, make_studies, one_night
from safetensors.torch import load_file, save_file

from autocompress.errors import ConfigError, StorageError
from autocompress.report.night_files import write_night
from autocompress.study.accepted import read_accepted
from autocompress.study.diff import diff_runs
from autocompress.study.nightly import (
    Night,
    all_verdicts,
)
from autocompress.study.verdict import headline

Cli = Callable[..., tuple[int, str, str]]


def train_briefly(folder: Path) -> None:
    """Weights of the same net after one pass over the images instead of twelve."""
    names: dict[str, Any] = {"__file__": str(folder / "task.py"), "__name__": "brief"}
    exec((folder / "task.py").read_text(), names)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = names["Net"]()
        x, y = names["images"](4, 2000)
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
        for rows in torch.arange(len(x)).split(100):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    save_file(net.state_dict(), folder / "net.safetensors")


def damage(folder: Path) -> None:
    """Drowns one layer's weights in noise."""
    state = load_file(folder / "net.safetensors")
    weight = state["conv2.weight"]
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    save_file({**state, "conv2.weight": weight + 1.5 * weight.std() * noise}, folder / "x")
    (folder / "x").replace(folder / "net.safetensors")


@pytest.fixture(scope="module")
def nights(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Night by night, and what was accepted after each; not to be written to."""
    studies = make_studies(trained, tmp_path_factory.mktemp("nights"))
    folder, out = studies / "tiny", studies.parent / "out"
    good = (folder / "net.safetensors").read_bytes()
    found: dict[str, Any] = {"out": out, "studies": studies, "accepted": {}}

    def night(name: str, **more: Any) -> None:
        found[name] = one_night(studies, out, **more)
        found["accepted"][name] = read_accepted(out, "tiny")

    train_briefly(folder)
    night("first")
    night("unchanged")
    (folder / "net.safetensors").write_bytes(good)
    night("better")
    damage(folder)
    night("damaged")
    write_night(found["damaged"])
    found["junit"] = (out / "junit.xml").read_text()
    found["markdown"] = (out / "nightly.md").read_text()
    (folder / "net.safetensors").write_bytes(good)
    (folder / "device.toml").write_text(DEVICE.format(int8=1.5))
    night("slower")
    (folder / "device.toml").write_text(DEVICE.format(int8=4.0))
    (folder / "study.toml").write_text(STUDY.format(size="24%"))
    night("asked")
    night("taken", accept=True)
    write_night(found["taken"])
    return found


def study_of(night: Night) -> dict[str, Any]:
    (study,) = night.studies
    return dict(study)


def kinds(night: Night) -> list[str]:
    return [cause["kind"] for cause in study_of(night)["causes"]]


def worse_in(night: Night) -> set[str]:
    return {f["name"] for f in study_of(night)["figures"] if f["grade"] == "worse"}


def test_the_first_night_is_the_baseline(nights: dict[str, Any]) -> None:
    night = nights["first"]
    assert (study_of(night)["verdict"], night.exit_code) == ("baseline", 0)
    accepted = nights["accepted"]["first"]
    assert accepted["run"] == accepted["baseline"] == f"tiny/{night.name}"
    assert (nights["out"] / accepted["plan"]).is_file()
    assert (nights["out"] / accepted["model"]).name == "model.acz"


def test_an_unchanged_model_is_the_same(nights: dict[str, Any]) -> None:
    night = nights["unchanged"]
    assert (study_of(night)["verdict"], night.exit_code) == ("same", 0)
    assert kinds(night) == ["search"]
    assert nights["accepted"]["unchanged"]["run"] == f"tiny/{night.name}"
    # What the night is held to does not move with it.
    assert nights["accepted"]["unchanged"]["baseline"] == nights["accepted"]["first"]["run"]


def test_an_unchanged_model_costs_no_second_bank(nights: dict[str, Any]) -> None:
    first, second = (nights["out"] / "tiny" / nights[n].name for n in ("first", "unchanged"))
    entries = {path.name: path.stat().st_ino for path in (first / "bank").iterdir()}
    assert entries == {path.name: path.stat().st_ino for path in (second / "bank").iterdir()}
    notes = (second / "log.jsonl").read_text()
    assert f"bank: {len(entries)} of {len(entries)} entries reused" in notes
    assert "prices: reused" in notes


def test_better_weights_are_better(nights: dict[str, Any]) -> None:
    night = nights["better"]
    assert (study_of(night)["verdict"], night.exit_code) == ("better", 0)
    assert "quality" in {f["name"] for f in study_of(night)["figures"] if f["grade"] == "better"}
    assert kinds(night) == ["model"]
    accepted = nights["accepted"]["better"]
    assert accepted["run"] == accepted["baseline"] == f"tiny/{night.name}"


def test_a_damaged_layer_is_named(nights: dict[str, Any]) -> None:
    night = nights["damaged"]
    assert (study_of(night)["verdict"], night.exit_code) == ("worse", 4)
    assert "quality" in worse_in(night)
    (cause,) = study_of(night)["causes"]
    assert cause["kind"] == "model"
    assert "weights of conv2 (by about" in cause["text"]
    (layer,) = cause["details"]["layers"]
    # The noise has 1.5 times the weights' spread; a sketch is right to some percent.
    assert layer == {"layer": "conv2", "change": pytest.approx(1.5, rel=0.15)}
    assert nights["accepted"]["damaged"] == nights["accepted"]["better"]
    assert night.as_dict()["exit_code"] == 4


def test_a_slower_device_is_the_cause(nights: dict[str, Any]) -> None:
    night = nights["slower"]
    assert (study_of(night)["verdict"], night.exit_code) == ("worse", 4)
    assert "latency" in " ".join(worse_in(night))
    assert kinds(night) == ["device"]
    cause = study_of(night)["causes"][0]
    assert cause["text"].startswith("device table slower")
    # 4 against 1.5 multiply-adds in the same time.
    ratios = {row["ratio"] for row in cause["details"]["operations"]}
    assert max(ratios) == pytest.approx(4 / 1.5)
    assert all("-a8" in row["option"] for row in cause["details"]["operations"])
    assert nights["accepted"]["slower"] == nights["accepted"]["better"]


def test_a_changed_study_asks_for_a_new_baseline(nights: dict[str, Any]) -> None:
    night = nights["asked"]
    study = study_of(night)
    assert (study["verdict"], night.exit_code) == ("new baseline needed", 1)
    assert study["changed"] == [{"key": "budget.size", "before": "25%", "after": "24%"}]
    assert not study["figures"]
    assert "--accept" in headline(study)
    assert nights["accepted"]["asked"] == nights["accepted"]["better"]


def test_what_is_accepted_is_the_new_baseline(nights: dict[str, Any]) -> None:
    night = nights["taken"]
    assert (study_of(night)["verdict"], night.exit_code) == ("new baseline needed", 0)
    accepted = nights["accepted"]["taken"]
    assert accepted["run"] == accepted["baseline"] == f"tiny/{night.name}"


def test_junit_and_markdown_say_what_got_worse(nights: dict[str, Any]) -> None:
    root = ElementTree.fromstring(nights["junit"])
    suite = root.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "1", "0")
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "conv2" in failure.get("message", "")
    assert "| tiny | **worse** | " in nights["markdown"]
    assert "weights of conv2" in nights["markdown"]


def test_the_trend_shows_every_night(nights: dict[str, Any]) -> None:
    page = (nights["out"] / "trend.html").read_text()
    verdicts = all_verdicts(nights["out"])
    assert [row["verdict"] for row in verdicts] == [
        "baseline",
        "same",
        "better",
        "worse",
        "worse",
        "new baseline needed",
        "new baseline needed",
    ]
    assert all(row["night"] in page for row in verdicts)
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    data = re.findall(r'<script type="application/json" id="s0-(\w+)-data">(.*?)</script>', page)
    assert [name for name, _ in data] == ["quality", "size_bytes", "latency_ratio", "hypervolume"]
    quality = json.loads(data[0][1])["data"]
    # The line goes through what was accepted; a mark of its own for each verdict.
    assert len(quality[0]["x"]) == sum(row["accepted"] for row in verdicts) == 4
    marks = {trace["name"]: len(trace["x"]) for trace in quality[1:]}
    assert marks == {
        "baseline": 1,
        "same": 1,
        "better": 1,
        "worse": 2,
        "new baseline needed": 2,
    }


def test_diff_names_what_moved(cli: Cli, nights: dict[str, Any], tmp_path: Path) -> None:
    good, bad, slow = (
        nights["out"] / "tiny" / nights[name].name for name in ("better", "damaged", "slower")
    )
    code, out, err = cli("diff", good, bad, "--json", tmp_path / "diff.json")
    assert code == 0, err
    assert "conv2" in out
    found = json.loads((tmp_path / "diff.json").read_text())
    weights = {row["name"]: row["weights"] for row in found["layers"]}
    assert [name for name, change in weights.items() if change] == ["conv2"]
    assert weights["conv2"] == pytest.approx(1.5, rel=0.15)
    assert (found["settings"], found["versions"], found["operations"]) == ([], [], [])
    options = {row["name"]: row["option"] for row in found["layers"]}
    for place, run in enumerate((good, bad)):
        plan = json.loads((run / "plan.json").read_text())["choices"]
        assert plan == {name: pair[place] for name, pair in options.items() if name in plan}
    # The same weights: only times have moved.
    found = diff_runs(good, slow)
    assert {row["weights"] for row in found["layers"]} == {0.0}
    assert found["operations"]
    moved = [row for row in found["layers"] if row["moved"]]
    assert moved
    assert all(row["bytes"][0] == row["bytes"][1] for row in moved)


def test_of_a_run_itself_nothing_has_moved(nights: dict[str, Any]) -> None:
    run = nights["out"] / "tiny" / nights["better"].name
    found = diff_runs(run, run)
    assert not any(row["moved"] for row in found["layers"])
    assert {figure["grade"] for figure in found["figures"]} <= {"same", ""}
    assert [cause["kind"] for cause in found["causes"]] == ["search"]


def test_nights_may_not_drift_and_a_baseline_can_be_named(
    nights: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    """The night before was as bad as this one; the baseline was not."""
    studies = make_studies(trained, tmp_path)
    train_briefly(studies / "tiny")
    out = shutil.copytree(nights["out"], tmp_path / "out")
    runs = {name: f"tiny/{nights[name].name}" for name in ("first", "better")}
    accepted = {"run": runs["first"], "baseline": runs["better"]}
    (out / "tiny" / "accepted").write_text(json.dumps(accepted))
    night = one_night(studies, out)
    assert (study_of(night)["verdict"], night.exit_code) == ("worse", 4)
    assert "than the baseline" in study_of(night)["notes"][0]
    assert study_of(night)["compared_with"] == runs["better"]
    night = one_night(studies, out, baselines=[out / runs["first"]])
    assert (study_of(night)["verdict"], night.exit_code) == ("same", 0)
    found = read_accepted(out, "tiny")
    assert found is not None
    assert found["baseline"] == runs["first"]
    assert found["run"] == f"tiny/{night.name}"


def test_bad_usage(cli: Cli, nights: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no study folder"):
        one_night(tmp_path / "empty", tmp_path / "out")
    run = nights["out"] / "tiny" / nights["first"].name
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "study.toml").write_text("schema = 1\n")
    with pytest.raises(ConfigError, match="is a run of 'tiny'; the studies are other"):
        one_night(tmp_path / "other", tmp_path / "out", baselines=[run])
    with pytest.raises(StorageError, match="not a run directory"):
        one_night(tmp_path / "other", tmp_path / "out", baselines=[tmp_path])
    code, _, err = cli("nightly", tmp_path / "empty", "--out", tmp_path / "out")
    assert code == 2
    assert "holds no study folder" in err
    code, _, err = cli("diff", run, tmp_path)
    assert code == 2
    assert "not a run directory" in err
