"""The command line as a user meets it: what a run leaves behind, and every command after it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import autocompress

Cli = Callable[..., tuple[int, str, str]]
Finished = tuple[Path, "subprocess.CompletedProcess[str]"]

CONTRACT = {
    "schema",
    "study",
    "seed",
    "versions",
    "device",
    "budget",
    "original",
    "best",
    "estimates",
    "budget_met",
    "binding",
    "audit",
    "seconds",
    "evaluations",
    "files",
    "recovery",
}
COSTS = {"quality", "size_bytes", "latency_ms", "energy_mj"}


def task_of(study: Path) -> Any:
    from autocompress.model.task import load_task

    return load_task(study)


def test_help_is_quick_because_it_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['autocompress', '--help']\n"
        "from autocompress.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = 'torch onnx onnxruntime optuna pandas plotly scipy numpy'.split()\n"
        "print('LOADED', [name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in out.stdout
    for name in ("run", "layers", "show", "export", "report", "profile"):
        assert name in out.stdout


def test_run_ends_with_table_paths_and_zero(finished: Finished) -> None:
    folder, out = finished
    assert out.returncode == 0, out.stdout + out.stderr
    assert "Traceback" not in out.stderr
    for words in ("original", "budget", "predicted", "measured", "budget met, as measured"):
        assert words in out.stdout
    for stage in ("trace", "profile", "bank", "price", "search", "confirm", "test", "ship"):
        assert f"{stage}:" in out.stdout
    for name in ("model.acz", "model.onnx", "plan.json", "front.csv", "result.json"):
        assert (folder / name).stat().st_size > 0
        assert str(folder / name) in out.stdout
    for name in ("report.html", "trials.parquet", "log.jsonl", "study.journal"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "bank").glob("*.safetensors"))
    assert not list(folder.rglob(".*")), "unfinished files are left"


def test_result_keeps_the_contract(finished: Finished, trained: Path) -> None:
    folder, _ = finished
    result = json.loads((folder / "result.json").read_text())
    assert set(result) == CONTRACT
    best = result["best"]
    assert set(best) == {"candidate", "predicted", "measured"} | COSTS
    assert set(best["predicted"]) >= {"loss", "size_bytes", "latency_ms"}
    assert set(best["measured"]) >= COSTS
    assert set(result["original"]) == COSTS
    assert result["schema"] == 1
    assert (result["study"], result["seed"]) == ("tiny", 0)
    assert result["budget_met"] is True
    assert set(result["budget"]) == {"size", "quality"}
    assert result["binding"] in ("size", None)
    assert set(result["audit"]) >= {"proxy_spearman", "proxy_regret", "latency_mape"}
    assert set(result["seconds"]) >= {"trace", "bank", "price", "search", "confirm"}
    # Twelve evaluations, in which slopes of the loss may take the place of three.
    assert result["evaluations"] == len(pd.read_parquet(folder / "trials.parquet")) >= 9
    assert result["versions"]["torch"] == torch.__version__
    for path in result["files"].values():
        assert Path(path).is_file()


def test_figures_of_the_result_are_those_of_the_files(finished: Finished, trained: Path) -> None:
    from safetensors.torch import save

    folder, _ = finished
    result = json.loads((folder / "result.json").read_text())
    best, task = result["best"], task_of(trained)
    size = (folder / "model.acz").stat().st_size
    assert best["size_bytes"] == best["measured"]["size_bytes"] == size
    assert abs(best["predicted"]["size_bytes"] / size - 1) < 0.01
    assert size <= 0.25 * result["original"]["size_bytes"]
    assert result["original"]["size_bytes"] == len(save(task.model().state_dict()))
    assert result["original"]["quality"] == task.evaluate(task.model(), "test")
    onnx = autocompress.load_onnx(folder / "model.onnx")
    x = task.calibration()[0].numpy()
    (outputs,) = onnx.run(None, {onnx.get_inputs()[0].name: x})
    with torch.no_grad():
        packed = autocompress.load_archive(folder / "model.acz", task.model())
        twin = packed(torch.from_numpy(x)).numpy()
    assert np.mean(outputs.argmax(1) == twin.argmax(1)) >= 0.999
    assert np.abs(outputs - twin).max() < 1e-3
    assert task.evaluate(packed, "test") == pytest.approx(best["quality"], abs=0.3)


def test_plan_front_and_log_agree(finished: Finished) -> None:
    folder, _ = finished
    result = json.loads((folder / "result.json").read_text())
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["candidate"] == result["best"]["candidate"]
    assert plan["candidate"] == result["best"]["candidate"]
    front = pd.read_csv(folder / "front.csv")
    assert plan["candidate"] in set(front["candidate"])
    assert front["size_bytes"].is_monotonic_increasing
    assert front["loss"].is_monotonic_decreasing  # all run on the same kernels
    stages = [
        line["name"]
        for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        if line["event"] == "stage"
    ]
    assert stages == ["trace", "profile", "bank", "price", "search", "confirm", "test", "ship"]


def test_exported_archive_is_what_was_shipped(cli: Cli, run_copy: Path, trained: Path) -> None:
    """A point is made again from the plan: the same candidate gives the same weights."""
    output = run_copy / "again.acz"
    code, out, err = cli("export", run_copy, "-o", output)
    assert code == 0, err
    assert str(output) in out
    assert "reused" in out
    dense = task_of(trained).model()
    first = autocompress.load_archive(run_copy / "model.acz", dense).state_dict()
    again = autocompress.load_archive(output, dense).state_dict()
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert output.read_bytes() == (run_copy / "model.acz").read_bytes()


def test_any_point_of_the_front_is_exported(cli: Cli, run_copy: Path, trained: Path) -> None:
    front = pd.read_csv(run_copy / "front.csv")
    row = front.iloc[0]
    output = run_copy / "small.bin"
    code, out, err = cli(
        "export", run_copy, "--candidate", row["candidate"], "--format", "archive", "-o", output
    )
    assert code == 0, err
    assert row["candidate"] in out
    assert output.stat().st_size == pytest.approx(row["size_bytes"], rel=0.01)
    autocompress.load_archive(output, task_of(trained).model())
    onnx = run_copy / "small.onnx"
    assert cli("export", run_copy, "--candidate", row["candidate"], "-o", onnx)[0] == 0
    assert autocompress.load_onnx(onnx).get_inputs()


def test_export_by_budget_takes_the_least_loss_within_it(cli: Cli, run_copy: Path) -> None:
    trials = pd.read_parquet(run_copy / "trials.parquet")
    limit = float(trials["size_bytes"].median())
    within = trials[trials["size_bytes"] <= limit]
    expected = within.loc[within["loss"].idxmin(), "candidate"]
    output = run_copy / "point.acz"
    code, out, err = cli("export", run_copy, "--budget", f"size={limit}B", "-o", output)
    assert code == 0, err
    assert expected in out
    assert output.stat().st_size <= 1.01 * limit


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--candidate", "0123456789", "-o", "x.acz"], 2, ["0123456789", "evaluated"]),
        (["--format", "pickle", "-o", "x.acz"], 2, ["pickle", "onnx", "archive"]),
        (["-o", "x.bin"], 2, [".bin", "onnx", "archive"]),
        (["--budget", "size=0.1%", "-o", "x.acz"], 3, ["closest"]),
        (["--budget", "quality=-1pt", "-o", "x.acz"], 2, ["size and latency", "retarget"]),
        (["--budget", "size", "-o", "x.acz"], 2, ["size", "NAME=VALUE"]),
        (["--candidate", "a", "--budget", "size=1%", "-o", "x.acz"], 2, ["not both"]),
        (["-o", "/proc/none/x.acz"], 2, ["/proc/none/x.acz", "cannot be written"]),
        (["-o", "/proc/none/x.onnx"], 2, ["/proc/none/x.onnx", "cannot be written"]),
    ],
)
def test_export_refuses(
    cli: Cli,
    run_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: list[str],
) -> None:
    monkeypatch.chdir(run_copy)
    found, _, err = cli("export", run_copy, *arguments)
    assert found == code, err
    for word in words:
        assert word in err
    assert not list(run_copy.glob("x.*"))


def test_export_needs_the_study_and_the_same_one(
    cli: Cli, run_copy: Path, make_study: Any
) -> None:
    study = make_study()
    run = json.loads((run_copy / "run.json").read_text())
    (run_copy / "run.json").write_text(json.dumps(run | {"study": str(study)}))
    (study / "space.toml").write_text("schema = 1\nbits = [4, 8]\n")
    code, _, err = cli("export", run_copy, "-o", run_copy / "x.acz")
    assert code == 2
    assert "another search space" in err
    (run_copy / "run.json").write_text(json.dumps(run | {"study": str(study / "gone")}))
    code, _, err = cli("export", run_copy, "-o", run_copy / "x.acz")
    assert code == 2
    assert "gone" in err


def test_show_tells_state_best_and_front(cli: Cli, run_copy: Path) -> None:
    result = json.loads((run_copy / "result.json").read_text())
    code, out, err = cli("show", run_copy)
    assert code == 0, err
    assert f"finished, {result['evaluations']} candidates evaluated" in out
    assert f"{result['best']['candidate']} *" in out
    assert "budget met" in out
    for candidate in pd.read_csv(run_copy / "front.csv")["candidate"]:
        assert candidate in out


def test_show_and_report_need_a_run(cli: Cli, tmp_path: Path) -> None:
    for command in ("show", "report"):
        code, _, err = cli(command, tmp_path / "none")
        assert code == 2
        assert "not a run directory" in err
    (tmp_path / "run.json").write_text("{")
    code, _, err = cli("show", tmp_path)
    assert code == 2
    assert "run.json" in err


def test_report_is_written_again(cli: Cli, run_copy: Path) -> None:
    page = run_copy / "report.html"
    before = page.read_text()
    page.unlink()
    code, out, err = cli("report", run_copy)
    assert code == 0, err
    assert str(page) in out
    again = page.read_text()
    assert json.loads((run_copy / "result.json").read_text())["best"]["candidate"] in again
    assert len(again) == pytest.approx(len(before), rel=0.01)
    assert 'src="http' not in again


def test_layers_lists_all_and_why_one_is_left(cli: Cli, make_study: Any) -> None:
    study = make_study()
    (study / "space.toml").write_text('schema = 1\nbits = [4, 8]\nexclude = ["fc1"]\n')
    code, out, err = cli("layers", study)
    assert code == 0, err
    for name in ("conv1", "conv2", "norm", "fc1", "fc2"):
        assert name in out
    assert "LayerNorm is not treated" in out
    assert "excluded by the search space" in out
    assert "weight bits 4, 8" in out


def test_another_budget_reuses_bank_and_prices(cli: Cli, run_copy: Path, trained: Path) -> None:
    before = (run_copy / "prices.json").read_bytes()
    bank = {path.name: path.stat().st_mtime_ns for path in (run_copy / "bank").iterdir()}
    trials = pd.read_parquet(run_copy / "trials.parquet")
    code, out, err = cli("run", trained, "--out", run_copy, "--budget", "size=40%")
    assert code == 0, err
    assert f"bank: {len(bank)} of {len(bank)} entries reused" in out
    assert "prices: reused" in out
    assert "device: prices reused" in out
    assert (run_copy / "prices.json").read_bytes() == before
    assert {path.name: path.stat().st_mtime_ns for path in (run_copy / "bank").iterdir()} == bank
    result = json.loads((run_copy / "result.json").read_text())
    assert result["budget"]["size"]["text"] == "40%"
    after = pd.read_parquet(run_copy / "trials.parquet")
    assert list(after["candidate"])[: len(trials)] == list(trials["candidate"])
    assert after["candidate"].is_unique
    shared = set(trials["candidate"]) & {str(name) for name in after["candidate"]}
    assert shared == set(trials["candidate"]), "something of the first run was lost"
    assert result["evaluations"] == len(after)


def test_unreachable_budget_ends_with_the_closest_point(
    cli: Cli, make_study: Any, with_device: Any, tmp_path: Path
) -> None:
    folder = with_device(tmp_path / "run")
    code, out, err = cli("run", make_study(evaluations=6), "--out", folder, "--budget", "size=1%")
    assert code == 3, err
    result = json.loads((folder / "result.json").read_text())
    assert result["budget_met"] is False
    assert result["binding"] == "size"
    assert "limit on size binds" in out
    assert result["best"]["candidate"] in out
    # What the clock found slower than the original is never delivered, however small.
    finalists = json.loads((folder / "details.json").read_text())["finalists"]
    measured = [row["measured"] for row in finalists if "slower" not in row["reason"]]
    best = result["best"]["measured"]
    assert not any(
        other["size_bytes"] < best["size_bytes"] and other["quality"] >= best["selection_quality"]
        for other in measured
    )
    trials = pd.read_parquet(folder / "trials.parquet")
    least = trials["size_bytes"].min()
    assert min(row["predicted"]["size_bytes"] for row in finalists) == least
    for name in ("model.acz", "model.onnx", "plan.json", "front.csv", "report.html"):
        assert (folder / name).is_file()
    code, out, _ = cli("show", folder)
    assert code == 0
    assert "budget not met; size binds" in out
