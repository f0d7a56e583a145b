"""Tunes the knobs: an Optuna study whose trials are rehearsals of whole studies.

The defaults come first and are the measure: a trial's value is its loss over that of the defaults,
as a geometric mean over the studies.  The defaults and the best trial are then rehearsed with the
calibration inputs drawn anew, which no trial has seen: only what holds there counts.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState
from scipy import stats

from autocompress.compression.bank import recipe
from autocompress.errors import AutocompressError, ConfigError
from autocompress.study.config import Study
from autocompress.study.events import Listener
from autocompress.study.journal import open_journal, repair, translated
from autocompress.study.knobs import Knobs
from autocompress.study.lock import lock
from autocompress.study.rehearsal import LEAST_LOSS, Rehearsal, rehearse
from autocompress.study.storage import refuse_changes
from autocompress.study.subject import trace_model
from autocompress.study.tuned import NAME, Tuning

# Few values each, so that trials share banks and each value is tried more than once.
CHOICES: Mapping[str, tuple[int | float | str, ...]] = {
    "calibration": (0, 250, 500, 1000),
    "search_share": (0.15, 0.25, 0.4),
    "damping": (0.001, 0.003, 0.01, 0.03, 0.1),
    "explore": (0.0, 0.1, 0.25, 0.5),
    "protect": ("none", "first", "last", "both"),
    "swap_examples": (0, 64, 256),
}
STARTUP = 6  # trials drawn at random before the sampler learns
SLOWEST = 3.0  # times the seconds of the defaults that a trial may take
DRAWS = 4  # times that the defaults and the best trial are rehearsed on other calibration inputs
SURE = 0.95  # confidence of the interval of their difference


def tune(
    studies: Sequence[Study],
    trials: int,
    evaluations: int,
    journal: Path,
    folder: Path,
    listener: Listener,
) -> Tuning:
    """Runs trials until the journal holds as many as asked, then confirms the best one.

    A trial that was interrupted is run again; the sampler of each is seeded by how many there were
    before, so that an interrupted study ends where an undisturbed one would, but for the clock.

    Args:
        studies: What is rehearsed in every trial; the first one's seed is that of the sampler.
        trials: Trials wanted in all, the defaults and those that failed included.
        evaluations: Candidates of each search.
        journal: Where Optuna keeps the trials.
        folder: For banks and device tables, which may be deleted at any time.
        listener: Hears of the trials.

    Raises:
        ConfigError: If there is no study, a name comes twice, or a study has no loss at a budget.
        StudyMismatchError: If the journal was begun with something else.
        AutocompressError: If the defaults themselves fail; a trial that fails is only noted.
    """
    names = [study.name for study in studies]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"tune-settings: expected studies of different names, got {names}")
    fingerprint = {
        "set of studies": "; ".join(_content(study) for study in studies),
        "number of evaluations": str(evaluations),
        "set of choices": str(dict(CHOICES)),
        "set of defaults": Knobs().model_dump_json(),
        "version of the compression code": recipe()[:16],
    }
    runs = _Runs(studies, evaluations, folder, listener)
    with lock(journal):
        book = _open(journal, fingerprint)
        while (tried := len(_tried(book))) < trials:
            listener.stage("trial", f"{tried + 1} of {trials}")
            book.sampler = _sampler(studies[0].settings.seed + tried)
            _try(book, runs)
        return _conclude(book, runs)


def _try(book: optuna.Study, runs: _Runs) -> None:
    """Asks for one set of knobs, rehearses it, and tells what it came to."""
    before = _complete(book)
    trial = book.ask({name: _distribution(name) for name in CHOICES})
    knobs = Knobs.model_validate(trial.params)
    try:
        found = runs.all(knobs, 0)
    except AutocompressError as error:
        if not before:
            raise
        trial.set_user_attr("error", str(error))
        book.tell(trial, state=TrialState.FAIL)
        runs.listener.note(f"trial {trial.number} failed: {error}")
        return
    summary = _summary(found, knobs, before)
    first = before[0].user_attrs if before else summary
    value = _ratio(summary["losses"], first["losses"])
    for name, content in summary.items():
        trial.set_user_attr(name, content)
    trial.set_constraint("limits", summary["excess"])
    trial.set_constraint("seconds", summary["seconds"] / max(first["seconds"], 1e-9) - SLOWEST)
    book.tell(trial, value)
    runs.listener.note(f"trial {trial.number}: {value:.3f} times the loss of the defaults")


class _Runs:
    """Rehearses all studies, sharing what does not depend on the knobs."""

    def __init__(
        self, studies: Sequence[Study], evaluations: int, folder: Path, listener: Listener
    ) -> None:
        self.studies = studies
        self.evaluations = evaluations
        self.folder = folder
        self.listener = listener

    def all(self, knobs: Knobs, draw: int) -> list[Rehearsal]:
        """One rehearsal a study, on one draw of the calibration inputs."""
        return [
            rehearse(
                study,
                knobs,
                draw,
                self.evaluations,
                self._place(study, knobs),
                self.listener,
            )
            for study in self.studies
        ]

    def _place(self, study: Study, knobs: Knobs) -> Path:
        """The folder for a study under the knobs that decide what its bank holds.

        Only the banks of the defaults and of the latest trial are kept.
        """
        home = self.folder / study.name
        keep = [_short(Knobs()), _short(knobs)]
        for old in home.glob("*"):
            if old.name not in keep:
                shutil.rmtree(old)
        place, first = (home / name for name in reversed(keep))
        place.mkdir(parents=True, exist_ok=True)
        # The device is the same for all; prices of one kernel must not differ between trials.
        if (first / "device.json").is_file() and not (place / "device.json").is_file():
            shutil.copy(first / "device.json", place)
        return place


def _complete(book: optuna.Study) -> list[FrozenTrial]:
    return book.get_trials(deepcopy=False, states=[TrialState.COMPLETE])


def _tried(book: optuna.Study) -> list[FrozenTrial]:
    """Trials that came to an end by themselves."""
    trials = book.get_trials(deepcopy=False)
    return [t for t in trials if t.state == TrialState.COMPLETE or "error" in t.user_attrs]


def _conclude(book: optuna.Study, runs: _Runs) -> Tuning:
    finished = _complete(book)
    allowed = [trial for trial in finished if all(v <= 0 for v in trial.constraints.values())]
    best = min(allowed or finished[:1], key=lambda trial: (trial.value, trial.number))
    first = finished[0]
    logs = {
        trial.number: np.array(
            [
                np.log(np.array(_redrawn(book, runs, trial, draw)) + LEAST_LOSS).mean()
                for draw in range(1, DRAWS + 1)
            ]
        )
        for trial in {first.number: first, best.number: best}.values()
    }
    confirmed = {}
    if best.number != first.number:
        differences = logs[best.number] - logs[first.number]
        mean = float(differences.mean())
        quantile = float(stats.t.ppf((1 + SURE) / 2, DRAWS - 1))
        error = quantile * float(differences.std(ddof=1)) / math.sqrt(DRAWS)
        confirmed = {
            "ratio": math.exp(mean),
            "low": math.exp(mean - error),
            "high": math.exp(mean + error),
        }
    return Tuning(
        rows=tuple(_row(trial) for trial in _tried(book)),
        importances=_importances(book, finished),
        best=best.number,
        noise=float(logs[first.number].std(ddof=1)),
        confirmed=confirmed,
    )


def _redrawn(book: optuna.Study, runs: _Runs, trial: FrozenTrial, draw: int) -> list[float]:
    """Losses of a trial's knobs on another draw; kept with the study once they are known."""
    key = f"losses of trial {trial.number} on draw {draw}"
    known = book.user_attrs.get(key)
    if known is None:
        runs.listener.stage("confirm", f"trial {trial.number} on draw {draw}")
        known = [found.loss for found in runs.all(Knobs.model_validate(trial.params), draw)]
        book.set_user_attr(key, known)
    return list(known)


