"""Places where trials are recorded: a PostgreSQL for the session, an SQLite file, a journal."""

from __future__ import annotations

import importlib.util
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """A server of the session's own."""
    path = Path(__file__).with_name("postgresql.py")
    spec = importlib.util.spec_from_file_location("postgresql_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if reason := module.why_not():
        pytest.skip(reason)
    pytest.importorskip("psycopg", reason="pip install 'autocompress[postgresql]'")
    server = module.Server()
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
