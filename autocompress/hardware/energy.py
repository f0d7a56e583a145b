"""Energy of one forward pass, from operations and bytes: good for ratios.

Per multiply-add and per byte, after the table of Horowitz, "Computing's energy problem (and what
we can do about it)", ISSCC 2014, figure 1.1.9 (45 nm, 0.9 V).  Caches are left out: every operator
reads its inputs and weights from memory and writes its outputs there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from autocompress.hardware.work import Work


@dataclass(frozen=True)
class Energy:
    """What a device spends, in picojoules.

    Args:
        float32_mac_pj: On a multiply-add.
        int8_mac_pj: On a multiply-add of integers.
        byte_pj: On a byte that is moved.
    """

    float32_mac_pj: float
    int8_mac_pj: float
    byte_pj: float

    def millijoules(self, work: Iterable[Work]) -> float:
        """Of some operators."""
        per_mac = {"float32": self.float32_mac_pj, "int8": self.int8_mac_pj}
        spent = (item.macs * per_mac[item.kind] + item.moved_bytes * self.byte_pj for item in work)
        return sum(spent) / 1e9


# 3.7 + 0.9 pJ, 0.2 + 0.1 pJ, and the lower end of DRAM, 1.3 nJ for 64 bits.
HOROWITZ = Energy(4.6, 0.3, 162.5)
