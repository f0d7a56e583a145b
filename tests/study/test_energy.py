"""A limit on estimated energy holds the search and the result, where the device has figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import ConfigError
from autocompress.study.config import load_study
from autocompress.study.events import Silent
from autocompress.study.footprint import Footprints
from autocompress.study.subject import look

Cli = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]
EIGHT = 'schema = 1\nbits = [2, 4, 8]\nrank = [1.0, 0.5]\nactivations = ["float32", "int8"]\n'
BOARD = """
schema = 1
runtime = "paper"
float32_gmacs = 0.2
int8_gmacs = 0.4
bandwidth_gb_s = 1
"""


@pytest.fixture
def study(make_study: Make) -> Make:
    def make(**keys: Any) -> Path:
        folder = make_study({"energy": "45%"}, device="board.toml", **keys)
        (folder / "space.toml").write_text(EIGHT)
        (folder / "board.toml").write_text(BOARD)
        return folder

    return make


def test_what_the_search_adds_up_is_what_a_candidate_takes(study: Make) -> None:
    asked = load_study(study(), {"device": "onnxruntime-cpu"})
    model, space = look(asked, Silent())
    footprints = Footprints(model, asked.device)
    resource = footprints.energy(space.units)
    for index in (0, 1, -1):
        chosen = {name: menu[index] for name, menu in space.units.items()}
        total = resource.constant + sum(table[index] for table in resource.units)
        assert total == pytest.approx(footprints.of(chosen).energy_mj)


def test_the_limit_is_kept_and_said_to_be_an_estimate(
    study: Make, cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    board = study(evaluations=8)
    (board / "board.toml").write_text(
        BOARD + "byte_pj = 10\nfloat32_mac_pj = 4\nint8_mac_pj = 1\n"
    )
    code, out, err = cli("run", board, "--out", folder)
    assert code == 0, err
    assert "energy (estimated)" in out
    assert "energy as estimated" in out
    result = json.loads((folder / "result.json").read_text())
    spent, whole = result["best"]["measured"]["energy_mj"], result["original"]["energy_mj"]
    assert spent <= 0.45 * whole
    assert spent == result["estimates"]["best"]["energy_mj"]
    assert result["budget"]["energy"]["unit"] == "mJ"
    assert result["budget"]["energy"]["met"]
    assert "energy (estimated)" in (folder / "report.html").read_text()
    assert "energy" in cli("show", folder)[1]

    code, out, err = cli("retarget", folder, "--budget", "energy=1%")
    assert code == 3
    assert "the limit on energy binds" in out + err


def test_a_device_without_figures_is_named(study: Make, cli: Cli) -> None:
    with pytest.raises(ConfigError, match=r"energy=45%: device 'board.toml' gives no figures"):
        load_study(study())
    code, _, err = cli("run", study())
    assert code == 2
    assert "byte_pj" in err


def test_a_new_budget_is_refused_likewise(make_study: Make, cli: Cli, tmp_path: Path) -> None:
    board = make_study({"size": "50%"}, device="board.toml", evaluations=4)
    (board / "space.toml").write_text(EIGHT)
    (board / "board.toml").write_text(BOARD)
    assert cli("run", board, "--out", tmp_path / "run")[0] == 0
    code, _, err = cli("retarget", tmp_path / "run", "--budget", "energy=50%")
    assert code == 2
    assert "byte_pj" in err


def test_soft_limits_and_devices_with_figures_are_taken(study: Make) -> None:
    asked = load_study(study(), {"device": "onnxruntime-cpu"}, ["energy~30%"])
    assert asked.budget["energy"].soft
    assert replace(asked.budget["energy"], soft=False).bound(2.0) == pytest.approx(0.6)
