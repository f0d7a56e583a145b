"""A place for trials that is away for a while, gone for good, or full."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from storage_places import opened, raw_ids, record, told

from autocompress.errors import StorageError
from autocompress.study.place import Place, place_of
from autocompress.study.unsaved import Unsaved


def test_a_storage_that_is_away_for_a_while(backend: Any, place: Place) -> None:
    """The search goes on meanwhile; one note; everything is there once, in order."""
    notes: list[str] = []
    with opened(place, notes) as storage:
        storage.add(record(0), {})
        until(lambda: storage._waiting == 0)
        timer = backend.away_for(2.0)
        started = time.monotonic()
        for number in range(1, 6):
            storage.add(record(number), {})
            storage.flush()
        assert time.monotonic() - started < 1.5, "the search waited for the storage"
        assert timer.is_alive()
        assert place.unsaved is not None
        kept = [json.loads(line) for line in place.unsaved.read_text().splitlines()]
        assert [line["id"] for line in kept] == [record(number).id for number in range(1, 6)]
    timer.join()
    assert raw_ids(place) == [record(number).id for number in range(6)]
    assert not place.unsaved.exists()
    assert len(notes) <= 1
    for note in notes:
        assert "trying again for 60 seconds" in note
        assert "nothing finished is lost" in note


def test_a_storage_that_is_gone_for_good(backend: Any, place: Place) -> None:
    """The error says what is kept, and the next run writes it first."""
    notes: list[str] = []

    def run() -> None:
        with opened(place, notes, patience=0.5) as storage:
            storage.add(record(0), {})
            until(lambda: storage._waiting == 0)
            with backend.away():
                for number in range(1, 4):
                    storage.add(record(number), {})
                storage.keep_slopes("0000000002", np.ones(3))
                storage.flush()
                until(lambda: storage._error is not None)
                storage.flush()

    with pytest.raises(StorageError) as error:
        run()
    assert "nothing finished is lost: the next run writes it first" in str(error.value)
    assert place.text in str(error.value)
    assert raw_ids(place) == [record(0).id]
    notes.clear()
    with opened(place, notes) as storage:
        assert told(storage.records()) == told([record(number) for number in range(4)])
        assert storage.slopes("0000000002") is not None
        storage.add(record(4), {})
    assert notes == [f"3 candidates from unsaved.jsonl were written to {place}"]
    assert raw_ids(place) == [record(number).id for number in range(5)]


def test_what_was_written_after_all_is_not_written_again(backend: Any, place: Place) -> None:
    """Killed between the storage's answer and the emptying of the file."""
    with opened(place) as storage:
        storage.add(record(0), {})
        until(lambda: storage._waiting == 0)
        assert place.unsaved is not None
        storage._unsaved.keep({})  # type: ignore[union-attr]
        place.unsaved.unlink()
        storage.add(record(1), {})
        until(lambda: storage._waiting == 0)
        left = place.unsaved.read_bytes()
    assert left.count(b"\n") == 1
    place.unsaved.write_bytes(left + left[: len(left) // 2])
    with opened(place) as storage:
        assert len(storage.records()) == 2
    assert raw_ids(place) == [record(0).id, record(1).id]
    assert not place.unsaved.exists()


def test_the_lock_is_taken_again_when_the_server_dropped_it(
    postgresql: Any, tmp_path: Path
) -> None:
    import psycopg

    place = place_of(tmp_path, postgresql.url, tmp_path.name)
    with opened(place) as storage:
        storage.add(record(0), {})
        until(lambda: storage._waiting == 0)
        with psycopg.connect(
            host=str(postgresql.folder), user="tester", dbname="postgres"
        ) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        storage.add(record(1), {})
        until(lambda: storage._waiting == 0)
        with pytest.raises(StorageError, match="another process"), opened(place):
            pass
    assert raw_ids(place) == [record(0).id, record(1).id]


FULL = """
import resource, sys
from pathlib import Path
from autocompress.errors import StorageError
from autocompress.study.unsaved import Unsaved

resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
unsaved = Unsaved(Path(sys.argv[1]), "s")
unsaved.keep({"id": "1", "values": [1]})
try:
    unsaved.keep({"id": "2", "values": [2], "text": 90 * "a"})
except StorageError as error:
    print(error)
unsaved.keep({"id": "3", "values": [3]})
"""


def test_a_full_disk_tears_no_line_of_what_is_unsaved(tmp_path: Path) -> None:
    path = tmp_path / "unsaved.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True
    )
    assert f"{path}: cannot be written" in done.stdout
    assert [line["id"] for line in Unsaved(path, "s").lines()] == ["1", "3"]
    assert path.read_bytes().endswith(b"\n")


def until(moment: Any) -> None:
    deadline = time.monotonic() + 60
    while not moment():
        assert time.monotonic() < deadline
        time.sleep(0.005)
