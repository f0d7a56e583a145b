"""What is left behind: the model in both formats, the plan, the front, and `result.json`, each
read back.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autocompress.deploy import archive
from autocompress.deploy.onnx_file import OnnxModule, load_onnx, write_onnx
from autocompress.errors import ArchiveError
from autocompress.files import write_bytes, write_json
from autocompress.hardware.device import machine_fingerprint
from autocompress.objective.audit import audit_proxy
from autocompress.search.problem import LOSS, Problem
from autocompress.search_space.option import Option
from autocompress.study.confirm import Confirmation, Probe, Test
from autocompress.study.events import Log
from autocompress.study.finalist import Finalist, Verdict
from autocompress.study.front import front_of, table_of
from autocompress.study.loop import History
from autocompress.study.prepare import Prepared
from autocompress.study.pricing import metadata
from autocompress.study.storage import Record
from autocompress.study.targets import Measured, Target

SCHEMA = 1
PACKAGES = ("autocompress", "torch", "onnxruntime", "onnx", "optuna", "numpy", "scipy")
TIGHT = 0.97  # share of a limit from which it counts as binding


@dataclass(frozen=True)
class Outcome:
    """What a run ends with.

    Args:
        folder: The run directory.
        result: The content of `result.json`.
        prepared: The run, for further exports.
        winner: The delivered candidate; None when the original stays.
    """

    folder: Path
    result: Mapping[str, Any]
    prepared: Prepared
    winner: Finalist | None

    @property
    def budget_met(self) -> bool:
        return bool(self.result["budget_met"])


def ship(
    prepared: Prepared,
    problem: Problem,
    history: History,
    records: Sequence[Record],
    confirmation: Confirmation,
    tested: Test | None,
    folder: Path,
    log: Log,
) -> Outcome:
    """Writes every artefact of a run, reloads what ships, and describes it.

    Args:
        prepared: The run.
        problem: What the search was held to.
        history: What the search did.
        records: All trials.
        confirmation: What was measured.
        tested: The test split, when there is a winner.
        folder: The run directory.
        log: Times and notes.

    Raises:
        StorageError: If a file cannot be written.
        ArchiveError: If a written file does not read back as what was written.
    """
    winner = confirmation.winner
    if winner is not None:
        write_model(prepared, winner.finalist, folder / "model.acz", "archive")
        write_model(prepared, winner.finalist, folder / "model.onnx", "onnx")
        write_plan(prepared, winner, folder / "plan.json")
    else:
        log.note("every finalist is larger or slower than the original, which therefore stays")
        for name in ("model.acz", "model.onnx", "plan.json"):  # of an earlier run
            (folder / name).unlink(missing_ok=True)
    qualities = {probe.candidate: probe.quality for probe in _probes(confirmation)}
    write_bytes(
        folder / "front.csv", table_of(front_of(records), qualities).to_csv(index=False).encode()
    )
    write_bytes(folder / "trials.parquet", table_of(records, qualities).to_parquet())
    result = describe(prepared, problem, records, confirmation, tested, folder, log)
    write_json(folder / "details.json", details(prepared, history, confirmation, result, log))
    write_json(folder / "result.json", result)
    return Outcome(folder, result, prepared, winner.finalist if winner else None)


def write_model(prepared: Prepared, finalist: Finalist, path: Path, form: str) -> int:
    """Writes a finalist as `archive` or `onnx`, reads it back, and returns its bytes.

    Raises:
        StorageError: If the file cannot be written.
        ArchiveError: If what is read back differs from what was written.
    """
    if form == "onnx":
        write_onnx(path, finalist.proto)
        inputs = prepared.model.example_inputs
        with torch.no_grad():
            same = torch.equal(
                OnnxModule(load_onnx(path))(*inputs), OnnxModule(finalist.proto)(*inputs)
            )
    else:
        archive.write_archive(
            path,
            finalist.treated,
            finalist.candidate.as_dict(),
            prepared.model.rest(finalist.treated),
            metadata(prepared.study, finalist.candidate.id),
        )
        loaded = archive.load_archive(path, prepared.model.dense)
        same = _same_weights(loaded.state_dict(), finalist.module.state_dict())
    if not same:
        raise ArchiveError(f"{path}: what is read back differs from what was written")
    return path.stat().st_size


def write_plan(prepared: Prepared, winner: Verdict, path: Path) -> None:
    """The choice as plain data: enough, with the study, to make the same model again."""
    write_json(
        path,
        {
            "schema": SCHEMA,
            "study": prepared.study.name,
            "candidate": winner.record.id,
            "choices": dict(winner.record.choices),
            "seed": prepared.study.settings.seed,
            "content": prepared.model.content,
        },
    )


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
        final = Measured(tested.winner, final.size_bytes, final.latency_ms)
        original = Measured(tested.original, base.size_bytes, base.latency_ms)
    targets = [
        _against(target, study.budget, original, study.higher_is_better)
        for target in confirmation.targets
    ]
    missed = {t.name: t.excess(final, original) for t in targets if not t.is_met(final)}
    predicted = _predicted(prepared, winner, base)
    best = {
        "candidate": winner.record.id if winner else "original",
        "choices": dict(winner.record.choices) if winner else {},
        **_costs(final),
        "predicted": predicted,
        "measured": _costs(final)
        | {"selection_quality": winner.measured.quality if winner else base.quality}
        | ({"latency_ratio": [winner.latency_low, winner.latency_high]} if winner else {}),
    }
    probes = _probes(confirmation)
    audit = audit_proxy(
        [probe.loss for probe in probes],
        [probe.quality for probe in probes],
        study.higher_is_better,
    )
    names = ("model.acz", "model.onnx", "plan.json") if winner else ()
    files = (
        *names,
        "front.csv",
        "trials.parquet",
        "details.json",
        "log.jsonl",
        "study.journal",
        "report.html",
    )
    return {
        "schema": SCHEMA,
        "study": study.name,
        "seed": study.settings.seed,
        "versions": versions(),
        "device": {"name": study.device.name, **machine_fingerprint(study.device)},
        "metric": {
            "name": study.settings.metric,
            "direction": study.settings.metric_direction,
            "unit": study.settings.metric_unit,
        },
        "budget": {
            t.name: {"text": t.text, "limit": t.bound, "unit": t.unit, "met": t.is_met(final)}
            for t in targets
        },
        "original": _costs(original),
        "best": best,
        "budget_met": winner is not None and not missed,
        "binding": _binding(prepared, problem, winner, missed),
        "audit": {
            "proxy_spearman": audit.spearman,
            "proxy_regret": audit.regret,
            "latency_mape": prepared.fit.mape_percent,
            "latency_spearman": prepared.fit.spearman,
            "latency_error_percent": 100 * abs(predicted["latency_ms"] / final.latency_ms - 1),
            "size_error_percent": 100 * abs(predicted["size_bytes"] / final.size_bytes - 1),
            "agreement": tested.agreement if tested else 1.0,
            "agreement_examples": tested.examples if tested else 0,
        },
        "seconds": {name: round(value, 3) for name, value in log.seconds.items()},
        "evaluations": len(records),
        "files": {Path(name).name: str(folder / name) for name in files},
    }


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
                "direction": "at least"
                if name == "quality" and prepared.study.higher_is_better
                else "at most",
                "measured": measured[
                    {"quality": "quality", "size": "size_bytes", "latency": "latency_ms"}[name]
                ],
                "predicted": result["best"]["predicted"].get(
                    {"size": "size_bytes", "latency": "latency_ms"}.get(name)
                ),
                "met": row["met"],
                "binding": result["binding"] == name,
            }
            for name, row in result["budget"].items()
        ],
        "finalists": [
            _finalist_row(prepared, verdict, winner, confirmation.original)
            for verdict in confirmation.verdicts
        ],
        "history": _history_rows(history),
        "audit": {
            "proxy": [asdict(probe) for probe in _probes(confirmation)],
            "latency": {
                **{key: value for key, value in asdict(prepared.fit).items() if key != "points"},
                "points": [
                    {
                        "predicted_ms": p.predicted_ms,
                        "measured_ms": p.measured_ms,
                        "held_out": p.held_out,
                    }
                    for p in prepared.fit.points
                ],
            },
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


def _probes(confirmation: Confirmation) -> list[Probe]:
    """Every candidate of which both loss and quality are known."""
    finalists = [
        Probe(v.record.id, v.finalist.loss, v.measured.quality) for v in confirmation.verdicts
    ]
    return [*finalists, *confirmation.probes]


def layer_rows(prepared: Prepared, finalist: Finalist | None) -> list[dict[str, Any]]:
    """One row a layer: what was chosen, bytes and milliseconds before and after."""
    units = list(prepared.space.units)
    choices = dict(finalist.candidate.choices) if finalist else {}
    rows = []
    for layer in prepared.model.layers:
        option = choices.get(layer.name, Option())
        row: dict[str, Any] = {
            "name": layer.name,
            "kind": layer.kind,
            "weight_shape": list(layer.weight_shape),
            "parameters": layer.parameters,
            "macs": layer.macs,
            "treated": layer.name in units,
            "reason": layer.reason
            or ("" if layer.name in units else "excluded by the search space"),
            "option": option.id,
            "bits": option.bits,
            "sparsity": option.sparsity,
            "rank": option.rank,
            "activations": option.activations,
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
                "bytes_after": float(stored[index]),
                "latency_before_ms": prepared.latency.unit(layer.name, Option()),
                "latency_after_ms": prepared.latency.unit(layer.name, option),
                "local_error": 0.0
                if option.is_identity
                else prepared.bank[layer.name, option].error,
                "loss_alone": float(prepared.prices.losses["swap"][at][index]),
            }
        rows.append(row)
    return rows


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}


def _history_rows(history: History) -> list[dict[str, Any]]:
    rows = []
    for step in history.steps:
        rows.append(
            {
                "evaluation": step.evaluation,
                "origin": step.record.origin,
                "loss": step.record.loss,
                "size_bytes": step.record.size_bytes,
                "latency_ms": step.record.latency_ms,
                "feasible": step.feasible,
                "best_loss": step.best_loss if np.isfinite(step.best_loss) else None,
                "seconds": round(step.seconds, 3),
            }
        )
    return rows


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
            **_costs(measured),
            "latency_low_ms": verdict.latency_low * original.latency_ms,
            "latency_high_ms": verdict.latency_high * original.latency_ms,
        },
        "met": verdict.met,
        "chosen": winner is not None and record.id == winner.record.id,
        "reason": verdict.reason or "chosen",
    }


def _costs(measured: Measured) -> dict[str, float]:
    return {
        "quality": measured.quality,
        "size_bytes": measured.size_bytes,
        "latency_ms": measured.latency_ms,
    }


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
    return Target(target.name, target.text, bound, target.at_least, target.unit)


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
    used = {
        name.split("_")[0]: winner.record.value(name) / limit
        for name, limit in problem.limits.items()
        if name != LOSS and limit
    }
    tight = max(used, key=lambda name: used[name], default=None)
    return tight if tight is not None and used[tight] >= TIGHT else None


def _same_weights(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )
