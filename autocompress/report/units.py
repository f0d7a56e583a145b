"""Numbers as people read them: kB, ms, percent and points, with a dash where nothing is known."""

from __future__ import annotations

import math
from typing import Any

NOTHING = "–"
LEAST_MS = 1e-7
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def number(value: Any) -> float | None:
    """`value` as a finite float; None for anything else (absent, NaN, text, a flag)."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    converted = float(value)
    return converted if math.isfinite(converted) else None


def size_text(value: Any) -> str:
    """Bytes in B, kB (1000 B), MB or GB with three digits."""
    count = number(value)
    if count is None:
        return NOTHING
    for factor, unit in _SIZES:
        if abs(count) >= 0.9995 * factor:
            return f"{_digits(count / factor, 3)} {unit}"
    return f"{count:.0f} B"


def latency_text(value: Any) -> str:
    """Milliseconds in µs, ms or s with three digits; what no clock can tell from nothing is 0."""
    ms = number(value)
    if ms is None:
        return NOTHING
    if abs(ms) < LEAST_MS:
        return "0 ms"
    if abs(ms) >= 999.5:
        return f"{_digits(ms / 1000, 3)} s"
    if 0 < abs(ms) < 0.09995:
        return f"{_digits(ms * 1000, 3)} µs"
    return f"{_digits(ms, 3)} ms"


def energy_text(millijoules: Any) -> str:
    """Energy in the unit that reads best."""
    value = number(millijoules)
    if value is None:
        return NOTHING
    for unit, factor in (("J", 1e-3), ("mJ", 1.0), ("µJ", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} nJ"


def seconds_text(value: Any) -> str:
    """A duration in s, min or h."""
    seconds = number(value)
    if seconds is None:
        return NOTHING
    if seconds < 59.95:
        return f"{_digits(seconds, 2 if seconds < 10 else 3)} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def share_text(value: Any, decimals: int = 1) -> str:
    """A share in [0, 1] as a percentage."""
    share = number(value)
    return NOTHING if share is None else f"{100 * share:.{decimals}f} %"


def short_share_text(value: Any) -> str:
    """A share as a percentage without trailing zeros, such as `90 %`."""
    share = number(value)
    return NOTHING if share is None else f"{round(100 * share, 2):g} %"


def signed_percent_text(share: Any) -> str:
    """A relative difference with its sign, such as `+1.2 %`."""
    value = number(share)
    return NOTHING if value is None else f"{100 * value:+.1f} %"


def plain_text(value: Any, digits: int = 4) -> str:
    """A number with `digits` significant digits; a text as it is."""
    if isinstance(value, str):
        return printable(value) or NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    found = number(value)
    return NOTHING if found is None else f"{found:.{digits}g}"


def count_text(value: Any) -> str:
    """A whole number with thin groups, such as `431 080`."""
    found = number(value)
    return NOTHING if found is None else f"{found:,.0f}".replace(",", " ")


def compact_text(value: Any) -> str:
    """A large count with three digits, such as `9.60 M`."""
    found = number(value)
    if found is None:
        return NOTHING
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if found >= 0.9995 * factor:
            return f"{_digits(found / factor, 3)} {unit}"
    return f"{found:.0f}"


def shape_text(value: Any) -> str:
    """A weight shape such as `500×800`."""
    if not isinstance(value, (list, tuple)) or not value:
        return NOTHING
    return "×".join(plain_text(size) for size in value)


def printable(text: Any) -> str:
    """`text` on one line without control characters, which could redraw a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def shortened(text: Any, width: int) -> str:
    """`text` with its middle left out when longer than `width`: both ends of a layer path tell."""
    whole = printable(text)
    if len(whole) <= width:
        return whole
    tail = (width - 1) * 2 // 3
    return f"{whole[: width - 1 - tail]}…{whole[-tail:]}"


def options_text(options: list[str], most: int = 4) -> str:
    """How often each option was chosen, most frequent first, such as `w4-s90 ×12, dense ×2`."""
    counts: dict[str, int] = {}
    for option in options:
        counts[option] = counts.get(option, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts = [name if count == 1 else f"{name} ×{count}" for name, count in ranked[:most]]
    parts += [f"{len(ranked) - most} more"] if len(ranked) > most else []
    return ", ".join(map(printable, parts)) or NOTHING


def _digits(value: float, digits: int) -> str:
    """`digits` significant digits, never in exponent form."""
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)) + 1e-12)
    return f"{value:.{max(0, decimals)}f}"
