"""A study that may take channels: plan, archive and ONNX agree, and a killed run goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from autocompress.deploy.archive import read_archive
from autocompress.deploy.onnx_file import OnnxModule
from autocompress.deploy.restore import load_archive
from autocompress.model.task import load_task
from autocompress.search_space.option import Option
from autocompress.study.config import load_study
from autocompress.study.events import Silent
from autocompress.study.layers import layer_shares
from autocompress.study.storage import load_records
from autocompress.study.subject import look

Cli = Callable[..., tuple[int, str, str]]

# Eight bits alone are more than a quarter: under 20 % channels have to go.
SPACE = """
schema = 1
bits = [8]
channels = [1.0, 0.5]
"""
SAME_WIDTH = (("conv1", "conv2"), ("conv2", "fc1"), ("fc1", "fc2"))


@pytest.fixture(scope="module")
def wide(
    trained: Path, tmp_path_factory: pytest.TempPathFactory, train: Callable[[Path], None]
) -> Path:
    """The tiny study with sixteen channels in each convolution, and no norm that fixes them."""
    folder = tmp_path_factory.mktemp("wide") / "tiny"
    shutil.copytree(trained, folder)
    text = (folder / "task.py").read_text()
    text = text.replace("nn.Conv2d(1, 8,", "nn.Conv2d(1, 16,").replace(
        "Conv2d(8, 16", "Conv2d(16, 16"
    )
    (folder / "task.py").write_text(text.replace("nn.LayerNorm(64)", "nn.Identity()"))
    (folder / "space.toml").write_text(SPACE)
    study = (folder / "study.toml").read_text()
    # A latency that no clock misses: else a busy moment starts another search.
    study = study.replace('size = "25%"', 'size = "20%"\nlatency = "1000%"')
    study = study.replace('"-5pt"', '"-40pt"')
    (folder / "study.toml").write_text(study)
    train(folder)
    return folder


@pytest.fixture(scope="module")
def ran(
    wide: Path, tmp_path_factory: pytest.TempPathFactory, command: Any
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A finished run of it."""
    folder = tmp_path_factory.mktemp("ran") / "run"
    return folder, command("run", wide, "--out", folder, "--evaluations", 14)


@pytest.fixture
def recorded(ran: tuple[Path, Any]) -> Callable[[Path], Path]:
    """Puts the device of that run into another run directory."""

    def put(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ran[0] / "device.json", folder / "device.json")
        return folder

    return put


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def choices_of(plan: dict[str, str]) -> dict[str, Option]:
    return {unit: Option.parse(text) for unit, text in plan.items()}


def assert_agree(choices: dict[str, Option]) -> None:
    for maker, reader in SAME_WIDTH:
        assert choices[maker].outputs == choices[reader].inputs


def delivered(folder: Path) -> dict[str, Any]:
    result = read(folder / "result.json")
    if result["best"]["candidate"] == "original":
        pytest.skip("the clock found every candidate slower than the original")
    return dict(result)


def test_the_run_ends_with_a_model_that_has_fewer_channels(ran: tuple[Path, Any]) -> None:
    folder, said = ran
    assert said.returncode in (0, 3), said.stderr
    assert "Traceback" not in said.stderr
    result = delivered(folder)
    plan = read(folder / "plan.json")
    choices = choices_of(plan["choices"])
    assert_agree(choices)
    assert any(option.is_narrow for option in choices.values())
    # Below what eight bits can do alone.
    assert result["best"]["size_bytes"] <= 0.2 * result["original"]["size_bytes"]
    bytes_of = read(folder / "prices.json")["bytes"]
    own = sum(bytes_of[unit][text] for unit, text in plan["choices"].items())
    full = sum(sizes["w8"] for sizes in bytes_of.values())
    assert own < full
    # The final fit chooses other codes, which take a few bytes more or less.
    predicted = result["best"]["predicted"]["size_bytes"]
    assert predicted == pytest.approx(result["best"]["size_bytes"], rel=0.01)


