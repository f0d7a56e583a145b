"""Which evaluated candidates are worth confirming."""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.search.problem import LOSS, Problem
from autocompress.search_space.candidate import Candidate
from autocompress.study.front import by_knee
from autocompress.study.prepare import Prepared
from autocompress.study.storage import Record


def choose(prepared: Prepared, problem: Problem, records: Sequence[Record]) -> list[Record]:
    """The complete records worth confirming.

    Those that keep the limits come first, by what is minimised, the others by how far they miss.
    Where size or latency is made small, the limit on the loss is an estimate, so the finalists
    also come from stricter ones: the best record under the limit, under half of it, and so on.
    Of a front without limits it is the knee and what is nearest to the ideal after it.
    """
    if prepared.study.delivers_knee:
        return by_knee(records, problem.front)[: prepared.study.objective.finalists]
    records = [record for record in records if record.complete]
    ordered = [record for record, _ in _ordered(prepared, problem, records)]
    count = prepared.study.objective.finalists
    chosen: dict[float, Record] = {}
    if problem.minimise != LOSS:
        most = problem.limits.get(LOSS, max(record.loss for record in records))
        for step in range(count):
            best = next((r for r in ordered if r.loss <= most * (1 + 1e-9) / 2**step), None)
            if best is not None:
                chosen.setdefault(best.loss, best)
        return list(chosen.values()) or sorted(records, key=lambda record: record.loss)[:count]
    for record in ordered:
        # Equal losses mean that the difference never reaches the output: one of them is enough.
        chosen.setdefault(record.loss, record)
        if len(chosen) == count:
            break
    return list(chosen.values())


def reserves(
    prepared: Prepared, problem: Problem, records: Sequence[Record], chosen: Sequence[Record]
) -> list[Record]:
    """The complete records that keep the limits as well as those chosen do, best first: what may
    still be confirmed if the proxy turns out to mislead."""
    records = [record for record in records if record.complete]
    known = {record.id for record in chosen}
    if prepared.study.delivers_knee:
        return [record for record in by_knee(records, problem.front) if record.id not in known]
    ordered = _ordered(prepared, problem, records)
    most = max((excess for record, excess in ordered if record.id in known), default=0.0)
    losses = {record.loss for record in chosen}
    kept: dict[float, Record] = {}
    for record, excess in ordered:
        if excess <= most and record.loss not in losses:
            kept.setdefault(record.loss, record)
    return list(kept.values())


def _ordered(
    prepared: Prepared, problem: Problem, records: Sequence[Record]
) -> list[tuple[Record, float]]:
    """Records and how far they miss the limits, best first."""

    def missed(record: Record) -> float:
        indices = prepared.space.indices(Candidate.from_dict(record.choices))
        return problem.violation(indices)

    def key(record: Record) -> tuple[float, ...]:
        costs = (record.loss, record.latency_ms, record.size_bytes)
        return (excesses[record.id], record.value(problem.minimise), *costs)

    excesses = {record.id: missed(record) for record in records}
    ordered = sorted(records, key=lambda record: (*key(record), record.id))
    return [(record, excesses[record.id]) for record in ordered]
