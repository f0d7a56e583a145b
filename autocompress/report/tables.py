"""Tables for the terminal: human units, readable at 80 columns, safe for any layer name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from autocompress.report.data import FRONT_NUMBERS
from autocompress.report.device_tables import coverage_text
from autocompress.report.limits import limits_of, mapping
from autocompress.report.plain_table import plain_table
from autocompress.report.thin import thinned
from autocompress.report.units import (
    NOTHING,
    compact_text,
    count_text,
    latency_text,
    options_text,
    plain_text,
    printable,
    shape_text,
    share_text,
    shortened,
    size_text,
)

if TYPE_CHECKING:
    import pandas

    from autocompress.hardware.fit import Fit

_NAME_WIDTH = 20
_LAYER_WIDTH = 18  # with it a table of layers fits 80 columns
_OPTIONS_SHOWN = 2
_NAMES_SHOWN = 4


def result_table(result: Mapping[str, Any], metric: str = "") -> Table:
    """Quality, size and latency: original, budget, predicted, measured, change, met.

    Args:
        result: Content of `result.json`; whatever it lacks shows as a dash.
        metric: Name of the user's metric; an `accuracy` in [0, 1] is shown in percent.
    """
    table = plain_table(title=_title(result))
    table.add_column("", style="bold", no_wrap=True)
    for name in ("original", "budget", "predicted", "measured", "change", "met"):
        table.add_column(name, justify="right", overflow="fold")
    limits = limits_of(result, provenance={"metric": metric})
    for limit in limits:
        budget = NOTHING
        if limit.limit is not None:
            sign = "≥" if limit.direction == "at least" else "≤"
            budget = f"{sign} {limit.show(limit.limit)}{' (soft)' if limit.soft else ''}"
        name = f"{limit.label} *" if limit.binding else limit.label
        table.add_row(
            Text(printable(name)),
            limit.show(limit.original),
            budget,
            limit.predicted_shown,
            limit.show(limit.measured),
            limit.change,
            _met(limit.met, limit.limit),
        )
    notes = ["* the limit that binds"] if any(limit.binding for limit in limits) else []
    coverage = coverage_text(mapping(mapping(result, "device"), "coverage"))
    _set_caption(table, [*notes, *([coverage] if coverage else [])])
    return table


def layers_table(layers: Sequence[Mapping[str, Any]]) -> Table:
    """One row per layer; a column that no layer fills is left out.

    Args:
        layers: Rows as in `details.json`.  Before a search, `size_share`, `latency_share` in
            [0, 1] and `options` (ids, or their number) may be given instead of what was chosen.
    """
    is_chosen = any(row.get("option") for row in layers)
    columns: list[tuple[str, Sequence[str | Text]]] = [
        ("layer", [Text(shortened(row.get("name", ""), _LAYER_WIDTH)) for row in layers]),
        ("kind", [_short(row.get("kind"), 12) for row in layers]),
        ("shape", [shape_text(row.get("weight_shape")) for row in layers]),
    ]
    if is_chosen:
        columns += [
            ("before", [size_text(row.get("bytes_before")) for row in layers]),
            ("after", [size_text(row.get("bytes_after")) for row in layers]),
            ("KL alone", [plain_text(row.get("loss_alone"), 2) for row in layers]),
            ("option", [_short(row.get("option"), _NAME_WIDTH) for row in layers]),
        ]
    else:
        columns += [
            ("params", [count_text(row.get("parameters")) for row in layers]),
            ("MACs", [compact_text(row.get("macs")) for row in layers]),
            ("size", [share_text(row.get("size_share")) for row in layers]),
            ("time", [share_text(row.get("latency_share")) for row in layers]),
            ("options", [_option_count(row) for row in layers]),
        ]
    kept = [column for column in columns if any(str(cell) != NOTHING for cell in column[1])]
    table = plain_table()
    for name, _ in kept:
        is_left = name in ("layer", "kind", "option")
        table.add_column(
            name,
            justify="left" if is_left else "right",
            overflow="fold",
            no_wrap=name != "layer",
        )
    for index in range(len(layers)):
        table.add_row(*(cells[index] for _, cells in kept))
    _set_caption(table, [*_menus(layers), *_reasons(layers)])
    return table


def front_table(front: pandas.DataFrame, limit: int | None = 20, best: str = "") -> Table:
    """The front, smallest first.

    Args:
        front: Columns of `front.csv`.
        limit: At most so many rows, evenly spread over the front; None shows all.
        best: Candidate to mark with `*`; always shown.
    """
    table = plain_table()
    table.add_column("candidate", no_wrap=True)
    for name in ("size", "latency", "loss", "quality"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("options", overflow="fold", ratio=1)
    rows = front.to_dict("records")
    shown = thinned(rows, limit, lambda row: str(row.get("candidate")) == best)
    layers = [str(c) for c in front.columns if c not in ("candidate", *FRONT_NUMBERS)]
    for row in shown:
        is_best = bool(best) and str(row.get("candidate")) == best
        table.add_row(
            Text(shortened(row.get("candidate", ""), 16) + (" *" if is_best else "")),
            size_text(row.get("size_bytes")),
            latency_text(row.get("latency_ms")),
            plain_text(row.get("loss"), 3),
            plain_text(row.get("quality")),
            Text(options_text([str(row[name]) for name in layers], _OPTIONS_SHOWN)),
            style="bold" if is_best else None,
        )
    if len(shown) < len(rows):
        _set_caption(table, [f"{len(shown)} of {len(rows)} candidates; front.csv holds all"])
    return table


def finalists_table(finalists: Sequence[Mapping[str, Any]]) -> Table:
    """Candidates that were measured: predicted and measured cost side by side, and the verdict."""
    table = plain_table()
    table.add_column("candidate", no_wrap=True)
    for name in ("KL", "quality", "size", "latency", "predicted"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("met", justify="right", no_wrap=True)
    table.add_column("", overflow="fold", ratio=1)
    for row in finalists:
        predicted, measured = mapping(row, "predicted"), mapping(row, "measured")
        met = row.get("met")
        is_chosen = bool(row.get("chosen"))
        table.add_row(
            Text(shortened(row.get("candidate", ""), 16)),
            plain_text(predicted.get("loss"), 3),
            plain_text(measured.get("quality")),
            size_text(measured.get("size_bytes")),
            latency_text(measured.get("latency_ms")),
            latency_text(predicted.get("latency_ms")),
            _met(met if isinstance(met, bool) else None, 0.0),
            Text("chosen" if is_chosen else printable(row.get("reason") or "")),
            style="bold" if is_chosen else None,
        )
    return table


def _title(result: Mapping[str, Any]) -> Text | None:
    candidate = mapping(result, "best").get("candidate")
    return Text(f"best: {shortened(candidate, 40)}", style="table.title") if candidate else None


def _set_caption(table: Table, lines: Sequence[str]) -> None:
    """Small print; as a Text, because rich would read markup from a layer's name."""
    if lines:
        table.caption = Text("\n".join(lines), style="dim")
        table.caption_justify = "left"


