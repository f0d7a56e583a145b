"""The verdict on one study of a night: it is run, compared with its accepted run, and judged."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import AutocompressError, ConfigError, StorageError
from autocompress.files import write_bytes
from autocompress.study.accepted import read_accepted, said
from autocompress.study.causes import causes, changed_settings
from autocompress.study.compare import compare
from autocompress.study.facts import Facts, load_facts
from autocompress.study.night_run import Order, Runner

SCHEMA = 1
BETTER, SAME, WORSE = "better", "same", "worse"
BASELINE, NEEDED, FAILED = "baseline", "new baseline needed", "failed"


@dataclass(frozen=True)
class NightTask:
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
            "run": said(self.out, self.target),
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
            "compared_with": said(self.out, before.folder),
            "baseline": said(self.out, first),
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
        return said(self.out, self.target)

    def _since(self, baseline: Facts, after: Facts) -> dict[str, Any]:
        """Nights that are each the same as the one before may drift: the baseline does not."""
        found = _compared(baseline, after)
        if found["verdict"] != WORSE:
            return {}
        note = f"no worse than the night before, but than the baseline {baseline.folder}"
        return found | {"compared_with": said(self.out, baseline.folder), "notes": [note]}


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
