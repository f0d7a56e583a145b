"""What to choose: a few picks with their reasons, then every point, each with its commands."""

from __future__ import annotations

from collections.abc import Callable

from autocompress.report.commands import export_text, outputs
from autocompress.report.data import RunData
from autocompress.report.markup import (
    Column,
    Raw,
    TableRow,
    bullets,
    copy_button,
    escaped,
    table,
    yes_no,
)
from autocompress.report.picks import Point, keeps, latency_factor, picks, points
from autocompress.report.thin import thinned
from autocompress.report.units import (
    latency_text,
    number,
    options_text,
    plain_text,
    share_text,
    size_text,
)
from autocompress.report.words import options_key, telling

ROWS_SHOWN = 120
_LAYER_COLUMNS_SHOWN = 8
_WORTH_SAYING = 0.05
_COSTS = (
    Column("size", "n", "of the file, and its share of the original's; ~ is predicted"),
    Column("latency", "n", "of one pass, and its share of the original's; ~ is predicted"),
    Column("quality", "n", "measured on the selection split; a dash where it was not measured"),
    Column("loss", "n", "distance of the outputs from the original's, lower is better"),
    Column("limits", "n", "whether all limits are kept; a dash where quality was not measured"),
)


def choose_text(run: RunData) -> str:
    """How to read the tables, and how far the predicted latencies can be believed."""
    text = (
        "Every row is a whole model that can be written as a file; its buttons copy the line that "
        "writes it. Sizes and latencies with ~ are predicted, all others measured; the share is "
        "that of the original."
    )
    error = latency_factor(run) - 1
    if abs(error) >= _WORTH_SAYING:
        side = "more" if error > 0 else "less"
        text += (
            f" On the clock the finalists took {100 * abs(error):.0f} % {side} than predicted: "
            "expect the same of the others, which is allowed for where limits are judged."
        )
    return f"<p>{escaped(text)}</p>"


def picks_table(run: RunData) -> str:
    """The chosen point and the best by each wish; empty where there is none."""
    found = picks(run)
    if not found:
        return ""
    columns = [
        Column("candidate", "id"),
        Column("why", "text"),
        *_COSTS,
        Column("write", "screen"),
    ]
    rows = [
        TableRow(
            [
                pick.point.candidate,
                Raw(bullets(pick.reasons, "bare")),
                *_costs(run, pick.point),
                Raw(_buttons(run, pick.point.candidate)),
            ],
            is_best=pick.point.candidate == run.best_id,
        )
        for pick in found
    ]
    return table(columns, rows)


def candidates_table(run: RunData) -> str:
    """Front and finalists, smallest first, with buttons per row that copy how to write it."""
    layers = run.layer_columns
    is_split = len(layers) <= _LAYER_COLUMNS_SHOWN
    titles = [Column(name, "id") for name in layers] if is_split else [Column("options", "text")]
    columns = [Column("candidate", "id"), *_COSTS, Column("write", "screen"), *titles]
    pool = points(run)
    shown = thinned(pool, ROWS_SHOWN, lambda point: point.candidate == run.best_id)
    rows = []
    for point in shown:
        known = list(point.options) or ["–"] * len(layers)
        cells: list[str | Raw] = [
            point.candidate,
            *_costs(run, point),
            Raw(_buttons(run, point.candidate)),
            *(known if is_split else [options_text(list(point.options), 6)]),
        ]
        rows.append(TableRow(cells, is_best=point.candidate == run.best_id))
    note = f"<p class='soft'>{len(shown)} of {len(pool)} candidates; front.csv holds all.</p>"
    key = options_key(telling([option for point in pool for option in point.options]))
    return table(columns, rows) + (note if len(shown) < len(pool) else "") + key


def picked_panel(run: RunData) -> str:
    """Where a click on a point of the front shows what it is and how to write it."""
    lines = "".join(
        f'<div class="command" data-line="{escaped(name)}"><code></code>{copy_button("", "copy")}'
        "</div>"
        for name in outputs(run)
    )
    return (
        '<div class="picked screen" id="picked"><p class="soft">Click a point to see how to '
        f"write it as a file.</p><div hidden>{lines}</div></div>"
    )


def commands_of(run: RunData, candidate: str) -> list[str]:
    """How to write a candidate, a text for each kind of file; for the points of the figures."""
    return [export_text(run, candidate, name) for name in outputs(run)]


def _costs(run: RunData, point: Point) -> list[str | Raw]:
    original = run.original
    return [
        _with_share(size_text, point, point.size_bytes, original.get("size_bytes")),
        _with_share(latency_text, point, point.latency_ms, original.get("latency_ms")),
        run.limit("quality").show(point.quality),
        plain_text(point.loss, 3),
        yes_no(keeps(run, point) if any(limit.limit for limit in run.limits) else None),
    ]


def _with_share(
    show: Callable[[float | None], str], point: Point, value: float | None, original: object
) -> Raw:
    sign = "" if point.is_measured or value is None else "~ "
    text, whole = f"{sign}{show(value)}", number(original)
    if value is None or not whole:
        return Raw(escaped(text))
    return Raw(f'{escaped(text)} <span class="soft">{escaped(share_text(value / whole))}</span>')


def _buttons(run: RunData, candidate: str) -> str:
    return " ".join(
        copy_button(export_text(run, candidate, name), f".{name.rpartition('.')[2]}", candidate)
        for name in outputs(run)
    )
