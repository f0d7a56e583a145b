"""What a worker process does: open a source once, run pieces of work with it."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any

from autocompress.errors import ExecutorError
from autocompress.study.executors.chunks import Answer
from autocompress.study.executors.local import alone
from autocompress.study.executors.shipping import pack_bytes

_opened: dict[str, Any] = {}  # what was made of the latest source


def work(handle: str, read: Callable[[], Any], payload: bytes) -> bytes:
    """Runs a function over items.

    Args:
        handle: Names the source.
        read: Gives the source, unless it is the one of the call before.
        payload: The function and the items, packed.

    Returns:
        The results and the seconds that they took, packed, or what the function raised.
    """
    alone()
    try:
        if handle not in _opened:
            _opened.clear()
            _opened[handle] = read().open()[0]
        function, items = pickle.loads(payload)
    except Exception as error:  # noqa: BLE001 - such as a module that is not here
        text = f"a worker cannot open what it works with: {type(error).__name__}: {error}"
        return _told(ExecutorError(text))
    begun = time.monotonic()
    try:
        found = [function(_opened[handle], item) for item in items]
        return pack_bytes((found, time.monotonic() - begun))
    except Exception as error:  # noqa: BLE001 - told to the one who asked
        return _told(error)


def settle(told: Answer, answer: bytes) -> None:
    """Fills in the future that stands for what `work` returned."""
    try:
        value = pickle.loads(answer)
    except Exception as error:  # noqa: BLE001 - handed to the one who asked
        value = error
    if isinstance(value, Exception):
        told.set_exception(value)
    else:
        told.set_result(value)


def _told(error: Exception) -> bytes:
    try:
        told = pack_bytes(error)
        pickle.loads(told)
    except Exception:  # noqa: BLE001 - an exception of the user's that cannot travel
        told = pack_bytes(RuntimeError(f"{type(error).__name__}: {error}"))
    return told
