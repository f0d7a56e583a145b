"""The system of record: every evaluated candidate is a finished trial of an Optuna study in a
journal file.

One process writes it.  A line that a crash tore is cut off before the journal is opened: Optuna
loads such a file, but the next append would make it unreadable for ever.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from autocompress.errors import StorageError, StudyMismatchError

NAMES = ("loss", "size_bytes", "latency_ms")
FINGERPRINT = "fingerprint"
STUDY = "autocompress"
SLOPES = "slopes:"  # user attributes of the study, by candidate


@dataclass(frozen=True)
class Record:
    """An evaluated candidate.

    Args:
        id: Short id of the candidate.
        choices: Unit to option id.
        loss: Proxy loss, measured.
        spread: Standard error of the loss.
        size_bytes: Predicted, exact for an archive.
        latency_ms: Predicted by the cost model.
        origin: What proposed it.
        seconds: Time of the evaluation.
        attributes: What the sampler wants back on resume.
        examples: On how many search inputs it was measured, where that is known.
        passes: The same as a share of all of them.
        work: What that cost, in passes of the whole model over all of them; less where activations
            were reused.
        doubt: Relative standard error of the loss, 0 when it was measured on every input.
        samples: `(n,)` loss of each search input; empty when it was not measured on all.
        error: Why it was given up; empty for what was measured.
    """

    id: str
    choices: Mapping[str, str]
    loss: float
    spread: float
    size_bytes: float
    latency_ms: float
    origin: str
    seconds: float
    attributes: Mapping[str, Any] = field(default_factory=dict)
    examples: int = 0
    passes: float = 1.0
    work: float = 1.0
    doubt: float = 0.0
    samples: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    error: str = ""

    @property
    def complete(self) -> bool:
        """Whether it was measured on every search input; others were dropped by the race, and
        their loss is an estimate."""
        return self.doubt == 0 and not self.error

    def value(self, name: str) -> float:
        """Loss or a cost by name."""
        return float(getattr(self, name))


class StudyStorage:
    """A study in a journal file, for the process that holds its `lock`.

    Args:
        path: The journal; created when it does not exist.
        menus: Unit to option ids, the search space of the study.
        fingerprint: Says what was compressed, with which data and space.

    Raises:
        StorageError: If the file cannot be read or written.
        StudyMismatchError: If the journal holds trials of something else.
    """

    def __init__(
        self, path: Path, menus: Mapping[str, Sequence[str]], fingerprint: Mapping[str, str]
    ) -> None:
        self.path = path
        self._distributions = {
            unit: CategoricalDistribution(list(menu)) for unit, menu in menus.items()
        }
        repair(path)
        with translated(path):
            self._study = optuna.create_study(
                study_name=STUDY,
                storage=open_journal(path),
                directions=["minimize"] * len(NAMES),
                load_if_exists=True,
            )
            known = self._study.user_attrs.get(FINGERPRINT)
            if known is None:
                self._study.set_metric_names(list(NAMES))
                self._study.set_user_attr(FINGERPRINT, dict(fingerprint))
        refuse_changes(path.parent, known or fingerprint, fingerprint)
        # One thread: trials stay in order, and the disk's pace holds up nothing.
        self._writer = ThreadPoolExecutor(1)
        self._writes: list[Future[None]] = []
        self._records = {record.id: record for record in self._read()}
        self._slopes = {
            key.removeprefix(SLOPES): str(text)
            for key, text in self._study.user_attrs.items()
            if key.startswith(SLOPES)
        }

    def records(self) -> list[Record]:
        """Every candidate that was measured, in the order in which that was finished."""
        return [record for record in self._read() if not record.error]

    def _read(self) -> list[Record]:
        self.flush()
        with translated(self.path):
            return read_records(self._study.get_trials(deepcopy=False))

    def find(self, id: str) -> Record | None:
        """The record of a candidate that has been measured or given up, or None."""
        return self._records.get(id)

    def slopes(self, id: str) -> NDArray[np.float64] | None:
        """Slopes of the loss at a candidate, as `keep_slopes` took them, or None."""
        text = self._slopes.get(id)
        return None if text is None else _unpacked(text)

    def keep_slopes(self, id: str, slopes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Writes the slopes `(all options,)` at a candidate; returns them as they are stored.

        Raises:
            StorageError: If the journal cannot be written.
        """
        text = self._slopes[id] = _packed(slopes)
        with translated(self.path):
            self._study.set_user_attr(SLOPES + id, text)
        return _unpacked(text)

    def add(self, record: Record, constraints: Mapping[str, float]) -> None:
        """Writes one finished trial, in a thread of its own; it is on disk when `flush` returns.

        Args:
            record: The candidate and its values.
            constraints: Limit name to how far it is exceeded; at most zero is feasible.

        Raises:
            StorageError: If the journal cannot be written.
        """
        trial = create_trial(
            params=dict(record.choices),
            distributions=dict(self._distributions),
            state=TrialState.FAIL if record.error else TrialState.COMPLETE,
            values=None if record.error else [record.value(name) for name in NAMES],
            user_attrs={
                "candidate": record.id,
                "spread": record.spread,
                "origin": record.origin,
                "seconds": record.seconds,
                "sampler": dict(record.attributes),
                "examples": record.examples,
                "passes": record.passes,
                "work": record.work,
                "doubt": record.doubt,
                "samples": _packed(record.samples) if record.complete else "",
                **({"error": record.error} if record.error else {}),
            },
            constraints=dict(constraints),
        )
        self._writes.append(self._writer.submit(self._study.add_trial, trial))
        self._records[record.id] = record

    def flush(self) -> None:
        """Waits until every trial that was added is on disk.

        Raises:
            StorageError: If the journal cannot be written.
        """
        writes, self._writes = self._writes, []
        with translated(self.path):
            for write in writes:
                write.result()


