"""Keeps one stray line of HiGHS off standard output.

HiGHS 1.12 prints it while it repairs a solution, whatever its log options (ERGO-Code/HiGHS issue
2783).  It goes past Python's `sys.stdout`, so the descriptor itself is turned aside for the call;
whatever else was written there meanwhile follows afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
import threading
from collections.abc import Iterator

STRAY = b"HighsMipSolverData::transformNewIntegerFeasibleSolution"
_STDOUT = 1
_turned = threading.Lock()  # one at a time: the descriptor belongs to the whole process


@contextlib.contextmanager
def without_stray_lines() -> Iterator[None]:
    """Within the block, lines on descriptor 1 that begin with `STRAY` vanish; others come late.

    Without a standard output there is nothing to keep clean and the block simply runs.
    """
    with _turned, contextlib.ExitStack() as stack:
        try:
            aside = stack.enter_context(tempfile.TemporaryFile())
            _flush()
            kept = os.dup(_STDOUT)
        except OSError:
            yield
            return
        stack.callback(os.close, kept)
        os.dup2(aside.fileno(), _STDOUT)
        try:
            yield
        finally:
            _flush()
            os.dup2(kept, _STDOUT)
            aside.seek(0)
            rest = b"".join(line for line in aside if not line.startswith(STRAY))
            while rest:
                rest = rest[os.write(_STDOUT, rest) :]


def _flush() -> None:
    """Writes out what the C library holds back; Python's own buffer is not touched."""
    # Where the C library has no such name, its lines come when it flushes by itself.
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).fflush(None)