def test_every_candidate_keeps_shared_widths_and_none_repeats(ran: tuple[Path, Any]) -> None:
    records = load_records(ran[0] / "study.journal")
    assert len({record.id for record in records}) == len(records) >= 14
    widths = set()
    for record in records:
        choices = choices_of(dict(record.choices))
        assert_agree(choices)
        widths.add(tuple(choices[maker].outputs for maker, _ in SAME_WIDTH))
    assert len(widths) > 1
    moves = read(ran[0] / "details.json")["moves"]
    assert sum(move["asked"] for move in moves) == len(records)
    assert all(move["move"].startswith("widths ") for move in moves)


def test_archive_and_onnx_are_the_model_that_was_measured(
    ran: tuple[Path, Any], wide: Path
) -> None:
    folder, _ = ran
    result, plan = delivered(folder), read(folder / "plan.json")
    archive = read_archive(folder / "model.acz")
    assert archive.options == plan["choices"]
    assert (folder / "model.acz").stat().st_size == result["best"]["size_bytes"]
    task = load_task(wide)
    loaded = load_archive(folder / "model.acz", task.model())
    selected = task.evaluate(loaded, "selection")
    assert selected == pytest.approx(result["best"]["measured"]["selection_quality"])
    from_onnx = OnnxModule(folder / "model.onnx")
    x = torch.cat([task.calibration()[0], torch.randn(2000, 1, 8, 8)])
    with torch.no_grad():
        one, other = loaded(x), from_onnx(x)
    assert (one.argmax(1) == other.argmax(1)).double().mean() >= 0.999
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    small = load_archive(folder / "model.acz", task.model(), narrow=True)
    with torch.no_grad():
        torch.testing.assert_close(small(x), one, rtol=1e-4, atol=1e-4)
    # The channels are gone from both files.
    choices = choices_of(plan["choices"])
    stored = {t.name: tuple(t.dims) for t in onnx.load(folder / "model.onnx").graph.initializer}
    for unit, option in choices.items():
        whole = tuple(task.model().get_submodule(unit).weight.shape)
        rows, columns = round(option.outputs * whole[0]), round(option.inputs * whole[1])
        assert stored[f"{unit}/weight0"][:2] == (rows, columns)
        treated = archive.treated[unit]
        assert treated.weights[0].codes.shape == (rows, columns * int(np.prod(whole[2:])))
        assert (treated.narrow is not None) == option.is_narrow


