"""Two finished runs of one study side by side: figure by figure, better, same or worse.

What a study makes small is compared as it is.  What it only limits may move within the limit when
another candidate is delivered, so there only the limit counts; of one and the same candidate it
may not.  What the study does not ask for is shown and not judged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

from autocompress.study.bands import (
    Band,
    quality_band,
    ratio_band,
    size_band,
    volume_band,
)
from autocompress.study.facts import Facts
from autocompress.study.targets import COSTS

Grade = Literal["better", "same", "worse", ""]
MINIMISED, LIMITED, TRADED, FREE = "minimised", "limited", "traded", "free"
EQUAL = 1e-9  # relative: two sums of the same floats


@dataclass(frozen=True)
class Figure:
    """One figure of two runs.

    Args:
        name: What it is of.
        unit: `B`, `ms`, `mJ`, the metric's unit, or empty for a share.
        before: Of the earlier run; None where it has none.
        after: Of the later one.
        band: How far the two may differ by chance, in the same unit.
        basis: What the band was derived from.
        grade: `better`, `same` or `worse`; empty where it is not judged.
        note: What else to know, such as why it is not judged.
    """

    name: str
    unit: str
    before: float | None
    after: float | None
    band: float
    basis: str
    grade: Grade
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Two runs of one study.

    Args:
        figures: Figure by figure.
        is_same_model: Whether weights and calibration inputs are those of before.
    """

    figures: tuple[Figure, ...]
    is_same_model: bool

    @property
    def grade(self) -> Grade:
        """`worse` where any figure is, else `better` where any is."""
        grades = {figure.grade for figure in self.figures}
        return "worse" if "worse" in grades else "better" if "better" in grades else "same"


def compare(before: Facts, after: Facts) -> Comparison:
    """The later run against the earlier one.

    Raises:
        StorageError: If a record of a run is damaged.
    """
    same = before.origins.get("calibration") == after.origins.get("calibration")
    same &= _weights(before) == _weights(after) and bool(_weights(after))
    delivered = _delivered(before, after, same)
    if delivers_knee(after.asked):
        delivered = _traded(delivered)
    figures = [*delivered, *_limits(before, after, delivered)]
    figures += [_volume(before, after, same), _at_equal_quality(before, after, same)]
    return Comparison(tuple(figures), same)


def delivers_knee(asked: Mapping[str, Any]) -> bool:
    """Whether a study delivers the knee of its front: it has one, and no limits."""
    return bool(asked.get("objective", {}).get("front")) and not asked.get("budget")


def role(asked: Mapping[str, Any], name: str) -> str:
    """What a study wants of `quality`, `size`, `latency` or `energy`.

    `quality` is never free: nobody compresses a model to have it wrong.
    """
    objective = asked.get("objective", {})
    if delivers_knee(asked) and name in ("quality", *objective["front"]):
        return TRADED
    if objective.get("minimise", "quality") == name:
        return MINIMISED
    if name in asked.get("budget", {}):
        return LIMITED
    return MINIMISED if name == "quality" else FREE


def grade(
    before: float,
    after: float,
    band: float,
    higher_is_better: bool,
    bound: float | None = None,
) -> Grade:
    """Better, same or worse.

    Args:
        before: The earlier value.
        after: The later one.
        band: How far they may differ by chance.
        higher_is_better: Direction.
        bound: A limit that the earlier run was held to: what moves within it is not worse.  One
            that it missed counts where it came to.
    """
    sign = 1.0 if higher_is_better else -1.0
    room = band + EQUAL * max(abs(before), abs(after))
    floor = sign * before if bound is None else min(sign * before, sign * bound)
    if sign * after < floor - room:
        return "worse"
    return "better" if sign * after > sign * before + room else "same"


def _weights(facts: Facts) -> dict[str, str]:
    return {name: row["hash"] for name, row in facts.origins.get("layers", {}).items()}


def quality_of(facts: Facts, other: Facts) -> float:
    """The delivered model's metric: on the test split, unless one of two runs delivers none."""
    on_test = facts.is_delivered and other.is_delivered
    return float(facts.result["best"]["quality"]) if on_test else facts.selection_quality


