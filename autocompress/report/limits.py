"""One row per cost: the original, what was asked, predicted, measured, and whether it is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autocompress.report.units import (
    NOTHING,
    energy_text,
    latency_text,
    number,
    plain_text,
    share_text,
    size_text,
)

SHOWN = ("quality", "size", "latency")  # also where the budget says nothing of them
COSTS = {
    "quality": "quality",
    "size": "size_bytes",
    "latency": "latency_ms",
    "energy": "energy_mj",
}
_SHARE_UNITS = ("accuracy", "share", "fraction", "pt")


@dataclass(frozen=True)
class Limit:
    """A cost of the winner beside its limit.

    Args:
        name: `quality`, `size`, `latency`, `energy` or another name of the budget.
        text: The limit as the user wrote it, such as `3%`; empty when there is none.
        limit: The limit as a number in `unit`, or None.
        unit: `B`, `ms`, `mJ`, or the unit of the metric.
        direction: `at most` or `at least`; empty when there is no limit.
        original: Value of the original model, measured.
        predicted: Value that the search expected of the winner.
        measured: Value of the winner as measured.
        met: Whether the measured value keeps the limit; None when unknown.
        binding: Whether this limit is the one that stops further improvement.
        soft: Whether it is aimed at but may be missed.
        is_share: Whether values are shares in [0, 1] that read best as percentages.
        predicted_loss: The proxy (KL to the original's outputs), where no quality is predicted.
        estimated: Whether what stands as measured is an estimate.
    """

    name: str
    text: str = ""
    limit: float | None = None
    unit: str = ""
    direction: str = ""
    original: float | None = None
    predicted: float | None = None
    measured: float | None = None
    met: bool | None = None
    binding: bool = False
    soft: bool = False
    is_share: bool = False
    predicted_loss: float | None = None
    estimated: bool = False

    @property
    def label(self) -> str:
        """The name, with how its values are known where no clock or file says so."""
        return f"{self.name} (estimated)" if self.estimated else self.name

    def show(self, value: float | None) -> str:
        """`value` in human units."""
        if value is None:
            return NOTHING
        if self.name == "size":
            return size_text(value)
        if self.name == "latency":
            return latency_text(value)
        if self.name == "energy":
            return energy_text(value)
        if self.is_share:
            return share_text(value, 2)
        # An accuracy already counted in percent points keeps its scale.
        unit = "" if self.name == "quality" and self.unit != "%" else self.unit
        return f"{plain_text(value, 5)} {unit}".strip()

    @property
    def asked(self) -> str:
        """The limit in words, such as `at most 51.7 kB`."""
        if self.limit is None:
            return "no limit"
        return f"{self.direction} {self.show(self.limit)}{' (soft)' if self.soft else ''}"

    @property
    def predicted_shown(self) -> str:
        if self.predicted is None and self.predicted_loss is not None:
            return f"KL {plain_text(self.predicted_loss, 3)}"
        return self.show(self.predicted)

    @property
    def change(self) -> str:
        """Measured against the original: a difference for quality, a share for costs."""
        if self.measured is None or self.original is None:
            return NOTHING
        difference = self.measured - self.original
        if self.is_share:
            return f"{100 * difference:+.2f} pt"
        if self.name == "quality":
            return f"{difference:+.4g}" + (" pt" if self.unit == "%" else "")
        return share_text(self.measured / self.original) if self.original else NOTHING

    @property
    def prediction_error(self) -> float | None:
        """Measured minus predicted, relative to predicted."""
        if self.measured is None or not self.predicted:
            return None
        return self.measured / self.predicted - 1

    @property
    def distance(self) -> str:
        """How far the measured value lies inside or beyond the limit."""
        if self.measured is None or self.limit is None:
            return NOTHING
        inside = self.limit - self.measured
        inside = inside if self.direction != "at least" else -inside
        side = "inside" if inside >= 0 else "beyond"
        if self.is_share:
            return f"{100 * abs(inside):.2f} pt {side}"
        if self.name == "quality" or not self.limit:
            return f"{abs(inside):.4g} {side}"
        return f"{100 * abs(inside / self.limit):.1f} % {side}"


def limits_of(
    result: Mapping[str, Any],
    budget_rows: Sequence[Mapping[str, Any]] = (),
    provenance: Mapping[str, Any] | None = None,
) -> tuple[Limit, ...]:
    """Quality, size and latency, then any other limit of the budget.

    Args:
        result: Content of `result.json`; may be empty.
        budget_rows: Rows of `budget` in `details.json`; what they say wins over `result`.
        provenance: Flat facts of the run; `metric` tells whether quality is an accuracy.
    """
    budget = {str(k): v for k, v in mapping(result, "budget").items() if isinstance(v, Mapping)}
    rows = {str(row.get("name")): row for row in budget_rows}
    names = [*SHOWN, *(name for name in {**budget, **rows} if name not in SHOWN)]
    metric = str((provenance or {}).get("metric", ""))
    return tuple(_limit(name, result, budget.get(name, {}), rows, metric) for name in names)


def mapping(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """`record[key]` where it is an object, else an empty one."""
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def _limit(
    name: str,
    result: Mapping[str, Any],
    asked: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
    metric: str,
) -> Limit:
    row = rows.get(name, {})
    key = COSTS.get(name, name)
    best = mapping(result, "best")
    predicted, confirmed = mapping(best, "predicted"), mapping(best, "measured")
    original = number(mapping(result, "original").get(key))
    measured = _first(confirmed.get(key), row.get("measured"), best.get(key))
    limit = _first(row.get("limit"), asked.get("limit"))
    text = str(row.get("text") or asked.get("text") or "")
    unit = str(row.get("unit") or asked.get("unit") or "")
    told = row.get("direction") or asked.get("direction")
    direction = "" if limit is None else str(told or _direction(name, limit, original))
    is_within = limit is not None and measured is not None and _keeps(direction, measured, limit)
    said = row.get("met")
    known = is_within if limit is not None and measured is not None else None
    return Limit(
        name=name,
        text=text,
        limit=limit,
        unit=unit,
        direction=direction,
        original=original,
        predicted=_first(predicted.get(key), row.get("predicted") if name != "quality" else None),
        measured=measured,
        met=said if isinstance(said, bool) else known,
        binding=bool(row.get("binding")) or name in binding_names(result),
        soft=row.get("soft", asked.get("soft")) is True,
        is_share=name == "quality" and _is_share(text, unit, metric, original),
        predicted_loss=number(predicted.get("loss")) if name == "quality" else None,
        estimated=name == "energy" or (name == "latency" and is_estimated(result)),
    )


def is_estimated(result: Mapping[str, Any]) -> bool:
    """Whether the latencies of a run are estimates from a data sheet."""
    return mapping(result, "device").get("costs") == "estimated"


def binding_names(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the limits that bind: `binding` may be one name, several, or nothing."""
    binding = result.get("binding")
    if isinstance(binding, str):
        return (binding,) if binding else ()
    return tuple(map(str, binding)) if isinstance(binding, (list, tuple)) else ()


def _direction(name: str, limit: float, original: float | None) -> str:
    # A quality limit lies on the worse side of the original, which tells the metric's direction.
    if name == "quality" and (original is None or limit <= original):
        return "at least"
    return "at most"


def _keeps(direction: str, measured: float, limit: float) -> bool:
    return measured >= limit if direction == "at least" else measured <= limit


def _is_share(text: str, unit: str, metric: str, original: float | None) -> bool:
    is_accuracy = text.endswith("pt") or unit in _SHARE_UNITS or "accuracy" in metric.lower()
    return is_accuracy and original is not None and 0 <= original <= 1


def _first(*values: Any) -> float | None:
    return next((found for found in map(number, values) if found is not None), None)
