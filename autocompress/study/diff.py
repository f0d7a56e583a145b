"""What moved between two finished runs: layer by layer, figure by figure, and where from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autocompress.study.causes import (
    causes,
    changed_settings,
    device_changes,
    version_changes,
    weight_changes,
)
from autocompress.study.compare import compare
from autocompress.study.facts import Facts, load_facts

SCHEMA = 1


def diff_runs(first: Path, second: Path) -> dict[str, Any]:
    """What moved from one run to another.

    Args:
        first: A finished run directory.
        second: Another one, as a rule the later one.

    Returns:
        `layers`: rows of `name`, `option`, `bytes`, `latency_ms` (each a pair, None where a run
        has no such layer), `weights` (norm of the change over the norm before; None where it
        cannot be told) and `moved`; `figures` as in `nightly.json`; `front` (`both`, `first`,
        `second`: how many candidates of the fronts); `settings`, `versions`, `operations`,
        `calibration` (whether the data are the same) and `causes`.

    Raises:
        StorageError: If a folder holds no finished run.
    """
    before, after = load_facts(first), load_facts(second)
    fronts = [{row["candidate"] for row in facts.front} for facts in (before, after)]
    return {
        "schema": SCHEMA,
        "first": str(first),
        "second": str(second),
        "studies": [before.result["study"], after.result["study"]],
        "candidates": [before.result["best"]["candidate"], after.result["best"]["candidate"]],
        "layers": layer_rows(before, after),
        "figures": [figure.as_dict() for figure in compare(before, after).figures],
        "front": {
            "both": len(fronts[0] & fronts[1]),
            "first": len(fronts[0] - fronts[1]),
            "second": len(fronts[1] - fronts[0]),
        },
        "settings": changed_settings(before.asked, after.asked),
        "versions": version_changes(before, after),
        "operations": [
            row for row in device_changes(before, after) if abs(row["ratio"] - 1) > 1e-6
        ],
        "calibration": before.origins.get("calibration") == after.origins.get("calibration"),
        "causes": [cause.as_dict() for cause in causes(before, after)],
    }


def layer_rows(before: Facts, after: Facts) -> list[dict[str, Any]]:
    """One row a layer of either run, in running order."""
    old, new = (
        {row["name"]: row for row in facts.details.get("layers", [])} for facts in (before, after)
    )
    weights = {row["layer"]: row["change"] for row in weight_changes(before, after)}
    rows = []
    for name in dict.fromkeys([*old, *new]):
        pairs = {
            key: [old.get(name, {}).get(column), new.get(name, {}).get(column)]
            for key, column in (
                ("option", "option"),
                ("bytes", "bytes_after"),
                ("latency_ms", "latency_after_ms"),
            )
        }
        moved = name in weights or any(pair[0] != pair[1] for pair in pairs.values())
        change = weights.get(name, 0.0)
        rows.append({"name": name, **pairs, "weights": change, "moved": moved})
    return rows