def test_the_same_run_again_measures_nothing(
    ran: tuple[Path, Any], wide: Path, cli: Cli, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(ran[0], tmp_path / "copy"))
    before = [(record.id, record.loss) for record in load_records(folder / "study.journal")]
    made = {path.name for path in (folder / "bank").iterdir()}
    code, _, err = cli("run", wide, "--out", folder, "--evaluations", 14)
    assert code in (0, 3), err
    after = [(record.id, record.loss) for record in load_records(folder / "study.journal")]
    assert after == before
    assert {path.name for path in (folder / "bank").iterdir()} == made


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["bank", "search"])
def test_a_killed_run_ends_with_the_same_plan(
    moment: str, wide: Path, recorded: Any, command: Any, tmp_path: Path
) -> None:
    arguments = ("run", wide, "--evaluations", 14, "--out")
    whole = recorded(tmp_path / "whole")
    done = command(*arguments, whole)
    assert done.returncode in (0, 3), done.stderr
    folder = recorded(tmp_path / "killed")

    def reached() -> bool:
        if moment == "bank":
            return len(list((folder / "bank").glob("*.safetensors"))) >= 3
        journal = folder / "study.journal"
        return journal.is_file() and journal.read_bytes().count(b"\n") >= 7

    process = subprocess.Popen(
        [sys.executable, "-m", "autocompress.cli", *map(str, (*arguments, folder))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = command(*arguments, folder)
    assert done.returncode in (0, 3), done.stderr
    records = [load_records(run / "study.journal") for run in (whole, folder)]
    found = [[(record.id, record.loss) for record in run] for run in records]
    assert found[0] == found[1]
    plans = [read(run / "plan.json") for run in (whole, folder) if (run / "plan.json").is_file()]
    assert len(plans) != 1
    assert not plans or plans[0] == plans[1]


@pytest.mark.slow
def test_another_budget_is_answered(ran: tuple[Path, Any], cli: Cli, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ran[0], tmp_path / "copy"))
    code, out, err = cli("retarget", copy, "--budget", "size=16%")
    assert code in (0, 3), err
    (path,) = (copy / "retargeted").glob("*.result.json")
    best = read(path)["best"]
    if best["candidate"] != "original":
        plan = read(path.with_name(f"{best['candidate']}.plan.json"))
        assert_agree(choices_of(plan["choices"]))
        assert best["size_bytes"] == path.with_name(f"{best['candidate']}.acz").stat().st_size
        assert best["size_bytes"] < read(ran[0] / "result.json")["best"]["size_bytes"]


@pytest.mark.slow
def test_the_smallest_model_that_quality_allows_is_narrow(
    wide: Path, recorded: Any, cli: Cli, tmp_path: Path
) -> None:
    study = Path(shutil.copytree(wide, tmp_path / "tiny"))
    text = (study / "study.toml").read_text()
    (study / "study.toml").write_text(text.replace('size = "20%"\n', ""))
    (study / "objective.toml").write_text('schema = 1\nminimise = "size"\nfinalists = 2\n')
    folder = recorded(tmp_path / "run")
    code, _, err = cli("run", study, "--out", folder, "--evaluations", 16)
    assert code in (0, 3), err
    records = load_records(folder / "study.journal")
    for record in records:
        assert_agree(choices_of(dict(record.choices)))
    result = delivered(folder)
    # Whatever the metric allows, all channels at eight bits are not the least.
    assert result["best"]["size_bytes"] < 0.25 * result["original"]["size_bytes"]


def test_other_samplers_say_that_they_cannot(
    wide: Path, recorded: Any, cli: Cli, tmp_path: Path
) -> None:
    folder = recorded(tmp_path / "run")
    code, _, err = cli("run", wide, "--out", folder, "--sampler", "tpe")
    assert code == 2
    assert "sampler 'tpe': cannot keep shared widths" in err


def test_channels_go_where_torch_runs_the_module(wide: Path, cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, _, err = cli("run", wide, "--device", "torch-cpu", "--out", folder, "--evaluations", 6)
    assert code in (0, 3), err
    priced = read(folder / "device.json")["profile"]["prices"]["unit_ms"]["conv2"]
    assert len(priced) == 2 * 4  # float32 and eight bits at each pair of widths
    choices = choices_of(dict(load_records(folder / "study.journal")[-1].choices))
    assert any(option.is_narrow for option in choices.values())
    task = load_task(wide)
    assert delivered(folder)["device"]["name"] == "torch-cpu"
    loaded = load_archive(folder / "model.acz", task.model())
    small = load_archive(folder / "model.acz", task.model(), narrow=True)
    x = task.calibration()[0]
    with torch.no_grad():
        torch.testing.assert_close(small(x), loaded(x), rtol=1e-4, atol=1e-4)


def test_layers_are_listed_with_their_options(wide: Path, cli: Cli) -> None:
    rows = {row["name"]: row for row in layer_shares(load_study(wide))}
    # Two kinds at each pair of widths that a layer may have.
    assert {name: row["options"] for name, row in rows.items() if row["treated"]} == {
        "conv1": 4,
        "conv2": 8,
        "fc1": 8,
        "fc2": 4,
    }
    code, out, err = cli("layers", wide)
    assert code == 0, err
    assert "channels 100 %, 50 %" in out


def test_groups_and_widths_of_the_model(wide: Path, tmp_path: Path) -> None:
    study = load_study(wide)
    model, space = look(study, Silent())
    assert [width.name for width in space.widths] == ["conv1", "conv2", "fc1"]
    assert all(width.levels == 2 for width in space.widths)
    channels = model.channels(space.widths, tmp_path / "channels.json")
    assert [group.name for group in channels.groups] == ["conv1", "conv2", "fc1"]
    assert channels == model.channels(space.widths, tmp_path / "channels.json")
    assert not model.channels((), tmp_path / "none.json").groups
