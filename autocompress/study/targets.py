"""The budget in numbers: what the finished model is held to, and what the search is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocompress.errors import DeviceError
from autocompress.objective.budget import BASE_UNIT, Limit

# Names of limits to those of what is measured.
COSTS = {
    "quality": "quality",
    "size": "size_bytes",
    "latency": "latency_ms",
    "energy": "energy_mj",
}

SIZE_RESERVE = 0.01  # the final fit changes coded bytes by less than this
LATENCY_RESERVE = 0.05  # the most that the cost model's own error holds back


@dataclass(frozen=True)
class Measured:
    """A model's quality (in the metric's unit), bytes, milliseconds, and estimated millijoules
    where the device gives figures."""

    quality: float
    size_bytes: float
    latency_ms: float
    energy_mj: float | None = None

    def value(self, name: str) -> float:
        """By the name of a limit.

        Raises:
            DeviceError: If energy is asked of a device that gives no figures for it.
        """
        found = getattr(self, COSTS[name])
        if found is None:
            raise DeviceError(f"the device gives no figures for {name}, which the budget limits")
        return float(found)


@dataclass(frozen=True)
class Target:
    """One limit of the budget, in the unit of what it limits.

    Args:
        name: `size`, `latency`, `energy` or `quality`.
        text: As the user wrote it.
        bound: Bytes, ms, mJ or metric; the most allowed, or the least where `at_least`.
        at_least: Whether larger values are better.
        unit: `B`, `ms`, `mJ` or the metric's unit.
        soft: Whether it is aimed at and reported, but may be missed.
    """

    name: str
    text: str
    bound: float
    at_least: bool
    unit: str
    soft: bool = False

    def excess(self, measured: Measured, original: Measured) -> float:
        """How far the limit is missed, as a share of the original (of the bound for quality); at
        most zero when it is kept."""
        value = measured.value(self.name)
        difference = self.bound - value if self.at_least else value - self.bound
        scale = abs(self.bound if self.name == "quality" else original.value(self.name))
        return difference / max(scale, 1e-12)

    def is_met(self, measured: Measured) -> bool:
        value = measured.value(self.name)
        return value >= self.bound - 1e-9 if self.at_least else value <= self.bound * (1 + 1e-9)


def targets_of(
    budget: Mapping[str, Limit], original: Measured, higher_is_better: bool, metric_unit: str
) -> tuple[Target, ...]:
    """The budget of a finished model, against the original as measured."""
    return tuple(
        Target(
            name,
            limit.text,
            limit.bound(original.value(name), higher_is_better),
            at_least=name == "quality" and higher_is_better,
            unit=metric_unit if name == "quality" else BASE_UNIT[name],
            soft=limit.soft,
        )
        for name, limit in budget.items()
    )


def keeps_hard(targets: Sequence[Target], measured: Measured) -> bool:
    """Whether every limit is kept but for the soft ones: whether the budget is met."""
    return all(target.soft or target.is_met(measured) for target in targets)


def shortfall(
    targets: Sequence[Target], measured: Measured, original: Measured
) -> tuple[float, ...]:
    """What to sort by before what is minimised; all zeros when every limit is kept.

    Returns:
        `(1 + soft limits,)`: the sum of how far the hard limits are missed, then how far each soft
        one is, in the order given.
    """

    def missed(target: Target) -> float:
        # What `is_met` lets pass counts as kept, or rounding would decide between candidates.
        return 0.0 if target.is_met(measured) else max(0.0, target.excess(measured, original))

    hard = sum(missed(target) for target in targets if not target.soft)
    return (hard, *(missed(target) for target in targets if target.soft))


def search_limits(
    budget: Mapping[str, Limit],
    size_bytes: float,
    latency_ms: float,
    error: float,
    energy_mj: float = 0.0,
) -> dict[str, float]:
    """Limits of the search by resource: the budget less what predictions may be off by.

    Args:
        budget: Limits by name, whose order is kept; quality is not a limit on a resource.
        size_bytes: Of the original.
        latency_ms: Of the original as the cost model predicts it.
        error: Relative error of the cost model.
        energy_mj: Of the original.
    """
    reserves = {"size": SIZE_RESERVE, "latency": min(LATENCY_RESERVE, error)}
    originals = {"size": size_bytes, "latency": latency_ms, "energy": energy_mj}
    limits = {}
    for name, limit in budget.items():
        if name in originals:
            limits[COSTS[name]] = limit.bound(originals[name]) * (1 - reserves.get(name, 0.0))
    return limits
