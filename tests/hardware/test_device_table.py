from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.errors import DeviceError, StorageError
from autocompress.hardware.device import get_device, kernel_class, machine_fingerprint, reject
from autocompress.hardware.table import (
    Entry,
    cache_path,
    cached_table,
    empty_table,
    load_table,
)
from autocompress.model.layer import Layer
from autocompress.search_space.option import Option

DEVICE = get_device("onnxruntime-cpu")
WIDE = replace(DEVICE, int8_bits=8)
LAYER = Layer("fc", "Linear", (8, 16), 136, 128, 1, (1, 16), (1, 8))
ENTRY = Entry(0.25, 0.1, 15, "2026-11-22T00:00:00+00:00")


def test_an_unknown_device_lists_the_known_ones() -> None:
    with pytest.raises(DeviceError, match="'abacus': known are onnxruntime-cpu"):
        get_device("abacus")


def test_options_with_the_same_kernels_share_a_class() -> None:
    small = Option(bits=3, sparsity=0.9, rank=0.25, activations="int8")
    assert kernel_class(small) == Option(bits=7, rank=0.25, activations="int8")
    assert kernel_class(Option(bits=4, sparsity=0.5, method="nearest")).is_identity


def test_int8_weights_are_as_wide_as_the_fast_kernels_take() -> None:
    wide, narrow = replace(DEVICE, int8_bits=8), replace(DEVICE, int8_bits=7)
    option = Option(bits=8, rank=0.5, activations="int8")
    assert wide.suited(option) == option
    assert narrow.suited(option) == replace(option, bits=7)
    for kept in (Option(), Option(bits=8), Option(bits=6, activations="int8")):
        assert narrow.suited(kept) == kept


def test_what_cannot_be_stored_or_run_has_a_reason() -> None:
    assert reject(Option(bits=3, sparsity=0.9), LAYER) == ""
    assert "zeros" in reject(Option(bits=4, sparsity=0.9), LAYER, format="onnx")
    assert "not 3" in reject(Option(bits=3), LAYER, format="onnx")
    assert "not 4" in reject(Option(bits=4, activations="int8"), LAYER, format="onnx")
    assert reject(Option(bits=8, activations="int8"), LAYER, WIDE, format="onnx") == ""
    narrow = replace(DEVICE, int8_bits=7)
    assert "more than 7 bits" in reject(Option(bits=8, activations="int8"), LAYER, narrow)
    assert "int8" in reject(
        Option(bits=8, activations="int8"), LAYER, replace(DEVICE, precisions=("float32",))
    )
    assert reject(Option(bits=8), replace(LAYER, reason="grouped")) == "grouped"
    assert reject(Option(), replace(LAYER, reason="grouped")) == ""
    assert "leaves nothing out" in reject(Option(rank=0.99), LAYER)


def test_a_table_comes_back_and_adds_up(cache: Path) -> None:
    path = cache_path(DEVICE)
    assert path.parent == cache
    assert cached_table(DEVICE).entries == {}
    empty_table(DEVICE).with_entries({"op": ENTRY}).save(path)
    assert cached_table(DEVICE).p20_ms("op") == 0.25
    assert load_table(path, DEVICE).entries == {"op": ENTRY}
    assert [file.name for file in cache.iterdir()] == [path.name]


def test_a_missing_entry_is_an_error_and_never_zero() -> None:
    with pytest.raises(DeviceError, match="autocompress profile onnxruntime-cpu"):
        empty_table(DEVICE).p20_ms("Conv2d 1x1")


@pytest.mark.parametrize("key", ["processor", "runtime", "threads"])
def test_a_stale_table_is_refused_by_name_and_unused_in_the_cache(key: str) -> None:
    path = cache_path(DEVICE)
    empty_table(DEVICE).with_entries({"op": ENTRY}).save(path)
    content = json.loads(path.read_text())
    content["fingerprint"][key] = "another"
    path.write_text(json.dumps(content))
    with pytest.raises(DeviceError, match=f"stale: .*{key} 'another'.*autocompress profile"):
        load_table(path, DEVICE)
    assert cached_table(DEVICE).entries == {}


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 9}', '{"schema": 2, "entries": {}}'])
def test_a_damaged_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(StorageError, match=r"table\.json"):
        load_table(path, DEVICE)


def test_a_table_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        empty_table(DEVICE).save(tmp_path / "file" / "table.json")


def test_the_fingerprint_holds_what_a_time_depends_on() -> None:
    found = machine_fingerprint(DEVICE)
    assert found == machine_fingerprint(DEVICE)
    assert found["threads"] == "1"
    assert found["runtime"].startswith("onnxruntime ")
