"""What is left behind: model, plan, front and records; what ships is read back and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from autocompress.deploy import archive
from autocompress.deploy.onnx_file import OnnxModule, write_onnx
from autocompress.deploy.restore import load_archive
from autocompress.errors import ArchiveError, TaskError
from autocompress.files import write_bytes, write_json
from autocompress.search.problem import Problem
from autocompress.study.confirm import Confirmation, Test
from autocompress.study.decisions import NAME as DECISIONS
from autocompress.study.decisions import write_decisions
from autocompress.study.details import details
from autocompress.study.events import Log
from autocompress.study.file_bytes import metadata
from autocompress.study.finalist import Finalist, Verdict
from autocompress.study.front import front_of, table_of
from autocompress.study.loop import History
from autocompress.study.prepare import Prepared
from autocompress.study.result import SCHEMA, describe, probes
from autocompress.study.storage import Record
from autocompress.study.volume import front_volume

NOT_EXPORTED = "the model cannot be exported to ONNX; the archive holds what was chosen"


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
    recoveries: Sequence[Mapping[str, Any]],
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
        recoveries: What training did after the search.
        folder: The run directory.
        log: Times and notes.

    Raises:
        StorageError: If a file cannot be written.
        ArchiveError: If a written file does not read back as what was written.
    """
    winner = confirmation.winner
    if winner is not None:
        write_model(prepared, winner.finalist, folder / "model.acz", "archive")
        if prepared.model.graph.is_exported:
            write_model(prepared, winner.finalist, folder / "model.onnx", "onnx")
        else:
            log.note(f"no model.onnx: {NOT_EXPORTED}")
        write_plan(prepared, winner, folder / "plan.json")
    else:
        log.note("every finalist is larger or slower than the original, which therefore stays")
        for name in ("model.acz", "model.onnx", "plan.json"):  # of an earlier run
            (folder / name).unlink(missing_ok=True)
    qualities = {probe.candidate: probe.quality for probe in probes(confirmation)}
    write_bytes(
        folder / "front.csv", table_of(front_of(records), qualities).to_csv(index=False).encode()
    )
    write_bytes(folder / "trials.parquet", table_of(records, qualities).to_parquet())
    result = describe(prepared, problem, records, confirmation, tested, folder, log)
    result["recovery"] = [dict(recovery) for recovery in recoveries]
    found = details(prepared, history, confirmation, result, log)
    found["front"] = asdict(front_volume(prepared, front_of(records)))
    found["original"] = {"selection_quality": confirmation.original.quality}
    write_json(folder / "details.json", found)
    write_decisions(folder / DECISIONS, tested.decisions if tested else None)
    write_json(folder / "result.json", result)
    return Outcome(folder, result, prepared, winner.finalist if winner else None)


def write_model(prepared: Prepared, finalist: Finalist, path: Path, form: str) -> int:
    """Writes a finalist as `archive` or `onnx`, reads it back, and returns its bytes.

    Raises:
        StorageError: If the file cannot be written.
        ArchiveError: If what is read back differs from what was written.
        TaskError: If the model cannot be exported to ONNX.
    """
    if form == "onnx":
        if not prepared.model.graph.is_exported:
            raise TaskError(f"{path}: {NOT_EXPORTED}")
        write_onnx(path, finalist.proto)
        inputs, runtime = prepared.model.example_inputs, prepared.study.device.file_engine
        with torch.no_grad():
            same = torch.equal(
                OnnxModule(path, runtime=runtime)(*inputs),
                OnnxModule(finalist.proto, runtime=runtime)(*inputs),
            )
    else:
        archive.write_archive(
            path,
            finalist.treated,
            finalist.options,
            prepared.model.rest(finalist.treated),
            metadata(prepared.study, prepared.model, finalist.candidate.id),
        )
        loaded = load_archive(path, prepared.model.dense)
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
            "choices": winner.finalist.candidate.as_dict(),
            "seed": prepared.study.settings.seed,
            "content": prepared.model.content,
            "recovered": winner.finalist.recovered,
        },
    )


def _same_weights(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )
