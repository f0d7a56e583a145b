"""How many of the prices behind a predicted latency were measured, and how many estimated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from autocompress.hardware.table import LatencyTable


@dataclass(frozen=True)
class Coverage:
    """Counts of operations.

    Args:
        measured: By the clock, here or on the device and imported.
        estimated: From the data sheet.
    """

    measured: int
    estimated: int

    @staticmethod
    def of(table: LatencyTable, signatures: Iterable[str]) -> Coverage:
        """Of those that a model needs; a missing one is an error.

        Raises:
            DeviceError: If an operation has no entry.
        """
        known = [table.entry(signature).is_measured for signature in signatures]
        return Coverage(sum(known), len(known) - sum(known))

    @property
    def share(self) -> float:
        """Measured ones among all; 1 where there are none."""
        total = self.measured + self.estimated
        return self.measured / total if total else 1.0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)
