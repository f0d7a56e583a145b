"""Every sampler, objective and storage format runs from end to end and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import autocompress
from autocompress.model.task import load_task
from autocompress.search_space.option import Option
from autocompress.study.storage import load_records

Cli = Callable[..., tuple[int, str, str]]


def result_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "random"])
def test_sampler_runs_and_goes_on(
    cli: Cli, make_study: Any, with_device: Any, tmp_path: Path, sampler: str
) -> None:
    study, folder = make_study(budget={"size": "90%"}), with_device(tmp_path / "run")
    arguments = ("run", study, "--out", folder, "--sampler", sampler, "--evaluations")
    code, _, err = cli(*arguments, 6)
    assert code in (0, 3), err
    first = [record.id for record in load_records(folder / "study.journal")]
    assert len(set(first)) == len(first) == 6
    code, _, err = cli(*arguments, 9)
    assert code in (0, 3), err
    records = load_records(folder / "study.journal")
    assert [record.id for record in records][:6] == first
    assert len({record.id for record in records}) == len(records) == 9
    assert result_of(folder)["evaluations"] == 9


def test_smallest_is_as_small_as_quality_allows(
    cli: Cli, make_study: Any, with_device: Any, tmp_path: Path, finished: tuple[Path, Any]
) -> None:
    study = make_study(budget={"quality": "-6pt"})
    (study / "objective.toml").write_text('schema = 1\nminimise = "size"\n')
    folder = with_device(tmp_path / "run")
    code, out, err = cli("run", study, "--out", folder, "--evaluations", 24)
    assert code in (0, 3), err
    assert "the metric bears a proxy loss of" in out
    result = result_of(folder)
    chosen = result["best"]["measured"]["selection_quality"]
    task = load_task(study)
    assert chosen >= task.evaluate(task.model(), "selection") - 6
    # Less than what the same space gives at a quarter of the size.
    assert result["best"]["size_bytes"] < 0.8 * result_of(finished[0])["best"]["size_bytes"]
    trials = pd.read_parquet(folder / "trials.parquet")
    assert trials["candidate"].is_unique


def test_fastest_preset_ends_with_a_point_that_is_not_slower(
    cli: Cli, make_study: Any, tmp_path: Path
) -> None:
    study = make_study(objective="fastest", budget={"quality": "-6pt"}, evaluations=8)
    text = 'schema = 1\nbits = [8, 16]\nrank = [1.0, 0.5]\nactivations = ["float32", "int8"]\n'
    (study / "space.toml").write_text(text)
    folder = tmp_path / "run"
    code, out, err = cli("run", study, "--out", folder)
    assert code in (0, 3), err
    result = result_of(folder)
    assert set(result["budget"]) == {"size", "quality"}, "the preset's own limit on size holds"
    assert result["best"]["size_bytes"] <= result["original"]["size_bytes"]
    if result["best"]["candidate"] != "original":
        measured = result["best"]["measured"]
        # What runs the same operations is delivered whatever the clock says of them.
        assert measured["same_work"] or measured["latency_ratio"][0] <= 1
        assert (folder / "model.onnx").is_file()
    else:
        assert code == 3


def test_onnx_is_what_ships(cli: Cli, make_study: Any, tmp_path: Path) -> None:
    study = make_study(format="onnx", budget={"size": "70%", "quality": "-10pt"}, evaluations=8)
    text = 'schema = 1\nbits = [8, 16]\nactivations = ["float32", "int8"]\n'
    (study / "space.toml").write_text(text)
    folder = tmp_path / "run"
    code, _, err = cli("run", study, "--out", folder)
    assert code in (0, 3), err
    result = result_of(folder)
    best = result["best"]
    if best["candidate"] == "original":
        pytest.skip("the clock found every candidate slower than the original")
    size = (folder / "model.onnx").stat().st_size
    assert best["size_bytes"] == best["measured"]["size_bytes"] == size
    assert abs(best["predicted"]["size_bytes"] / size - 1) < 0.01
    assert size < result["original"]["size_bytes"]
    assert autocompress.load_onnx(folder / "model.onnx").get_inputs()
    for record in load_records(folder / "study.journal")[:3]:
        output = tmp_path / f"{record.id}.onnx"
        assert cli("export", folder, "--candidate", record.id, "-o", output)[0] == 0
        assert abs(record.size_bytes / output.stat().st_size - 1) < 0.01


def test_time_that_is_up_ends_the_search_and_confirms(
    cli: Cli, make_study: Any, with_device: Any, tmp_path: Path
) -> None:
    folder = with_device(tmp_path / "run")
    arguments = ("run", make_study(), "--out", folder)
    assert cli(*arguments, "--evaluations", 4)[0] in (0, 3)
    code, _, err = cli(*arguments, "--evaluations", 500, "--max-time", "0.01s")
    assert code in (0, 3), err
    assert result_of(folder)["evaluations"] <= 8  # one batch of the old ones, recalled


def test_time_that_is_up_before_the_first_candidate_still_delivers(
    cli: Cli, make_study: Any, with_device: Any, tmp_path: Path
) -> None:
    folder = with_device(tmp_path / "run")
    code, _, err = cli("run", make_study(), "--out", folder, "--max-time", "0.01s")
    assert code in (0, 3), err
    assert result_of(folder)["evaluations"] >= 1


def test_metric_that_is_to_be_small(
    cli: Cli, make_study: Any, with_device: Any, tmp_path: Path
) -> None:
    study = make_study(
        metric="error", metric_direction="minimize", budget={"size": "25%", "quality": "-5pt"}
    )
    text = (study / "task.py").read_text()
    (study / "task.py").write_text(text.replace("return 100 * (", "return 100 - 100 * ("))
    folder = with_device(tmp_path / "run")
    code, out, err = cli("run", study, "--out", folder, "--evaluations", 6)
    assert code in (0, 3), err
    result = result_of(folder)
    quality = result["budget"]["quality"]
    assert quality["limit"] == pytest.approx(result["original"]["quality"] + 5)
    assert quality["met"] == (result["best"]["quality"] <= quality["limit"])
    assert "≤" in out


def test_nothing_worse_than_the_original_is_delivered(
    cli: Cli, make_study: Any, tmp_path: Path
) -> None:
    """int8 kernels cost this small network more than they save, and nothing else is offered."""
    study = make_study(budget={"size": "50%"}, evaluations=4)
    (study / "space.toml").write_text('schema = 1\nbits = [8]\nactivations = ["int8"]\n')
    (study / "objective.toml").write_text("schema = 1\nfinalists = 1\n")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.onnx").write_text("of an earlier run")
    code, out, err = cli("run", study, "--out", folder)
    assert code == 3, err
    result = result_of(folder)
    assert (result["best"]["candidate"], result["budget_met"]) == ("original", False)
    assert result["best"]["size_bytes"] == result["original"]["size_bytes"]
    assert "model.onnx" not in result["files"]
    assert not list(folder.glob("model.*"))
    (row,) = json.loads((folder / "details.json").read_text())["finalists"]
    assert "slower than the original" in row["reason"]
    assert "larger or slower than the original, which therefore stays" in out
    code, _, err = cli("export", folder, "-o", tmp_path / "x.onnx")
    assert code == 2
    assert "--candidate" in err
    assert cli("show", folder)[0] == 0


@pytest.mark.slow
def test_profile_says_how_good_the_cost_model_is(cli: Cli, make_study: Any) -> None:
    code, out, err = cli("profile", "onnxruntime-cpu", "--study", make_study())
    assert code == 0, err
    assert "onnxruntime-cpu" in out
    assert Path(out.rpartition("table: ")[2].strip()).is_file()
    assert cli("profile", "onnxruntime-cpu")[0] == 0


def test_every_way_to_store_a_layer_runs_from_end_to_end(
    cli: Cli, make_study: Any, tmp_path: Path
) -> None:
    study = make_study(
        space="everything", budget={"size": "8%", "quality": "-20pt"}, evaluations=8
    )
    folder = tmp_path / "run"
    code, out, err = cli("run", study, "--out", folder)
    assert code in (0, 3), err
    best = result_of(folder)["best"]
    assert best["size_bytes"] == (folder / "model.acz").stat().st_size
    # Candidates hold more than bits, zeros and rank, and one of these can be shipped.
    records = load_records(folder / "study.journal")
    further = next(
        record.id
        for record in records
        if any(not Option.parse(text).rounding.is_plain for text in record.choices.values())
    )
    archive = tmp_path / "further.acz"
    assert cli("export", folder, "--candidate", further, "-o", archive)[0] == 0
    task = load_task(study)
    shipped = autocompress.load_archive(archive, task.model())
    assert 0 <= task.evaluate(shipped, "test") <= 100
    code, out, err = cli("layers", study)
    assert code == 0, err
    assert "codebook values none, 16" in " ".join(out.split())
    assert "rate 0, 0.01, 0.05" in " ".join(out.split())
