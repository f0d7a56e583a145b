"""Times from a data sheet: no operator is faster than its arithmetic or its memory traffic allows.

Williams, Waterman, Patterson, "Roofline", Communications of the ACM 52(4), 2009.  A bound, not a
measurement: real kernels take longer, small ones many times longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autocompress.hardware.operations import Operation
from autocompress.hardware.sheet import DataSheet
from autocompress.hardware.table import Entry
from autocompress.hardware.work import Work


def roofline_ms(work: Sequence[Work], sheet: DataSheet) -> float:
    """Time of some operators one after another: for each the longer of arithmetic and memory
    traffic, and the overhead."""
    peaks = {"float32": sheet.float32_gmacs, "int8": sheet.int8_gmacs}
    return sum(
        max(
            item.macs / (1e6 * peaks[item.kind]) if item.macs else 0.0,
            item.moved_bytes / (1e6 * sheet.bandwidth_gb_s),
        )
        + sheet.overhead_us / 1e3
        for item in work
    )


def estimates(operations: Mapping[str, Operation], sheet: DataSheet) -> dict[str, Entry]:
    """Entries for a table; those that were not measured have no blocks."""
    return {
        signature: Entry(roofline_ms(operation.work, sheet), 0.0, 0, "")
        for signature, operation in operations.items()
    }
