"""Every place that trials are kept in gives back the same, to one run at a time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import storage_places
from storage_places import opened, raw_ids, record, told

from autocompress.errors import StorageError
from autocompress.study.place import Place, own_journal, place_of, remembered
from autocompress.study.storage import load_records


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
from storage_places import opened, record
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
    here = str(Path(storage_places.__file__).parent)
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


def test_threads_are_gone(place: Place) -> None:
    before = set(threading.enumerate())
    with opened(place) as storage:
        storage.add(record(0), {})
    assert not [t for t in set(threading.enumerate()) - before if t.name == "storage"]
