"""`autocompress.compress`: the user's objects in, a result that can be used and exported out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import autocompress
from autocompress import errors
from autocompress.model.task import load_task

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def parts(trained: Path) -> dict[str, Any]:
    task = load_task(trained)
    return {
        "model": task.make_model(),
        "calibration": task.make_calibration(),
        "example_inputs": task.make_example_inputs(),
        "evaluate": task.evaluator,
        "space": str(trained / "space.toml"),
        "objective": str(trained / "objective.toml"),
        "clock_patience": "0.1s",
    }


@pytest.fixture(scope="module")
def before(parts: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in parts["model"].state_dict().items()}


@pytest.fixture(scope="module")
def result(
    parts: dict[str, Any], before: Any, tmp_path_factory: pytest.TempPathFactory
) -> autocompress.Result:
    out = tmp_path_factory.mktemp("api") / "run"
    return autocompress.compress(
        **parts, budget={"size": "25%", "quality": "-5pt"}, evaluations=8, out=out, name="mine"
    )


def test_result_keeps_the_budget(result: autocompress.Result) -> None:
    assert result.budget_met
    assert result.summary["study"] == "mine"
    assert result.summary["best"]["size_bytes"] <= 0.25 * result.summary["original"]["size_bytes"]
    assert (result.folder / "result.json").is_file()


def test_model_is_left_as_it_was(
    parts: dict[str, Any], before: dict[str, torch.Tensor], result: autocompress.Result
) -> None:
    after = parts["model"].state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(module._forward_hooks for module in parts["model"].modules())
    assert all(p.requires_grad and p.grad is None for p in parts["model"].parameters())


def test_front_is_a_table(result: autocompress.Result) -> None:
    assert isinstance(result.front, pd.DataFrame)
    assert set(result.front) >= {"candidate", "loss", "size_bytes", "latency_ms", "quality"}
    assert result.best.candidate in set(result.front["candidate"])


def test_best_is_a_model(parts: dict[str, Any], result: autocompress.Result) -> None:
    model = result.best.model
    assert isinstance(model, nn.Module)
    assert model is not parts["model"]
    with torch.no_grad():
        outputs = model(parts["calibration"][:7])
    assert outputs.shape == (7, 6)
    narrow = result.best.narrow()
    with torch.no_grad():
        torch.testing.assert_close(narrow(parts["calibration"][:7]), outputs)
    quality = parts["evaluate"](model, "selection")
    assert quality == result.summary["best"]["measured"]["selection_quality"]


def test_best_is_exported(
    parts: dict[str, Any], result: autocompress.Result, tmp_path: Path
) -> None:
    size = result.best.export(tmp_path / "model.acz")
    assert size == (tmp_path / "model.acz").stat().st_size == result.summary["best"]["size_bytes"]
    loaded = autocompress.load_archive(tmp_path / "model.acz", parts["model"]).state_dict()
    ours = result.best.model.state_dict()
    assert all(torch.equal(loaded[name], ours[name]) for name in ours)
    assert result.best.export(str(tmp_path / "model.onnx")) > 0
    assert autocompress.load_onnx(tmp_path / "model.onnx").get_inputs()
    with pytest.raises(errors.ConfigError, match=r"\.onnx or \.acz"):
        result.best.export(tmp_path / "model.pt")
    with pytest.raises(errors.StorageError, match="cannot be written"):
        result.best.export("/proc/none/model.acz")


def test_any_candidate_can_be_had(result: autocompress.Result, tmp_path: Path) -> None:
    row = result.front.iloc[0]
    found = result.candidate(row["candidate"])
    assert found.candidate == row["candidate"]
    size = found.export(tmp_path / "other.acz")
    assert size == pytest.approx(row["size_bytes"], rel=0.01)
    with pytest.raises(errors.ConfigError, match="0123456789"):
        result.candidate("0123456789")


def test_report_is_written_where_asked(result: autocompress.Result, tmp_path: Path) -> None:
    page = result.report(tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    assert result.best.candidate in page.read_text()
    assert result.report() == result.folder / "report.html"


def test_command_line_shows_a_run_from_python(
    cli: Cli, result: autocompress.Result, tmp_path: Path
) -> None:
    code, out, err = cli("show", result.folder)
    assert code == 0, err
    assert "finished, 8 candidates" in out
    code, _, err = cli("export", result.folder, "-o", tmp_path / "x.acz")
    assert code == 2
    assert "begun from Python" in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": {"weight": "1%"}}, "'weight'"),
        ({"budget": {"size": "much"}}, "size=much"),
        ({"goal": "maximise quality s.t. size<=3%"}, "budget limits size as well"),
        ({"goal": "be small"}, "'be small' is not understood"),
        ({"samples": 3}, "unknown key 'samples'"),
        ({"evaluations": "many"}, "'evaluations'"),
        ({"space": "nope"}, "no preset 'nope'"),
        ({"model": 3}, "nn.Module"),
        ({"calibration": torch.full((64, 1, 8, 8), torch.nan)}, "NaN"),
        ({"evaluate": lambda model: "good"}, "one number"),
    ],
)
def test_mistakes_are_errors_of_the_family(
    parts: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    arguments = {**parts, "budget": {"size": "25%"}, "out": tmp_path / "run", **change}
    with pytest.raises(errors.AutocompressError, match=words):
        autocompress.compress(**arguments)


def test_refused_run_can_be_repeated_in_one_process(
    parts: dict[str, Any], result: autocompress.Result
) -> None:
    """A refusal lets go of the run directory."""
    changed = {**parts, "calibration": parts["calibration"] + 1}
    for _ in range(2):
        with pytest.raises(errors.StudyMismatchError, match="calibration data"):
            autocompress.compress(**changed, budget={"size": "25%"}, out=result.folder)


def test_unreachable_budget_gives_the_closest_point(
    parts: dict[str, Any], tmp_path: Path, with_device: Any
) -> None:
    result = autocompress.compress(
        **parts,
        budget={"size": "1%"},
        evaluations=4,
        out=with_device(tmp_path / "run"),
        name="mine",
    )
    assert not result.budget_met
    assert result.summary["binding"] == "size"
    assert isinstance(result.best.model, nn.Module)
