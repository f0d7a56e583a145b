"""Records, and places that they are kept in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from autocompress.study.book import asked, find_study, open_storage
from autocompress.study.claim import claim
from autocompress.study.database import close_database
from autocompress.study.patience import Patience
from autocompress.study.place import Place
from autocompress.study.record import Record
from autocompress.study.storage import StudyStorage

# Not in the order of the alphabet: a database does not keep it.
MENUS = {"z": ["dense", "w4"], "a": ["dense", "w4", "w2-s50"], "m": ["dense"]}
FINGERPRINT = {"model": "1"}


def record(number: int, samples: int = 5) -> Record:
    """A record with values that are not round."""
    rng = np.random.default_rng(number)
    return Record(
        id=f"{number:010x}",
        choices={unit: menu[number % len(menu)] for unit, menu in MENUS.items()},
        loss=float(rng.random() / 3),
        spread=float(rng.random()),
        size_bytes=float(rng.integers(10**6)),
        latency_ms=float(rng.random()),
        origin="solver",
        seconds=0.25,
        attributes={"parent": [1, 2], "move": "swap"},
        examples=samples,
        samples=rng.random(samples).astype(np.float32).astype(np.float64),
    )


def told(records: list[Record]) -> list[Any]:
    """Everything that is kept of records, order of units included."""
    return [
        (
            *(r.id, list(r.choices.items()), r.loss, r.spread, r.size_bytes, r.latency_ms),
            *(r.origin, r.seconds, r.attributes, r.examples, r.passes, r.work, r.doubt),
            r.samples.tolist(),
        )
        for r in records
    ]


@contextmanager
def opened(
    place: Place, notes: list[str] | None = None, patience: float = 60.0
) -> Iterator[StudyStorage]:
    note = (notes if notes is not None else []).append
    patient = Patience(patience, note)
    with claim(place, patient, note) as claimed:
        storage = StudyStorage(
            place, MENUS, FINGERPRINT, patience=patient, claimed=claimed, note=note
        )
        with storage:
            yield storage


def raw_ids(place: Place) -> list[str]:
    """Candidates of all trials in the study, without leaving any out."""
    with asked(place):
        storage = open_storage(place, must_exist=True)
        study = find_study(place, storage)
        assert study is not None
        found = [trial.user_attrs["candidate"] for trial in study.get_trials(deepcopy=False)]
        close_database(storage)
    return found
