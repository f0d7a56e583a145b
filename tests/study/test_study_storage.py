"""Runs that record into a database: as into the journal, and what is said when that fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import ConfigError
from autocompress.study.place import place_of, without_password
from autocompress.study.status import place_in
from autocompress.study.storage import load_records

Cli = Callable[..., tuple[int, str, str]]
SECRET = "hush:hush"


def told(folder: Path) -> list[tuple[Any, ...]]:
    """What a run recorded, but for the seconds that it took."""
    return [
        (r.id, list(r.choices.items()), r.loss, r.size_bytes, r.doubt, r.samples.tolist())
        for r in load_records(place_in(folder))
    ]


def test_a_run_in_postgresql_ends_like_one_in_the_journal(
    cli: Cli, trained: Path, with_device: Any, finished: Any, postgresql: Any, tmp_path: Path
) -> None:
    """Killed while the server is down, then gone on with the same command less the storage."""
    folder = with_device(tmp_path / "run")
    arguments = ["run", str(trained), "--out", str(folder), "--storage", postgresql.url]
    process = subprocess.Popen(
        [sys.executable, "-m", "autocompress.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: '"name": "search"' in text(folder / "log.jsonl"), process)
        postgresql.stop()
        try:
            wait_for(lambda: text(folder / "unsaved.jsonl").count("\n") >= 2, process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            postgresql.start()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    code, out, err = cli("show", folder)
    assert code == 0, err
    assert re.search(r"\d+ candidates wait in unsaved.jsonl", out)

    code, out, err = cli("run", trained, "--out", folder)
    assert code == 0, err
    assert "candidates from unsaved.jsonl were written" in out
    assert (folder / "plan.json").read_bytes() == (finished[0] / "plan.json").read_bytes()
    assert told(folder) == told(finished[0])
    assert not (folder / "study.journal").exists()
    assert not (folder / "unsaved.jsonl").exists()

    code, out, err = cli("show", folder)
    assert code == 0, err
    study = json.loads((folder / "run.json").read_text())["storage"]["study"]
    assert re.fullmatch(r"tiny-[0-9a-f]{8}", study)
    assert f"study {study}" in " ".join(out.split())
    point = told(folder)[0][0]
    code, _, err = cli("export", folder, "-o", tmp_path / "a.acz", "--candidate", point)
    assert code == 0, err


def test_a_run_in_sqlite_ends_like_one_in_the_journal(
    cli: Cli, trained: Path, with_device: Any, finished: Any, run_copy: Path, tmp_path: Path
) -> None:
    folder = with_device(tmp_path / "run")
    url = f"sqlite:///{tmp_path}/studies.db"
    code, _, err = cli("run", trained, "--out", folder, "--storage", url, "--study-name", "mine")
    assert code == 0, err
    assert told(folder) == told(finished[0])
    other = f"sqlite:///{tmp_path}/other.db"
    code, _, err = cli("run", trained, "--out", folder, "--storage", other)
    assert code == 2
    assert "holds no study 'mine'" in err
    assert json.loads((folder / "run.json").read_text())["storage"]["url"] == url
    code, _, err = cli("run", trained, "--out", run_copy, "--storage", url)
    assert code == 2
    assert "was begun with its records in study.journal" in err


@pytest.mark.slow
def test_a_run_in_sqlite_is_retargeted(
    cli: Cli, trained: Path, with_device: Any, tmp_path: Path
) -> None:
    folder = with_device(tmp_path / "run")
    url = f"sqlite:///{tmp_path}/studies.db"
    assert cli("run", trained, "--out", folder, "--storage", url)[0] == 0
    before = told(folder)
    code, _, err = cli("retarget", folder, "--budget", "size=40%")
    assert code == 0, err
    assert told(folder)[: len(before)] == before
    assert len(told(folder)) > len(before)


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("runs/studies", ["'runs/studies'", "postgresql+psycopg://", ".journal"]),
        (f"postgresql:/me:{SECRET}@host/db.journal", ["allowed are", "***"]),
        (f"postgresql+psycopg://me:{SECRET}@host:port/db", ["not a URL", "***"]),
        ("sqlite://", ["gone with the process"]),
        ("sqlite:///:memory:", ["gone with the process"]),
        ("${NOT_SET}", ["NOT_SET is not set"]),
        (f"nosuch://me:{SECRET}@host/db", ["no driver for nosuch://"]),
        (f"postgresql+pg8000://me:{SECRET}@host/db", ["no driver", "autocompress[postgresql]"]),
        (f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/db", ["127.0.0.1", "refused"]),
    ],
)
def test_bad_storages_are_refused_without_a_word_of_the_password(
    cli: Cli, make_study: Any, tmp_path: Path, storage: str, words: list[str]
) -> None:
    study = make_study(storage_patience="0.1s")
    code, out, err = cli("run", study, "--out", tmp_path / "run", "--storage", storage)
    assert code == 2, err
    assert "Traceback" not in err
    for word in words:
        assert word in err
    for path in [*(tmp_path / "run").glob("*.json*")]:
        assert "hush" not in path.read_text()
    assert "hush" not in out + err
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_server_that_refuses_is_not_waited_for(
    cli: Cli, trained: Path, postgresql: Any, tmp_path: Path
) -> None:
    url = postgresql.url.replace("/postgres?", "/nowhere?")
    started = time.monotonic()
    code, _, err = cli("run", trained, "--out", tmp_path / "run", "--storage", url)
    assert code == 2
    assert 'database "nowhere" does not exist' in err
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("postgresql+psycopg://me:pass@host/db", "postgresql+psycopg://me@host/db"),
        ("postgresql://me:p%40ss@host:5432/db?a=b", "postgresql://me@host:5432/db?a=b"),
        ("postgresql://me:${PASSWORD}@host/db", "postgresql://me:${PASSWORD}@host/db"),
        (
            "postgresql:///db?host=/tmp&password=pass&a=b",
            "postgresql:///db?host=/tmp&password=&a=b",
        ),
        ("${DATABASE}", "${DATABASE}"),
        ("mysql+pymysql://me@host/db", "mysql+pymysql://me@host/db"),
    ],
)
def test_passwords_are_not_kept(given: str, kept: str) -> None:
    assert without_password(given) == kept


def test_variables_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "p@ss/word")
    monkeypatch.setenv("DATABASE", "postgresql://me:secret@host/db")
    place = place_of(tmp_path, "postgresql://me:${PASSWORD}@host/db", "s")
    assert place.url == "postgresql://me:p%40ss%2Fword@host/db"
    assert "p%40ss" not in str(place) + repr(place)
    assert place.hidden("bad password p@ss/word or p%40ss%2Fword") == "bad password *** or ***"
    place = place_of(tmp_path, "${DATABASE}", "s")
    assert (place.url, place.text) == ("postgresql://me:secret@host/db", "${DATABASE}")
    assert place.kind == "postgresql"
    with pytest.raises(ConfigError, match="OTHER is not set"):
        place_of(tmp_path, "${OTHER}/a.journal")


def test_files_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of(Path("run"), "sqlite:///a.db", "s").text == f"sqlite:///{tmp_path}/a.db"
    assert place_of(Path("run"), "a.journal", "s").text == f"{tmp_path}/a.journal"
    own = place_of(Path("run"), "run/study.journal")
    assert (own.text, own.unsaved) == ("", None)


def text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def wait_for(moment: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not moment():
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.002)
