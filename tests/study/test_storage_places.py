"""The contract of a storage outside of the run directory, held by a real PostgreSQL, an SQLite
file and a journal elsewhere: the same records, nothing twice, nothing lost, one writer.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.errors import StorageError
from autocompress.study.book import asked, find_study, open_storage
from autocompress.study.claim import claim
from autocompress.study.database import close_database
from autocompress.study.patience import Patience
from autocompress.study.place import Place, own_journal, place_of, remembered
from autocompress.study.record import Record
from autocompress.study.storage import StudyStorage, load_records
from autocompress.study.unsaved import Unsaved

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


@pytest.fixture
def place(backend: Any, tmp_path: Path) -> Place:
    (tmp_path / "run").mkdir()
    return place_of(tmp_path / "run", backend.url, tmp_path.name)


def test_what_comes_back_is_what_the_journal_gives_back(place: Place, tmp_path: Path) -> None:
    """Bit for bit, with samples and slopes too long for one attribute."""
    own = own_journal(tmp_path / "study.journal")
    slopes = np.random.default_rng(0).normal(size=20_000)
    for where in (own, place):
        with opened(where) as storage:
            for number in range(3):
                storage.add(record(number), {"size_bytes": -0.5})
            storage.add(record(3, samples=30_000), {})
            storage.keep_slopes("0000000001", slopes)
            assert told(storage.records()) == told(
                [*map(record, range(3)), record(3, samples=30_000)]
            )
    assert told(load_records(place)) == told(load_records(own))
    with opened(place) as storage:
        assert told(storage.records()) == told(load_records(own))
        kept = storage.slopes("0000000001")
        assert kept is not None
        assert kept.tolist() == slopes.astype(np.float32).tolist()
    assert place.unsaved is not None
    assert not place.unsaved.exists()


def test_studies_share_a_storage(backend: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with opened(place_of(tmp_path / name, backend.url, f"{tmp_path.name}-{name}")) as storage:
            storage.add(record(len(name) + (name == "two")), {})
    for name, number in (("one", 3), ("two", 4)):
        place = place_of(tmp_path / name, backend.url, f"{tmp_path.name}-{name}")
        assert told(load_records(place)) == told([record(number)])


WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_storage_places import opened, record
from autocompress.study.place import place_of

place = place_of(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
with opened(place) as storage:
    print("open", flush=True)
    for number in range(int(sys.argv[5])):
        if storage.find(record(number).id) is None:
            storage.add(record(number), {})
            storage.flush()
            print(number, flush=True)
    time.sleep(float(sys.argv[6]))
"""


@contextmanager
def worker(
    place: Place, url: str, count: int, rest: float = 0.0
) -> Iterator[subprocess.Popen[str]]:
    """A process that measures candidates 0, 1, ... and says each that is safe."""
    assert place.unsaved is not None
    folder = str(place.unsaved.parent)
    here = str(Path(__file__).parent)
    arguments = [here, folder, url, place.study, str(count), str(rest)]
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_killed_at_any_moment_nothing_is_done_twice(backend: Any, place: Place) -> None:
    done: list[str] = []
    with worker(place, backend.url, 20) as process:
        assert process.stdout is not None
        done += [process.stdout.readline().strip() for _ in range(7)]
        process.send_signal(signal.SIGKILL)
        done += process.communicate()[0].split()
    with worker(place, backend.url, 20) as process:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        done += out.split()
    # One may have been safe when the kill kept it from being said.
    counts = Counter(line for line in done if line != "open")
    assert len(counts) >= 19
    assert set(counts.values()) == {1}
    assert raw_ids(place) == [record(number).id for number in range(20)]
    assert told(load_records(place)) == told([record(number) for number in range(20)])


def test_two_at_once_are_refused_until_the_first_is_dead(backend: Any, place: Place) -> None:
    with worker(place, backend.url, 2, rest=60) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StorageError, match="another process is") as refusal, opened(place):
            pass
        assert "--out" in str(refusal.value)
        if backend.kind != "journal":
            other = place_of(place.unsaved.parent, backend.url, place.study + "-other")  # type: ignore[union-attr]
            with opened(other) as storage:
                storage.add(record(1), {})
        process.send_signal(signal.SIGKILL)
    with opened(place) as storage:
        assert len(storage.records()) == 2


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


def test_lines_of_another_study_are_kept(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    (tmp_path / "unsaved.jsonl").write_text(
        json.dumps({"study": "other", "id": "1", "slopes": ""}) + "\n"
    )
    with (
        pytest.raises(StorageError, match="--study-name other"),
        opened(place_of(tmp_path, url, "mine")),
    ):
        pass
    assert "other" in (tmp_path / "unsaved.jsonl").read_text()


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


def test_a_password_is_not_kept_and_can_be_given_otherwise(
    postgresql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    with psycopg.connect(
        host=str(postgresql.folder), user="tester", dbname="postgres"
    ) as connection:
        connection.execute("CREATE ROLE locked LOGIN SUPERUSER PASSWORD 'hush/hush'")
    url = postgresql.url.replace("tester@", "locked:hush%2Fhush@")
    place = place_of(tmp_path, url, tmp_path.name)
    with opened(place) as storage:
        storage.add(record(0), {})
    begun = {"storage": place.as_dict()}
    assert "hush" not in json.dumps(begun)
    with pytest.raises(StorageError, match="no password supplied.*PGPASSWORD") as error:
        load_records(remembered(tmp_path, begun))
    assert "hush" not in str(error.value)
    with pytest.raises(StorageError, match="password authentication failed") as error:
        load_records(place_of(tmp_path, url.replace("hush%", "wrong%"), tmp_path.name))
    assert "wrong" not in str(error.value)
    assert told(load_records(remembered(tmp_path, begun, url))) == told([record(0)])
    monkeypatch.setenv("PGPASSWORD", "hush/hush")
    assert told(load_records(remembered(tmp_path, begun))) == told([record(0)])
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("LOCKED", "hush/hush")
    named = place_of(tmp_path, url.replace("hush%2Fhush", "${LOCKED}"), tmp_path.name)
    assert told(load_records(remembered(tmp_path, {"storage": named.as_dict()}))) == told(
        [record(0)]
    )


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


def test_threads_are_gone(place: Place) -> None:
    before = set(threading.enumerate())
    with opened(place) as storage:
        storage.add(record(0), {})
    assert not [t for t in set(threading.enumerate()) - before if t.name == "storage"]
