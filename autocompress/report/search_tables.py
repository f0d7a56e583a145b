"""What the search did, in tables of the HTML report: its moves, its price, its end."""

from __future__ import annotations

from typing import Any

from autocompress.report.data import RunData
from autocompress.report.markup import Column, TableRow, table
from autocompress.report.units import (
    NOTHING,
    count_text,
    latency_text,
    number,
    plain_text,
    share_text,
    size_text,
)


def moves_table(run: RunData) -> str:
    """Every move with what it was asked for, what it earned and its share of the mix."""
    columns = [
        Column("move", "id"),
        Column("asked", "n", "candidates that it proposed"),
        Column("complete", "n", "those that were measured on all search inputs"),
        Column("improved", "n", "those that moved the front beyond the noise"),
        Column("earned", "n", "what they added to the front, all together"),
        Column("evaluations", "n", "measurements on all search inputs that it cost"),
        Column("earned each", "n", "for one such measurement"),
        Column("share", "n", "of the mix at the end"),
    ]
    rows = []
    for row in run.moves:
        earned, passes = number(row.get("earned")), number(row.get("passes"))
        rate = earned / passes if earned is not None and passes else None
        rows.append(
            TableRow(
                [
                    str(row.get("move") or NOTHING),
                    count_text(row.get("asked")),
                    count_text(row.get("complete")),
                    count_text(row.get("improved")),
                    plain_text(earned, 3),
                    plain_text(passes, 3),
                    plain_text(rate, 2),
                    share_text(row.get("share"), 0),
                ]
            )
        )
    return table(columns, rows)


def search_facts(run: RunData) -> list[tuple[str, str]]:
    """Why the search ended, the knee, and the price of a candidate; only what is known."""
    price = run.price
    facts = [
        ("Stopped", run.stopped or NOTHING),
        ("Knee of the front", _knee(run)),
        ("Candidates", count_text(price.get("candidates"))),
        ("Price of a candidate, full passes", plain_text(price.get("mean"), 3)),
        ("Price of the search, full passes", plain_text(price.get("passes"), 4)),
        ("Price of the loss tables, full passes", plain_text(price.get("pricing_passes"), 4)),
        ("A full pass over the search inputs", latency_text(price.get("full_pass_ms"))),
        ("Engine, for a candidate, outside forward passes", latency_text(price.get("engine_ms"))),
        ("Engine, share of the search", share_text(_engine_share(price))),
    ]
    return [(name, value) for name, value in facts if value != NOTHING]


def _knee(run: RunData) -> str:
    if not run.knee:
        return NOTHING
    found: list[Any] = [*run.history, *run.front.to_dict("records")]
    row: Any = next((r for r in found if str(r.get("candidate", "")) == run.knee), {})
    costs = (
        f"loss {plain_text(row.get('loss'), 3)}",
        size_text(row.get("size_bytes")),
        latency_text(row.get("latency_ms")),
    )
    return f"{run.knee}: {', '.join(costs)}" if row else run.knee


def _engine_share(price: Any) -> float | None:
    """Engine over engine and forward passes, from the means of a candidate."""
    engine, mean = number(price.get("engine_ms")), number(price.get("mean"))
    whole = number(price.get("full_pass_ms"))
    if engine is None or mean is None or whole is None or engine + mean * whole <= 0:
        return None
    return engine / (engine + mean * whole)
