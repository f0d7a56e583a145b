"""What has changed between two runs of a study: what a difference between them may come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from autocompress.errors import StorageError
from autocompress.files import read_json
from autocompress.study.compare import quality_noise
from autocompress.study.facts import Facts
from autocompress.study.sketch import change

KEPT = 20  # operations in the details
NAMED = 4  # layers, operations or packages that a sentence names
LEAST_MS = 0.01  # share of the original's latency below which an operation is not looked at
LEAST_RATIO = 0.05  # by which a measured operation must be slower to count, at least
MANY = 0.2  # share of the operations of a measured device that must have moved
GREW = 2.0  # times the loss from which a layer counts as more sensitive
FAINT = 1e-6  # losses below are not compared


@dataclass(frozen=True)
class Cause:
    """Something that has changed.

    Args:
        kind: `model`, `calibration data`, `evaluation`, `task`, `code`, `versions`, `device`,
            `machine`, `effort` or `search`.
        text: In a sentence.
        details: The same in figures, for scripts.
    """

    kind: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Keys of what two runs asked for that differ: `key`, `before`, `after`.

    A key that one of them does not know was added by another version of the package and is not
    held against the study; limits of the budget are never passed over.
    """
    found = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if name == "budget" and isinstance(old, dict) and isinstance(new, dict):
            keys = dict.fromkeys([*old, *new])
        elif isinstance(old, dict) and isinstance(new, dict):
            keys = dict.fromkeys(key for key in old if key in new)
        else:
            if name in before and name in after and old != new:
                found.append({"key": name, "before": old, "after": new})
            continue
        for key in keys:
            if old.get(key) != new.get(key):
                row = {"key": f"{name}.{key}", "before": old.get(key), "after": new.get(key)}
                found.append(row)
    return found


def causes(before: Facts, after: Facts) -> list[Cause]:
    """What has changed, what matters most first; `search` alone where nothing has."""
    found = [
        *_model(before, after),
        *_data(before, after),
        *_device(before, after),
        *_versions(before, after),
    ]
    text = "nothing has changed but the search's own draws: search noise"
    return found or [Cause("search", text)]


def weight_changes(before: Facts, after: Facts) -> list[dict[str, Any]]:
    """Layers whose weights differ, the one that moved most first.

    Returns:
        Rows of `layer` and `change`: the norm of the change over the norm before, right to about
        4 %; None for a layer that is new, gone or of another shape.
    """
    old, new = (facts.origins.get("layers", {}) for facts in (before, after))
    rows = []
    for name in dict.fromkeys([*old, *new]):
        first, second = old.get(name), new.get(name)
        if first and second:
            if first["hash"] == second["hash"]:
                continue
            moved = change(first["sketch"], second["sketch"])
        else:
            moved = None
        rows.append({"layer": name, "change": moved})
    return sorted(rows, key=lambda row: -1.0 if row["change"] is None else -row["change"])


def sensitivity_changes(before: Facts, after: Facts) -> dict[str, float]:
    """Layer to how many times the loss its options now cost, each alone; the median of those that
    both runs have priced."""
    old, new = _losses(before), _losses(after)
    found = {}
    for layer in old.keys() & new.keys():
        ratios = [
            new[layer][option] / old[layer][option]
            for option in old[layer].keys() & new[layer].keys()
            if min(old[layer][option], new[layer][option]) > FAINT
        ]
        if ratios:
            found[layer] = float(median(ratios))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def device_changes(before: Facts, after: Facts) -> list[dict[str, Any]]:
    """Operations that both runs have priced: `layer`, `option`, `before_ms`, `after_ms`, `ratio`,
    the one that lost most time first; those that matter little to the original are left out."""
    old, new = before.prices.unit_ms, after.prices.unit_ms
    least = LEAST_MS * before.dense_ms
    rows = [
        {
            "layer": layer,
            "option": option,
            "before_ms": ms,
            "after_ms": new[layer][option],
            "ratio": new[layer][option] / ms,
        }
        for layer, prices in old.items()
        for option, ms in prices.items()
        if option in new.get(layer, {}) and ms > least
    ]
    return sorted(rows, key=lambda row: row["before_ms"] - row["after_ms"])


def version_changes(before: Facts, after: Facts) -> list[dict[str, Any]]:
    """Packages and properties of the machine that differ: `name`, `before`, `after`."""
    rows = []
    for part in ("versions", "machine"):
        old, new = before.origins.get(part, {}), after.origins.get(part, {})
        for name in dict.fromkeys([*old, *new]):
            # The sheet's hash says no more than the table that was made from it.
            if old.get(name) != new.get(name) and name != "sheet":
                rows.append({"name": name, "before": old.get(name), "after": new.get(name)})
    return rows


def _model(before: Facts, after: Facts) -> list[Cause]:
    rows = weight_changes(before, after)
    if not rows:
        return []
    count = len(after.origins.get("layers", {}))
    named = ", ".join(_moved(row) for row in rows[:NAMED])
    more = f"{len(rows)} of {count} layers, most: " if len(rows) > NAMED else ""
    text = f"model changed: weights of {more}{named}"
    old, new = before.result["original"]["quality"], after.result["original"]["quality"]
    unit = after.metric_unit
    text += f"; the original went from {old:.4g} to {new:.4g} {unit}".rstrip()
    grown = {
        layer: ratio for layer, ratio in sensitivity_changes(before, after).items() if ratio > GREW
    }
    if grown:
        layer = next(iter(grown))
        text += (
            f"; most more sensitive: {layer}, whose options cost {grown[layer]:.1f} times the loss"
        )
    details = {"layers": rows, "sensitivity": grown, "original": [old, new]}
    return [Cause("model", text, details)]


