"""Losses that were measured, in a file that every worker and every later run reads."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

from autocompress.search.problem import Candidate


class Memo:
    """Candidate to loss, kept in SQLite: a benchmark that was interrupted goes on.

    Args:
        path: The file; its folder must exist.
        key: What the losses depend on (the content of prices, menus and inputs); entries under
            another key are not seen.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self._near: dict[Candidate, float] = {}
        self._connections: dict[int, sqlite3.Connection] = {}
        self._run(
            "CREATE TABLE IF NOT EXISTS losses"
            " (key TEXT, candidate TEXT, loss REAL, PRIMARY KEY (key, candidate))"
        )
        self._run("CREATE TABLE IF NOT EXISTS texts (key TEXT PRIMARY KEY, text TEXT)")
        self._near.update(self.all())

    def get(self, candidate: Candidate) -> float | None:
        """The loss of a candidate; None when no process has measured it."""
        if candidate not in self._near:
            found = self._run(
                "SELECT loss FROM losses WHERE key = ? AND candidate = ?",
                self.key,
                json.dumps(candidate),
            )
            if not found:
                return None
            self._near[candidate] = found[0][0]
        return self._near[candidate]

    def put(self, candidate: Candidate, loss: float) -> None:
        """Keeps a loss; the first one stays."""
        if self.get(candidate) is None:
            self._run(
                "INSERT OR IGNORE INTO losses VALUES (?, ?, ?)",
                self.key,
                json.dumps(candidate),
                loss,
            )
            self._near[candidate] = loss

    def all(self) -> dict[Candidate, float]:
        """Everything measured under the key, by any process."""
        rows = self._run("SELECT candidate, loss FROM losses WHERE key = ?", self.key)
        return {tuple(json.loads(text)): loss for text, loss in rows}

    def text(self, key: str) -> str | None:
        """What was kept under a key of the caller's; None for nothing."""
        found = self._run("SELECT text FROM texts WHERE key = ?", key)
        return str(found[0][0]) if found else None

    def keep(self, key: str, text: str) -> None:
        """Keeps a text under a key."""
        self._run("INSERT OR REPLACE INTO texts VALUES (?, ?)", key, text)

    def close(self) -> None:
        """Closes the file in this process; the next look-up opens it again."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _run(self, statement: str, *values: object) -> list[tuple[str | float, ...]]:
        # A connection must not cross a fork: each process opens its own.
        if os.getpid() not in self._connections:
            connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")
            self._connections[os.getpid()] = connection
        return self._connections[os.getpid()].execute(statement, values).fetchall()
