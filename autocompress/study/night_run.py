"""One study of a night, in a process of its own: one that dies takes no other along."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autocompress.errors import AutocompressError, ConfigError
from autocompress.study.config import StudyFile, load_study, parse_duration
from autocompress.study.events import Silent
from autocompress.study.run import run_study
from autocompress.toml import read

OUTPUT = "output.txt"
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
INTERRUPTED = 130
FINE = (0, 3)  # exit codes of a run that came to its end


class StudyFailedError(AutocompressError):
    """A study of a night did not come to its end."""


@dataclass(frozen=True)
class Order:
    """What is to be run.

    Args:
        study: The study folder.
        run: The run directory; one that was begun is continued.
        warm: A finished run to start from; None for none.
        seconds: Longest time before the search stops; None for as long as the study says.
    """

    study: Path
    run: Path
    warm: Path | None
    seconds: float | None

    @property
    def max_time(self) -> str | None:
        """The time in the form that `--max-time` takes; never more than the study gives itself.

        Raises:
            ConfigError: If the study file cannot be read.
        """
        if self.seconds is None:
            return None
        own = read(self.study / "study.toml", StudyFile).max_time
        most = min(self.seconds, parse_duration(own)) if own else self.seconds
        return f"{max(1, round(most))}s"


Runner = Callable[[Order], None]


def run_here(order: Order) -> None:
    """Runs a study in this process.

    Raises:
        AutocompressError: Whatever the run raises.
    """
    study = load_study(order.study, {"max_time": order.max_time})
    run_study(study, order.run, Silent(), order.warm)


def run_in_child(order: Order) -> None:
    """Runs a study in a process of its own; what it says is in `output.txt` of its run directory.

    Raises:
        StudyFailedError: If it fails or is killed; the message is what it said last.
        KeyboardInterrupt: If it was interrupted.
    """
    command = [sys.executable, "-m", "autocompress.cli", "run", str(order.study)]
    command += ["--out", str(order.run)]
    command += ["--warm-start", str(order.warm)] if order.warm else []
    most = order.max_time
    command += ["--max-time", most] if most else []
    try:
        order.run.mkdir(parents=True, exist_ok=True)
        output = order.run / OUTPUT
        with output.open("wb") as file:
            code = subprocess.call(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )
    except OSError as error:
        raise StudyFailedError(f"{order.run}: {error.strerror or error}") from error
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code not in FINE:
        raise StudyFailedError(_reason(code, output))


def _die_with_parent() -> None:
    """Asks Linux to end this process with its parent: a night that is killed leaves no run behind
    that would hold the study's lock."""
    ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)


def _reason(code: int, output: Path) -> str:
    """Why a run ended: the signal, or the last line that it wrote."""
    if code < 0:
        return f"killed by signal {-code} ({signal.Signals(-code).name}); see {output}"
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return last.removeprefix("error: ")


def find_studies(folder: Path) -> list[Path]:
    """The study folders in a folder, by name; the folder itself where it is one.

    Raises:
        ConfigError: If there are none.
    """
    if (folder / "study.toml").is_file():
        return [folder]
    found = []
    if folder.is_dir():
        found = sorted(path.parent for path in folder.glob("*/study.toml"))
    if not found:
        raise ConfigError(f"{folder}: holds no study folder (one with study.toml and task.py)")
    return found
