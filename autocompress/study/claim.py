"""One process at a time writes a study that lies outside of its run directory.

Every claim dies with its holder: a lock on a file, or an advisory lock of PostgreSQL, which lives
as long as the connection that took it.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from autocompress.errors import StorageError
from autocompress.study.database import complaints, make_engine
from autocompress.study.lock import hold
from autocompress.study.patience import Patience
from autocompress.study.place import Place

if TYPE_CHECKING:
    from sqlalchemy import Connection

ATTEMPTS = 20  # to lock, 100 ms apart: a server takes a moment to notice that a holder died

T = TypeVar("T")


class Claim:
    """Nobody else may write; there is nothing to renew."""

    def check(self) -> None:
        """Makes sure that the study is still ours; called before every write.

        Raises:
            Away: If that cannot be found out now.
            StorageError: If another process has taken it.
        """


class AdvisoryLock(Claim):
    """A lock of PostgreSQL on a connection of its own.

    A connection that broke lost the lock: it is taken again before the next write.

    Args:
        place: The database and the study.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        digest = hashlib.sha256(f"autocompress {place.study}".encode()).digest()
        self._key = int.from_bytes(digest[:8], "big", signed=True)
        self._engine = make_engine(place)
        self._connection: Connection | None = None

    def check(self) -> None:
        from sqlalchemy.exc import DBAPIError

        if self._connection is not None:
            with contextlib.suppress(DBAPIError):
                self._ask("SELECT 1")
                return
            self.release()
        with complaints(self._place):
            self._connection = self._engine.connect()
            # The server, too, notices within a minute that the holder's machine is gone.
            for name, seconds in (("idle", 30), ("interval", 10), ("count", 3)):
                self._ask(f"SELECT set_config('tcp_keepalives_{name}', '{seconds}', false)")
            for attempt in range(ATTEMPTS):
                if self._ask("SELECT pg_try_advisory_lock(:key)", key=self._key):
                    return
                time.sleep(0.1 * (attempt + 1 < ATTEMPTS))
        self.release()
        raise StorageError(_complaint(self._place))

    def release(self) -> None:
        """Lets go; closing the connection does it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Whatever state it is in: the server frees the lock when it ends.
            with contextlib.suppress(Exception):
                connection.invalidate()
            with contextlib.suppress(Exception):
                connection.close()

    def _ask(self, query: str, **values: Any) -> Any:
        from sqlalchemy import text

        assert self._connection is not None
        return self._connection.execute(text(query), values).scalar()


@contextlib.contextmanager
def claim(place: Place, patience: Patience, note: Callable[[str], None]) -> Iterator[Claim]:
    """Keeps every other process from writing a study outside of the run directory.

    The run directory itself has been locked by `lock`.

    Args:
        place: Where the study is.
        patience: How long an unreachable database is waited for.
        note: Hears where nothing can be locked.

    Raises:
        ConfigError: If the driver of the database is missing.
        StorageError: If another process writes the study, or the place cannot be reached.
    """
    if place.kind == "postgresql":
        taken = AdvisoryLock(place)
        patience(taken.check, place)
        try:
            yield taken
        finally:
            taken.release()
    elif (path := _lock_file(place)) is not None:
        with hold(path, _complaint(place)):
            yield Claim()
    else:
        if place.unsaved is not None:
            note(
                f"{place}: there is no lock for {place.kind}: run this study from one place at a"
                " time"
            )
        yield Claim()


def _lock_file(place: Place) -> Path | None:
    """The file to lock: one for a whole journal, one for each study of an SQLite file."""
    if place.journal is not None:
        # The run's own journal is held by the lock on its folder.
        return place.journal.with_suffix(".pid") if place.unsaved else None
    if place.kind == "sqlite":
        from sqlalchemy.engine import make_url

        name = make_url(place.url).database or ""
        digest = hashlib.sha256(place.study.encode()).hexdigest()[:8]
        return Path(f"{name.removeprefix('file:').partition('?')[0]}.{digest}.lock")
    return None


def _complaint(place: Place) -> str:
    what = "writing this journal" if place.journal else f"running the study {place.study!r}"
    return (
        f"{place}: another process is {what}; wait for it, or give another --out or --study-name"
    )
