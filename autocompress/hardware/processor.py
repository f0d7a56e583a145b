"""What the processor of this machine is, and what its int8 kernels can do."""

from __future__ import annotations

import functools
import platform
from pathlib import Path


@functools.cache
def int8_instructions() -> str:
    """What the processor has for products of int8, such as `avx512_vnni`; `none` if nothing is
    known."""
    known = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")
    try:
        words = set(Path("/proc/cpuinfo").read_text().split("\n\n")[0].split())
    except OSError:
        return "none"
    return " ".join(name for name in known if name in words) or "none"


@functools.cache
def processor_name() -> str:
    """Model of the processor; the finest description that the system offers."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("model name", "cpu family", "model", "stepping")
    fields = dict(
        line.split("\t", 1) for line in text.split("\n\n")[0].splitlines() if "\t" in line
    )
    parts = [fields[key].strip(" \t:") for key in wanted if key in fields]
    return " ".join(parts) or platform.machine()


def exact_bits() -> int:
    """Most bits of a weight that fast int8 kernels take without overflow.

    On x86 processors without VNNI they add two products of u8 and s8 in 16 bits, which saturate:
    2 * 255 * 127 does not fit, 2 * 255 * 63 does.  (onnxruntime has exact kernels for eight bits
    there, which are half again as slow.)
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    found = int8_instructions()
    return 7 if is_x86 and "vnni" not in found and "amx" not in found else 8
