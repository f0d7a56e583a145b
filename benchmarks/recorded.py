"""Finished runs of the others, kept beside their losses: only ours changes from day to day.

A run is found again if the contest, the entry and the code that played it are the same.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
from dataclasses import fields

import contest as played
import numpy as np
from contest import Contest, Entry, Outcome

from autocompress.search import coefficient_sampler, optuna_sampler
from autocompress.search.catalogue import DEFAULT

ARRAYS = ("losses", "sizes", "passes", "seconds")
CODE = (played, coefficient_sampler, optuna_sampler)


def recorded(entry: Entry, contest: Contest) -> Outcome:
    """The outcome of an entry: of ours always a new run, of another one the known run if any."""
    if entry.sampler == DEFAULT:
        return played.run(entry, contest)
    key = _key(entry, contest)
    text = contest.memo.text(key)
    if text is None:
        outcome = played.run(entry, contest)
        contest.memo.keep(key, _text(outcome))
        return outcome
    values = json.loads(text)
    arrays = {name: np.array(values.pop(name), dtype=np.float64) for name in ARRAYS}
    steps = tuple(tuple(step) for step in values.pop("steps"))
    return Outcome(entry=entry, steps=steps, **arrays, **values)


def _key(entry: Entry, contest: Contest) -> str:
    code = [inspect.getsource(module) for module in CODE]
    versions = [importlib.metadata.version(name) for name in ("optuna", "cmaes", "numpy")]
    asked = [entry.name, entry.sampler, entry.tables, entry.seed, entry.passes, entry.listed]
    budgets = [contest.memo.key, dict(contest.budgets)]
    return hashlib.sha256(json.dumps([code, versions, asked, budgets]).encode()).hexdigest()


def _text(outcome: Outcome) -> str:
    names = [field.name for field in fields(Outcome) if field.name != "entry"]
    values = {name: getattr(outcome, name) for name in names}
    return json.dumps(
        {key: v.tolist() if isinstance(v, np.ndarray) else v for key, v in values.items()}
    )
