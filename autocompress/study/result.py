"""`result.json`, the contract for scripts: what was asked, what was measured, what binds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autocompress.hardware.device import machine_fingerprint
from autocompress.search.problem import LOSS, Problem
from autocompress.search_space.candidate import Candidate
from autocompress.study.confirm import Confirmation, Test
from autocompress.study.events import Log
from autocompress.study.finalist import Probe, Verdict
from autocompress.study.footprint import Room
from autocompress.study.place import JOURNAL
from autocompress.study.prepare import Prepared
from autocompress.study.storage import Record
from autocompress.study.targets import Measured, Target

SCHEMA = 1
PACKAGES = ("autocompress", "torch", "onnxruntime", "onnx", "optuna", "numpy", "scipy")
TIGHT = 0.97  # share of a limit from which it counts as binding


def describe(
    prepared: Prepared,
    problem: Problem,
    records: Sequence[Record],
    confirmation: Confirmation,
    tested: Test | None,
    folder: Path,
    log: Log,
) -> dict[str, Any]:
    """`result.json`: the contract for scripts."""
    study, base, winner = prepared.study, confirmation.original, confirmation.winner
    final = base if winner is None else winner.measured
    original = base
    if tested is not None:
        final = replace(final, quality=tested.winner)
        original = replace(base, quality=tested.original)
    targets = [
        _against(target, study.budget, original, study.higher_is_better)
        for target in confirmation.targets
    ]
    hard = winner.missed_latency if winner else {}
    hard |= {t.name: t.excess(final, original) for t in targets if not (t.soft or t.is_met(final))}
    soft = {t.name: t.excess(final, original) for t in targets if t.soft and not t.is_met(final)}
    rooms = winner.rooms if winner else original_rooms(prepared, base)
    full = {room.name: room.used / room.limit - 1 for room in rooms if not room.fits}
    predicted = _predicted(prepared, winner, base)
    best = {
        "candidate": winner.record.id if winner else "original",
        **costs(final),
        "predicted": predicted,
        "measured": costs(final)
        | {"selection_quality": winner.measured.quality if winner else base.quality}
        | (
            {
                "latency_ratio": [winner.latency_low, winner.latency_high],
                "same_work": winner.same_work,
            }
            if winner
            else {}
        ),
    }
    audit = confirmation.audit
    written = ("model.acz", "model.onnx", "plan.json") if winner else ()
    names = [name for name in written if (folder / name).is_file()]
    files = (
        *names,
        "front.csv",
        "trials.parquet",
        "details.json",
        "log.jsonl",
        *(path.name for path in (folder / JOURNAL,) if path.is_file()),
        "report.html",
    )
    return {
        "schema": SCHEMA,
        "study": study.name,
        "seed": study.settings.seed,
        "versions": versions(),
        "device": {
            "name": study.device.name,
            "costs": study.device.costs,
            "coverage": prepared.coverage.as_dict(),
            **machine_fingerprint(study.device),
        },
        "budget": budget_rows(targets, final, winner),
        "original": costs(original),
        "best": best,
        "estimates": estimates(prepared, winner, rooms),
        "budget_met": winner is not None and not hard and not full,
        "binding": _binding(prepared, problem, winner, hard or full or soft),
        "audit": {
            "proxy_spearman": audit.spearman,
            "proxy_regret": audit.regret,
            "proxy_tolerance": audit.tolerance,
            "promoted": confirmation.promoted,
            **({"warning": audit.warning} if audit.warning else {}),
            **(
                {
                    "latency_mape": prepared.fit.mape_percent,
                    "latency_spearman": prepared.fit.spearman,
                }
                if prepared.fit
                else {}
            ),
            "latency_error_percent": 100 * abs(predicted["latency_ms"] / final.latency_ms - 1),
            "size_error_percent": 100 * abs(predicted["size_bytes"] / final.size_bytes - 1),
            "agreement": tested.agreement if tested else 1.0,
            "agreement_examples": tested.examples if tested else 0,
        },
        "seconds": {name: round(value, 3) for name, value in log.seconds.items()},
        "evaluations": len(records),
        "files": {Path(name).name: str(folder / name) for name in files},
    }


def original_rooms(prepared: Prepared, original: Measured) -> tuple[Room, ...]:
    """What the original takes of the device's memories."""
    return prepared.footprints.rooms(prepared.footprints.of({}), original.size_bytes)


def estimates(prepared: Prepared, winner: Verdict | None, rooms: Sequence[Room]) -> dict[str, Any]:
    """Energy and memory of the original and of the winner, and how they fit into the device."""
    original = prepared.footprints.of({})
    best = winner.footprint if winner and winner.footprint else original
    return {
        "original": original.as_dict(),
        "best": best.as_dict(),
        "limits": {
            room.name: {"used_bytes": room.used, "limit_bytes": room.limit, "fits": room.fits}
            for room in rooms
        },
    }


def probes(confirmation: Confirmation) -> list[Probe]:
    """Every candidate of which both loss and quality are known, as the search left it."""
    fitted = (verdict.probe for verdict in confirmation.verdicts if not verdict.trained)
    return [*fitted, *confirmation.probes]


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}


def budget_rows(
    targets: Sequence[Target], measured: Measured, winner: Verdict | None
) -> dict[str, dict[str, Any]]:
    """One entry a limit: what was asked, in numbers, and whether it is kept."""
    unsure = winner.missed_latency if winner else {}
    return {
        t.name: {
            "text": t.text,
            "limit": t.bound,
            "unit": t.unit,
            "direction": "at least" if t.at_least else "at most",
            "met": t.is_met(measured) and (t.soft or t.name not in unsure),
            "soft": t.soft,
        }
        for t in targets
    }


def costs(measured: Measured) -> dict[str, float]:
    """Quality and costs by the names of `result.json`; energy only where it is known."""
    return {name: value for name, value in asdict(measured).items() if value is not None}


def anchor(prepared: Prepared, original: Measured) -> float:
    """The original's latency as measured now over its price.

    Prices were measured at another moment, when the machine may have been faster or slower as a
    whole; a prediction says what share of the original's latency is left, and is shown on today's
    scale.
    """
    return original.latency_ms / prepared.latency.predict({})


def _predicted(prepared: Prepared, winner: Verdict | None, original: Measured) -> dict[str, float]:
    if winner is None:
        return {LOSS: 0.0, "size_bytes": original.size_bytes, "latency_ms": original.latency_ms}
    record = winner.record
    return {
        LOSS: record.loss,
        "size_bytes": record.size_bytes,
        "latency_ms": record.latency_ms * anchor(prepared, original),
    }


def _against(
    target: Target, budget: Mapping[str, Any], original: Measured, higher_is_better: bool
) -> Target:
    """The target with its bound taken from the original on the test split."""
    bound = budget[target.name].bound(original.value(target.name), higher_is_better)
    return replace(target, bound=bound)


def _binding(
    prepared: Prepared, problem: Problem, winner: Verdict | None, missed: Mapping[str, float]
) -> str | None:
    """The limit missed most; when all are kept, the one on a resource that is used up most, if it
    is.
    """
    if missed:
        return max(missed, key=lambda name: missed[name])
    if winner is None:
        return None
    indices = prepared.space.indices(Candidate.from_dict(winner.record.choices))
    used = {
        name.split("_")[0]: problem.cost(name, indices) / limit
        for name, limit in problem.limits.items()
        if name != LOSS and limit
    }
    tight = max(used, key=lambda name: used[name], default=None)
    return tight if tight is not None and used[tight] >= TIGHT else None
