"""How the search went: losses by origin, the best so far, and the hypervolume."""

from __future__ import annotations

import plotly.graph_objects as go

from autocompress.report.data import Row, RunData
from autocompress.report.drawing import (
    ACCENT,
    FAINT,
    GOOD,
    SERIES,
    WARM,
    blank,
    hover,
    log_axis,
    safe,
)
from autocompress.report.thin import thinned
from autocompress.report.units import latency_text, number, plain_text, seconds_text, size_text

MOST_EVALUATIONS = 600
_ORIGINS = SERIES[:2] + SERIES[3:8]


def drawn_history(run: RunData) -> list[Row]:
    """The evaluations that are drawn: all, or as many as a page can hold, the knee among them."""
    return thinned(
        run.history,
        MOST_EVALUATIONS,
        lambda row: bool(run.knee) and row.get("candidate") == run.knee,
    )


def progress_figure(run: RunData) -> go.Figure | None:
    """Loss of every evaluation: filled within the limits, hollow beyond; the line is the best.

    Crosses were dropped by the race: their loss is an estimate from some of the inputs.
    """
    rows = [row for row in drawn_history(run) if (number(row.get("loss")) or 0) > 0]
    if not rows:
        return None
    figure = blank(height=380)
    origins = list(dict.fromkeys(str(row.get("origin") or "search") for row in rows))
    whole = [row for row in rows if row.get("complete", True)]
    dropped = [row for row in rows if not row.get("complete", True)]
    groups = [
        ("dropped by the race", FAINT, "x-thin-open", dropped),
        ("beyond the limits", FAINT, "circle-open", [r for r in whole if not _fits(r)]),
    ]
    for index, origin in enumerate(origins):
        mine = [r for r in whole if _fits(r) and str(r.get("origin") or "search") == origin]
        groups.append((safe(origin), _ORIGINS[index % len(_ORIGINS)], "circle", mine))
    for name, colour, symbol, shown in groups:
        if not shown:
            continue
        figure.add_scatter(
            x=[row.get("evaluation") for row in shown],
            y=[row["loss"] for row in shown],
            mode="markers",
            name=name,
            marker={"color": colour, "symbol": symbol, "size": 7},
            hovertext=[
                hover(
                    [
                        f"evaluation {plain_text(row.get('evaluation'))}, "
                        f"{safe(row.get('origin') or '')}",
                        f"loss {plain_text(row['loss'], 3)}, {size_text(row.get('size_bytes'))}, "
                        f"{latency_text(row.get('latency_ms'))}",
                        f"after {seconds_text(row.get('seconds'))}",
                    ]
                )
                for row in shown
            ],
            hoverinfo="text",
        )
    best = [row for row in rows if (number(row.get("best_loss")) or 0) > 0]
    if best:
        figure.add_scatter(
            x=[row.get("evaluation") for row in best],
            y=[row["best_loss"] for row in best],
            mode="lines",
            name="best so far",
            line={"color": GOOD, "width": 2.5, "shape": "hv"},
            hovertemplate="best %{y:.3g}<extra></extra>",
        )
    figure.update_xaxes(title_text="evaluation")
    log_axis("y", figure, "loss, lower is better", [row["loss"] for row in rows])
    return figure


def hypervolume_figure(run: RunData) -> go.Figure | None:
    """Volume that the front dominates over full passes: flat means that nothing new comes.

    Runs that did not count passes are drawn over evaluations.  The knee of the front stands where
    it was found.
    """
    rows = [row for row in drawn_history(run) if number(row.get("hypervolume")) is not None]
    if not rows:
        return None
    are_counted = all(number(row.get("passes")) is not None for row in rows)
    axis = "passes" if are_counted else "evaluation"
    figure = blank(height=380)
    figure.add_scatter(
        x=[row.get(axis) for row in rows],
        y=[row["hypervolume"] for row in rows],
        mode="lines",
        line={"color": ACCENT, "width": 2.5, "shape": "hv"},
        showlegend=False,
        hovertext=[
            hover(
                [
                    f"hypervolume {plain_text(row['hypervolume'], 4)}",
                    f"evaluation {plain_text(row.get('evaluation'))}"
                    + (f", {plain_text(row['passes'], 4)} passes" if are_counted else ""),
                    f"after {seconds_text(row.get('seconds'))}",
                ]
            )
            for row in rows
        ],
        hoverinfo="text",
    )
    knee = next((row for row in rows if run.knee and row.get("candidate") == run.knee), None)
    if knee:
        figure.add_scatter(
            x=[knee.get(axis)],
            y=[knee["hypervolume"]],
            mode="markers+text",
            marker={"color": WARM, "size": 12, "symbol": "star"},
            text=[f"knee {safe(run.knee)}"],
            textposition="bottom right",
            showlegend=False,
            hovertext=[
                hover(
                    [
                        f"<b>{safe(run.knee)}</b>, the knee of the front",
                        f"loss {plain_text(knee.get('loss'), 3)}, "
                        f"{size_text(knee.get('size_bytes'))}, "
                        f"{latency_text(knee.get('latency_ms'))}",
                    ]
                )
            ],
            hoverinfo="text",
        )
    title = "full passes over the search inputs" if are_counted else "evaluation"
    figure.update_xaxes(title_text=title, rangemode="tozero")
    figure.update_yaxes(title_text="hypervolume, higher is better", rangemode="tozero")
    return figure


def _fits(row: object) -> bool:
    return bool(row.get("feasible", True)) if isinstance(row, dict) else False
