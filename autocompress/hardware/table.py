"""Measured times of single operations, kept in a file that belongs to one machine and runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from autocompress.errors import DeviceError, StorageError
from autocompress.files import write_json
from autocompress.hardware.device import Device, machine_fingerprint

SCHEMA = 2  # 1 timed int8 layers with ReLU6 with a clip of their own


@dataclass(frozen=True)
class Entry:
    """One measured operation.

    Args:
        p20_ms: CPU time of one run, 20th percentile of the blocks.
        spread: Interquartile range over that.
        blocks: Number of blocks; 0 where the time is an estimate.
        measured_at: Time of measurement, ISO 8601 in UTC; empty where it is an estimate.
    """

    p20_ms: float
    spread: float
    blocks: int
    measured_at: str

    @property
    def is_measured(self) -> bool:
        """Whether a clock said so, and not a data sheet."""
        return self.blocks > 0


@dataclass(frozen=True)
class LatencyTable:
    """Operation signature to what was measured.

    Args:
        device: Name of the device.
        fingerprint: Processor, cores, runtime version and threads at the time of measurement.
        entries: The measurements.
    """

    device: str
    fingerprint: Mapping[str, str]
    entries: Mapping[str, Entry]

    def p20_ms(self, signature: str) -> float:
        """CPU time of an operation.

        Raises:
            DeviceError: If it was never measured: a missing time is never taken as zero.
        """
        return self.entry(signature).p20_ms

    def entry(self, signature: str) -> Entry:
        """What is known of an operation.

        Raises:
            DeviceError: If it was never measured: a missing time is never taken as zero.
        """
        if signature not in self.entries:
            raise DeviceError(
                f"no measurement of {signature!r} on {self.device}: "
                f"run `autocompress profile {self.device} --study STUDY`"
            )
        return self.entries[signature]

    def with_entries(self, entries: Mapping[str, Entry]) -> LatencyTable:
        """This table and `entries`."""
        return LatencyTable(self.device, self.fingerprint, {**self.entries, **entries})

    def save(self, path: str | Path) -> None:
        """Write the table so that a crash leaves the old file or the new one.

        Raises:
            StorageError: If the file cannot be written.
        """
        content = {
            "schema": SCHEMA,
            "device": self.device,
            "fingerprint": dict(self.fingerprint),
            "entries": {name: asdict(entry) for name, entry in sorted(self.entries.items())},
        }
        write_json(Path(path), content)


def empty_table(device: Device) -> LatencyTable:
    """A table of this machine without measurements."""
    return LatencyTable(device.name, machine_fingerprint(device), {})


def load_table(path: str | Path, device: Device) -> LatencyTable:
    """Read a table that was measured here.

    Raises:
        StorageError: If the file cannot be read or is damaged.
        DeviceError: If it is of another machine, runtime version or thread count.
    """
    table = read_table(path)
    here = machine_fingerprint(device)
    differing = [
        f"{key} {table.fingerprint.get(key, '?')!r} (here {here[key]!r})"
        for key in here
        if table.fingerprint.get(key) != here[key]
    ]
    if table.device != device.name:
        differing.insert(0, f"device {table.device!r} (here {device.name!r})")
    if differing:
        raise DeviceError(
            f"{path} is stale: measured with {', '.join(differing)}; "
            f"measure again with `autocompress profile {device.name}`"
        )
    return table


def read_table(path: str | Path) -> LatencyTable:
    """Read a table, wherever it was measured.

    Raises:
        StorageError: If the file cannot be read or is damaged.
    """
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise StorageError(f"{path}: not a latency table ({error})") from error
    try:
        if content["schema"] != SCHEMA:
            raise StorageError(f"{path}: schema {content['schema']}, expected {SCHEMA}")
        entries = {name: Entry(**fields) for name, fields in content["entries"].items()}
        return LatencyTable(content["device"], content["fingerprint"], entries)
    except (KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path}: not a latency table ({error!r})") from error


def cached_table(device: Device) -> LatencyTable:
    """This machine's table from the user's cache; empty when there is none that fits."""
    try:
        return load_table(cache_path(device), device)
    except (StorageError, DeviceError):
        return empty_table(device)


def cache_path(device: Device) -> Path:
    """Where this machine's table is kept."""
    fingerprint = json.dumps(machine_fingerprint(device), sort_keys=True)
    return cache_folder() / f"{device.name}-{sha256(fingerprint.encode()).hexdigest()[:12]}.json"


def cache_folder() -> Path:
    """Where tables are kept: in `AUTOCOMPRESS_CACHE` or `~/.cache/autocompress`."""
    root = os.environ.get("AUTOCOMPRESS_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "autocompress"
