"""The allocation problem in numbers: menus of options, loss tables, costs and limits.

A candidate is one option index per unit.  Costs are additive over units, plus edges that charge
the conversion between a float and an int8 neighbour, plus what int8 units bring about together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import ConfigError, DataError
from autocompress.search.resource import Edge, Joint, Resource, Tie

Candidate: TypeAlias = tuple[int, ...]
Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Tables: TypeAlias = Sequence[Floats]

LOSS = "loss"
TOLERANCE = 1e-9  # relative, for sums of floats that meet a limit exactly


@dataclass(frozen=True, eq=False)
class Problem:
    """What to choose from, what it costs, and what is allowed.

    Args:
        units: Names of the units.
        losses: Named additive loss tables, each with one array `(options,)` per unit.  An infinite
            entry forbids the option.
        resources: Named costs.
        labels: For each unit the label `(options,)`: 0 float, 1 int8.  Empty means all 0.
        limits: Largest allowed value by name of a resource, or `loss`.
        minimise: What is made small: `loss` or the name of a resource.
        front: Resources that are traded against the loss: all candidates are wanted that no other
            one beats in these and the loss.  Empty when only the best one within the limits is.
        products: For a loss table `(all options, all options)`, in the order of units and options,
            inner products of their pushes on the outputs: what two options of different units add
            to the loss beyond their own entries, once for each order.
        alike: `(all options,)` the row of `products` that speaks for each option; empty means that
            each has its own.
        ties: What units must have in common.
        budgets: Points of the front that matter most: limits by resource, each at most `limits`.

    Raises:
        DataError: If a table has the wrong shape or holds values that are not allowed.
        ConfigError: If a limit, `minimise`, `front` or a budget names nothing.
    """

    units: tuple[str, ...]
    losses: Mapping[str, tuple[Floats, ...]]
    resources: Mapping[str, Resource] = field(default_factory=dict)
    labels: tuple[Integers, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    minimise: str = LOSS
    front: tuple[str, ...] = ()
    budgets: tuple[Mapping[str, float], ...] = ()
    products: Mapping[str, Floats] = field(default_factory=dict)
    alike: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    ties: tuple[Tie, ...] = ()

    def __post_init__(self) -> None:
        if not self.units or not self.losses:
            raise DataError("Problem: needs at least one unit and one loss table")
        first = next(iter(self.losses.values()))
        sizes = [len(values) for values in first]
        for name, table in self.losses.items():
            self._check_table(f"loss table {name!r}", table, sizes)
            if any(np.isnan(values).any() or (values == -np.inf).any() for values in table):
                raise DataError(f"loss table {name!r}: holds NaN or -inf")
        for unit, allowed in zip(self.units, self.allowed, strict=True):
            if not allowed.any():
                raise DataError(f"unit {unit!r}: every option has an infinite loss")
        if self.labels:
            self._check_table("labels", self.labels, sizes)
            if not all(np.isin(values, (0, 1)).all() for values in self.labels):
                raise DataError("labels: must be 0 (float) or 1 (int8)")
        for name, resource in self.resources.items():
            self._check_resource(name, resource, sizes)
        known = (LOSS, *self.resources)
        for name, limit in self.limits.items():
            if name not in known:
                raise ConfigError(f"limit {name!r}: allowed are {', '.join(known)}")
            if math.isnan(limit):
                raise ConfigError(f"limit {name!r}: is NaN")
        if self.minimise not in known:
            raise ConfigError(f"minimise={self.minimise!r}: allowed are {', '.join(known)}")
        rows = int(self.alike.max()) + 1 if len(self.alike) else sum(sizes)
        for name, products in self.products.items():
            if name not in self.losses or products.shape != (rows, rows):
                raise DataError(
                    f"products {name!r}: shape {products.shape}, expected a loss table's name and"
                    f" ({rows}, {rows})"
                )
        for tie in self.ties:
            for index, levels in tie.levels.items():
                if levels.shape != (sizes[index],):
                    raise DataError(f"tie {tie.name!r}: {levels.shape} levels of unit {index}")
        for name in (*self.front, *(name for budget in self.budgets for name in budget)):
            if name not in self.resources:
                raise ConfigError(f"front {name!r}: allowed are {', '.join(self.resources)}")

    def _check_table(
        self, what: str, table: Sequence[NDArray[np.generic]], sizes: list[int]
    ) -> None:
        if len(table) != len(self.units):
            raise DataError(f"{what}: {len(table)} arrays for {len(self.units)} units")
        for unit, values, size in zip(self.units, table, sizes, strict=True):
            if values.shape != (size,) or not size:
                raise DataError(
                    f"{what}, unit {unit!r}: shape {values.shape}, expected ({size},), not empty"
                )

    def _check_resource(self, name: str, resource: Resource, sizes: list[int]) -> None:
        if name == LOSS:
            raise ConfigError(f"resource {name!r}: the name is taken by the loss")
        self._check_table(f"resource {name!r}", resource.units, sizes)
        edges = [cost for edge in resource.edges for cost in (edge.up, edge.down)]
        joints = [joint.cost for joint in resource.joints]
        values = np.concatenate([*resource.units, [resource.constant, *edges, *joints]])
        if not np.isfinite(values).all():
            raise DataError(f"resource {name!r}: holds NaN or infinity")
        for edge in resource.edges:
            for end in (edge.tail, edge.head):
                if end is not None and not 0 <= end < len(self.units):
                    raise DataError(f"resource {name!r}, {edge}: there is no unit {end}")
        for joint in resource.joints:
            if len(set(joint.units)) < max(1, len(joint.units)):
                raise DataError(f"resource {name!r}, {joint}: needs units, each once")
            for unit in joint.units:
                if not 0 <= unit < len(self.units):
                    raise DataError(f"resource {name!r}, {joint}: there is no unit {unit}")

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of options of each unit."""
        return tuple(len(values) for values in next(iter(self.losses.values())))

    @cached_property
    def allowed(self) -> tuple[NDArray[np.bool_], ...]:
        """For each unit which options `(options,)` have a finite loss in every table."""
        tables = list(self.losses.values())
        return tuple(
            np.logical_and.reduce([np.isfinite(values) for values in unit])
            for unit in zip(*tables, strict=True)
        )

    @cached_property
    def space_size(self) -> int:
        """Number of candidates made of allowed options."""
        return math.prod(int(allowed.sum()) for allowed in self.allowed)

    def label(self, unit: int) -> Integers:
        """Labels `(options,)` of a unit."""
        return self.labels[unit] if self.labels else np.zeros(self.sizes[unit], dtype=np.int64)

    @cached_property
    def _folded(self) -> dict[str, tuple[tuple[Floats, ...], tuple[Edge, ...]]]:
        return {name: self._fold(resource) for name, resource in self.resources.items()}

    def _fold(self, resource: Resource) -> tuple[tuple[Floats, ...], tuple[Edge, ...]]:
        units = [values.astype(np.float64) for values in resource.units]
        edges: dict[tuple[int, int], tuple[float, float]] = {}
        for edge in resource.edges:
            if edge.tail is None and edge.head is not None:
                units[edge.head] = units[edge.head] + edge.up * self.label(edge.head)
            elif edge.head is None and edge.tail is not None:
                units[edge.tail] = units[edge.tail] + edge.down * self.label(edge.tail)
            elif edge.tail is not None and edge.head is not None and edge.tail != edge.head:
                up, down = edges.get((edge.tail, edge.head), (0.0, 0.0))
                edges[edge.tail, edge.head] = (up + edge.up, down + edge.down)
        ends_differ = {
            ends: costs for ends, costs in edges.items() if any(costs) and self._may_differ(*ends)
        }
        return tuple(units), tuple(Edge(*ends, *costs) for ends, costs in ends_differ.items())

    def _may_differ(self, tail: int, head: int) -> bool:
        return len(np.unique(np.concatenate([self.label(tail), self.label(head)]))) > 1

    @cached_property
    def _starts(self) -> Integers:
        return np.cumsum([0, *self.sizes[:-1]])

    @cached_property
    def _flat_labels(self) -> Integers:
        return np.concatenate([self.label(unit) for unit in range(len(self.units))])

    @cached_property
    def _edge_columns(self) -> dict[str, tuple[Integers, Integers, Floats, Floats]]:
        """Tails, heads, costs up and costs down `(edges,)` of each resource."""
        columns = {}
        for name, (_, edges) in self._folded.items():
            ends = np.array([(edge.tail, edge.head) for edge in edges], dtype=np.int64)
            costs = np.array([(edge.up, edge.down) for edge in edges], dtype=np.float64)
            columns[name] = (*ends.reshape(-1, 2).T, *costs.reshape(-1, 2).T)
        return columns

    @cached_property
    def _possible_joints(self) -> dict[str, tuple[Joint, ...]]:
        return {
            name: tuple(
                joint
                for joint in resource.joints
                if joint.cost and all(self.label(unit).any() for unit in joint.units)
            )
            for name, resource in self.resources.items()
        }

    @cached_property
    def _joint_columns(self) -> dict[str, tuple[Integers, Integers, Floats]]:
        """Members `(units, joints)`, their number and costs `(joints,)` of each resource."""
        columns = {}
        for name in self.resources:
            joints = self.joints(name)
            members = np.zeros((len(self.units), len(joints)), dtype=np.int64)
            for column, joint in enumerate(joints):
                members[list(joint.units), column] = 1
            costs = np.array([joint.cost for joint in joints], dtype=np.float64)
            columns[name] = (members, members.sum(axis=0), costs)
        return columns

    @cached_property
    def _flat_allowed(self) -> NDArray[np.bool_]:
        return np.concatenate(self.allowed)

    def unit_costs(self, name: str) -> tuple[Floats, ...]:
        """Cost `(options,)` per unit; conversions to and from the outside are counted here."""
        return self._folded[name][0]

    def edges(self, name: str) -> tuple[Edge, ...]:
        """Conversions between two different units, at most one edge for each ordered pair."""
        return self._folded[name][1]

    def joints(self, name: str) -> tuple[Joint, ...]:
        """What several units bring about together, where each of them may have label 1."""
        return self._possible_joints[name]

    def is_additive(self, name: str) -> bool:
        """Whether a cost is a constant and a sum over units."""
        return not self.edges(name) and not self.joints(name)

    def costs(self, name: str, candidates: Integers) -> Floats:
        """Costs `(n,)` of candidates `(n, units)`."""
        units, edges = self._folded[name]
        total = self.resources[name].constant + gather(units, candidates)
        if self.is_additive(name):
            return total
        labels = self._flat_labels[self._starts + candidates]
        if edges:
            tails, heads, up, down = self._edge_columns[name]
            rise = labels[:, heads] - labels[:, tails]
            total += (rise > 0) @ up + (rise < 0) @ down
        members, sizes, costs = self._joint_columns[name]
        if len(costs):
            total += (labels @ members == sizes) @ costs
        return total

    def cost(self, name: str, candidate: Candidate) -> float:
        """Cost of one candidate, in the unit of the resource."""
        return float(self.costs(name, np.asarray([candidate], dtype=np.int64))[0])

    def resource_costs(self, candidate: Candidate) -> dict[str, float]:
        """Every cost of one candidate by name."""
        return {name: self.cost(name, candidate) for name in self.resources}

    def feasible(
        self, candidates: Integers, limits: Mapping[str, float] | None = None
    ) -> NDArray[np.bool_]:
        """Which `(n,)` of the candidates `(n, units)` are allowed and keep the resource limits.

        A limit on the loss is left out: only a measurement can tell.
        """
        fine: NDArray[np.bool_] = self._flat_allowed[self._starts + candidates].all(axis=1)
        for tie in self.ties:
            levels = np.stack([of[candidates[:, u]] for u, of in tie.levels.items()])
            fine &= (levels == levels[0]).all(axis=0)
        for name, limit in (self.limits if limits is None else limits).items():
            if name != LOSS:
                fine &= self.costs(name, candidates) <= slack(limit)
        return fine

    def satisfies(self, candidate: Candidate, loss: float | None = None) -> bool:
        """Whether a candidate keeps the limits; that on the loss only if `loss` is given."""
        fine = bool(self.feasible(np.asarray([candidate], dtype=np.int64))[0])
        if loss is None or LOSS not in self.limits:
            return fine
        return fine and loss <= slack(self.limits[LOSS])

    def violation(self, candidate: Candidate, loss: float | None = None) -> float:
        """Sum over the limits of the excess relative to the limit; 0 when all are kept."""
        values = self.resource_costs(candidate)
        if loss is not None:
            values[LOSS] = loss
        return sum(
            max(0.0, excess(values[name], limit))
            for name, limit in self.limits.items()
            if name in values
        )

    def objective(self, candidate: Candidate, loss: float) -> float:
        """What is made small: the measured `loss`, or the cost of the candidate."""
        return loss if self.minimise == LOSS else self.cost(self.minimise, candidate)


def gather(tables: Tables, candidates: Integers) -> Floats:
    """Sums `(n,)` over the units of the entries of `tables` that candidates `(n, units)` name."""
    if len(candidates) > 64 * len(tables):
        total = np.zeros(len(candidates))
        for unit, values in enumerate(tables):
            total += values[candidates[:, unit]]
        return total
    # Few candidates, many units: one look-up instead of a loop.
    starts = np.cumsum([0, *(len(values) for values in tables[:-1])])
    return np.asarray(np.concatenate(list(tables))[starts + candidates].sum(axis=1))


def slack(limit: float) -> float:
    """The limit with room for the rounding of float sums."""
    return limit + TOLERANCE * abs(limit)


def excess(value: float, limit: float) -> float:
    """How far `value` lies above `limit`, relative to the limit; 0 or less when it is kept."""
    if value <= slack(limit):
        return (
            min(0.0, (value - limit) / max(abs(limit), 1e-300)) if math.isfinite(limit) else -1.0
        )
    return (value - limit) / max(abs(limit), 1e-12)