def quality_noise(before: Facts, after: Facts) -> Band:
    """The noise band of the delivered models' metric."""
    gaps = (before.split_gap, after.split_gap)
    return quality_band(
        quality_of(before, after),
        quality_of(after, before),
        after.metric_unit,
        before.decisions,
        after.decisions,
        None if gaps[0] is None or gaps[1] is None else (gaps[0], gaps[1]),
    )


def latency_noise(before: Facts, after: Facts) -> Band:
    """The noise band of the delivered models' latency over the original's."""
    return ratio_band(before.latency_ratio, before.latency_interval, after.latency_interval)


def _delivered(before: Facts, after: Facts, is_same_model: bool) -> list[Figure]:
    """Quality and costs of the two delivered models."""
    old, new = before.result["best"], after.result["best"]
    # Times hang on the choice alone, quality and bytes on the weights as well.
    fixed = {"latency", "energy", *(("quality", "size") if is_same_model else ())}
    graded = partial(_graded, before, fixed if old["candidate"] == new["candidate"] else ())
    quality = graded(
        "quality",
        after.metric_unit,
        quality_of(before, after),
        quality_of(after, before),
        quality_noise(before, after),
        after.higher_is_better,
    )
    size = graded("size", "B", old["size_bytes"], new["size_bytes"], size_band(old["size_bytes"]))
    is_timed = after.result["device"].get("costs") != "estimated"
    scale = before.result["original"]["latency_ms"]
    ratio = graded(
        "latency",
        "",
        before.latency_ratio,
        after.latency_ratio,
        latency_noise(before, after),
        scale=scale,
        name="latency over the original's",
    )
    table = Band(0.0, "computed from the device's table")
    whole = graded("latency", "ms", old["latency_ms"], new["latency_ms"], table)
    if is_timed:
        # A slower machine slows the original as well: that is not the model's fault.
        note = "not judged: it depends on how fast the machine was; the ratio does not"
        whole = replace(whole, band=0.0, basis="", grade="", note=note)
    figures = [quality, size, ratio, whole]
    if "energy_mj" in old and "energy_mj" in new and role(after.asked, "energy") != FREE:
        figures.append(graded("energy", "mJ", old["energy_mj"], new["energy_mj"], table))
    return figures


def _graded(
    earlier: Facts,
    fixed: Collection[str],
    cost: str,
    unit: str,
    before: float,
    after: float,
    band: Band,
    higher_is_better: bool = False,
    scale: float = 1.0,
    name: str = "",
) -> Figure:
    """A figure by what the study wants of it; limits are divided by `scale`.  What is `fixed`
    cannot have moved by the search's choice, so that a limit excuses nothing."""
    wanted = role(earlier.asked, cost)
    note, bound = "", None
    if wanted == LIMITED and cost not in fixed and cost in earlier.result["budget"]:
        row = earlier.result["budget"][cost]
        bound = float(row["limit"]) / scale
        note = f"may move within the limit of {row['text']}"
    found = grade(before, after, band.width, higher_is_better, bound)
    if found == "better" and bound is not None and cost != "quality" and before <= bound:
        found = "same"  # nobody asked for less than the limit, and tomorrow it may be more
    if wanted == FREE:
        found, note = "", "not judged: the study does not ask for it"
    return Figure(name or cost, unit, before, after, band.width, band.basis, found, note)


def _traded(figures: Sequence[Figure]) -> list[Figure]:
    """Of the knee of a front: what is lost in one figure may be won in another."""
    if not {"better", "worse"} <= {figure.grade for figure in figures}:
        return list(figures)
    note = "not judged: traded along the front"
    return [
        replace(figure, grade="", note=note) if figure.grade in ("better", "worse") else figure
        for figure in figures
    ]


