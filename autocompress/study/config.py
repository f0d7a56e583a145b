"""A study: a folder with `study.toml` (what is wanted) and `task.py` (what is there)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from autocompress.errors import ConfigError
from autocompress.hardware.device import Device, get_device
from autocompress.model.task import Task, load_task
from autocompress.objective.budget import Limit, Metric, budget_from, parse_budget
from autocompress.objective.goal import parse_goal, settle
from autocompress.objective.preset import ObjectivePreset, load_objective
from autocompress.search.catalogue import SAMPLERS
from autocompress.search_space.preset import SpacePreset, load_space_preset
from autocompress.study.knobs import BATCH, Knobs
from autocompress.study.place import place_of
from autocompress.study.recovery_settings import RecoverySettings
from autocompress.toml import Schema, read, validate

TRACKERS = ("mlflow", "tensorboard")
DURATION = {"s": 1.0, "m": 60.0, "h": 3600.0}


class StudyFile(Schema):
    """The keys of `study.toml`.

    Attributes:
        space: Preset of `search_spaces/`, or a path ending in `.toml` (from the study's folder).
        objective: Preset of `objectives/`, likewise.
        device: Where the model will run: a name of `autocompress devices`, or the path of a data
            sheet ending in `.toml`, likewise.
        format: What is shipped and whose bytes count: `archive` or `onnx`.
        sampler: `budget` (ours), `cmaes`, or one of Optuna's: `tpe`, `nsga2`, `nsga3`, `random`.
        metric: Name of what `evaluate` returns.
        metric_direction: `maximize` or `minimize`.
        metric_unit: Unit of the metric, for the tables.
        goal: What is wanted in one sentence, such as `minimise latency subject to size<=25% and
            quality>=-1pt` (`objective/goal.py` has the grammar); takes the place of what the
            objective minimises and of its limits.
        evaluations: Measurements by the proxy on all search inputs; a candidate that the race
            drops early costs the part that was measured.
        patience: The search stops when the front has not grown beyond the proxy's noise for the
            price of that many passes over the search inputs; 0 is automatic.
        stop_when_met: Whether the search stops at the first candidate that keeps all limits, the
            one on quality by the user's metric.
        executor: Where options are made and candidates are measured: `local` (threads of the run),
            `processes` (of this machine; one that a candidate ends or holds up is replaced), or
            `ray` (Ray Tune).  The result does not depend on it.
        address: Of a Ray cluster: `auto` or HOST:PORT; a Ray of this machine where it is empty.
        workers: Threads, processes or Ray workers; 0 is one for each core, of a cluster's cores
            if there is one.  The result does not depend on it.
        batch: Candidates that the sampler is asked for at a time, before it hears of any: a search
            on many workers wants several for each.  The result depends on it.
        candidate_time: Longest time of a candidate before a worker that is not `local` is ended
            and the candidate given up, such as `5m`; by default 20 times the slowest so far, and
            a minute at least.
        max_time: Longest time for the whole run before it stops searching and confirms, such as
            `10m`.
        seed: Fixes every draw.
        budget: Limits by name: `size`, `latency`, `energy`, `quality`.
        knobs: The few settings that are not per layer.
        recovery: How the confirmed few are trained after the search.
        storage: Where trials are recorded: the URL of a database as Optuna takes it, or the path
            of a journal; empty is the journal in the run directory.  `${NAME}` in it is taken
            from the environment.
        study_name: What Optuna calls the study there; empty makes a name of its own.
        storage_patience: How long a storage that is away is waited for, such as `5m`.
        clock_patience: How long a machine that is slower than when it was profiled is waited for
            before finalists are timed as they are, such as `30s`.
        trackers: What also hears of the run: `mlflow`, `tensorboard`.
        dynamic: Dimensions of inputs that the ONNX file leaves free, as `NAME:DIMENSION`, such as
            `input_ids:1`; the batch is free without being named.  Those that are equally long in
            the example stay equally long.
    """

    space: str = "storage"
    objective: str = "balanced"
    device: str = "onnxruntime-cpu"
    format: Literal["archive", "onnx"] = "archive"
    sampler: str = "budget"
    metric: str = "accuracy"
    metric_direction: Literal["maximize", "minimize"] = "maximize"
    metric_unit: str = ""
    goal: str = ""
    evaluations: int = Field(default=100, ge=1)
    patience: int = Field(default=0, ge=0)
    stop_when_met: bool = False
    executor: Literal["local", "processes", "ray"] = "local"
    address: str = ""
    workers: int = Field(default=0, ge=0)
    batch: int = Field(default=BATCH, ge=1)
    candidate_time: str = ""
    max_time: str = ""
    seed: int = Field(default=0, ge=0)
    budget: dict[str, str] = {}
    knobs: Knobs = Knobs()
    recovery: RecoverySettings = RecoverySettings()
    storage: str = ""
    study_name: str = ""
    storage_patience: str = "5m"
    clock_patience: str = "30s"
    trackers: list[str] = []
    dynamic: list[str] = []


@dataclass(frozen=True)
class Study:
    """Everything a run needs to know, read and checked.

    Args:
        name: Name of the folder.
        task: The user's callables.
        settings: The study file with overrides applied.
        space: Catalogue of options and the file it came from.
        objective: What is minimised; its limits hold where `budget` has none.  A goal has taken
            the place of both.
        device: Where the model will run.
        budget: Limits by name, objective's defaults included.
        folder: The study's folder; None when it came from Python.
        overrides: Keys of `study.toml` that were replaced.
        given_budget: Limits as `NAME=VALUE` that were given beside the file.
    """

    name: str
    task: Task
    settings: StudyFile
    space: SpacePreset
    space_file: str
    objective: ObjectivePreset
    device: Device
    budget: Mapping[str, Limit]
    folder: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    given_budget: tuple[str, ...] = ()

    @property
    def higher_is_better(self) -> bool:
        return self.settings.metric_direction == "maximize"

    @property
    def workers(self) -> int:
        """Threads that evaluate candidates."""
        return self.settings.workers or len(os.sched_getaffinity(0))

    @property
    def delivers_knee(self) -> bool:
        """Whether the front's knee is what is wanted: a front is, and there is no limit."""
        return bool(self.objective.front) and not self.budget

    @property
    def max_seconds(self) -> float | None:
        return parse_duration(self.settings.max_time) if self.settings.max_time else None


def load_study(
    folder: Path | str, overrides: Mapping[str, Any] | None = None, budget: Sequence[str] = ()
) -> Study:
    """Reads a study folder.

    Args:
        folder: Holds `study.toml` and `task.py`.
        overrides: Keys of `study.toml` to replace, as given on the command line; None values are
            skipped.  A `goal` replaces the file's goal and the file's budget.
        budget: Limits as `NAME=VALUE`; they replace those of the same name in the file, and may
            not limit what a `goal` of `overrides` limits.

    Raises:
        ConfigError: Naming file and key.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such study folder (it holds study.toml and task.py)")
    file = folder / "study.toml"
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    has_goal = "goal" in given
    read_in = read(file, StudyFile)
    if has_goal:
        read_in = read_in.model_copy(update={"budget": {}})
    settings = with_overrides(read_in, given)
    try:
        name = folder.resolve().name
        study = make_study(name, load_task(folder), settings, budget, folder, has_goal)
        return replace(study, overrides=given, given_budget=tuple(budget))
    except ConfigError as error:
        text = str(error)
        raise ConfigError(
            text if ".toml" in text or "task.py" in text else f"{file}: {text}"
        ) from None


def make_study(
    name: str,
    task: Task,
    settings: StudyFile,
    budget: Sequence[str] = (),
    folder: Path | None = None,
    beside_goal: bool = False,
) -> Study:
    """Puts a study together from a task and settings.

    Args:
        name: Name of the study.
        task: The user's callables.
        settings: The study file with overrides applied.
        budget: Limits as `NAME=VALUE` that replace those of `settings`.
        folder: What relative presets start from.
        beside_goal: Whether `budget` was given together with the goal of `settings`, so that they
            may not limit the same.

    Raises:
        ConfigError: If a preset, device, sampler, goal or limit is unknown or malformed, or goal
            and budget limit the same.
    """
    space, space_file = load_space_preset(settings.space, folder)
    objective, _ = load_objective(settings.objective, folder)
    if settings.sampler not in SAMPLERS:
        raise ConfigError(f"sampler {settings.sampler!r}: allowed are {', '.join(SAMPLERS)}")
    for text in (settings.max_time, settings.candidate_time):
        if text:
            parse_duration(text)
    for text in (settings.storage_patience, settings.clock_patience):
        parse_duration(text)
    if settings.address and settings.executor != "ray":
        raise ConfigError(
            f'address {settings.address!r} is that of a Ray cluster: it needs executor = "ray",'
            f" got {settings.executor!r}"
        )
    if settings.address and not re.fullmatch(r"auto|(ray://)?[^\s:/]+:\d{1,5}", settings.address):
        raise ConfigError(f"address {settings.address!r}: expected auto or HOST:PORT")
    for tracker in settings.trackers:
        if tracker not in TRACKERS:
            raise ConfigError(f"tracker {tracker!r}: allowed are {', '.join(TRACKERS)}")
    place_of(Path(), settings.storage)
    metric = Metric(settings.metric, settings.metric_direction == "maximize")
    goal = parse_goal(settings.goal, metric) if settings.goal or beside_goal else None
    beside, later = budget_from(settings.budget, metric), parse_budget(budget, metric)
    if beside_goal:
        beside, later = later, {}
    objective, limits = settle(objective, goal, beside, later)
    if settings.stop_when_met and not limits:
        raise ConfigError("stop_when_met: there is no limit that could be met; add one")
    device = get_device(settings.device, folder)
    check_limits(limits, device)
    study = Study(name, task, settings, space, space_file, objective, device, limits, folder)
    check_recovery(study)
    return study


def with_overrides(settings: StudyFile, overrides: Mapping[str, Any]) -> StudyFile:
    """The settings with some keys replaced; of the table `recovery` those that are given."""
    plain = settings.model_dump()
    recovery = {**plain["recovery"], **overrides.get("recovery", {})}
    return validate({**plain, **overrides, "recovery": recovery}, StudyFile, "override")


def check_limits(limits: Mapping[str, Limit], device: Device) -> None:
    """Refuses limits on what nothing is known of.

    Raises:
        ConfigError: If energy is limited on a device that gives no figures for it.
    """
    if "energy" in limits and device.energy is None:
        raise ConfigError(
            f"budget energy={limits['energy'].text}: device {device.name!r} gives no figures for"
            " energy; name byte_pj in its data sheet"
        )


def check_recovery(study: Study) -> None:
    """Refuses settings that cannot work.

    Raises:
        ConfigError: If a squeeze has no limit on size, or ships no archive.
    """
    settings = study.settings.recovery
    if settings.max_time:
        parse_duration(settings.max_time)
    if settings.method != "squeeze":
        return
    if "size" not in study.budget:
        raise ConfigError(
            'recovery method "squeeze" trains towards a limit on size: add one, such as size=2%'
        )
    if study.settings.format != "archive":
        raise ConfigError(
            'recovery method "squeeze" makes codes that are short when entropy-coded: it needs'
            ' format "archive"'
        )


def with_evaluations(study: Study, evaluations: int) -> Study:
    """The study with another, short search, which nothing but its passes and time ends."""
    short = {"evaluations": evaluations, "stop_when_met": False}
    return replace(study, settings=with_overrides(study.settings, short))


def parse_duration(text: str) -> float:
    """Seconds that `90s`, `10m` or `2h` mean.

    Raises:
        ConfigError: If the text is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"duration {text!r}: expected a number with s, m or h, such as 10m")
    return float(found[1]) * DURATION[found[2]]
