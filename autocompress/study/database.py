"""A database as an Optuna storage: opened with a few time limits, its complaints in our words."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import optuna

from autocompress.errors import ConfigError, StorageError
from autocompress.study.patience import Away
from autocompress.study.place import Place

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage
    from sqlalchemy import Engine

LIBPQ = ("psycopg", "psycopg2")
# A server that is gone without a word is noticed after a minute.
TIMES = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
BUSY = 2  # seconds that SQLite itself waits for another writer, before Optuna tries again
# What waiting does not change; the messages of connections that fail carry no code.
LASTING = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "permission denied",
    "does not exist",
    "readonly database",
    "unable to open database file",
    "disk is full",
    "access denied",
    "unknown database",
)
EXTRAS = {"postgresql": "pip install 'autocompress[postgresql]' for postgresql+psycopg://"}


def open_database(place: Place) -> RDBStorage:
    """The database as an Optuna storage; its tables are made where they are missing.

    Raises:
        Away: If it cannot be reached now.
        ConfigError: If its driver is missing or unknown.
        StorageError: If it refuses.
    """
    from optuna.storages import RDBStorage

    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with complaints(place):
            return RDBStorage(place.url, engine_kwargs=engine_options(place))
    except StorageError as error:
        if any(word in str(error) for word in ("already exists", "duplicate key", "UNIQUE")):
            raise Away("another process is making its tables") from error
        raise


def close_database(storage: BaseStorage | None) -> None:
    """Lets go of the connections of a storage, if it is a database."""
    from optuna.storages import RDBStorage

    if isinstance(storage, RDBStorage):
        with contextlib.suppress(Exception):  # they may be broken
            storage.remove_session()
            storage.engine.dispose()


def engine_options(place: Place) -> dict[str, Any]:
    """Arguments of `create_engine`: connections are tried before use, and not for ever."""
    from sqlalchemy.engine import make_url

    url = make_url(place.url)
    driver = url.drivername.partition("+")[2]
    options: dict[str, Any] = {"pool_pre_ping": True}
    if place.kind == "postgresql" and (driver in LIBPQ or not driver):
        times = {key: value for key, value in TIMES.items() if key not in url.query}
        options["connect_args"] = times
    if place.kind == "sqlite" and "timeout" not in url.query:
        options["connect_args"] = {"timeout": BUSY}
    return options


def make_engine(place: Place) -> Engine:
    """One connection at a time, outside of transactions.

    Raises:
        ConfigError: If its driver is missing or unknown.
    """
    from sqlalchemy import NullPool, create_engine

    options = engine_options(place) | {"poolclass": NullPool, "isolation_level": "AUTOCOMMIT"}
    with complaints(place):
        return create_engine(place.url, **options)


@contextlib.contextmanager
def complaints(place: Place) -> Iterator[None]:
    """What Optuna, SQLAlchemy and drivers say of a database as ours, without the password.

    Raises:
        Away: Where waiting may help.
        ConfigError: Where the driver is missing or unknown.
        StorageError: Where the database refuses, or what it holds is no study.
    """
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
    from sqlalchemy.exc import TimeoutError as PoolTimeoutError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ImportError, NoSuchModuleError, ArgumentError) as error:
        name = place.url.split(":")[0]
        hint = EXTRAS.get(place.kind, "install the driver that its documentation names")
        raise ConfigError(
            f"storage {str(place)!r}: no driver for {name}:// is installed ({hint})"
        ) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__ or error
        text = place.hidden(_first_line(getattr(cause, "orig", None) or cause))
        if isinstance(cause, PoolTimeoutError) or _may_pass(cause, DBAPIError, text):
            raise Away(text) from error
        raise StorageError(f"storage {place}: {text}{_hint(text)}") from error
    except RuntimeError as error:  # tables of another version of Optuna
        raise StorageError(f"storage {place}: {place.hidden(_first_line(error))}") from error
    except (ValueError, KeyError) as error:
        text = place.hidden(_first_line(error))
        raise StorageError(f"storage {place}: not a readable study: {text}") from error


def _hint(text: str) -> str:
    """How a password is given, where one is missing or wrong."""
    if not any(word in text for word in ("password", "authentication")):
        return ""
    return (
        " (passwords are not kept: give --storage with it, better as ${NAME} from the environment,"
        " or use PGPASSWORD or ~/.pgpass)"
    )


def _may_pass(cause: BaseException, database_error: type[Exception], text: str) -> bool:
    """Whether waiting may help: the connection failed or the server is not up to it."""
    from sqlalchemy.exc import InterfaceError, InternalError, OperationalError

    if not isinstance(cause, database_error):
        return False
    if getattr(cause, "connection_invalidated", False):
        return True
    # A server that stops or starts says so as an internal error as well.
    is_connection = isinstance(cause, OperationalError | InterfaceError | InternalError)
    return is_connection and not any(word in text.lower() for word in LASTING)


def _first_line(error: object) -> str:
    """The first line of a message, which is the one for a user."""
    text = str(error).strip() or type(error).__name__
    return " ".join(text.splitlines()[0].split())
