"""Virtual environments, one for each tool, with pinned packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

STAMP = "installed.txt"


class ToolError(RuntimeError):
    """A tool could not be installed or did not finish; the message ends with its last words."""


def make_environment(folder: Path, requirements: Sequence[str]) -> Path:
    """An interpreter that has exactly these packages and what they need.

    Args:
        folder: Of the environment; what is there with the same requirements is used again.
        requirements: Such as `nncf==3.4.0`.

    Raises:
        ToolError: If they cannot be installed.
    """
    python = folder / "bin" / "python"
    stamp = folder / STAMP
    wanted = "\n".join(requirements)
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    call([sys.executable, "-m", "venv", "--clear", str(folder)])
    call([str(python), "-m", "pip", "install", "--quiet", *requirements])
    stamp.write_text(wanted)
    return python


def installed(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages in an environment."""
    code = "import importlib.metadata as m, sys; [print(p, m.version(p)) for p in sys.argv[1:]]"
    lines = call([str(python), "-c", code, *packages]).splitlines()
    return dict(line.split(" ", 1) for line in lines)


def call(command: Sequence[str], seconds: float = 3600, ok: Sequence[int] = (0,)) -> str:
    """What a command printed.

    Raises:
        ToolError: If it ends with a code that is not in `ok`, or is not done in time.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ToolError(f"not done after {seconds:g} s") from None
    if done.returncode not in ok:
        raise ToolError(last_line(done.stderr or done.stdout) or f"exit code {done.returncode}")
    return done.stdout


def last_line(text: str) -> str:
    """The last line that says something; of a Python traceback that is the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
