"""The Python face of a run: `compress(...)` takes the user's objects and gives a `Result`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from autocompress.errors import ConfigError
from autocompress.model.task import Task
from autocompress.search_space.candidate import Candidate
from autocompress.study.config import StudyFile, make_study
from autocompress.study.events import Listener, Silent
from autocompress.study.finalist import Finalist, make_finalist
from autocompress.study.run import run_study
from autocompress.study.ship import Outcome, write_model
from autocompress.study.status import place_in
from autocompress.study.storage import load_records
from autocompress.toml import validate

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Compressed:
    """A model that can be used and exported.

    Args:
        candidate: Its short id; `original` when nothing better was found.
        model: The torch module; a float twin of what the runtime computes.
    """

    candidate: str
    model: nn.Module
    _outcome: Outcome
    _finalist: Finalist | None

    def narrow(self) -> nn.Module:
        """The same model without the channels that are gone: faster where torch runs it."""
        if self._finalist is None:
            return self.model
        return self._outcome.prepared.study.task.interface.presented(self._finalist.narrow())

    def export(self, path: Path | str) -> int:
        """Writes the model: an ONNX file for `.onnx`, a packed archive for `.acz`.

        Args:
            path: The ending decides the format.

        Returns:
            Bytes written.

        Raises:
            ConfigError: If the ending is neither, or there is nothing to export.
            StorageError: If the file cannot be written.
        """
        path = Path(path)
        form = {".onnx": "onnx", ".acz": "archive"}.get(path.suffix)
        if form is None:
            raise ConfigError(f"{path}: the name must end in .onnx or .acz")
        if self._finalist is None:
            raise ConfigError("the original was kept: there is no compressed model to export")
        return write_model(self._outcome.prepared, self._finalist, path, form)


@dataclass(frozen=True)
class Result:
    """The outcome of a run.

    Args:
        outcome: The run and its `result.json`.
    """

    outcome: Outcome

    @property
    def summary(self) -> Mapping[str, Any]:
        """The content of `result.json`."""
        return self.outcome.result

    @property
    def budget_met(self) -> bool:
        """Whether every limit was kept, as measured."""
        return self.outcome.budget_met

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.outcome.folder

    @cached_property
    def front(self) -> pd.DataFrame:
        """The non-dominated candidates, smallest first; one row each."""
        from autocompress.report.data import read_front

        return read_front(self.folder / "front.csv")

    @cached_property
    def best(self) -> Compressed:
        """What is delivered."""
        winner = self.outcome.winner
        if winner is None:
            dense = self.outcome.prepared.model.dense
            return Compressed("original", self._presented(dense), self.outcome, None)
        module = self._presented(winner.module)
        return Compressed(winner.candidate.id, module, self.outcome, winner)

    def candidate(self, id: str) -> Compressed:
        """Any evaluated candidate, fitted in sequence and ready to export, without a new search.

        Raises:
            ConfigError: If no candidate has that id.
        """
        storage = self.outcome.prepared.study.settings.storage
        found = load_records(place_in(self.folder, storage))
        records = {record.id: record for record in found}
        if id not in records:
            raise ConfigError(
                f"candidate {id!r}: not among the {len(records)} evaluated; see `front`"
            )
        finalist = make_finalist(self.outcome.prepared, Candidate.from_dict(records[id].choices))
        return Compressed(id, self._presented(finalist.module), self.outcome, finalist)

    def _presented(self, model: nn.Module) -> nn.Module:
        """The model as the user calls it."""
        return self.outcome.prepared.study.task.interface.presented(model)

    def report(self, path: Path | str | None = None) -> Path:
        """Writes `report.html` into the run directory, or to `path`."""
        from autocompress.files import write_bytes
        from autocompress.report.html import write_report

        written = write_report(self.folder)
        if path is None:
            return written
        write_bytes(Path(path), written.read_bytes())
        return Path(path)


def compress(
    model: nn.Module,
    *,
    calibration: Any,
    example_inputs: Any,
    evaluate: Callable[..., float],
    labels: Any = None,
    training: Any = None,
    output: Callable[[Any], Tensor] | None = None,
    budget: Mapping[str, str] | None = None,
    goal: str = "",
    name: str = "model",
    out: Path | str | None = None,
    warm_start: Path | str | None = None,
    listener: Listener | None = None,
    **settings: Any,
) -> Result:
    """Compresses a model to a budget.

    Args:
        model: Trained, float32, on the CPU; not changed.
        calibration: Inputs without labels: a tensor `(n, ...)`, a tuple of tensors for several
            inputs, a mapping of keyword arguments, or an iterable of batches.  500 or more
            examples are a good number.
        example_inputs: One input as the device will see it: a tensor, a tuple of arguments, a
            mapping of keyword arguments, or a tuple whose last item is one.
        evaluate: `evaluate(model)` or `evaluate(model, split)` with split `selection` or `test`.
        labels: Class numbers of the calibration inputs, a tensor `(n, ...)`; read only by an
            objective with `proxy = "task"`.
        training: Inputs to train on where `recovery` asks for it, without labels: batches that
            have a length and can be gone through again, such as a `DataLoader`.
        output: Picks, of what the model returns, the tensor that is compared with the original's;
            by default the only one, `logits`, or the first.
        budget: Limits by name, such as `{"size": "10%", "latency": "80%", "quality": "-0.5pt"}`;
            those of the objective hold where there is none.
        goal: One sentence such as `"minimise latency subject to size<=25% and quality>=-1pt"`,
            `"as small as possible within 0.5 points"` or `"front of quality, size and latency"`;
            takes the place of what the objective minimises and of its limits.
        name: Name of the study in the result.
        out: Run directory; give one to be able to resume.  A new temporary folder by default.
        warm_start: Directory of a finished run whose delivered candidate and front are measured
            first, and whose bank and device are taken where they are still valid.
        listener: Hears of the progress.
        **settings: Keys of `study.toml`, such as `space="int8_mixed"`, `evaluations=50`, `seed=1`.

    Returns:
        The result; `budget_met` says whether every limit was kept.

    Raises:
        AutocompressError: If something that was given is not usable; the message names it.
    """
    task = Task(
        lambda: model,
        lambda: calibration,
        lambda: example_inputs,
        evaluate,
        "compress()",
        None if labels is None else lambda: labels,
        None if training is None else lambda: training,
        output,
    )
    keys = {**settings, "goal": goal, "budget": dict(budget or {}), "schema_": 1}
    study = make_study(name, task, validate(keys, StudyFile, "compress()"))
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="autocompress-"))
    earlier = None if warm_start is None else Path(warm_start)
    return Result(run_study(study, folder, listener or Silent(), earlier))
