"""Budgets as people state them, `size=3%`, `latency<=2 ms`, `quality>=-0.5pt`, and what they mean
in numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocompress.errors import ConfigError

OPTIMISED = ("size", "latency", "quality")
LIMITED = ("size", "latency", "energy", "quality")
UNITS = {
    "size": {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20},
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "energy": {"uJ": 1e-3, "µJ": 1e-3, "mJ": 1.0, "J": 1e3},
    "quality": {"pt": 1.0, "": 1.0},
}
BASE_UNIT = {"size": "B", "latency": "ms", "energy": "mJ"}
_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*([A-Za-zµ%]*)")
_BOUND = re.compile(r"(<=|>=|=|~)?\s*(.*?)\s*(\(\s*soft\s*\))?", re.DOTALL)
_LINE = re.compile(r"\s*([^<>=~]+?)\s*([<>=~].*)", re.DOTALL)


@dataclass(frozen=True)
class Limit:
    """One line of a budget.

    Args:
        name: `size`, `latency`, `energy` or `quality`.
        text: As the user wrote it, without the sign of comparison.
        value: Number before the unit, in base units (bytes, ms, mJ, points) unless `is_relative`.
        is_relative: Whether `value` is a share of the original (0.25 for `25%`).
        is_value: Whether `value` is the quality itself (`quality>=98.5`), not what may be lost.
        soft: Whether it is aimed at and reported, but may be missed.
    """

    name: str
    text: str
    value: float
    is_relative: bool
    is_value: bool = False
    soft: bool = False

    def bound(self, original: float, higher_is_better: bool = False) -> float:
        """The number to compare with: the most bytes, ms or mJ, or the worst quality allowed.

        Args:
            original: The original's bytes, ms, mJ or quality.
            higher_is_better: Direction of the quality; ignored for the others.
        """
        if self.is_value:
            return self.value
        if self.name != "quality":
            return self.value * original if self.is_relative else self.value
        allowed = abs(self.value) * (abs(original) if self.is_relative else 1.0)
        return original - allowed if higher_is_better else original + allowed


@dataclass(frozen=True)
class Metric:
    """What the user calls quality.

    Args:
        name: Another word for `quality` in limits, such as `accuracy`; empty is none.
        higher_is_better: Its direction.
    """

    name: str = ""
    higher_is_better: bool = True

    def canonical(self, name: str) -> str:
        """`size`, `latency`, `energy` or `quality` for a name in a limit; any other as it is."""
        lower = name.strip().lower()
        if lower in LIMITED:
            return lower
        return "quality" if lower == self.name.lower() else name

    @property
    def names(self) -> tuple[str, ...]:
        """What a limit may be on."""
        return LIMITED if self.name in ("", *LIMITED) else (*LIMITED, self.name)


ANY_METRIC = Metric()


def parse_limit(name: str, text: str, metric: Metric = ANY_METRIC) -> Limit:
    """Reads one limit.

    Size, latency and energy are the most that is allowed, absolute (`2 MB`, `3 ms`, `5 mJ`) or a
    share of the original (`25%`).  Quality is the most that may be lost, in points of the metric
    (`-0.5pt`) or as a share of the original (`-1%`), or, after `>=` (`<=` for a metric that is to
    be small), the metric's own value (`>=98.5`).  `<=`, `>=` or `=` may come first; `~` first or
    `(soft)` last makes the limit a soft one.

    Args:
        name: `size`, `latency`, `energy`, `quality` or the metric's name.
        text: The limit, such as `25%`, `<=2 MB`, `-0.5pt`, `>=98.5` or `~25%`.
        metric: The metric's name and direction.

    Raises:
        ConfigError: If the name, sign, number or unit is not understood.
    """
    found = _BOUND.fullmatch(text.strip())
    assert found is not None, "every part may be empty"
    sign, value, soft = found[1] or "=", found[2], bool(found[3]) or found[1] == "~"
    is_wrong = value.startswith(("<", ">", "=", "~"))
    where = f"budget {name}{(found[1] or '') if is_wrong else sign}{value}"
    known = metric.canonical(name)
    if known not in LIMITED:
        raise ConfigError(
            f"{where}: unknown limit {name!r}; allowed are {', '.join(metric.names)}"
        )
    if is_wrong:
        raise ConfigError(f"{where}: the sign must be one of <=, >=, = and ~")
    units = UNITS[known]
    # `0.5 points` reads better in a sentence.
    number = _NUMBER.fullmatch(re.sub(r"(?<=[\d\s])points?$", "pt", value))
    if number is None or (number[2] != "%" and number[2] not in units):
        allowed = ", ".join(["%", *(unit for unit in units if unit)])
        raise ConfigError(f"{where}: expected a number and a unit ({allowed})")
    is_value = False
    if known == "quality":
        is_value = _is_value(where, name, sign, number, metric.higher_is_better)
    elif sign == ">=":
        raise ConfigError(f"{where}: {known} is made small; write {name}<={value}")
    elif float(number[1]) <= 0:
        raise ConfigError(f"{where}: must be greater than zero")
    if number[2] == "%":
        return Limit(known, value, float(number[1]) / 100, True, is_value, soft)
    return Limit(known, value, float(number[1]) * units[number[2]], False, is_value, soft)


def _is_value(where: str, name: str, sign: str, number: re.Match[str], higher: bool) -> bool:
    """Whether a limit on quality gives the metric's value; false when it says what may be lost.

    Raises:
        ConfigError: If it could mean either, or asks for more than the original has.
    """
    text, unit = number[1], number[2]
    direction = "large: write >=" if higher else "small: write <="
    if sign == "<=" and higher:
        raise ConfigError(f"{where}: {name} is better when {direction}")
    is_signed = text[0] in "+-"
    if is_signed and (unit or sign == "="):
        # What may be lost makes a metric that is to be small larger.
        worse = "+" if sign == "<=" else "-"
        if text[0] != worse:
            raise ConfigError(
                f"{where}: says how much may be lost, such as {worse}0.5pt or {worse}1%"
            )
        return False
    if sign == "=" and (unit or not float(text)):
        return False
    if sign in (">=", "<=", "~") and not is_signed and not unit:
        if sign == ">=" and not higher:
            raise ConfigError(f"{where}: {name} is better when {direction}")
        return True
    natural, size = ">=" if higher else "<=", text.lstrip("+-")
    raise ConfigError(
        f"{where}: write {name}{natural}{size} for the value of the metric,"
        f" or quality>=-{size}{unit or 'pt'} for what may be lost"
    )


def parse_budget(texts: Sequence[str], metric: Metric = ANY_METRIC) -> dict[str, Limit]:
    """Reads limits as given on the command line: `size=25%`, `quality>=98.5`, `latency~3ms`.

    Raises:
        ConfigError: If one is malformed or given twice.
    """
    limits: dict[str, Limit] = {}
    for text in texts:
        found = _LINE.fullmatch(text)
        if found is None:
            raise ConfigError(f"budget {text!r}: expected NAME=VALUE, such as size=25%")
        _add(limits, parse_limit(found[1], found[2], metric), f"budget {text!r}")
    return limits


def budget_from(values: Mapping[str, str], metric: Metric = ANY_METRIC) -> dict[str, Limit]:
    """Reads the limits of a mapping, such as the `[budget]` table of a study.

    Raises:
        ConfigError: If one is malformed, or `quality` is given by both of its names.
    """
    limits: dict[str, Limit] = {}
    for name, text in values.items():
        _add(limits, parse_limit(name, text, metric), f"budget {name}={text}")
    return limits


def _add(limits: dict[str, Limit], limit: Limit, where: str) -> None:
    if limit.name in limits:
        raise ConfigError(f"{where}: {limit.name!r} is given twice")
    limits[limit.name] = limit