def load_records(path: Path) -> list[Record]:
    """What a journal has that another process may be writing; the file is not changed.

    A journal that a crash left before its first trial has none.

    Raises:
        StorageError: If there is no such journal or it cannot be read.
    """
    if not path.is_file():
        raise StorageError(f"{path}: no such study")
    with translated(path):
        storage = open_journal(path)
        if STUDY not in optuna.get_all_study_names(storage):
            return []
        study = optuna.load_study(study_name=STUDY, storage=storage)
        found = read_records(study.get_trials(deepcopy=False))
    return [record for record in found if not record.error]


def refuse_changes(folder: Path, known: Mapping[str, str], fingerprint: Mapping[str, str]) -> None:
    """Raises StudyMismatchError where a run directory was begun with something else."""
    changed = [key for key, value in fingerprint.items() if known.get(key) != value]
    if changed:
        raise StudyMismatchError(
            f"{folder}: the run was begun with another {', '.join(changed)};"
            " give a new folder with --out, or delete this one"
        )


def read_records(trials: Sequence[FrozenTrial]) -> list[Record]:
    """Finished trials as records, those that were given up with an infinite loss and no costs."""
    return [
        Record(
            id=trial.user_attrs["candidate"],
            choices=trial.params,
            loss=trial.values[0] if trial.values else float("inf"),
            spread=trial.user_attrs["spread"],
            size_bytes=trial.values[1] if trial.values else float("nan"),
            latency_ms=trial.values[2] if trial.values else float("nan"),
            origin=trial.user_attrs["origin"],
            seconds=trial.user_attrs["seconds"],
            attributes=trial.user_attrs.get("sampler", {}),
            examples=trial.user_attrs.get("examples", 0),
            passes=trial.user_attrs.get("passes", 1.0),
            work=trial.user_attrs.get("work", 1.0),
            doubt=trial.user_attrs.get("doubt", 0.0),
            samples=_unpacked(trial.user_attrs.get("samples", "")),
            error=trial.user_attrs.get("error", ""),
        )
        for trial in trials
        if trial.state == TrialState.COMPLETE or "error" in trial.user_attrs
    ]


def _packed(samples: NDArray[np.float64]) -> str:
    return base64.b64encode(samples.astype("<f4").tobytes()).decode()


def _unpacked(text: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float64)


def open_journal(path: Path) -> JournalStorage:
    """The journal as an Optuna storage, without Optuna's chatter."""
    optuna.logging.set_verbosity(logging.ERROR)
    return JournalStorage(JournalFileBackend(str(path)))


def repair(path: Path) -> None:
    """Cuts off a last line that a crash left unfinished, and a lock that it left behind.

    Only to be called by the process that holds `lock`.
    """
    Path(f"{path}.lock").unlink(missing_ok=True)
    if not path.is_file():
        return
    try:
        with path.open("r+b") as file:
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            while whole and not _is_json(whole[whole[:-1].rfind(b"\n") + 1 :]):
                whole = whole[: whole[:-1].rfind(b"\n") + 1]
            if len(whole) < len(data):
                file.truncate(len(whole))
    except OSError as error:
        raise StorageError(f"{path}: cannot be repaired: {error.strerror or error}") from error


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Optuna's and the system's complaints about the journal as ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError) as error:
        raise StorageError(f"{path}: not a readable study: {error}") from error


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
