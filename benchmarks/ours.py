"""Ours, as a study runs it: the loop itself, with its race and its journal."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
from contest import SIZE, Contest, Entry, Outcome

from autocompress.search.catalogue import make_sampler
from autocompress.search_space.candidate import Candidate
from autocompress.study.evaluator import Evaluator, assembly_of
from autocompress.study.events import Silent
from autocompress.study.loop import Stops, search
from autocompress.study.prepare import Prepared
from autocompress.study.storage import StudyStorage
from autocompress.study.subject import menus_of


def play(entry: Entry, contest: Contest, prepared: Prepared) -> Outcome:
    """Runs the search of a study until its passes are spent; on one thread."""
    space = prepared.space
    problem = contest.problem(entry.tables)
    sampler = make_sampler(entry.sampler, problem, np.random.default_rng([entry.seed, 3]))
    parts = (prepared.model, space, prepared.bank, prepared.stitcher, prepared.proxy)
    evaluator = Evaluator(assembly_of(*parts))
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "study.journal"
        storage = StudyStorage(journal, menus_of(space), {"benchmark": contest.study})
        stops = Stops(entry.passes, patience=math.inf)
        history = search(problem, space, sampler, evaluator, storage, stops, entry.seed, Silent())
    told = [
        (space.indices(Candidate.from_dict(step.record.choices)), step) for step in history.steps
    ]
    for candidate, step in told:
        if step.record.complete:
            contest.memo.put(candidate, step.record.loss)
    kept = [
        (candidate, step)
        for candidate, step in told
        if step.record.complete and problem.satisfies(candidate)
    ]
    return Outcome(
        entry=entry,
        steps=tuple(candidate for candidate, _ in kept),
        losses=np.array([step.record.loss for _, step in kept]),
        sizes=np.array([problem.cost(SIZE, candidate) for candidate, _ in kept]),
        passes=np.array([step.passes for _, step in kept]),
        seconds=np.array([step.seconds for _, step in kept]),
        proposals=len(told),
        spent=history.passes,
        work=evaluator.spent.passes,
        outside_s=history.seconds - evaluator.spent.forward,
        total_s=history.seconds,
    )
