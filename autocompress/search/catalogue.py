"""The samplers by name."""

from __future__ import annotations

import numpy as np

from autocompress.errors import ConfigError
from autocompress.search.problem import Problem
from autocompress.search.sampler import Sampler

DEFAULT = "budget"
SAMPLERS = (DEFAULT, "tpe", "nsga2", "nsga3", "cmaes", "random")


def make_sampler(
    name: str, problem: Problem, rng: np.random.Generator, explore: float = 0.25
) -> Sampler:
    """A sampler for the problem.

    Args:
        name: `budget` (ours, the default), `cmaes` (over coefficients of the loss table), or
            one of Optuna's: `tpe`, `nsga2`, `nsga3`, `random`.
        problem: Loss tables, costs and limits.
        rng: Gives the seed.
        explore: Share of its candidates that `budget` spends along the front, away from a budget.

    Raises:
        ConfigError: If the name is unknown, or a rival meets a problem with ties.
    """
    if problem.ties and name != DEFAULT:
        raise ConfigError(
            f"sampler {name!r}: cannot keep shared widths; take {DEFAULT!r}, or a search space"
            " with `channels = [1.0]`"
        )
    if problem.ties:
        from autocompress.search.tied_sampler import TiedSampler

        return TiedSampler(problem, rng, explore)
    if name == DEFAULT:
        from autocompress.search.budget_sampler import BudgetSampler

        return BudgetSampler(problem, rng, explore)
    if name not in SAMPLERS:
        raise ConfigError(f"sampler {name!r}: allowed are {', '.join(SAMPLERS)}")
    if name == "cmaes":
        from autocompress.search.coefficient_sampler import CoefficientSampler

        return CoefficientSampler(problem, int(rng.integers(2**31)))
    # Optuna takes a third of a second to import: only when it is asked for.
    from autocompress.search.optuna_sampler import OptunaSampler

    return OptunaSampler(name, problem, int(rng.integers(2**31)))
