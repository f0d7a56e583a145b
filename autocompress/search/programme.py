"""The allocation problem as a mixed-integer programme: columns, rows, and what each stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, vstack

from autocompress.search.problem import LOSS, Floats, Problem, Tables
from autocompress.search.resource import Edge


@dataclass(frozen=True, eq=False)
class Programme:
    """Columns: one binary per unit and option, then one share per direction of an edge and one per
    set of units that have a joint cost.

    Rows of `choice` sum to `choice_sums`: one option a unit, and in a tie as many of a level in
    one unit as in the next.
    """

    columns: int
    starts: Floats
    choice: csr_array
    choice_sums: Floats
    links: csr_array | None
    links_upper: Floats
    upper: Floats
    rows: Mapping[str, Floats]
    constants: Mapping[str, float]


def programme_of(problem: Problem, loss: Tables) -> Programme:
    """The programme of a problem.

    Args:
        problem: Costs, labels, menus and ties; its limits are not read.
        loss: For each unit the loss `(options,)`; infinite forbids the option.
    """
    sizes = np.array(problem.sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    binaries = int(starts[-1])
    directions: dict[tuple[int, int], int] = {}
    for name in problem.resources:
        for edge in problem.edges(name):
            for ends, _ in _directions(edge):
                directions.setdefault(ends, binaries + len(directions))
    joints: dict[tuple[int, ...], int] = {}
    for name in problem.resources:
        for joint in problem.joints(name):
            joints.setdefault(joint.units, binaries + len(directions) + len(joints))
    columns = binaries + len(directions) + len(joints)
    allowed = np.concatenate([np.isfinite(values) for values in loss])
    rows = {LOSS: np.zeros(columns)}
    rows[LOSS][:binaries] = np.where(allowed, np.concatenate(list(loss)), 0.0)
    constants = {LOSS: 0.0}
    for name, resource in problem.resources.items():
        rows[name] = np.zeros(columns)
        rows[name][:binaries] = np.concatenate(problem.unit_costs(name))
        constants[name] = resource.constant
        for edge in problem.edges(name):
            for ends, cost in _directions(edge):
                rows[name][directions[ends]] += cost
        for joint in problem.joints(name):
            rows[name][joints[joint.units]] += joint.cost
    choice = csr_array(
        (np.ones(binaries), (np.repeat(np.arange(len(sizes)), sizes), np.arange(binaries))),
        shape=(len(sizes), columns),
    )
    links, links_upper = _links(problem, starts, directions, joints, columns)
    choice = _tied(problem, starts, choice)
    upper = np.ones(columns)
    upper[:binaries][~allowed] = 0.0
    sums = np.zeros(choice.shape[0])
    sums[: len(sizes)] = 1.0
    return Programme(columns, starts, choice, sums, links, links_upper, upper, rows, constants)


def _tied(problem: Problem, starts: Floats, choice: csr_array) -> csr_array:
    """The rows of `choice` and those of the ties."""
    rows = [choice]
    for tie in problem.ties:
        (first, levels), *others = tie.levels.items()
        for unit, own in others:
            # One row a level, but for one that the others imply.
            for level in np.union1d(levels, own)[1:]:
                row = np.zeros(choice.shape[1])
                row[int(starts[first]) : int(starts[first + 1])] = levels == level
                row[int(starts[unit]) : int(starts[unit + 1])] -= own == level
                rows.append(csr_array(row[None]))
    return csr_array(vstack(rows))


def _directions(edge: Edge) -> tuple[tuple[tuple[int, int], float], ...]:
    """The `(float unit, int8 unit)` pairs that an edge charges, with their costs.

    Up from tail to head and down from head to tail are the same event, so they share a column.
    """
    assert edge.tail is not None
    assert edge.head is not None
    pairs = (((edge.tail, edge.head), edge.up), ((edge.head, edge.tail), edge.down))
    return tuple(pair for pair in pairs if pair[1])


def _links(
    problem: Problem,
    starts: Floats,
    directions: Mapping[tuple[int, int], int],
    joints: Mapping[tuple[int, ...], int],
    columns: int,
) -> tuple[csr_array | None, Floats]:
    """Rows that make a share tell `low float, high int8`, or `all int8`, whatever the sign of its
    cost."""
    if not directions and not joints:
        return None, np.zeros(0)

    def label(unit: int) -> Floats:
        row = np.zeros(columns)
        row[int(starts[unit]) : int(starts[unit + 1])] = problem.label(unit)
        return row

    rows, upper = [], []
    for (low, high), column in directions.items():
        share = _only(column, columns)
        # share >= high - low, share <= high, share <= 1 - low: exact for labels 0 and 1.
        rows += [label(high) - label(low) - share, share - label(high), share + label(low)]
        upper += [0.0, 0.0, 1.0]
    for units, column in joints.items():
        share = _only(column, columns)
        labels = [label(unit) for unit in units]
        # share <= each label, share >= their sum - (n - 1).
        rows += [share - row for row in labels] + [np.sum(labels, axis=0) - share]
        upper += [0.0] * len(units) + [len(units) - 1.0]
    return csr_array(np.array(rows)), np.array(upper)


def _only(column: int, columns: int) -> Floats:
    row = np.zeros(columns)
    row[column] = 1.0
    return row
