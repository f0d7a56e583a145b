"""Who takes part: ours, the exact solver, uniform options, and the other samplers."""

from __future__ import annotations

import numpy as np
from contest import OURS, RIVALS, SIZE, Contest, Entry

from autocompress.errors import InfeasibleError
from autocompress.search.catalogue import DEFAULT
from autocompress.search.problem import Candidate
from autocompress.search.solver import solve

TABLES = ("adjoint", "swap")
SOLVERS = {"solver, swap": "swap", "solver, adjoint": "adjoint"}
UNIFORM = "uniform"
OTHERS = (*SOLVERS, UNIFORM, *RIVALS)
NAMES = (OURS, *OTHERS)


def entries(contest: Contest, seeds: int, passes: float, rival_passes: float) -> list[Entry]:
    """Every run to make, those first that take longest: the workers then end together.

    Those without chance run once, as seed 0.
    """
    made = [
        Entry(name, name, ("swap",) if name == "cmaes" else (), seed, rival_passes)
        for name in ("tpe", *(name for name in RIVALS if name != "tpe"))
        for seed in range(seeds)
    ]
    made += [Entry(OURS, DEFAULT, TABLES, seed, passes) for seed in range(seeds)]
    made += [
        Entry(name, "", (table,), 0, rival_passes, solved(contest, table))
        for name, table in SOLVERS.items()
    ]
    return [*made, Entry(UNIFORM, "", (), 0, rival_passes, uniform(contest))]


def solved(contest: Contest, table: str) -> tuple[Candidate, ...]:
    """The exact optimum of one table at each budget that can be met."""
    problem = contest.problem((table,))
    found: dict[Candidate, None] = {}
    for limit in contest.budgets.values():
        try:
            found[solve(problem, problem.losses[table], {SIZE: limit})] = None
        except InfeasibleError:
            continue
    return tuple(found)


def uniform(contest: Contest) -> tuple[Candidate, ...]:
    """One option for all units, for every option of any menu, where that is within the limit.

    Menus were thinned unit by unit.  A unit whose menu lost the option takes the one of its own
    nearest in compression, as a share of its largest bytes.
    """
    problem = contest.problem(TABLES)
    # Unit costs may hold headers alone for a tiny layer: never less than a byte.
    shares = [
        np.log(np.maximum(sizes, 1.0) / max(float(sizes.max()), 1.0))
        for sizes in contest.resources[SIZE].units
    ]
    found: dict[Candidate, None] = {}
    for option in dict.fromkeys(option for menu in contest.options for option in menu):
        places = [
            (unit, menu.index(option))
            for unit, menu in enumerate(contest.options)
            if option in menu
        ]
        wanted = float(np.mean([shares[unit][place] for unit, place in places]))
        has = dict(places)
        candidate = tuple(
            has.get(unit, int(np.argmin(np.abs(share - wanted))))
            for unit, share in enumerate(shares)
        )
        if problem.satisfies(candidate):
            found[candidate] = None
    return tuple(found)
