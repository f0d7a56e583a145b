"""Which candidates are worth a look, and why: the chosen one, and the best by each wish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from autocompress.report.data import Row, RunData
from autocompress.report.limits import Limit, mapping
from autocompress.report.units import number


@dataclass(frozen=True)
class Point:
    """A candidate that can be chosen; measured values stand before predicted ones.

    Args:
        candidate: Its id.
        loss: Predicted; lower is better.
        size_bytes: Of the file.
        latency_ms: On the device.
        quality: On the selection split; None where it was not measured.
        is_measured: Whether size and latency were measured.
        met: Whether it keeps every limit, as the run judged it; None where the run did not.
        options: Option by layer; empty where the front does not hold it.
    """

    candidate: str
    loss: float | None
    size_bytes: float | None
    latency_ms: float | None
    quality: float | None = None
    is_measured: bool = False
    met: bool | None = None
    options: tuple[str, ...] = ()

    def value(self, name: str) -> float | None:
        """What the limit called `name` is about; None where that is not known."""
        known = {"size": self.size_bytes, "latency": self.latency_ms, "quality": self.quality}
        return known.get(name)


@dataclass(frozen=True)
class Pick:
    """A point with what speaks for it.

    Args:
        point: The candidate.
        reasons: Short sentences; a point may be best by several wishes.
    """

    point: Point
    reasons: list[str] = field(default_factory=list)


def points(run: RunData) -> list[Point]:
    """The front and the finalists beside it, smallest first."""
    measured = {str(row.get("candidate", "")): row for row in run.finalists}
    found = []
    rows: list[Any] = run.front.to_dict("records")
    for row in rows:
        options = tuple(str(row[name]) for name in run.layer_columns)
        found.append(_point(row, measured.pop(str(row["candidate"]), None), options))
    found += [_point(mapping(row, "predicted"), row, ()) for row in measured.values()]
    return sorted(found, key=lambda point: point.size_bytes or 0.0)


def latency_factor(run: RunData) -> float:
    """What the clock said of the finalists over what was predicted of them; 1 without any."""
    ratios = []
    for row in run.finalists:
        predicted = number(mapping(row, "predicted").get("latency_ms"))
        measured = number(mapping(row, "measured").get("latency_ms"))
        if predicted and measured:
            ratios.append(measured / predicted)
    return median(ratios) if ratios else 1.0


def keeps(run: RunData, point: Point) -> bool | None:
    """Whether a point keeps all limits; None where it may, but one of its values is unknown."""
    if point.met is not None:
        return point.met
    unknown = False
    for limit in run.limits:
        value = point.value(limit.name)
        if limit.name == "latency" and value is not None and not point.is_measured:
            # What was wrong with the predictions of the finalists is wrong with the others'.
            value *= latency_factor(run)
        if limit.limit is None or limit.soft:
            continue
        if value is None:
            unknown = True
        elif _is_beyond(value, _on_selection(run, limit), limit.direction):
            return False
    return None if unknown else True


def picks(run: RunData) -> list[Pick]:
    """The chosen point, then the smallest, fastest, closest and the knee, each with its reason.

    A point whose quality was not measured is only suggested where its loss is no larger than that
    of some point that keeps the limit on quality: more is a leap in the dark.
    """
    pool = points(run)
    found: dict[str, Pick] = {}

    def add(point: Point | None, reason: str) -> None:
        if point is not None:
            known = "" if point.quality is not None else " (its quality was not measured)"
            found.setdefault(point.candidate, Pick(point)).reasons.append(reason + known)

    chosen = next((p for p in pool if p.candidate == run.best_id), None)
    add(chosen, _why_chosen(run))
    judged = [(p, keeps(run, p)) for p in pool]
    trusted = max((p.loss or 0.0 for p, kept in judged if kept is True), default=0.0)
    fit = [
        p
        for p, kept in judged
        if kept is True or (kept is None and p.loss is not None and p.loss <= trusted)
    ]
    within = "within the limits" if any(limit.limit for limit in run.limits) else "of all"
    if not fit:
        fit, within = pool, "of all, limits aside"
    add(_least(fit, lambda p: p.size_bytes), f"the smallest {within}")
    add(_least(fit, lambda p: p.latency_ms), f"the fastest {within}")
    add(_least(fit, lambda p: p.loss), f"the closest to the original {within}")
    knee = next((p for p in pool if run.knee and p.candidate == run.knee), None)
    add(knee, "the knee: beyond it a little more saved costs much more loss")
    return list(found.values())


def _why_chosen(run: RunData) -> str:
    if run.result.get("budget_met") is False:
        return "chosen: the closest to the limits, none keeps them all"
    if any(limit.limit is not None for limit in run.limits):
        return "chosen: the best of the finalists that keep every limit as measured"
    return "chosen: the best of the finalists as measured"


def _on_selection(run: RunData, limit: Limit) -> float:
    """A limit where candidates are compared: that on quality speaks of the test split."""
    return (limit.limit or 0.0) + (run.selection_shift if limit.name == "quality" else 0.0)


def _is_beyond(value: float, limit: float, direction: str) -> bool:
    return value < limit if direction == "at least" else value > limit


def _least(pool: Sequence[Point], by: Callable[[Point], float | None]) -> Point | None:
    known = [(value, place) for place, p in enumerate(pool) if (value := by(p)) is not None]
    # Equal values go to the lower loss: two points may weigh or take the same.
    return pool[min(known, key=lambda k: (k[0], pool[k[1]].loss or 0.0))[1]] if known else None


def _point(row: Row, finalist: Row | None, options: tuple[str, ...]) -> Point:
    measured = mapping(finalist, "measured") if finalist else {}
    met = finalist.get("met") if finalist else None
    size, latency = number(measured.get("size_bytes")), number(measured.get("latency_ms"))
    quality = number(measured.get("quality"))
    return Point(
        candidate=str((finalist or row).get("candidate", "")),
        loss=number(row.get("loss")),
        size_bytes=number(row.get("size_bytes")) if size is None else size,
        latency_ms=number(row.get("latency_ms")) if latency is None else latency,
        quality=number(row.get("quality")) if quality is None else quality,
        is_measured=size is not None,
        met=met if isinstance(met, bool) else None,
        options=options,
    )