def _moved(row: Mapping[str, Any]) -> str:
    name = row["layer"] or "the model's own tensors"
    share = row["change"]
    if share is None:
        return f"{name} (new, gone, or of another shape)"
    percent = 100 * share
    return (
        f"{name} (by about {percent:.0f} %)"
        if percent >= 10
        else f"{name} (by about {percent:.2g} %)"
    )


def _data(before: Facts, after: Facts) -> list[Cause]:
    found = []
    if before.origins.get("calibration") != after.origins.get("calibration"):
        found.append(Cause("calibration data", "calibration data changed"))
    old, new = before.decisions, after.decisions
    originals = before.result["original"]["quality"], after.result["original"]["quality"]
    both = before.is_delivered and after.is_delivered
    if old is not None and new is not None and old.inputs != new.inputs:
        found.append(Cause("evaluation", "the test inputs of evaluate() changed"))
    elif both and not weight_changes(before, after):
        room = quality_noise(before, after).width
        if abs(originals[1] - originals[0]) > room:
            text = (
                "evaluate() changed: the original, whose weights have not, went from"
                f" {originals[0]:.4g} to {originals[1]:.4g} {after.metric_unit}"
            ).rstrip()
            found.append(Cause("evaluation", text, {"original": list(originals)}))
    if before.origins.get("task") != after.origins.get("task"):
        found.append(Cause("task", "task.py changed"))
    return found


def _device(before: Facts, after: Facts) -> list[Cause]:
    if before.device.get("profile") == after.device.get("profile"):
        return _machine(before, after)
    rows = device_changes(before, after)
    room = max(LEAST_RATIO, before.fit_error + after.fit_error)
    if before.result["device"].get("costs") == "estimated":
        room = 1e-6
    slower = [row for row in rows if row["ratio"] > 1 + room]
    faster = [row for row in rows if row["ratio"] < 1 - room]
    # Prices that were fitted again scatter one by one; a device that changed moves many.
    least = 1 if room < LEAST_RATIO else max(1, round(MANY * len(rows)))
    shown, word = (slower, "slower") if len(slower) >= len(faster) else (faster, "faster")
    if len(shown) >= least:
        middle = median(row["ratio"] for row in shown)
        shown = sorted(shown, key=lambda row: -abs(row["after_ms"] - row["before_ms"]))
        named = ", ".join(
            f"{row['layer']} {row['option']} {row['before_ms']:.3g} to {row['after_ms']:.3g} ms"
            for row in shown[:NAMED]
        )
        text = (
            f"device table {word}: {len(shown)} of {len(rows)} operations, in the median"
            f" {middle:.2f} times the time; most: {named}"
        )
        return [Cause("device", text, {"operations": shown[:KEPT]}), *_machine(before, after)]
    old, new = before.dense_ms, after.dense_ms
    if abs(new / old - 1) > room:
        word = "slower" if new > old else "faster"
        text = f"device table {word}: the original takes {new:.3g} ms by it, before {old:.3g}"
        return [Cause("device", text, {"original_ms": [old, new]}), *_machine(before, after)]
    return _machine(before, after)


def _machine(before: Facts, after: Facts) -> list[Cause]:
    """Whether the original itself was slower by the clock."""
    if after.result["device"].get("costs") == "estimated":
        return []
    old, new = before.result["original"]["latency_ms"], after.result["original"]["latency_ms"]
    if abs(new / old - 1) <= LEAST_RATIO:
        return []
    word = "slower" if new > old else "faster"
    text = f"the machine was {word} as a whole: the original took {new:.3g} ms, before {old:.3g}"
    return [Cause("machine", text, {"original_ms": [old, new]})]


def _versions(before: Facts, after: Facts) -> list[Cause]:
    found = []
    rows = version_changes(before, after)
    if rows:
        named = ", ".join(f"{row['name']} {row['before']} to {row['after']}" for row in rows)
        found.append(Cause("versions", f"versions changed: {named}", {"versions": rows}))
    if before.origins.get("code") != after.origins.get("code"):
        found.append(Cause("code", "the compression code of autocompress changed"))
    effort = changed_settings(before.origins.get("effort", {}), after.origins.get("effort", {}))
    if effort:
        named = ", ".join(f"{row['key']} {row['before']} to {row['after']}" for row in effort)
        found.append(Cause("effort", f"the search was asked otherwise: {named}", {"keys": effort}))
    return found


def _losses(facts: Facts) -> dict[str, dict[str, float]]:
    """Layer to option to the loss of that swap alone, from `prices.json`; empty without it."""
    try:
        record = read_json(facts.folder / "prices.json")
        table = record["losses"]["swap"]
        return {
            layer: dict(zip(menu, table[layer], strict=True))
            for layer, menu in record["menus"].items()
        }
    except (StorageError, KeyError, TypeError, ValueError):
        return {}
