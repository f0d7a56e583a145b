"""A night: every study is run from where it was last good, and compared with that.

Each study has a folder in OUT: one run directory a night, with `verdict.json` beside the run's own
files, and `accepted`, which says which run is the accepted one.  What is in `verdict.json` is
done; a night that was killed does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from autocompress.errors import ConfigError, StorageError
from autocompress.files import read_json, write_json
from autocompress.study.accepted import keep, point
from autocompress.study.events import Listener
from autocompress.study.facts import load_facts
from autocompress.study.lock import lock
from autocompress.study.night_run import Runner, find_studies
from autocompress.study.verdict import WORSE, NightTask, headline

SCHEMA = 1
NIGHT = re.compile(r"\d{4}-\d\d-\d\d_\d{6}")
STATE, VERDICT = "night.json", "verdict.json"
EXIT_FAILED, EXIT_NOT_MET, EXIT_REGRESSION = 1, 3, 4


@dataclass(frozen=True)
class Night:
    """What a night came to.

    Args:
        out: Where the nights are kept.
        name: Of the night, also that of its run directories.
        begun: When it began, ISO 8601 in UTC.
        studies: The content of each `verdict.json`, in the order of the studies.
    """

    out: Path
    name: str
    begun: str
    studies: tuple[Mapping[str, Any], ...]

    @property
    def exit_code(self) -> int:
        """4 for a regression, else 1 where a study failed or asks for a new baseline, else 3 where
        a budget was not met, else 0.  What was accepted all the same is no regression."""
        left = {study["verdict"] for study in self.studies if not study["accepted"]}
        if WORSE in left:
            return EXIT_REGRESSION
        if left:
            return EXIT_FAILED
        met = all(study["budget_met"] for study in self.studies)
        return 0 if met else EXIT_NOT_MET

    def as_dict(self) -> dict[str, Any]:
        """The content of `nightly.json`."""
        return {
            "schema": SCHEMA,
            "night": self.name,
            "begun": self.begun,
            "seconds": round(sum(study["seconds"] for study in self.studies), 3),
            "exit_code": self.exit_code,
            "studies": [dict(study) for study in self.studies],
        }


def nightly(
    studies: Path,
    out: Path,
    run: Runner,
    listener: Listener,
    seconds: float | None = None,
    baselines: Sequence[Path] = (),
    accept: bool = False,
) -> Night:
    """Runs every study and compares it with its accepted run.

    Args:
        studies: A folder of study folders, or one study folder.
        out: Where the nights are kept; a night that did not finish is continued.
        run: Runs one study.
        listener: Hears of the studies.
        seconds: Of the whole night: what is left is split evenly over the studies that are left.
        baselines: Finished runs that take the place of the accepted ones of their studies.
        accept: Whether what this night brings is accepted whatever it is, unless it failed.

    Returns:
        The night; call `finish` when all that is to be written of it has been written.

    Raises:
        ConfigError: If there are no studies, or a baseline belongs to none of them.
        StorageError: If a baseline is no finished run, the folder cannot be written, or another
            night is going on in it.
    """
    folders = find_studies(studies)
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise ConfigError(f"{studies}: expected studies of different names, got {names}")
    chosen = _baselines(baselines, names)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{out}: cannot be made: {error.strerror or error}") from error
    with lock(out / STATE):
        name, begun = _begin(out, studies, listener)
        for study, chosen_run in chosen.items():
            point(out, study, {"run": chosen_run, "baseline": chosen_run})
        done: list[dict[str, Any]] = []
        for place, (folder, study) in enumerate(zip(folders, names, strict=True)):
            path = out / study / name / VERDICT
            if path.is_file():
                found = read_json(path)
                listener.note(f"{study}: done before: {found['verdict']}")
            else:
                spent = sum(item["seconds"] for item in done)
                share = None
                if seconds is not None:
                    share = (seconds - spent) / (len(folders) - place)
                listener.stage(study, f"{place + 1} of {len(folders)}")
                task = NightTask(folder, study, name, out, run, share, accept)
                found = task.verdict()
                write_json(path, found)
                listener.note(f"{study}: {headline(found)}")
            keep(out, found)
            done.append(found)
        night = Night(out, name, begun, tuple(done))
        write_json(out / "nightly.json", night.as_dict())
    return night


def finish(night: Night) -> None:
    """Notes that a night is over: the next command begins another one."""
    write_json(night.out / STATE, {**read_json(night.out / STATE), "finished": True})


def all_verdicts(out: Path) -> list[dict[str, Any]]:
    """Every `verdict.json` of all nights, oldest night first."""
    paths = sorted(out.glob(f"*/*/{VERDICT}"), key=lambda path: (path.parts[-2], path.parts[-3]))
    return [read_json(path) for path in paths]


def _begin(out: Path, studies: Path, listener: Listener) -> tuple[str, str]:
    """Name and beginning of the night that is going on, or of a new one."""
    path, asked = out / STATE, str(studies.resolve())
    known = read_json(path) if path.is_file() else {}
    if known and not known.get("finished") and known.get("studies") == asked:
        listener.note(f"night {known['night']} goes on")
        return known["night"], known["begun"]
    now = datetime.now(timezone.utc)
    taken = {folder.name for folder in out.glob("*/*")}
    # Nights are in the order of their names, also where the clock was set back since the last one.
    before = [name[:17] for name in taken if NIGHT.match(name)]
    first = max([now.strftime("%Y-%m-%d_%H%M%S"), *before])
    names = (first, *(f"{first}-{number}" for number in range(2, len(taken) + 3)))
    name = next(text for text in names if text not in taken)
    begun = now.isoformat(timespec="seconds")
    record = {"schema": SCHEMA, "night": name, "begun": begun, "studies": asked}
    write_json(path, {**record, "finished": False})
    return name, begun


def _baselines(runs: Sequence[Path], names: Sequence[str]) -> dict[str, Path]:
    """Study to the run that is its baseline."""
    found = {}
    for run in runs:
        study = load_facts(run).result["study"]
        if study not in names:
            raise ConfigError(
                f"--baseline {run}: is a run of {study!r}; the studies are {', '.join(names)}"
            )
        found[study] = run
    return found
