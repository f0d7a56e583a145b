"""Layers around a Tucker core in a whole run: offered where they pay, chosen, trained, shipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import autocompress
from autocompress.deploy.archive import read_archive
from autocompress.model.task import load_task
from autocompress.search_space.option import Option
from autocompress.study.storage import load_records

Cli = Callable[..., tuple[int, str, str]]

BOARD = """
schema = 1
description = "a board whose time is multiply-adds"
runtime = "paper"
float32_gmacs = 0.02
int8_gmacs = 0.04
bandwidth_gb_s = 10
overhead_us = {overhead}
"""
TRAINING = """

def training() -> list[Tensor]:
    return list(images(4, 1000)[0].split(50))
"""
DISTIL = '\n[recovery]\nmethod = "distil"\nepochs = 6\nlearning_rate = 0.003\n'


@pytest.fixture
def board(make_study: Any) -> Callable[..., Path]:
    def make(space: str, overhead: float = 0, **limits: str) -> Path:
        budget = {**limits, "quality": "-30pt"}
        study: Path = make_study(budget, device="board.toml", evaluations=8)
        (study / "board.toml").write_text(BOARD.format(overhead=overhead))
        (study / "space.toml").write_text(f"schema = 1\n{space}\n")
        return study

    return make


def cores(choices: dict[str, str]) -> list[Option]:
    options = [Option.parse(text) for text in choices.values()]
    return [option for option in options if option.tucker < 1]


def test_a_core_is_chosen_trained_and_shipped(cli: Cli, board: Any, tmp_path: Path) -> None:
    # Only around a core is the second convolution small enough.
    space = 'bits = [8, 16]\ntucker = [0.75, 0.5]\nactivations = ["float32", "int8"]'
    study = board(f'{space}\ninclude = ["conv2"]', size="82%")
    with (study / "task.py").open("a") as file:
        file.write(TRAINING)
    with (study / "study.toml").open("a") as file:
        file.write(DISTIL)
    folder = tmp_path / "run"
    code, out, err = cli("run", study, "--out", folder)
    assert code == 0, err
    result = json.loads((folder / "result.json").read_text())
    plan = json.loads((folder / "plan.json").read_text())
    assert cores(plan["choices"])
    assert plan["recovered"]
    (row,) = result["recovery"]
    assert row["loss_after"] < row["loss_before"]
    archive = read_archive(folder / "model.acz")
    assert len(archive.treated["conv2"].weights) == 3
    assert result["best"]["size_bytes"] == (folder / "model.acz").stat().st_size
    task = load_task(study)
    shipped = autocompress.load_archive(folder / "model.acz", task.model())
    assert task.evaluate(shipped, "test") == pytest.approx(result["best"]["quality"])
    assert "Tucker core" in (folder / "report.html").read_text()
    code, out, err = cli("inspect", folder / "model.acz")
    assert code == 0, err


def test_a_squeeze_trains_the_factors_around_a_core(cli: Cli, board: Any, tmp_path: Path) -> None:
    # 448 weights of 8 bits are too many where all else is left alone.
    study = board('bits = [8]\ntucker = [0.5]\ninclude = ["conv2"]', size="9.8 kB")
    with (study / "task.py").open("a") as file:
        file.write(TRAINING)
    with (study / "study.toml").open("a") as file:
        file.write(DISTIL.replace("distil", "squeeze"))
    folder = tmp_path / "run"
    code, out, err = cli("run", study, "--out", folder)
    assert code == 0, err + out
    archive = read_archive(folder / "model.acz")
    option, factors = Option.parse(archive.options["conv2"]), archive.treated["conv2"].weights
    assert (option.tucker, option.scales, len(factors)) == (0.5, "tensor", 3)
    zeros = sum(int((factor.codes == 0).sum()) for factor in factors)
    assert option.sparsity == pytest.approx(zeros / 448, abs=6e-4)
    assert (folder / "model.acz").stat().st_size <= 9800
    assert autocompress.load_archive(folder / "model.acz", load_task(study).model())


def test_cores_of_narrow_layers_are_searched_and_exported(
    cli: Cli, board: Any, tmp_path: Path
) -> None:
    space = 'bits = [8]\ntucker = [1.0, 0.5]\nchannels = [1.0, 0.5]\ninclude = ["conv?"]'
    study = board(space, latency="35%")
    folder = tmp_path / "run"
    code, out, err = cli("run", study, "--out", folder)
    assert code in (0, 3), err
    assert "Tucker core 100 %, 50 %" in " ".join(cli("layers", study)[1].split())
    records = load_records(folder / "study.journal")
    found = [record for record in records if cores(dict(record.choices))]
    assert found
    narrow = [r for r in found if any(option.is_narrow for option in cores(dict(r.choices)))]
    task = load_task(study)
    assert narrow
    for record in (found[0], narrow[0]):
        for name in ("x.acz", "x.onnx"):
            code, _, err = cli("export", folder, "--candidate", record.id, "-o", tmp_path / name)
            assert code == 0, err
        shipped = autocompress.load_archive(tmp_path / "x.acz", task.model())
        assert 0 <= task.evaluate(shipped, "test") <= 100


def test_cores_that_make_nothing_faster_are_not_offered(
    cli: Cli, board: Any, tmp_path: Path
) -> None:
    study = board("bits = [4, 8]\ntucker = [1.0, 0.75]", 5000, size="30%")
    folder = tmp_path / "run"
    code, out, err = cli("run", study, "--out", folder)
    assert code in (0, 3), err
    assert "conv2: Tucker cores, which make nothing faster here" in " ".join(out.split())
    assert not any(cores(dict(r.choices)) for r in load_records(folder / "study.journal"))
