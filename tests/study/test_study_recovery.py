"""Candidates are trained after the search, measured again, kept, exported; nothing is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import autocompress
from autocompress.compression.recover import Recovered, recover
from autocompress.deploy.archive import read_archive
from autocompress.deploy.restore import load_archive
from autocompress.model.task import load_task
from autocompress.search_space.option import Option

Cli = Callable[..., tuple[int, str, str]]

TRAINING = """

def training() -> list[Tensor]:
    return list(images(4, 1000)[0].split(50))
"""
DISTIL = '\n[recovery]\nmethod = "distil"\nepochs = 12\nlearning_rate = 0.005\n'


def result_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


@pytest.fixture
def taught(make_study: Any) -> Callable[..., Path]:
    """The tiny study with images to train on, and a table of recovery."""

    def make(recovery: str, training: str = TRAINING, **keys: Any) -> Path:
        study: Path = make_study(**keys)
        with (study / "task.py").open("a") as file:
            file.write(training)
        with (study / "study.toml").open("a") as file:
            file.write(recovery)
        return study

    return make


def test_distillation_at_equal_size_is_kept_exported_and_not_done_twice(
    cli: Cli, taught: Any, with_device: Any, tmp_path: Path
) -> None:
    budget = {"size": "9%", "quality": "-20pt"}
    study, folder = taught(DISTIL, budget=budget), with_device(tmp_path / "run")
    code, out, err = cli("run", study, "--out", folder)
    assert code in (0, 3), err
    result = result_of(folder)
    (row,) = result["recovery"]
    assert row["method"] == "distil"
    assert row["steps"] == 12 * 20
    assert row["loss_after"] < row["loss_before"]
    assert row["size_after"] <= max(row["size_before"], result["budget"]["size"]["limit"])
    assert f"recovery (distil) of {row['candidate']}" in out
    assert f"Recovery (distil) of {row['candidate']}" in (folder / "report.html").read_text()
    best = result["best"]["measured"]["selection_quality"]
    assert best >= row["quality_before"]
    plan = json.loads((folder / "plan.json").read_text())
    if plan["recovered"]:
        assert best == row["quality_after"]
        exported = tmp_path / "again.acz"
        code, _, err = cli("export", folder, "-o", exported)
        assert code == 0, err
        assert exported.read_bytes() == (folder / "model.acz").read_bytes()
    (archive,) = (folder / "recovered").glob("*.acz")
    written = archive.stat().st_mtime_ns
    code, out, err = cli("run", study, "--out", folder)
    assert "trained before" in out
    assert archive.stat().st_mtime_ns == written
    again = result_of(folder)
    assert again["recovery"] == [row]
    assert again["best"]["size_bytes"] == result["best"]["size_bytes"]


def test_a_squeeze_reaches_a_size_that_the_search_does_not(
    cli: Cli, taught: Any, with_device: Any, tmp_path: Path
) -> None:
    recovery = '\n[recovery]\nmethod = "squeeze"\nepochs = 12\nlearning_rate = 0.003\n'
    study = taught(recovery, budget={"size": "7%", "quality": "-40pt"})
    folder = with_device(tmp_path / "run")
    code, out, err = cli("run", study, "--out", folder)
    assert code == 0, err + out
    result = result_of(folder)
    (row,) = result["recovery"]
    limit = result["budget"]["size"]["limit"]
    assert row["improved"]
    assert row["size_before"] > limit >= row["size_after"] == result["best"]["size_bytes"]
    archive = read_archive(folder / "model.acz")
    for name, text in archive.options.items():
        option, weights = Option.parse(text), archive.treated[name].weights
        if option.is_identity or weights[0].scale is None:
            continue
        assert option.scales == "tensor"
        zeros = float((weights[0].codes == 0).float().mean())
        assert option.sparsity == pytest.approx(min(0.999, zeros), abs=6e-4)
    # What ships is what was measured.
    task = load_task(study)
    loaded = load_archive(folder / "model.acz", task.model())
    quality = task.evaluate(loaded, "selection")
    assert quality == pytest.approx(result["best"]["measured"]["selection_quality"], abs=1e-9)
    details = json.loads((folder / "details.json").read_text())
    bytes_after = sum(row["bytes_after"] for row in details["layers"] if row["treated"])
    assert bytes_after < limit


def test_short_trainings_decide_who_is_trained_in_full(
    cli: Cli, taught: Any, with_device: Any, tmp_path: Path
) -> None:
    recovery = DISTIL + "trials = 3\n"
    study = taught(recovery, budget={"size": "9%", "quality": "-20pt"})
    folder = with_device(tmp_path / "run")
    code, out, err = cli("run", study, "--out", folder)
    assert code in (0, 3), err
    (row,) = result_of(folder)["recovery"]
    assert row["steps"] == 12 * 20
    trained = {
        candidate: float(loss)
        for candidate, loss in re.findall(r"trial of (\w+): loss \S+, (\d\S*) trained", out)
    }
    assert trained
    assert row["candidate"] == min(trained, key=trained.__getitem__)
    facts = [json.loads(path.read_text()) for path in (folder / "recovered").glob("*.json")]
    assert sorted(fact["steps"] for fact in facts) == [40, 40, 40, 240]


def test_calibration_inputs_serve_where_there_is_no_training(
    cli: Cli, make_study: Any, with_device: Any, tmp_path: Path
) -> None:
    study, folder = make_study(budget={"size": "12%"}), with_device(tmp_path / "run")
    code, out, err = cli(
        "run", study, "--out", folder, "--recover", "distil", "--recover-time", "2s"
    )
    assert code in (0, 3), err
    assert "the task has no training(): 192 calibration inputs are trained on" in out
    (row,) = result_of(folder)["recovery"]
    assert row["loss_after"] <= row["loss_before"]


def test_an_onnx_file_is_trained_without_pressure_on_its_bytes(
    cli: Cli, taught: Any, with_device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeezes = []

    def watched(*arguments: Any) -> Recovered:
        squeezes.append(arguments[5])
        return recover(*arguments)

    monkeypatch.setattr("autocompress.study.training.recover", watched)
    study = taught(DISTIL, budget={"size": "60%", "quality": "-20pt"}, format="onnx")
    (study / "space.toml").write_text("schema = 1\nbits = [4]\n")
    folder = tmp_path / "run"
    code, _, err = cli("run", study, "--out", folder)
    assert code in (0, 3), err
    (row,) = result_of(folder)["recovery"]
    assert squeezes == [None]
    assert row["size_after"] == row["size_before"]
    assert row["loss_after"] < row["loss_before"]


def test_another_version_of_the_training_code_trains_anew(
    cli: Cli, taught: Any, with_device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, folder = taught(DISTIL, budget={"size": "12%"}), with_device(tmp_path / "run")
    assert cli("run", study, "--out", folder)[0] in (0, 3)
    monkeypatch.setattr("autocompress.study.training.TRAINING", ("squeeze",))
    code, out, err = cli("run", study, "--out", folder)
    assert code in (0, 3), err
    assert "trained before" not in out
    assert len(list((folder / "recovered").glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recover", "prune"], "recovery.method"),
        (["--recover", "distil", "--recover-time", "soon"], "duration 'soon'"),
        (["--recover", "squeeze", "--format", "onnx"], 'needs format "archive"'),
    ],
)
def test_settings_that_cannot_work_are_refused(
    cli: Cli, make_study: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, _, err = cli("run", make_study(), "--out", tmp_path / "run", *arguments)
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_squeeze_needs_a_limit_on_size(cli: Cli, make_study: Any, tmp_path: Path) -> None:
    study = make_study(budget={"latency": "100%"})
    code, _, err = cli("run", study, "--out", tmp_path / "run", "--recover", "squeeze")
    assert code == 2
    assert "add one, such as size=2%" in err


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return (x for x in [images(4, 50)[0]])", "training() must give batches that have"),
        ("raise OSError('no disk')", "training() raised OSError: no disk"),
        ("return [torch.zeros(4, 3, 8, 8)]", "does not take a batch of shape (4, 3, 8, 8)"),
    ],
)
def test_training_inputs_that_do_not_work_are_named(
    cli: Cli, taught: Any, with_device: Any, tmp_path: Path, body: str, message: str
) -> None:
    study = taught(DISTIL, f"\n\ndef training():\n    {body}\n", budget={"size": "12%"})
    code, _, err = cli("run", study, "--out", with_device(tmp_path / "run"))
    assert code == 2
    assert message in err


def test_python_gives_training_inputs_as_objects(trained: Path, tmp_path: Path) -> None:
    task = load_task(trained)
    x = task.calibration()[0]
    result = autocompress.compress(
        task.model(),
        calibration=x,
        example_inputs=x[:1],
        evaluate=task.evaluator,
        training=list(x[:128].split(32)),
        recovery={"method": "distil", "epochs": 2},
        budget={"size": "12%"},
        evaluations=6,
        space=str(trained / "space.toml"),
        objective=str(trained / "objective.toml"),
        clock_patience="0.1s",
        out=tmp_path / "run",
    )
    (row,) = result.summary["recovery"]
    assert row["steps"] == 8
    with torch.no_grad():
        assert result.best.model(x[:2]).shape == (2, 6)
