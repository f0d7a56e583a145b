"""Optuna's samplers behind our protocol: an in-memory study that is asked and told.

Options become integer parameters (menus are ordered), the limits become constraints, a front
becomes several objectives, and the state that Optuna keeps in a trial's system attributes travels
with our trials, so that a restart does not set NSGA back to its first generation.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)

from autocompress.errors import ConfigError
from autocompress.search.problem import LOSS, Candidate, Problem, excess
from autocompress.search.sampler import Sampler, Trial

_MAKERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
    "nsga3": lambda seed: NSGAIIISampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}
NAMES = tuple(_MAKERS)
_REPEATS = 50  # asks in a row that bring nothing new before a batch is cut short
_FAILED = 1e30  # stands for a loss that is not finite, which Optuna refuses
_LEAST = 1e-12  # under every loss that is told apart: its logarithm is finite


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides Optuna's log lines and its warning that multivariate TPE is experimental."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


class OptunaSampler(Sampler):
    """One of Optuna's samplers, minimising `problem.minimise` with the limits as constraints.

    With `problem.front` the study has an objective for the loss and one for each resource of the
    front.  These are told as logarithms: they span decades, and crowding distances and
    hypervolumes of the plain values would see the largest alone.

    A repeat of a finished candidate is told to Optuna at once, without an evaluation, and another
    one is asked for.

    Args:
        name: `tpe` (multivariate), `nsga2`, `nsga3` or `random`.
        problem: Menus, costs and limits; the loss tables are not read.
        seed: Of Optuna's generator.

    Raises:
        ConfigError: If the name is unknown.
    """

    def __init__(self, name: str, problem: Problem, seed: int) -> None:
        if name not in _MAKERS:
            raise ConfigError(f"sampler {name!r}: allowed are {', '.join(NAMES)}")
        self.problem = problem
        self.origin: dict[Candidate, str] = {}
        self._name = name
        self._menus = [np.flatnonzero(allowed) for allowed in problem.allowed]
        self._distributions: dict[str, BaseDistribution] = {
            f"{unit:04d}": IntDistribution(0, len(menu) - 1)
            for unit, menu in enumerate(self._menus)
        }
        self._known: dict[Candidate, Trial] = {}
        self._pending: dict[Candidate, list[optuna.Trial]] = {}
        with _quiet():
            self._study = optuna.create_study(
                sampler=_MAKERS[name](seed), directions=["minimize"] * (1 + len(problem.front))
            )

    def ask(self, n: int) -> list[Candidate]:
        """Up to `n` new candidates; fewer when Optuna keeps repeating itself."""
        batch: list[Candidate] = []
        repeats = 0
        with _quiet():
            while len(batch) < n and repeats < _REPEATS:
                trial = self._study.ask(self._distributions)
                candidate = tuple(
                    int(menu[trial.params[key]])
                    for key, menu in zip(self._distributions, self._menus, strict=True)
                )
                if candidate in self._known:
                    self._finish(trial, self._known[candidate])
                    repeats += 1
                    continue
                waiting = self._pending.setdefault(candidate, [])
                waiting.append(trial)
                if len(waiting) > 1:
                    repeats += 1
                    continue
                repeats = 0
                batch.append(candidate)
                self.origin[candidate] = self._name
        return batch

    def attributes(self, candidate: Candidate) -> Mapping[str, object]:
        """Optuna's system attributes of a pending candidate's trial; empty for others."""
        waiting = self._pending.get(candidate, [])
        if not waiting:
            return {}
        trials = self._study.get_trials(deepcopy=False)
        return dict(trials[waiting[0].number].system_attrs)

    def tell(self, trials: Sequence[Trial]) -> None:
        """Takes finished trials; one that was not asked here is added with its `attributes`."""
        with _quiet():
            for trial in trials:
                waiting = self._pending.pop(trial.candidate, [])
                for open_trial in waiting:
                    self._finish(open_trial, trial)
                if not waiting and trial.candidate not in self._known:
                    self._add(trial)
                self._known[trial.candidate] = trial

    def _finish(self, open_trial: optuna.Trial, trial: Trial) -> None:
        for name, value in self._constraints(trial).items():
            open_trial.set_constraint(name, value)
        self._study.tell(open_trial, self._values(trial))

    def _add(self, trial: Trial) -> None:
        places = (
            np.flatnonzero(menu == option)
            for menu, option in zip(self._menus, trial.candidate, strict=True)
        )
        params = {
            key: int(place[0])
            for key, place in zip(self._distributions, places, strict=True)
            if len(place)
        }
        if len(params) < len(self._menus):
            return  # uses a forbidden option: nothing that Optuna could learn from
        self._study.add_trial(
            optuna.create_trial(
                params=params,
                distributions=self._distributions,
                values=self._values(trial),
                system_attrs=dict(trial.attributes),
                constraints=self._constraints(trial),
            )
        )

    def _values(self, trial: Trial) -> list[float]:
        """What is minimised: one number, or the logarithms of the loss and the front's costs."""
        if not self.problem.front:
            value = self.problem.objective(trial.candidate, trial.loss)
            return [value if np.isfinite(value) else _FAILED]
        loss = trial.loss if np.isfinite(trial.loss) else _FAILED
        costs = (self.problem.cost(name, trial.candidate) for name in self.problem.front)
        return [math.log(max(value, _LEAST)) for value in (loss, *costs)]

    def _constraints(self, trial: Trial) -> dict[str, float]:
        """Relative excess over each limit; 0 or less is feasible."""
        failed = not np.isfinite(trial.loss)
        values = self.problem.resource_costs(trial.candidate)
        values[LOSS] = _FAILED if failed else trial.loss
        limits = {name: limit for name, limit in self.problem.limits.items() if np.isfinite(limit)}
        found = {name: excess(values[name], limit) for name, limit in limits.items()}
        if self.problem.front:
            # A small model that failed would be on the front, were it not for this.
            found["failed"] = float(failed)
        return found