def _limits(before: Facts, after: Facts, delivered: Sequence[Figure]) -> list[Figure]:
    """Each limit of the budget: whether the delivered model keeps it, now and before."""
    bands = {figure.name: figure for figure in delivered}
    found = []
    for name, row in after.result["budget"].items():
        was = before.result["budget"].get(name, {}).get("met")
        value, limit = after.result["best"][COSTS[name]], row["limit"]
        missed = (value - limit) * (1 if row["direction"] == "at most" else -1)
        band = bands[name].band if name in bands else 0.0
        if name == "latency":  # by the clock's noise, in ms
            band = latency_noise(before, after).width * after.result["original"]["latency_ms"]
        verdict: Grade = "same"
        if was and not row["met"] and missed > band:
            verdict = "worse"
        if was is False and row["met"]:
            verdict = "better"
        met = "met" if row["met"] else "missed"
        note = f"{row['direction']} {limit:.4g} {row['unit']}".rstrip()
        note += f": {met}; before {'unknown' if was is None else 'met' if was else 'missed'}"
        unit = row["unit"]
        old = before.result["best"].get(COSTS[name])
        figure = Figure(f"limit on {name}: {row['text']}", unit, old, value, band, "", verdict)
        found.append(replace(figure, note=note))
    return found


def _volume(before: Facts, after: Facts, is_same: bool) -> Figure:
    """The hypervolume of the whole front."""
    old, new = (facts.details.get("front", {}) for facts in (before, after))
    values = old.get("hypervolume"), new.get("hypervolume")
    figure = Figure("hypervolume of the front", "", *values, 0.0, "", "")
    if values[0] is None or values[1] is None:
        return replace(figure, note="not judged: a run of an older version has none")
    band = volume_band(old["spread"], new["spread"])
    figure = replace(figure, band=band.width, basis=band.basis)
    if not is_same:
        # The loss is the distance from the original: another original, another scale.
        note = "not judged: the loss is measured from another model or on other inputs"
        return replace(figure, note=note)
    return replace(figure, grade=grade(values[0], values[1], band.width, True))


def _at_equal_quality(before: Facts, after: Facts, is_same: bool) -> Figure:
    """The least latency, over the original's, at no less quality than was delivered before."""
    name = "latency at equal quality"
    wanted = role(before.asked, "latency")
    bound = None
    if is_same:
        # The candidates of before were measured again, so that none is missing by chance.
        level = float(before.result["best"]["predicted"]["loss"])
        old, new = (_least_predicted(facts, level) for facts in (before, after))
        error = 0.0 if before.device == after.device else before.fit_error + after.fit_error
        band = Band((old or 0.0) * error, "the cost model's error" if error else "prices")
    else:
        if wanted == LIMITED and "latency" in before.result["budget"]:
            row = before.result["budget"]["latency"]
            bound = row["limit"] / before.result["original"]["latency_ms"]
        room = quality_noise(before, after).width
        sign = 1.0 if after.higher_is_better else -1.0
        level = before.selection_quality - sign * room
        old, new = (_least_measured(facts, level, sign) for facts in (before, after))
        noise = latency_noise(before, after)
        band = Band(noise.width, noise.basis)
    figure = Figure(name, "", old, new, band.width, band.basis, "")
    if old is None or new is None:
        return replace(figure, note="not judged: a run has no candidate of that quality")
    if wanted in (FREE, TRADED):
        return replace(figure, note="not judged: latency is not what the study makes small")
    found = grade(old, new, band.width, False, bound)
    if found == "better" and wanted == LIMITED:
        found = "same"  # as for what is delivered
    return replace(figure, grade=found)


def _least_predicted(facts: Facts, loss: float) -> float | None:
    """Among the front, as the device's table has it."""
    most = loss * (1 + 1e-6) + 1e-12
    rows = [row for row in facts.front if float(row["loss"]) <= most]
    return min((float(row["latency_ms"]) / facts.dense_ms for row in rows), default=None)


def _least_measured(facts: Facts, quality: float, sign: float) -> float | None:
    """Among the finalists, by the clock and the user's metric on the selection split."""
    base = facts.result["original"]["latency_ms"]
    rows = [row["measured"] for row in facts.details.get("finalists", [])]
    good = [row for row in rows if sign * row["quality"] >= sign * quality - 1e-9]
    return min((row["latency_ms"] / base for row in good), default=None)
