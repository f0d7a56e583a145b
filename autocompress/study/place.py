"""Where the records of a run are: the journal in its folder, another journal, or a database."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from autocompress.errors import ConfigError

JOURNAL = "study.journal"
UNSAVED = "unsaved.jsonl"
STUDY = "autocompress"  # what Optuna calls the study in a journal that holds only one
ALLOWED = (
    "allowed are the URL of a database, such as postgresql+psycopg://user@host/studies or"
    " sqlite:///studies.db, and the path of a journal that ends in .journal;"
    " empty is the journal in the run directory"
)
_PASSWORD = re.compile(r"^([\w+.-]+://[^:/@]*):([^@]*)@")
_IN_QUERY = re.compile(r"([?&](?:password|passwd|sslpassword)=)([^&]*)")
_NAMES = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Place:
    """Where the trials of a study are kept.

    Args:
        text: As it is shown and remembered: a URL without its password, the path of a journal, or
            nothing for the journal in the run directory.
        journal: The journal; None for a database.
        study: Name of the study in Optuna.
        unsaved: Keeps what the storage does not have yet; None where nothing is in between.
        url: The whole URL of a database.
    """

    text: str
    journal: Path | None
    study: str = STUDY
    unsaved: Path | None = None
    url: str = field(default="", repr=False)

    @property
    def kind(self) -> str:
        """`journal`, or SQLAlchemy's name of the database, such as `postgresql`."""
        return "journal" if self.journal else self.url.split(":")[0].split("+")[0]

    def __str__(self) -> str:
        return self.text or str(self.journal)

    def as_dict(self) -> dict[str, str]:
        """What `run.json` remembers."""
        return {"url": self.text, "study": self.study}

    def hidden(self, message: str) -> str:
        """A message of a driver without the password that it may quote."""
        found = _PASSWORD.match(self.url)
        secrets = [found[2]] if found else []
        secrets += [value for _, value in _IN_QUERY.findall(self.url)]
        for secret in {*secrets, *map(unquote, secrets)} - {""}:
            message = message.replace(secret, "***")
        return message


def own_journal(path: Path) -> Place:
    """The journal that holds one study and is written without anything in between."""
    return Place("", path)


def place_of(folder: Path, storage: str, study: str = "") -> Place:
    """Where a run's records are.

    Args:
        folder: The run directory.
        storage: As in `study.toml`: a URL, the path of a journal, or nothing.
        study: Optuna's name of the study; needed unless the storage is the run's own journal.

    Raises:
        ConfigError: If the storage is none of these, or names a variable that is not set.
    """
    if not storage:
        return Place("", folder / JOURNAL, study or STUDY)
    filled, unsaved = _filled(storage), folder / UNSAVED
    if "://" in filled:
        url, shown = _parsed(filled, storage)
        return Place(shown, None, study or STUDY, unsaved, url)
    if filled.endswith(".journal") and not re.match(r"\w+:", filled):
        path = Path(filled).expanduser().absolute()
        if path == (folder / JOURNAL).absolute():
            return Place("", folder / JOURNAL, study or STUDY)
        return Place(str(path), path, study or STUDY, unsaved)
    raise ConfigError(f"storage {_shown(storage)!r}: {ALLOWED}")


def remembered(folder: Path, begun: Mapping[str, Any], storage: str = "") -> Place:
    """Where the records of a run that was begun are.

    Args:
        folder: The run directory.
        begun: Its `run.json`.
        storage: Replaces the URL in there, which lacks the password.

    Raises:
        ConfigError: As in `place_of`.
    """
    known = begun.get("storage") or {}
    return place_of(folder, storage or known.get("url", ""), known.get("study", ""))


def study_name(name: str, folder: Path, fingerprint: Mapping[str, str]) -> str:
    """A name that no other run has: the study's, and a hash over machine, run directory and what
    is compressed."""
    parts = [socket.gethostname(), str(folder.resolve()), *sorted(map(str, fingerprint.items()))]
    return f"{name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:8]}"


def _filled(text: str) -> str:
    """The text with every `${NAME}` taken from the environment; quoted for a URL, unless it is
    all there is."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in os.environ:
            raise ConfigError(f"storage {_shown(text)!r}: the variable {name} is not set")
        return os.environ[name] if found[0] == text else quote(os.environ[name], safe="")

    return _NAMES.sub(value, text)


def _parsed(url: str, given: str) -> tuple[str, str]:
    """The URL as SQLAlchemy reads it, and as it is shown; files in absolute paths."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # their messages may quote the password
        raise ConfigError(f"storage {_shown(given)!r}: not a URL; {ALLOWED}") from None
    if parsed.get_backend_name() == "sqlite":
        name = parsed.database or ":memory:"
        if name == ":memory:":
            raise ConfigError(f"storage {given!r}: is gone with the process; name a file")
        if not name.startswith("file:"):
            parsed = parsed.set(database=str(Path(name).expanduser().absolute()))
        url = parsed.render_as_string(hide_password=False)
        return url, url
    return url, without_password(given)


def without_password(text: str) -> str:
    """A storage as it may be kept: what is literally a password is left out, `${NAME}` stays."""
    text = _PASSWORD.sub(lambda m: m[0] if _NAMES.fullmatch(m[2]) else f"{m[1]}@", text)
    return _IN_QUERY.sub(lambda m: m[0] if _NAMES.fullmatch(m[2]) else m[1], text)


def _shown(text: str) -> str:
    """A storage that may be malformed, for a message."""
    return re.sub(r":[^@]*@", ":***@", _IN_QUERY.sub(r"\1***", text))