def _met(met: bool | None, limit: float | None) -> Text:
    if limit is None or met is None:
        return Text(NOTHING)
    return Text("yes", style="green") if met else Text("no", style="bold red")


def _short(text: Any, width: int) -> Text:
    return Text(shortened(text, width) if text else NOTHING)


def _option_count(row: Mapping[str, Any]) -> str:
    options = row.get("options")
    if isinstance(options, (list, tuple)):
        return str(len(options))
    return count_text(options)


def _menus(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each different menu once, with the layers that share it."""
    menus: dict[tuple[str, ...], list[Any]] = {}
    for row in layers:
        options = row.get("options")
        if isinstance(options, (list, tuple)) and options:
            menus.setdefault(tuple(map(printable, options)), []).append(row.get("name"))
    return [f"options of {_names(names)}: {', '.join(menu)}" for menu, names in menus.items()]


def _reasons(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each reason for staying dense once, with the layers that it holds for."""
    reasons: dict[str, list[Any]] = {}
    for row in layers:
        if row.get("reason") and not row.get("treated"):
            reasons.setdefault(printable(row["reason"]), []).append(row.get("name"))
    return [f"left dense: {_names(names)} ({reason})" for reason, names in reasons.items()]


def _names(names: Sequence[Any]) -> str:
    shown = ", ".join(shortened(name, _NAME_WIDTH) for name in names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def fit_table(fit: Fit) -> Table:
    """How good a device's cost model is on held-out candidates, beside a FLOPs-only model."""
    held_out = sum(point.held_out for point in fit.points)
    table = plain_table(title=Text(f"cost model on {held_out} held-out candidates"))
    table.add_column("")
    for name in ("cost model", "FLOPs only"):
        table.add_column(name, justify="right")
    table.add_row("mean error", f"{fit.mape_percent:.1f} %", f"{fit.flops_mape_percent:.1f} %")
    table.add_row("Spearman", f"{fit.spearman:.3f}", f"{fit.flops_spearman:.3f}")
    table.add_row("worst error", f"{fit.worst_percent:.1f} %", NOTHING)
    table.add_row("noise floor", f"{fit.noise_floor_percent:.1f} %", NOTHING)
    table.add_row("table, seconds", f"{fit.table_seconds:.1f}", NOTHING)
    return table
