"""A night: every study is run from where it was last good, and compared with that.

Each study has a folder in OUT: one run directory a night, with `verdict.json` beside the run's own
files, and `accepted`, which says which run is the accepted one.  What is in `verdict.json` is
done; a night that was killed does the rest.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from autocompress.errors import AutocompressError, ConfigError, StorageError
from autocompress.files import read_json, write_bytes, write_json
from autocompress.study.causes import causes, changed_settings
from autocompress.study.compare import compare
from autocompress.study.events import Listener
from autocompress.study.facts import Facts, load_facts
from autocompress.study.lock import lock
from autocompress.study.night_run import Order, Runner, find_studies

SCHEMA = 1
STATE, VERDICT, ACCEPTED = "night.json", "verdict.json", "accepted"
BETTER, SAME, WORSE = "better", "same", "worse"
BASELINE, NEEDED, FAILED = "baseline", "new baseline needed", "failed"
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
            _point(out, study, {"run": chosen_run, "baseline": chosen_run})
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
                task = _Task(folder, study, name, out, run, share, accept)
                found = task.verdict()
                write_json(path, found)
                listener.note(f"{study}: {headline(found)}")
            _keep(out, found)
            done.append(found)
        night = Night(out, name, begun, tuple(done))
        write_json(out / "nightly.json", night.as_dict())
    return night


def finish(night: Night) -> None:
    """Notes that a night is over: the next command begins another one."""
    write_json(night.out / STATE, {**read_json(night.out / STATE), "finished": True})


def headline(study: Mapping[str, Any]) -> str:
    """A study's verdict and its cause in one line."""
    verdict = str(study["verdict"])
    if study["error"]:
        return f"{verdict}: {study['error']}"
    if verdict == BASELINE:
        return f"{verdict}: nothing to compare with yet; accepted"
    if verdict == NEEDED:
        keys = ", ".join(row["key"] for row in study["changed"])
        then = "accepted" if study["accepted"] else "give --accept, or --baseline RUN"
        return f"{verdict}: the study asks for something else ({keys}); {then}"
    names = [figure["name"] for figure in study["figures"] if figure["grade"] == verdict]
    where = f" in {', '.join(names)}" if names and verdict != SAME else ""
    reasons = "; ".join(cause["text"] for cause in study["causes"])
    accepted = ", accepted all the same" if verdict == WORSE and study["accepted"] else ""
    return f"{verdict}{where}{accepted}: {reasons}"


def read_accepted(out: Path, study: str) -> dict[str, Any] | None:
    """Which run of a study is the accepted one; None before the first.

    Raises:
        StorageError: If the record is damaged.
    """
    path = out / study / ACCEPTED
    if not path.is_file():
        return None
    value = read_json(path)
    if not isinstance(value, dict) or not {"run", "baseline"} <= set(value):
        raise StorageError(f"{path}: does not say which run is accepted")
    return value


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
    first = now.strftime("%Y-%m-%d_%H%M%S")
    taken = {folder.name for folder in out.glob("*/*")}
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


