"""The trackers of a run: made by name, and what they are told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autocompress.errors import ConfigError
from autocompress.study.config import TRACKERS, Study
from autocompress.study.place import without_password
from autocompress.study.result import versions
from autocompress.study.trackers.tracker import Tracker, Tracking

FILES = ("result.json", "plan.json", "front.csv", "report.html")
FIGURES = ("quality", "size_bytes", "latency_ms", "energy_mj")


def make_tracker(name: str, folder: Path, study: str) -> Tracker:
    """A tracker by name.

    Raises:
        ConfigError: If there is none of that name, or its package is missing.
    """
    if name == "mlflow":
        from autocompress.study.trackers.mlflow import MlflowTracker

        return MlflowTracker(folder, study)
    if name == "tensorboard":
        from autocompress.study.trackers.tensorboard import TensorboardTracker

        return TensorboardTracker(folder, study)
    raise ConfigError(f"trackers: no tracker {name!r}; there are {', '.join(TRACKERS)}")


def make_tracking(study: Study, folder: Path, note: Callable[[str], None]) -> Tracking:
    """The trackers that a study names; with none of them nothing happens.

    Raises:
        ConfigError: If the package of one is missing.
    """
    names = dict.fromkeys(study.settings.trackers)
    return Tracking([make_tracker(name, folder, study.name) for name in names], note)


def settings_of(study: Study) -> dict[str, str]:
    """The settings of a study, flat, and without a password."""
    settings = study.settings.model_dump(exclude={"schema_", "description", "budget", "trackers"})
    settings["storage"] = without_password(study.settings.storage)
    flat = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    for table in ("knobs", "recovery"):
        flat |= {f"{table}.{key}": value for key, value in settings[table].items()}
    flat |= {f"budget.{name}": limit.text for name, limit in study.budget.items()}
    return {"study": study.name, **{key: str(value) for key, value in flat.items()}}


def tags_of(folder: Path, fingerprint: Mapping[str, str]) -> dict[str, str]:
    """Versions, what was compressed, and where the run is."""
    return {
        "run_directory": str(folder.resolve()),
        **{f"version.{name}": version for name, version in versions().items()},
        **{f"fingerprint.{name}": value for name, value in fingerprint.items()},
    }


def figures_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The final figures in `result.json`."""
    found = {"budget_met": float(result["budget_met"])}
    for part in ("best", "original"):
        values = result[part]
        found |= {f"{part}.{name}": float(values[name]) for name in FIGURES if name in values}
    return found


def attach(study: Study, folder: Path, paths: Sequence[Path], note: Callable[[str], None]) -> None:
    """Gives files that were written after the run to its trackers."""
    tracking = make_tracking(study, folder, note)
    tracking.files(paths)
    tracking.wait()
