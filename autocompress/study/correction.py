"""Few-run correction: what candidates at the latency limit really take, before the search.

An exact solver goes where the cost model is too hopeful, so that its errors there are worse than
on the random candidates that it was judged on.  Therefore a few solutions are run beside the
original, with made-up weights, and the search's limit is put where they keep the budget.  What the
clock then says of the finalists corrects it once more, if the limit is missed by a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.errors import InfeasibleError, StorageError
from autocompress.files import read_json, write_json
from autocompress.hardware.batches import time_in_batches
from autocompress.hardware.clock import feeds
from autocompress.hardware.profile import candidate_program
from autocompress.search.problem import Candidate, Problem
from autocompress.search.solver import solve
from autocompress.search_space.option import Option
from autocompress.study.events import Listener
from autocompress.study.finalist import Verdict
from autocompress.study.prepare import Correction, Prepared
from autocompress.study.searching import make_problem
from autocompress.study.targets import Measured, Target

LATENCY = "latency_ms"
NAME = "correction.json"
ROUNDS = 2  # the second measures where the first has moved the limit
SPREAD = (1.0, 0.98, 0.96, 0.94)  # shares of the limit, each of which gives a candidate
BINDS = 0.9  # a solution that takes less of the limit does not need it
BLOCKS, BLOCK_MS = 25, 3.0
OPEN = 8  # models that are timed in turn
CLOSE = 1.1  # beyond this multiple of the limit another search does not help
LEAST_ERROR = 0.005
GAP, NODES = 0.01, 2000  # near the optimum is near enough


def corrected(prepared: Prepared, folder: Path, listener: Listener) -> Prepared:
    """The run with the hard latency limit of its search put right, where it has one that binds.

    The correction is kept in the run directory, so that a run that goes on searches under the
    same limits.

    Raises:
        StorageError: If what is kept there cannot be read or written.
    """
    problem = make_problem(prepared)
    if LATENCY not in problem.limits or prepared.study.device.sheet is not None:
        return prepared
    key = " ".join(f"{name}<={limit:.9g}" for name, limit in sorted(problem.limits.items()))
    path = folder / NAME
    known = read_json(path) if path.is_file() else {}
    if key not in known:
        listener.stage("correct", "running candidates at the latency limit")
        found = _measure(prepared, problem, listener)
        known[key] = asdict(found) if found else None
        write_json(path, known)
    if known[key] is None:
        return prepared
    correction = _read(known[key], path)
    listener.note(
        f"latency at the limit: {correction.candidates} candidates took {correction.ratio:.3f} of"
        f" what was predicted, give or take {100 * (correction.error or 0.0):.1f} %"
    )
    return replace(prepared, correction=correction)


def recorrected(
    prepared: Prepared,
    verdicts: Sequence[Verdict],
    original: Measured,
    targets: Sequence[Target],
) -> Correction | None:
    """What the clock says of finalists, where the best of them misses the latency limit by a
    little and nothing else; None where another search would not help.

    Args:
        prepared: The run that chose them.
        verdicts: Finalists, best first.
        original: What they were measured beside.
        targets: The limits.
    """
    if not verdicts or prepared.study.device.sheet is not None:
        return None
    measured = verdicts[0].measured
    missed = [t for t in targets if not t.soft and not t.is_met(measured)]
    if [target.name for target in missed] != ["latency"]:
        return None
    if measured.latency_ms > CLOSE * missed[0].bound:
        return None
    dense = prepared.latency.predict({unit: Option() for unit in prepared.space.units})
    ratios = [
        (v.measured.latency_ms / original.latency_ms) / (v.record.latency_ms / dense)
        for v in verdicts
    ]
    # The hopeful ones come to the front of a search: the next must not count on them.
    error = max(LEAST_ERROR, prepared.correction.error or 0.0)
    return Correction(max(ratios), error, len(verdicts))


def _read(fields: Any, path: Path) -> Correction:
    try:
        return Correction(**fields)
    except TypeError as error:
        raise StorageError(f"{path}: not a correction of the cost model: {error}") from error


def _measure(prepared: Prepared, problem: Problem, listener: Listener) -> Correction | None:
    """None where no solution needs the limit."""
    bare = replace(prepared, correction=Correction(1.0, 0.0, 0))
    goal = make_problem(bare).limits[LATENCY]  # without a reserve
    ratio, found = 1.0, Correction()
    seen: list[Candidate] = []
    for _ in range(ROUNDS):
        chosen = _solutions(problem, goal / ratio, seen)
        if not chosen:
            break
        seen += chosen
        shares = _shares(prepared, problem, chosen, listener)
        ratio = float(np.median(shares))
        error = float(np.sqrt(np.mean((shares / ratio - 1) ** 2)))
        found = Correction(ratio, error, len(chosen))
    return found if seen else None


def _solutions(problem: Problem, limit: float, seen: Sequence[Candidate]) -> list[Candidate]:
    """New candidates that are best at the limit and a little below it."""
    found: list[Candidate] = []
    for share in SPREAD:
        limits = {**problem.limits, LATENCY: share * limit}
        try:
            best = solve(problem, problem.losses["swap"], limits, gap=GAP, nodes=NODES)
        except InfeasibleError:
            break
        if problem.cost(LATENCY, best) < BINDS * limits[LATENCY]:
            break
        if best not in found and best not in seen:
            found.append(best)
    return found


def _shares(
    prepared: Prepared, problem: Problem, candidates: Sequence[Candidate], listener: Listener
) -> np.ndarray:
    """Measured over predicted `(n,)`, both as shares of the original."""
    model, device = prepared.model, prepared.study.device
    units = tuple(prepared.space.units.items())
    groups = prepared.bank.channels.groups
    choices: list[dict[str, Option]] = [
        {name: menu[k] for (name, menu), k in zip(units, candidate, strict=True)}
        for candidate in candidates
    ]
    makers = [
        partial(candidate_program, model.dense, model.graph, choice, device, groups)
        for choice in ({}, *choices)
    ]

    def say(stage: str, share: float) -> None:
        listener.progress(round(100 * share), 100, stage)

    values = feeds(model.graph, model.example_inputs)
    timings = time_in_batches(makers, values, OPEN, BLOCKS, BLOCK_MS, say, device.engine)
    measured = np.array([timing.p20_ms for timing in timings[1:]]) / timings[0].p20_ms
    dense = prepared.latency.predict({unit: Option() for unit in prepared.space.units})
    predicted = np.array([problem.cost(LATENCY, candidate) for candidate in candidates]) / dense
    return np.asarray(measured / predicted)
