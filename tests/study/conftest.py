"""Places where trials are recorded: a PostgreSQL for the session, an SQLite file, a journal."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import postgresql_server
import pytest
from durable_runs import trials

from autocompress.study.place import Place, place_of


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """A server of the session's own."""
    if reason := postgresql_server.why_not():
        pytest.skip(reason)
    pytest.importorskip("psycopg", reason="pip install 'autocompress[postgresql]'")
    server = postgresql_server.Server()
    try:
        yield server
    finally:
        server.close()


@dataclass(frozen=True)
class Backend:
    """A storage that can be taken away."""

    kind: str
    url: str
    leave: Callable[[], None]
    come_back: Callable[[], None]

    @contextmanager
    def away(self) -> Iterator[None]:
        self.leave()
        try:
            yield
        finally:
            self.come_back()

    def away_for(self, seconds: float) -> threading.Timer:
        """Takes it away now and gives it back later."""
        self.leave()
        timer = threading.Timer(seconds, self.come_back)
        timer.start()
        return timer


@pytest.fixture(params=["postgresql", "sqlite", "journal"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """PostgreSQL that is stopped, SQLite that another process locks, a share that is gone."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql")
        return Backend("postgresql", server.url, server.stop, server.start)
    share = tmp_path / "share"
    share.mkdir()
    if request.param == "journal":

        def leave() -> None:
            share.rename(tmp_path / "gone")

        def come_back() -> None:
            (tmp_path / "gone").rename(share)

        return Backend("journal", str(share / "all.journal"), leave, come_back)
    held: list[sqlite3.Connection] = []

    def lock() -> None:
        held.append(sqlite3.connect(share / "all.db", check_same_thread=False))
        held[0].execute("BEGIN EXCLUSIVE")

    def unlock() -> None:
        held.pop().close()

    return Backend("sqlite", f"sqlite:///{share}/all.db?timeout=0.1", lock, unlock)


@pytest.fixture
def place(backend: Any, tmp_path: Path) -> Place:
    """A study in a storage of that kind."""
    (tmp_path / "run").mkdir()
    return place_of(tmp_path / "run", backend.url, tmp_path.name)


@pytest.fixture(scope="session")
def undisturbed(finished: tuple[Path, Any]) -> tuple[bytes, list[tuple[str, float]]]:
    """Plan and trials of a run that nothing happened to."""
    folder = finished[0]
    return (folder / "plan.json").read_bytes(), trials(folder)
