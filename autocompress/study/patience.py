"""Trying again while a storage is away: with growing pauses, for a while, with one note."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from autocompress.errors import StorageError

FIRST, LONGEST = 0.2, 10.0  # seconds of a pause

T = TypeVar("T")


class Away(Exception):
    """The storage cannot be reached now, and that may pass; the message says why."""


class Patience:
    """Repeats what fails with `Away`.

    Args:
        seconds: How long one thing is tried.
        note: Hears once that it is tried again.
        stop: Ends every wait.
    """

    def __init__(
        self,
        seconds: float,
        note: Callable[[str], None] = lambda text: None,
        stop: threading.Event | None = None,
    ) -> None:
        self.seconds = seconds
        self.stop = stop or threading.Event()
        self._note = note

    def __call__(self, attempt: Callable[[], T], name: object, kept: str = "") -> T:
        """What the attempt returns.

        Args:
            attempt: May be called any number of times.
            name: Of the storage, for the messages.
            kept: What becomes of that which is not written, for the messages.

        Raises:
            StorageError: If it fails otherwise, or for too long.
        """
        started, pause, noted = time.monotonic(), FIRST, False
        while True:
            try:
                return attempt()
            except Away as error:
                left = started + self.seconds - time.monotonic()
                if left <= 0 or self.stop.is_set():
                    raise StorageError(f"storage {name}: {error}{kept}") from error
                if not noted:
                    self._note(
                        f"storage {name}: {error}; trying again for {_text(self.seconds)}{kept}"
                    )
                noted = True
                self.stop.wait(min(pause, left))
                pause = min(2 * pause, LONGEST)


def _text(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 120 else f"{seconds:g} seconds"
