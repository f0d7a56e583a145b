"""Measurements from the real device: what is written to be filled in, and what is read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autocompress.errors import DataError, DeviceError, StorageError
from autocompress.hardware.coverage import Coverage
from autocompress.hardware.device import get_device
from autocompress.hardware.imported import (
    import_measurements,
    imported_table,
    imports_path,
    read_measurements,
    write_operations,
)
from autocompress.hardware.measure import measure_table
from autocompress.hardware.operations import operations_of
from autocompress.hardware.profile import fit_latency
from autocompress.hardware.runtimes.float_graph import FloatGraph
from autocompress.hardware.runtimes.onnx_float import export_float
from autocompress.hardware.table import LatencyTable
from autocompress.search_space.option import Option

DEVICE = get_device("cortex_m7")
INT8 = Option(bits=8, activations="int8")
HEAD = "operation,milliseconds,spread,blocks\n"
LINEAR = "Linear 1x16 by 8x16 bias float32"


@pytest.fixture(scope="module")
def graph(mixed) -> FloatGraph:
    return export_float(mixed.model, mixed.layers, mixed.example)


def test_what_is_written_is_filled_in_imported_and_takes_the_place_of_estimates(
    mixed, graph, tmp_path: Path
) -> None:
    classes = {"head": (Option(), INT8), "conv": (Option(),)}
    operations = operations_of(graph, classes)
    before = measure_table(graph, classes, DEVICE)
    assert Coverage.of(before, operations) == Coverage(0, len(operations))
    file = tmp_path / "board.csv"
    write_operations(file, operations, imported_table(DEVICE))
    lines = file.read_text().splitlines()
    assert len(lines) == 1 + len(operations)
    # Two are filled in, the others stay estimates.
    lines[1], lines[2] = lines[1].replace(",,,", ",7.5,0.02,30"), lines[2].replace(",,,", ",2,0,1")
    file.write_text("\n".join(lines))
    assert import_measurements(DEVICE, file) == (2, imports_path(DEVICE))
    table = measure_table(graph, classes, DEVICE)
    names = [line.split(",")[0] for line in lines]
    assert table.p20_ms(names[1]) == 7.5
    assert table.p20_ms(names[3]) == before.p20_ms(names[3])
    assert Coverage.of(table, operations) == Coverage(2, len(operations) - 2)
    # A second file adds to the first; what is written again has the measurements in it.
    file.write_text(HEAD + f"{names[3]},1,0.5,2\n")
    import_measurements(DEVICE, file)
    write_operations(file, operations, imported_table(DEVICE))
    assert read_measurements(file).keys() == set(names[1:4])


def test_prices_and_coverage_of_a_sheet(mixed, graph) -> None:
    profile = fit_latency(
        mixed.model,
        mixed.layers,
        mixed.example,
        {name: (INT8,) for name in mixed.names},
        np.random.default_rng(0),
        device=DEVICE,
        graph=graph,
    )
    assert profile.fit is None
    assert profile.coverage.measured == 0
    assert profile.coverage.share == 0
    assert profile.prices.constant_ms > 0  # norms, sums and the grouped convolution
    assert profile.prices.predict(dict.fromkeys(mixed.names, INT8)) < profile.prices.predict({})
    assert type(profile).from_dict(profile.as_dict()) == profile


def test_a_missing_operation_is_refused(graph) -> None:
    with pytest.raises(DeviceError, match="no measurement of 'Conv2d 1x1'"):
        Coverage.of(LatencyTable("cortex_m7", {}, {}), ["Conv2d 1x1"])


def test_a_measured_device_takes_no_imports(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="onnxruntime-cpu is measured on this machine"):
        import_measurements(get_device("onnxruntime-cpu"), tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 1: columns are missing; expected operation, milliseconds, spread, blocks"),
        ("operation,ms\n", "line 1: columns are operation, ms; expected"),
        (HEAD + f"{LINEAR},1,0.1\n", "line 2: 3 fields, expected 4"),
        (HEAD + f"{LINEAR},1,0.1,5,6\n", "line 2: 5 fields"),
        (HEAD + f"\n{LINEAR},fast,0.1,5\n", "line 3: milliseconds = 'fast': expected a number"),
        (HEAD + f"{LINEAR},0,0.1,5\n", "line 2: milliseconds = 0: expected more than 0"),
        (HEAD + f"{LINEAR},-1,0.1,5\n", "line 2: milliseconds = -1"),
        (HEAD + f"{LINEAR},nan,0.1,5\n", "line 2: milliseconds = 'nan'"),
        (HEAD + f"{LINEAR},inf,0.1,5\n", "line 2: milliseconds = 'inf'"),
        (HEAD + f"{LINEAR},,0.1,5\n", "line 2: milliseconds = ''"),
        (HEAD + f"{LINEAR},1,,5\n", "line 2: spread = ''"),
        (HEAD + f"{LINEAR},1,-0.1,5\n", "line 2: spread = -0.1: expected 0 or more"),
        (HEAD + f"{LINEAR},1,0.1,0\n", "line 2: blocks = 0: expected a whole number"),
        (HEAD + f"{LINEAR},1,0.1,2.5\n", "line 2: blocks = 2.5"),
        (HEAD + "Linear 1x16,1,0.1,5\n", "line 2: operation 'Linear 1x16' is not one"),
        (HEAD + ",1,0.1,5\n", "line 2: operation '' is not one"),
        (HEAD + f"{LINEAR},1,0,5\n{LINEAR},2,0,5\n", "line 3: '.*' stands on line 2 already"),
        (HEAD + f'"{LINEAR}"x,1,0.1,5\n', "not CSV"),
        (HEAD, "no operation has been filled in"),
        (HEAD + f"{LINEAR},,,\n", "no operation has been filled in"),
    ],
)
def test_a_hostile_file_names_the_line_and_changes_nothing(
    tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "board.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=rf"board\.csv.*{complaint}"):
        import_measurements(DEVICE, file)
    assert not imports_path(DEVICE).exists()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere.csv: cannot be read"):
        read_measurements(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StorageError, match="cannot be read"):
        read_measurements(tmp_path / "binary.csv")


def test_columns_may_come_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "board.csv"
    file.write_text(f"blocks,operation,spread,milliseconds\n3,{LINEAR},0.5,2\n")
    entry = read_measurements(file)[LINEAR]
    assert (entry.p20_ms, entry.spread, entry.blocks) == (2.0, 0.5, 3)
    assert entry.measured_at
