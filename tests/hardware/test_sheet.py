"""Data sheets as files: the ones that come along, and hostile ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.errors import ConfigError, DeviceError
from autocompress.hardware.device import (
    DEVICES,
    all_devices,
    get_device,
    machine_fingerprint,
    reject,
)
from autocompress.hardware.sheet import FOLDER, load_sheet
from autocompress.model.layer import Layer
from autocompress.search_space.option import Option
from autocompress.toml import presets

GOOD = """
schema = 1
runtime = "paper"
float32_gmacs = 2
bandwidth_gb_s = 1.5
"""
LAYER = Layer("fc", "Linear", (8, 16), 136, 128, 1, (1, 16), (1, 8))


def write(folder: Path, text: str) -> str:
    (folder / "board.toml").write_text(text)
    return "board.toml"


@pytest.mark.parametrize("name", presets(FOLDER))
def test_the_sheets_that_come_along(name: str) -> None:
    device = get_device(name)
    assert device.costs == "estimated"
    assert device.energy is not None
    assert device.missing()
    assert device.file_engine.package == "onnxruntime"
    with pytest.raises(DeviceError, match="nothing runs on it here"):
        _ = device.engine
    # Every number stands under a source.
    text = presets(FOLDER)[name].read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "schema"))]
    assert text.count("#") >= len(lines) / 2


def test_every_device_is_listed_once() -> None:
    names = [device.name for device in all_devices()]
    measured = list(DEVICES)
    assert {"onnxruntime-cpu", "openvino-cpu", "torch-cpu"} <= set(measured)
    assert names[: len(measured)] == measured
    assert set(names[len(measured) :]) == {"cortex_a76", "cortex_m7", "h100", "jetson_orin"}


def test_a_sheet_of_ones_own(tmp_path: Path) -> None:
    device = get_device(write(tmp_path, GOOD), tmp_path)
    assert device.precisions == ("float32",)
    assert device.energy is None
    assert "no int8 kernels" in reject(Option(bits=8, activations="int8"), LAYER, device)
    before = machine_fingerprint(device)
    write(tmp_path, GOOD.replace("1.5", "3"))
    assert machine_fingerprint(get_device("board.toml", tmp_path)) != before


def test_an_unknown_device_lists_sheets_as_well() -> None:
    with pytest.raises(DeviceError, match=r"'abacus': known are onnxruntime-cpu.*h100.*\.toml"):
        get_device("abacus")
    with pytest.raises(ConfigError, match="nowhere.toml: no such file"):
        get_device("nowhere.toml")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "key 'schema' is missing"),
        (GOOD.replace("schema = 1", "schema = 2"), "key 'schema'"),
        (GOOD + "float16_gmacs = 3", "unknown key 'float16_gmacs'; allowed are .*float32_gmacs"),
        (GOOD + "ram_kib = -1", "key 'ram_kib'.*greater than or equal to 0"),
        (GOOD + "ram_kib = 1.5", "key 'ram_kib'.*integer"),
        (GOOD + "threads = 0", "key 'threads'"),
        (GOOD + "format = 'tape'", "key 'format'.*'archive' or 'onnx'"),
        (GOOD.replace("= 2", "= 0"), "key 'float32_gmacs'.*greater than 0"),
        (GOOD.replace("= 2", "= 'fast'"), "key 'float32_gmacs'.*number"),
        (GOOD.replace("1.5", "inf"), "key 'bandwidth_gb_s'.*finite"),
        (GOOD.replace("1.5", "nan"), "key 'bandwidth_gb_s'"),
        (GOOD.replace("bandwidth_gb_s = 1.5", ""), "key 'bandwidth_gb_s'.*required"),
        (GOOD.replace('"paper"', '""'), "key 'runtime'"),
        (GOOD + "byte_pj = 10", "'float32_mac_pj'.*all of them or none"),
        (GOOD + "[tables]\nmore = 1", "unknown key 'tables'"),
        ("schema = ", "not valid TOML"),
    ],
)
def test_a_malformed_sheet_names_file_key_and_what_is_allowed(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=rf"board\.toml: .*{complaint}"):
        load_sheet(write(tmp_path, text), tmp_path)
