"""The Optuna study of a run at its place: opened, asked and written to, one attempt at a time."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage

from autocompress.errors import StorageError
from autocompress.study.database import close_database, complaints, open_database
from autocompress.study.journal import open_journal, repair, translated
from autocompress.study.patience import Away
from autocompress.study.place import Place
from autocompress.study.record import NAMES, Record, joined, read_records, split, trial_with

FINGERPRINT = "fingerprint"
UNITS = "units"  # their order
SLOPES = "slopes:"  # user attributes of the study, by candidate
# What waiting does not change for a file elsewhere; a share that is away says something else.
LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Trial:
    """A finished trial on its way to the study; the keys of a line in `unsaved.jsonl`.

    Args:
        id: Short id of the candidate.
        choices: Unit to option id.
        values: In the order of `NAMES`.
        attributes: Of the trial.
        constraints: Limit name to how far it is exceeded.
    """

    id: str
    choices: Mapping[str, str]
    values: Sequence[float]
    attributes: Mapping[str, Any]
    constraints: Mapping[str, float]


@dataclass(frozen=True)
class Slopes:
    """Slopes at a candidate on their way to the study, as text."""

    id: str
    slopes: str


Entry = Trial | Slopes


def line_of(entry: Entry) -> dict[str, Any]:
    """An entry for JSON."""
    return asdict(entry)


def entry_of(line: Mapping[str, Any]) -> Entry:
    """The inverse of `line_of`."""
    keys = {key: value for key, value in line.items() if key != "study"}
    return Trial(**keys) if "values" in keys else Slopes(**keys)


class Book:
    """A study, for the process that holds its lock.  Every method is one attempt.

    Args:
        place: Where it is.
        menus: Unit to option ids; they fix the order of the units.
    """

    def __init__(self, place: Place, menus: Mapping[str, Sequence[str]]) -> None:
        self._place = place
        self._distributions = {
            unit: CategoricalDistribution(list(menu)) for unit, menu in menus.items()
        }
        self._storage: BaseStorage | None = None
        self._study: optuna.Study | None = None

    def open(self, fingerprint: Mapping[str, str]) -> dict[str, str]:
        """Opens the study, and begins it where there is none.

        Args:
            fingerprint: What may not change.

        Returns:
            The fingerprint that it was begun with.

        Raises:
            Away: If the place cannot be reached now.
            ConfigError: If a driver is missing.
            StorageError: If it cannot be read or written.
        """
        if self._place.journal:
            repair(self._place.journal)
        with asked(self._place):
            study = self._opened(must_exist=False)
            known = study.user_attrs.get(FINGERPRINT)
            if known is None:
                study.set_metric_names(list(NAMES))
                for key, text in split(UNITS, "\n".join(self._distributions)).items():
                    study.set_user_attr(key, text)
                study.set_user_attr(FINGERPRINT, dict(fingerprint))
        return dict(known or fingerprint)

    def put(self, entry: Entry, again: bool) -> None:
        """Writes an entry; if `again`, only when the last attempt has not done it after all.

        Raises:
            Away: If the place cannot be reached now.
            StorageError: If it cannot be written.
        """
        if again:
            with asked(self._place):
                self.close()
                if isinstance(entry, Trial) and entry.id in {r.id for r in self._records()}:
                    return
        try:
            with asked(self._place):
                self._put(self._opened(must_exist=True), entry)
        except (Away, StorageError):
            self._mend()
            raise

    def records(self) -> list[Record]:
        """Every trial, in the order in which it finished."""
        with asked(self._place):
            return self._records()

    def feasible(self) -> set[str]:
        """Candidates that kept the limits under which they were evaluated."""
        with asked(self._place):
            trials = self._opened(must_exist=True).get_trials(deepcopy=False)
        kept = [trial for trial in trials if max(trial.constraints.values(), default=0.0) <= 0]
        return {trial.user_attrs["candidate"] for trial in kept if trial.state.is_finished()}

    def slopes(self) -> dict[str, str]:
        """Candidate to its slopes, as text."""
        with asked(self._place):
            attributes = self._opened(must_exist=True).user_attrs
        keys = [key for key in attributes if key.startswith(SLOPES) and "." not in key]
        return {key.removeprefix(SLOPES): joined(attributes, key) for key in keys}

    def close(self) -> None:
        """Lets go of connections; the next attempt opens the study again."""
        storage, self._storage, self._study = self._storage, None, None
        close_database(storage)

    def _opened(self, must_exist: bool) -> optuna.Study:
        if self._study is None:
            self.close()
            self._storage = open_storage(self._place, must_exist)
            name = self._place.study
            if must_exist:
                self._study = find_study(self._place, self._storage)
                if self._study is None:
                    raise StorageError(f"{self._place}: holds no study {name!r}")
            else:
                self._study = optuna.create_study(
                    study_name=name,
                    storage=self._storage,
                    directions=["minimize"] * len(NAMES),
                    load_if_exists=True,
                )
        if self._place.journal and not self._place.journal.is_file():
            # Appending would begin a new journal, where a share was for a moment.
            raise FileNotFoundError(errno.ENOENT, "no such file")
        return self._study

    def _records(self) -> list[Record]:
        study = self._opened(must_exist=True)
        return read_records(study.get_trials(deepcopy=False), list(self._distributions))

    def _put(self, study: optuna.Study, entry: Entry) -> None:
        if isinstance(entry, Trial):
            study.add_trial(
                trial_with(
                    entry.choices,
                    entry.values,
                    entry.attributes,
                    entry.constraints,
                    self._distributions,
                )
            )
            return
        for key, text in split(SLOPES + entry.id, entry.slopes).items():
            study.set_user_attr(key, text)

    def _mend(self) -> None:
        """A line of a journal that a full disk cut in two is no line."""
        if self._place.journal:
            with contextlib.suppress(StorageError, OSError):
                repair(self._place.journal)


def open_storage(place: Place, must_exist: bool) -> BaseStorage:
    """The storage of a place.

    Raises:
        OSError: If a journal is missing that must exist.
        Away: If a database cannot be reached now.
        StorageError: If a database refuses.
    """
    if place.journal is None:
        return open_database(place)
    if must_exist and not place.journal.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such study")
    return open_journal(place.journal)


def find_study(place: Place, storage: BaseStorage) -> optuna.Study | None:
    """The study of a place in its storage, if it is there."""
    if place.study not in optuna.get_all_study_names(storage):
        return None
    return optuna.load_study(study_name=place.study, storage=storage)


@contextlib.contextmanager
def asked(place: Place) -> Iterator[None]:
    """What is said against a place as ours: `Away` where waiting may help, else `StorageError`."""
    if place.journal is None:
        with complaints(place):
            yield
        return
    with translated(place.journal):
        try:
            yield
        except OSError as error:
            if place.unsaved is None or error.errno in LASTING:
                raise
            raise Away(error.strerror or str(error)) from error


def reach(place: Place, must_exist: bool) -> None:
    """Opens a storage and closes it, so that what is wrong shows before there is work; one
    attempt.

    Args:
        place: Where the study is, or is to be.
        must_exist: Refuse a storage that does not hold it.

    Raises:
        Away: If it cannot be reached now.
        ConfigError: If a driver is missing.
        StorageError: If it refuses, or the study is not there.
    """
    if place.journal is not None and not must_exist:
        return
    with asked(place):
        storage = open_storage(place, must_exist)
        is_there = not must_exist or find_study(place, storage) is not None
        close_database(storage)
    if not is_there:
        raise StorageError(
            f"{place}: holds no study {place.study!r}, which the run would go on with; give a new"
            " folder with --out, or the storage and the --study-name that it was begun with"
        )


def read_study(place: Place) -> tuple[list[Record], BaseStorage]:
    """The records of a study that another process may be writing; one attempt.

    Raises:
        Away: If the place cannot be reached now.
        StorageError: If there is none, or it cannot be read.
    """
    with asked(place):
        storage = open_storage(place, must_exist=True)
        study = find_study(place, storage)
        if study is None:
            return [], storage
        units = joined(study.user_attrs, UNITS).split("\n")
        return read_records(study.get_trials(deepcopy=False), [u for u in units if u]), storage
