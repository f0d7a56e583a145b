"""Exact allocation under several limits, with conversion edges and joint costs, as an integer
programme (HiGHS)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

from autocompress.errors import InfeasibleError, UndecidedError
from autocompress.search.problem import (
    LOSS,
    Candidate,
    Floats,
    Problem,
    Tables,
    slack,
)
from autocompress.search.programme import Programme, programme_of
from autocompress.search.quiet import without_stray_lines

GAP = 1e-6
MOST_NODES = 1_000_000
_INFEASIBLE = 2  # status of `milp` when it is proven; any other without a solution is no proof
_FEASIBILITY = 1e-6  # HiGHS keeps a row only up to this much of its right-hand side


def solve_integer(
    problem: Problem,
    loss: Tables,
    limits: Mapping[str, float],
    minimise: str = LOSS,
    exclude: Sequence[Candidate] = (),
    gap: float = GAP,
    nodes: int | None = None,
) -> Candidate:
    """The candidate with the smallest additive loss (or cost) within all limits.

    Args:
        problem: Costs, labels and menus; its own limits are not read.
        loss: For each unit the loss `(options,)`; infinite forbids the option.
        limits: Largest allowed value by name of a resource, or `loss` for the sum of `loss`.
        minimise: `loss` or the name of a resource.
        exclude: Candidates that must not come back (cuts; gives the k best one after another).
        gap: Relative distance from the optimum at which the solver may stop.
        nodes: Most nodes of the search tree; bounds the time, the result is then the best so far.

    Raises:
        InfeasibleError: If nothing meets the limits; `infeasible.prove` explains why.
    """
    model = programme_of(problem, loss)
    found = _run(problem, model, loss, limits, model.rows[minimise], exclude, gap, nodes)
    if found is None:
        finite = {name: limit for name, limit in limits.items() if np.isfinite(limit)}
        listed = " and ".join(f"{name} <= {limit:.6g}" for name, limit in finite.items())
        without = f" without {len(exclude)} excluded candidates" if exclude else ""
        raise InfeasibleError(f"{listed} cannot be met{without}", ", ".join(finite))
    return found


def closest(
    problem: Problem,
    loss: Tables,
    limits: Mapping[str, float],
    kept: Mapping[str, float] | None = None,
) -> Candidate:
    """The candidate with the smallest sum of relative excesses over the limits.

    Args:
        problem: Costs, labels and menus.
        loss: For each unit the loss `(options,)`; infinite forbids the option.
        limits: Values that may be exceeded.
        kept: Values that may not.

    Raises:
        InfeasibleError: If nothing meets `kept`.
    """
    model = programme_of(problem, loss)
    names = [name for name, limit in limits.items() if np.isfinite(limit)]
    wide = model.columns + len(names)
    rows, upper = [], []
    kept = {name: limit for name, limit in (kept or {}).items() if np.isfinite(limit)}
    for name, limit in kept.items():
        scale = max(abs(limit - model.constants[name]), 1e-300)
        row = np.zeros(wide)
        row[: model.columns] = model.rows[name] / scale
        rows.append(row)
        upper.append((slack(limit) - model.constants[name]) / scale)
    for index, name in enumerate(names):
        scale = max(abs(limits[name]), 1e-12)
        row = np.zeros(wide)
        row[: model.columns] = model.rows[name] / scale
        row[model.columns + index] = -1.0
        rows.append(row)
        upper.append((limits[name] - model.constants[name]) / scale)
    tie = np.zeros(wide)
    tie[model.columns :] = 1.0
    span = np.ptp(model.rows[LOSS]) or 1.0
    tie[: model.columns] = 1e-6 * model.rows[LOSS] / span
    for tightening in (0.0, 4 * _FEASIBILITY):
        room = np.array(upper)
        room[: len(kept)] -= tightening
        found = _call(model, tie, np.array(rows), room, GAP, None, extra=len(names))
        if found is None:
            break
        candidate = _read(problem, model, found)
        if _keeps(problem, loss, kept, candidate):
            return candidate
    assert kept, "every candidate has some finite excess"
    listed = " and ".join(f"{name} <= {limit:.6g}" for name, limit in kept.items())
    raise InfeasibleError(f"{listed} cannot be met", ", ".join(kept))


def reachable(
    problem: Problem, loss: Tables, name: str, limits: Mapping[str, float] | None = None
) -> float:
    """Smallest value of a resource (or `loss`) under other limits.

    Raises:
        InfeasibleError: If the other limits cannot be met.
    """
    found = solve_integer(problem, loss, limits or {}, minimise=name)
    return value_of(problem, loss, name, found)


def value_of(problem: Problem, loss: Tables, name: str, candidate: Candidate) -> float:
    """Cost of a candidate, or its additive loss."""
    if name == LOSS:
        return float(sum(values[k] for values, k in zip(loss, candidate, strict=True)))
    return problem.cost(name, candidate)


def _keeps(
    problem: Problem, loss: Tables, limits: Mapping[str, float], candidate: Candidate
) -> bool:
    return all(
        value_of(problem, loss, name, candidate) <= slack(limit) for name, limit in limits.items()
    )


def _run(
    problem: Problem,
    model: Programme,
    loss: Tables,
    limits: Mapping[str, float],
    objective: Floats,
    exclude: Sequence[Candidate],
    gap: float,
    nodes: int | None,
) -> Candidate | None:
    finite = {name: limit for name, limit in limits.items() if np.isfinite(limit)}
    scales = {
        name: max(abs(limit - model.constants[name]), 1e-300) for name, limit in finite.items()
    }
    rows = [model.rows[name] / scales[name] for name in finite]
    upper = [
        (slack(limit) - model.constants[name]) / scales[name] for name, limit in finite.items()
    ]
    for candidate in exclude:
        row = np.zeros(model.columns)
        row[model.starts[:-1].astype(int) + np.array(candidate)] = 1.0
        rows.append(row)
        upper.append(len(candidate) - 1.0)
    scaled = _scaled(model, objective, rows, upper)
    if scaled is None:
        return None
    matrix = np.array(rows).reshape(len(rows), model.columns)
    for tightening in (0.0, 4 * _FEASIBILITY):
        room = np.array(upper)
        room[: len(finite)] -= tightening
        found = _call(model, scaled, matrix, room, gap, nodes)
        if found is None:
            return None
        candidate = _read(problem, model, found)
        if _keeps(problem, loss, finite, candidate):
            return candidate
    return None


def _scaled(
    model: Programme, objective: Floats, rows: Sequence[Floats], upper: Sequence[float]
) -> Floats | None:
    """The objective in units of its linear relaxation; None when that is infeasible.

    HiGHS stops at an absolute gap of 1e-6, which would hide the differences of small losses.
    """
    blocks = [np.array(rows)] if rows else []
    blocks += [model.links.toarray()] if model.links is not None else []
    relaxed = linprog(
        objective,
        A_ub=np.vstack(blocks) if blocks else None,
        b_ub=np.append(upper, model.links_upper) if blocks else None,
        A_eq=model.choice.toarray(),
        b_eq=model.choice_sums,
        bounds=[(0.0, float(top)) for top in model.upper],
        method="highs",
    )
    if relaxed.status == 2:
        return None
    largest = float(np.abs(objective).max())
    value = largest if relaxed.fun is None else abs(float(relaxed.fun))
    return objective / max(value, largest * 1e-9, 1e-300)


def _call(
    model: Programme,
    objective: Floats,
    rows: Floats,
    upper: Floats,
    gap: float,
    nodes: int | None,
    extra: int = 0,
) -> Floats | None:
    columns = model.columns + extra
    sums = model.choice_sums
    constraints = [LinearConstraint(_widen(model.choice, extra), sums, sums)]
    if model.links is not None:
        constraints.append(
            LinearConstraint(_widen(model.links, extra), -np.inf, model.links_upper)
        )
    if len(rows):
        constraints.append(LinearConstraint(rows, -np.inf, upper))
    integrality = np.zeros(columns, dtype=np.int64)
    integrality[: int(model.starts[-1])] = 1
    top = np.concatenate([model.upper, np.full(extra, np.inf)])
    with without_stray_lines():
        result = milp(
            objective,
            integrality=integrality,
            bounds=Bounds(0.0, top),
            constraints=constraints,
            options={"mip_rel_gap": gap, "node_limit": MOST_NODES if nodes is None else nodes},
        )
    if result.x is None and result.status != _INFEASIBLE and nodes is None:
        raise UndecidedError(f"no candidate found in {MOST_NODES} nodes of the search tree", "")
    return None if result.x is None else np.asarray(result.x)


def _widen(matrix: csr_array, extra: int) -> csr_array:
    return csr_array(
        (matrix.data, matrix.indices, matrix.indptr),
        shape=(matrix.shape[0], matrix.shape[1] + extra),
    )


def _read(problem: Problem, model: Programme, values: Floats) -> Candidate:
    starts = model.starts.astype(int)
    pairs = itertools.pairwise(starts)
    return tuple(int(np.argmax(values[start:stop])) for start, stop in pairs)