def _open(journal: Path, fingerprint: Mapping[str, str]) -> optuna.Study:
    """The study of a journal, with the defaults waiting as its first trial."""
    repair(journal)
    with translated(journal):
        storage = open_journal(journal)
        book = optuna.create_study(study_name=NAME, storage=storage, load_if_exists=True)
    known = book.user_attrs.get("fingerprint")
    if known is None:
        book.set_user_attr("fingerprint", dict(fingerprint))
    refuse_changes(journal, known or fingerprint, fingerprint)
    waiting = book.get_trials(deepcopy=False, states=[TrialState.WAITING])
    if not waiting and not book.trials:
        book.enqueue_trial({name: getattr(Knobs(), name) for name in CHOICES})
    for trial in book.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        book.enqueue_trial(trial.params, skip_if_exists=False)
        book.tell(trial.number, state=TrialState.FAIL)
    return book


def _sampler(seed: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, n_startup_trials=STARTUP)


def _distribution(name: str) -> optuna.distributions.BaseDistribution:
    return optuna.distributions.CategoricalDistribution(list(CHOICES[name]))


def _summary(
    found: Sequence[Rehearsal], knobs: Knobs, before: Sequence[FrozenTrial]
) -> dict[str, Any]:
    """What a trial keeps; a bank that an earlier one made counts as if it were made again."""
    bank = _short(knobs)
    stages = [dict(one.seconds) for one in found]
    maker = next((trial for trial in before if trial.user_attrs["bank"] == bank), None)
    if maker is not None:
        for mine, theirs in zip(stages, maker.user_attrs["stages"], strict=True):
            mine["bank"] = max(mine["bank"], theirs["bank"])
    return {
        "losses": [one.loss for one in found],
        "excess": max(one.excess for one in found),
        "seconds": sum(sum(one.values()) for one in stages),
        "stages": stages,
        "bank": bank,
    }


def _ratio(losses: Sequence[float], first: Sequence[float]) -> float:
    """Geometric mean of losses over those of the defaults."""
    values = np.log(np.array(losses) + LEAST_LOSS) - np.log(np.array(first) + LEAST_LOSS)
    return float(np.exp(values.mean()))


def _row(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "knobs": dict(trial.params),
        "value": trial.value,
        "seconds": trial.user_attrs.get("seconds"),
        "excess": trial.user_attrs.get("excess"),
        "error": trial.user_attrs.get("error", ""),
    }


def _importances(book: optuna.Study, finished: Sequence[FrozenTrial]) -> dict[str, float]:
    if len(finished) <= STARTUP or len({trial.value for trial in finished}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return get_param_importances(book, evaluator=PedAnovaImportanceEvaluator())


def _content(study: Study) -> str:
    limits = sorted(f"{name}={limit.text}" for name, limit in study.budget.items())
    menus = sha256(study.space.model_dump_json().encode()).hexdigest()
    return f"{study.name} {trace_model(study).content[:16]} {menus[:16]} {' '.join(limits)}"


def _short(knobs: Knobs) -> str:
    return sha256(knobs.measured.encode()).hexdigest()[:12]
