"""`details.json`: what the report shows beside the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from autocompress.deploy.archive import layer_bytes
from autocompress.hardware.fit import Fit
from autocompress.search.pareto import hypervolume, non_dominated
from autocompress.search_space.option import Option
from autocompress.study.confirm import Confirmation
from autocompress.study.events import Log
from autocompress.study.finalist import Finalist, Verdict
from autocompress.study.loop import History
from autocompress.study.prepare import Prepared
from autocompress.study.result import anchor, costs, probes, versions
from autocompress.study.storage import NAMES, Record
from autocompress.study.targets import COSTS, Measured

LEAST_LOSS = 1e-9  # losses below this are equal


def details(
    prepared: Prepared,
    history: History,
    confirmation: Confirmation,
    result: Mapping[str, Any],
    log: Log,
) -> dict[str, Any]:
    """`details.json`: what the report shows beside the result."""
    winner = confirmation.winner
    measured = result["best"]["measured"]
    return {
        "layers": layer_rows(prepared, winner.finalist if winner else None),
        "budget": [
            {
                "name": name,
                "text": row["text"],
                "limit": row["limit"],
                "unit": row["unit"],
                "direction": row["direction"],
                "measured": measured[COSTS[name]],
                "predicted": result["best"]["predicted"].get(COSTS[name]),
                "met": row["met"],
                "soft": row["soft"],
                "binding": result["binding"] == name,
            }
            for name, row in result["budget"].items()
        ],
        "finalists": [
            _finalist_row(prepared, verdict, winner, confirmation.original)
            for verdict in confirmation.verdicts
        ],
        "history": _history_rows(history),
        "moves": [dict(move) for move in history.moves],
        "price": dict(history.price),
        "knee": history.knee,
        "stopped": history.reason,
        "audit": {
            "proxy": [asdict(probe) for probe in probes(confirmation)],
            "latency": _fit_rows(prepared.fit) if prepared.fit else {},
        },
        "notes": log.notes,
        "provenance": {
            "metric": prepared.study.settings.metric,
            "seed": str(prepared.study.settings.seed),
            "sampler": prepared.study.settings.sampler,
            "search space": prepared.study.space_file,
            "content": prepared.model.content[:16],
            **{f"version of {name}": number for name, number in versions().items()},
            **{f"device {key}": str(value) for key, value in result["device"].items()},
            **{f"seconds of {name}": f"{value:.1f}" for name, value in log.seconds.items()},
        },
    }


def _fit_rows(fit: Fit) -> dict[str, Any]:
    return {
        **{key: value for key, value in asdict(fit).items() if key != "points"},
        "points": [
            {
                "predicted_ms": p.predicted_ms,
                "measured_ms": p.measured_ms,
                "held_out": p.held_out,
            }
            for p in fit.points
        ],
    }


def layer_rows(prepared: Prepared, finalist: Finalist | None) -> list[dict[str, Any]]:
    """One row a layer: what was chosen, bytes and milliseconds before and after."""
    units = list(prepared.space.units)
    choices = dict(finalist.candidate.choices) if finalist else {}
    rows = []
    for layer in prepared.model.layers:
        option = choices.get(layer.name, Option())
        stored_as = option
        if finalist and layer.name in finalist.options:
            stored_as = Option.parse(finalist.options[layer.name])
        row: dict[str, Any] = {
            "name": layer.name,
            "kind": layer.kind,
            "weight_shape": list(layer.weight_shape),
            "parameters": layer.parameters,
            "macs": layer.macs,
            "treated": layer.name in units,
            "reason": layer.reason
            or ("" if layer.name in units else "excluded by the search space"),
            "option": stored_as.id,
            "bits": stored_as.bits,
            "sparsity": stored_as.zeros,
            "rank": option.rank,
            "tucker": option.tucker,
            "inputs": option.inputs,
            "outputs": option.outputs,
            "activations": option.activations,
            "operators": _operators(layer.name, finalist),
            "bytes_before": 4 * layer.parameters,
            "bytes_after": 4 * layer.parameters,
            "latency_before_ms": None,
            "latency_after_ms": None,
            "local_error": None,
            "loss_alone": None,
        }
        if layer.name in units:
            at = units.index(layer.name)
            index = prepared.space.units[layer.name].index(option)
            stored = prepared.prices.size.units[at]
            row |= {
                "bytes_before": float(stored[prepared.space.units[layer.name].index(Option())]),
                "bytes_after": _bytes(layer.name, finalist) or float(stored[index]),
                "latency_before_ms": prepared.latency.unit(layer.name, Option()),
                "latency_after_ms": prepared.latency.unit(layer.name, option),
                "local_error": 0.0
                if option.computed.is_identity
                else prepared.bank[layer.name, option].error,
                "loss_alone": float(prepared.prices.losses["swap"][at][index]),
            }
        rows.append(row)
    return rows


def _bytes(name: str, finalist: Finalist | None) -> float | None:
    """What a trained layer takes of an archive; None where the prices know it."""
    if finalist is None or not finalist.recovered:
        return None
    return float(layer_bytes(name, finalist.options[name], finalist.treated[name]))


def _operators(name: str, finalist: Finalist | None) -> list[str]:
    """What the runtime really runs for a layer, step by step; empty where nothing is known."""
    found = finalist.operators if finalist else {}
    return [operator for step, operator in found.items() if step.rpartition("/")[0] == name]


def _history_rows(history: History) -> list[dict[str, Any]]:
    volumes = _hypervolumes([step.record for step in history.steps])
    passes = np.cumsum([step.record.work for step in history.steps])
    rows = []
    for step, volume, spent in zip(history.steps, volumes, passes, strict=True):
        rows.append(
            {
                "evaluation": step.evaluation,
                "candidate": step.record.id,
                "passes": round(float(spent), 4),
                "complete": step.record.complete,
                "origin": step.record.origin,
                "loss": step.record.loss,
                "size_bytes": step.record.size_bytes,
                "latency_ms": step.record.latency_ms,
                "feasible": step.feasible,
                "best_loss": step.best_loss if np.isfinite(step.best_loss) else None,
                "hypervolume": volume,
                "seconds": round(step.seconds, 3),
            }
        )
    return rows


def _hypervolumes(records: Sequence[Record]) -> list[float]:
    """Hypervolume of the front after each record, as a share of the box that all records span.

    The loss counts as its logarithm, or the worst candidate would hide all others.  Records that
    the race dropped add nothing: their loss is that of fewer examples.
    """
    known = [record for record in records if record.complete]
    if not known:
        return [0.0] * len(records)
    values = np.array([[record.value(name) for name in NAMES] for record in known])
    values[:, 0] = np.log10(values[:, 0] + LEAST_LOSS)
    span = np.ptp(values, axis=0)
    scaled = (values - values.min(axis=0)) / np.where(span > 0, span, 1.0)
    # The corner lies just outside, so that the ends of the front count.
    corner = np.full(len(NAMES), 1.01)
    front, volumes, volume = np.zeros((0, len(NAMES))), [], 0.0
    rows = iter(scaled)
    for record in records:
        if record.complete:
            row = next(rows)
            # Only what no other one beats can add; few records do, and a volume is costly.
            if not (front <= row).all(1).any():
                front = np.vstack([front, row])
                front = front[non_dominated(front)]
                volume = hypervolume(front, corner) / float(corner.prod())
        volumes.append(volume)
    return volumes


def _finalist_row(
    prepared: Prepared, verdict: Verdict, winner: Verdict | None, original: Measured
) -> dict[str, Any]:
    record, measured = verdict.record, verdict.measured
    return {
        "candidate": record.id,
        "predicted": {
            "loss": record.loss,
            "size_bytes": record.size_bytes,
            "latency_ms": record.latency_ms * anchor(prepared, original),
        },
        "measured": {
            **costs(measured),
            "latency_low_ms": verdict.latency_low * original.latency_ms,
            "latency_high_ms": verdict.latency_high * original.latency_ms,
        },
        "met": verdict.met,
        "chosen": winner is not None and record.id == winner.record.id,
        "reason": verdict.reason,
    }