@dataclass(frozen=True)
class _Task:
    """One study of a night."""

    folder: Path
    study: str
    night: str
    out: Path
    run: Runner
    seconds: float | None
    accept: bool

    @property
    def target(self) -> Path:
        return self.out / self.study / self.night

    def verdict(self) -> dict[str, Any]:
        """Runs the study and says what it came to; never raises what a study can cause."""
        started = time.perf_counter()
        found = self._empty()
        try:
            found |= self._judged()
        except AutocompressError as error:
            found |= {"verdict": FAILED, "accepted": False, "error": str(error)}
        except Exception as error:  # noqa: BLE001 - whatever one study does, the others go on
            write_bytes(self.target / "error.txt", traceback.format_exc().encode())
            text = f"{type(error).__name__}: {error}"
            found |= {"verdict": FAILED, "accepted": False, "error": text}
        return {**found, "seconds": round(time.perf_counter() - started, 3)}

    def _empty(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "study": self.study,
            "folder": str(self.folder),
            "night": self.night,
            "run": _said(self.out, self.target),
            "verdict": FAILED,
            "accepted": False,
            "compared_with": "",
            "baseline": "",
            "budget_met": None,
            "binding": None,
            "error": "",
            "changed": [],
            "causes": [],
            "figures": [],
            "measured": {},
            "notes": [],
        }

    def _judged(self) -> dict[str, Any]:
        """Runs the study and compares it."""
        if self.seconds is not None and self.seconds <= 0:
            raise ConfigError("not run: the time of the night was used up before")
        known = read_accepted(self.out, self.study)
        last = self.out / known["run"] if known else None
        first = self.out / known["baseline"] if known else None
        before = self._known(last)
        warm = last if before else None
        self.run(Order(self.folder, self.target, warm, self.seconds))
        after = load_facts(self.target)
        found = {
            "budget_met": bool(after.result["budget_met"]),
            "binding": after.result["binding"],
            "measured": measured(after),
        }
        if before is None or first is None:
            return found | {"verdict": BASELINE, "accepted": True, "baseline": self._own}
        found |= {
            "compared_with": _said(self.out, before.folder),
            "baseline": _said(self.out, first),
        }
        found |= _compared(before, after)
        if found["verdict"] == SAME and first != last:
            found |= self._since(load_facts(first), after)
        accepted = self.accept or found["verdict"] in (BETTER, SAME)
        if self.accept or found["verdict"] == BETTER:
            found["baseline"] = self._own
        return found | {"accepted": accepted}

    def _known(self, run: Path | None) -> Facts | None:
        """What the accepted run came to; what is accepted anyway needs none to compare with."""
        try:
            return load_facts(run) if run else None
        except StorageError:
            if not self.accept:
                raise
            return None

    @property
    def _own(self) -> str:
        return _said(self.out, self.target)

    def _since(self, baseline: Facts, after: Facts) -> dict[str, Any]:
        """Nights that are each the same as the one before may drift: the baseline does not."""
        found = _compared(baseline, after)
        if found["verdict"] != WORSE:
            return {}
        note = f"no worse than the night before, but than the baseline {baseline.folder}"
        return found | {"compared_with": _said(self.out, baseline.folder), "notes": [note]}


def _compared(before: Facts, after: Facts) -> dict[str, Any]:
    """Verdict, figures and causes; nothing is compared where the study asks for something else."""
    if not before.asked or not after.asked:
        row = {"key": "what was asked", "before": "not recorded by this version", "after": ""}
        return {"verdict": NEEDED, "changed": [row]}
    changed = changed_settings(before.asked, after.asked)
    if changed:
        return {"verdict": NEEDED, "changed": changed}
    found = compare(before, after)
    return {
        "verdict": found.grade,
        "figures": [figure.as_dict() for figure in found.figures],
        "causes": [cause.as_dict() for cause in causes(before, after)],
    }


def measured(facts: Facts) -> dict[str, Any]:
    """What a run came to, in the few figures that are followed over the nights."""
    best, original = facts.result["best"], facts.result["original"]
    return {
        "candidate": best["candidate"],
        "metric": facts.metric,
        "metric_unit": facts.metric_unit,
        "quality": best["quality"],
        "size_bytes": best["size_bytes"],
        "latency_ms": best["latency_ms"],
        "latency_ratio": facts.latency_ratio,
        "hypervolume": facts.details.get("front", {}).get("hypervolume"),
        "original": {key: original[key] for key in ("quality", "size_bytes", "latency_ms")},
    }


def _keep(out: Path, study: Mapping[str, Any]) -> None:
    """Makes an accepted run the one that `accepted` points at; done again, it changes nothing."""
    if study["accepted"]:
        places = {key: out / study[key] for key in ("run", "baseline")}
        _point(out, study["study"], places)


def _point(out: Path, study: str, places: Mapping[str, Path]) -> None:
    """Writes `accepted`: the accepted run, its plan and model, and the baseline that the nights
    are held to; paths start from OUT."""
    run = places["run"]
    files = {"plan": run / "plan.json", "model": run / "model.acz"}
    record = {
        "schema": SCHEMA,
        "study": study,
        **{key: _said(out, place) for key, place in places.items()},
        **{name: _said(out, path) if path.is_file() else None for name, path in files.items()},
    }
    write_json(out / study / ACCEPTED, record)


def _said(out: Path, path: Path) -> str:
    """A path as it stands below `out`; as it is, in full, where it does not."""
    try:
        return path.resolve().relative_to(out.resolve()).as_posix()
    except ValueError:
        return str(path.resolve())
