"""Studies on other devices: one that is only a data sheet, and other runtimes of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress.hardware.device import DEVICES

Cli = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]

BOARD = """
schema = 1
description = "a board of the tests"
runtime = "paper"
float32_gmacs = 0.2
int8_gmacs = 0.4
bandwidth_gb_s = 1
flash_kib = 64
ram_kib = 8
"""
EIGHT = 'schema = 1\nbits = [2, 4]\nactivations = ["float32", "int8"]\n'


@pytest.fixture
def board(make_study: Make) -> Make:
    def make(text: str = BOARD, **keys: Any) -> Path:
        settings = {"device": "board.toml", "evaluations": 6, **keys}
        study = make_study({"size": "25%", "latency": "90%", "quality": "-5pt"}, **settings)
        (study / "board.toml").write_text(text)
        (study / "space.toml").write_text(EIGHT)
        return study

    return make


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_a_data_sheet_confirms_by_its_estimate_and_says_so(
    board: Make, cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    code, out, err = cli("run", board(), "--out", folder)
    assert code == 0, err
    assert "latency (estimated)" in out
    assert "budget met, as measured; latency as estimated" in out
    assert "0 of 16 prices measured (0 %)" in out
    result = result_of(folder)
    assert result["device"]["costs"] == "estimated"
    assert result["device"]["coverage"] == {"measured": 0, "estimated": 16}
    best = result["best"]
    assert best["measured"]["latency_ms"] == pytest.approx(best["predicted"]["latency_ms"])
    assert best["measured"]["latency_ms"] < result["original"]["latency_ms"]
    assert "latency_mape" not in result["audit"]
    room = result["estimates"]["limits"]["ram"]
    assert room["fits"]
    assert room["limit_bytes"] == 8192
    assert room["used_bytes"] == result["estimates"]["best"]["peak_memory_bytes"]
    page = (folder / "report.html").read_text()
    assert "board.toml (estimated from its data sheet)" in page
    assert "latency as estimated" in page

    code, out, _ = cli("show", folder)
    assert code == 0
    assert "0 of 16 prices measured" in out
    code, out, _ = cli("retarget", folder, "--budget", "latency=95%")
    assert code == 0
    assert "latency as estimated" in out


def test_a_model_that_does_not_fit_fails_like_an_unmet_budget(
    board: Make, cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    code, out, _ = cli("run", board(BOARD.replace("ram_kib = 8", "ram_kib = 1")), "--out", folder)
    assert code == 3
    assert "does not fit: " in out
    assert "1.02 kB of ram" in out
    assert "the limit on ram binds" in out
    result = result_of(folder)
    assert result["budget_met"] is False
    assert result["binding"] == "ram"
    assert result["estimates"]["limits"]["ram"]["fits"] is False


def test_flash_is_a_limit_of_the_search(board: Make, cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    study = board(BOARD.replace("flash_kib = 64", "flash_kib = 2"))
    code, _, err = cli("run", study, "--out", folder)
    assert code == 0, err
    assert result_of(folder)["best"]["size_bytes"] <= 2048


def test_imported_measurements_take_part(
    board: Make, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    study, file = board(), tmp_path / "board.csv"
    monkeypatch.chdir(study)
    code, out, err = cli("profile", "board.toml", "--study", study, "--export-operations", file)
    assert code == 0, err
    assert "16 operations, 0 filled in" in out
    lines = file.read_text().splitlines()
    slow = next(i for i, line in enumerate(lines) if line.startswith("Conv2d 1x8"))
    lines[slow] = lines[slow].replace(",,,", ",50,0.1,30")
    file.write_text("\n".join(lines))
    code, out, _ = cli("profile", "board.toml", "--import", file, "--study", study)
    assert code == 0
    assert "1 operations imported" in out
    assert "1 of 16 prices measured (6 %)" in out
    assert float(out.split("latency of the original: ")[1].split(" ms")[0]) >= 50
    folder = tmp_path / "run"
    assert cli("run", study, "--out", folder)[0] == 0
    assert result_of(folder)["device"]["coverage"] == {"measured": 1, "estimated": 15}
    code, _, err = cli("profile", "onnxruntime-cpu", "--import", file)
    assert code == 2
    assert "is measured on this machine" in err
    file.write_text("operation\n")
    code, _, err = cli("profile", "board.toml", "--import", file)
    assert code == 2
    assert "line 1: columns are operation; expected" in err


def test_layers_of_a_data_sheet(board: Make, cli: Cli) -> None:
    code, out, err = cli(
        "layers", board(BOARD + "float32_mac_pj = 4\nint8_mac_pj = 1\nbyte_pj = 9")
    )
    assert code == 0, err
    for words in ("estimated from the data sheet", "energy of one pass", "of 65.5 kB of flash"):
        assert words in out


@pytest.mark.parametrize("name", ["openvino-cpu", "openvino-cpu-bf16", "torch-cpu"])
def test_a_run_on_another_runtime(board: Make, cli: Cli, tmp_path: Path, name: str) -> None:
    device = DEVICES[name]
    if device.missing():
        pytest.skip(device.missing())
    folder = tmp_path / "run"
    code, out, err = cli(
        "run", board(), "--device", name, "--budget", "latency=400%", "--out", folder
    )
    assert code in (0, 3), err  # a clock may say what it likes of so small a model
    result = result_of(folder)
    assert result["device"]["costs"] == "measured"
    assert result["device"]["runtime"] == f"{device.runtime} {device.engine.version()}"
    assert result["device"]["coverage"]["estimated"] == 0
    assert result["device"]["coverage"]["measured"] > 0
    assert result["audit"]["agreement"] >= 0.99
    assert "prices measured" in out


def test_devices_are_listed(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("devices", "--json", tmp_path / "devices.json")
    assert code == 0, err
    rows = {r["name"]: r for r in json.loads((tmp_path / "devices.json").read_text())["devices"]}
    for name in (*DEVICES, "h100", "jetson_orin", "cortex_a76", "cortex_m7"):
        assert name in out
        assert rows[name]["costs"] == ("measured" if name in DEVICES else "estimated")
    assert rows["cortex_m7"]["ram_kib"] == 320
    assert rows["onnxruntime-cpu"]["available"]
    assert not rows["h100"]["available"]


def test_a_device_whose_runtime_is_not_installed(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from autocompress.hardware.runtimes import openvino_cpu

    monkeypatch.setattr(openvino_cpu, "find_spec", lambda name: None)
    assert "pip install 'autocompress[openvino]'" in cli("devices")[1]
    code, _, err = cli("profile", "openvino-cpu")
    assert code == 2
    assert "pip install 'autocompress[openvino]'" in err
