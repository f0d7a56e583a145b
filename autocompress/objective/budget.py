"""Budgets as people state them, `size=3%`, `latency=2 ms`, `quality=-0.5pt`, and what they mean in
numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocompress.errors import ConfigError

LIMITED = ("size", "latency", "quality")
UNITS = {
    "size": {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20},
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "quality": {"pt": 1.0, "": 1.0},
}
BASE_UNIT = {"size": "B", "latency": "ms"}
_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*([A-Za-z%]*)")


@dataclass(frozen=True)
class Limit:
    """One line of a budget.

    Args:
        name: `size`, `latency` or `quality`.
        text: As the user wrote it.
        value: Number before the unit, in base units (bytes, ms, points) unless `is_relative`.
        is_relative: Whether `value` is a share of the original (0.25 for `25%`).
    """

    name: str
    text: str
    value: float
    is_relative: bool

    def bound(self, original: float, higher_is_better: bool = False) -> float:
        """The number to compare with: the most bytes or ms, or the worst quality that is allowed.

        Args:
            original: The original's bytes, ms or quality.
            higher_is_better: Direction of the quality; ignored for the others.
        """
        if self.name != "quality":
            return self.value * original if self.is_relative else self.value
        allowed = abs(self.value) * (abs(original) if self.is_relative else 1.0)
        return original - allowed if higher_is_better else original + allowed


def parse_limit(name: str, text: str) -> Limit:
    """Reads one limit.

    Size and latency are the most that is allowed, absolute (`2 MB`, `3 ms`) or a share of the
    original (`25%`).  Quality is the most that may be lost, in points of the metric (`-0.5pt`) or
    as a share of the original (`-1%`).

    Raises:
        ConfigError: If the name, number or unit is not understood.
    """
    if name not in LIMITED:
        raise ConfigError(
            f"budget {name}={text}: unknown limit {name!r}; allowed are {', '.join(LIMITED)}"
        )
    found = _NUMBER.fullmatch(text.strip())
    units = UNITS[name]
    if found is None or (found[2] != "%" and found[2] not in units):
        allowed = ", ".join(["%", *(unit for unit in units if unit)])
        raise ConfigError(f"budget {name}={text}: expected a number and a unit ({allowed})")
    number = float(found[1])
    if name != "quality" and number <= 0:
        raise ConfigError(f"budget {name}={text}: must be greater than zero")
    if name == "quality" and found[1].startswith("+"):
        raise ConfigError(f"budget {name}={text}: says how much may be lost, such as -0.5pt")
    if found[2] == "%":
        return Limit(name, text.strip(), number / 100, True)
    return Limit(name, text.strip(), number * units[found[2]], False)


def parse_budget(texts: Sequence[str]) -> dict[str, Limit]:
    """Reads `NAME=VALUE` texts as given on the command line.

    Raises:
        ConfigError: If one is malformed or given twice.
    """
    limits: dict[str, Limit] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise ConfigError(f"budget {text!r}: expected NAME=VALUE, such as size=25%")
        if name in limits:
            raise ConfigError(f"budget {text!r}: {name!r} is given twice")
        limits[name] = parse_limit(name, value)
    return limits


def budget_from(values: Mapping[str, str]) -> dict[str, Limit]:
    """Reads the limits of a mapping, such as the `[budget]` table of a study."""
    return {name: parse_limit(name, text) for name, text in values.items()}
