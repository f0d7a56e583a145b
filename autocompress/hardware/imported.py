"""Measurements that a user took on the real device: CSV in, and the list of what to measure out.

Columns: `operation` (a signature, as `--export-operations` writes it), `milliseconds` of one run,
`spread` (interquartile range of the blocks over that) and `blocks` (how many were timed).  A row
whose other fields are all empty is not measured yet and is passed over.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path

from autocompress.errors import DataError, DeviceError, StorageError
from autocompress.files import write_bytes
from autocompress.hardware.device import Device
from autocompress.hardware.operations import Operation
from autocompress.hardware.roofline import estimates
from autocompress.hardware.table import Entry, LatencyTable, cache_folder, read_table

COLUMNS = ("operation", "milliseconds", "spread", "blocks")
_SIZES = r"(?:\d+(?:x\d+)*|scalar)"
_SIGNATURE = re.compile(
    rf"(?:QuantizeLinear|DequantizeLinear) {_SIZES}"
    rf"|[A-Za-z]\w* {_SIZES} by {_SIZES}(?: \S+)* (?:float32|int8)"
)


def read_measurements(path: Path) -> dict[str, Entry]:
    """The measured operations of a CSV file.

    Raises:
        StorageError: If the file cannot be read.
        DataError: Naming the file, the line, the column and what is allowed.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from None
    except csv.Error as error:
        raise DataError(f"{path}: not CSV: {error}") from None
    header = tuple(name.strip() for name in rows[0]) if rows else ()
    if sorted(header) != sorted(COLUMNS):
        raise DataError(
            f"{path}, line 1: columns are {', '.join(header) or 'missing'}; expected"
            f" {', '.join(COLUMNS)}"
        )
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    entries: dict[str, Entry] = {}
    lines: dict[str, int] = {}
    for line, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        where = f"{path}, line {line}"
        if len(row) != len(header):
            raise DataError(f"{where}: {len(row)} fields, expected {len(header)}")
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
        operation = cells["operation"]
        if not _SIGNATURE.fullmatch(operation):
            raise DataError(
                f"{where}: operation {operation!r} is not one that --export-operations writes"
            )
        if operation in lines:
            raise DataError(f"{where}: {operation!r} stands on line {lines[operation]} already")
        lines[operation] = line
        if any(cells[name] for name in COLUMNS[1:]):
            entries[operation] = _entry(cells, where, now)
    return entries


def _entry(cells: Mapping[str, str], where: str, now: str) -> Entry:
    milliseconds = _number(cells["milliseconds"], "milliseconds", where)
    spread = _number(cells["spread"], "spread", where)
    blocks = _number(cells["blocks"], "blocks", where)
    if milliseconds <= 0:
        raise DataError(f"{where}: milliseconds = {milliseconds:g}: expected more than 0")
    if spread < 0:
        raise DataError(f"{where}: spread = {spread:g}: expected 0 or more")
    if blocks < 1 or blocks != int(blocks):
        raise DataError(f"{where}: blocks = {blocks:g}: expected a whole number of at least 1")
    return Entry(milliseconds, spread, int(blocks), now)


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {column} = {text!r}: expected a number")
    return value


def write_operations(path: Path, signatures: Iterable[str], table: LatencyTable) -> None:
    """A CSV file for the user to fill in; what was imported before is filled in already.

    Raises:
        StorageError: If the file cannot be written.
    """
    lines = [",".join(COLUMNS)]
    for signature in signatures:
        entry = table.entries.get(signature)
        known = ("", "", "")
        if entry is not None and entry.is_measured:
            known = (repr(entry.p20_ms), repr(entry.spread), str(entry.blocks))
        lines.append(",".join([signature, *known]))
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def imports_path(device: Device) -> Path:
    """Where a device's imported measurements are kept: by the name of its file."""
    return cache_folder() / f"{Path(device.name).stem}-imported.json"


def imported_table(device: Device) -> LatencyTable:
    """What was imported for a device; empty when nothing was.

    Raises:
        DeviceError: If the device is measured here, so that nothing can be imported for it.
        StorageError: If the record is damaged.
    """
    if device.sheet is None:
        raise DeviceError(
            f"{device.name} is measured on this machine; measurements are imported for devices"
            " known from a data sheet"
        )
    path = imports_path(device)
    if not path.is_file():
        return LatencyTable(device.name, {"source": "imported"}, {})
    return read_table(path)


def import_measurements(device: Device, path: Path) -> tuple[int, Path]:
    """Take measurements of the real device in; they stay until others of the same operation come.

    Returns:
        How many operations the file gives, and where they are kept.

    Raises:
        DataError: If a line of the file is not what it must be; nothing is taken in then.
        DeviceError: If the device is measured here.
        StorageError: If a file cannot be read or written.
    """
    table = imported_table(device)
    entries = read_measurements(path)
    if not entries:
        raise DataError(f"{path}: no operation has been filled in")
    table.with_entries(entries).save(imports_path(device))
    return len(entries), imports_path(device)


def sheet_table(operations: Mapping[str, Operation], device: Device) -> LatencyTable:
    """All operations as estimated, those that were imported as measured."""
    assert device.sheet is not None
    known = imported_table(device)
    measured = {name: known.entries[name] for name in operations if name in known.entries}
    entries = {**estimates(operations, device.sheet), **measured}
    return LatencyTable(device.name, known.fingerprint, entries)
