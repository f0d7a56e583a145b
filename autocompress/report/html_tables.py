"""The tables beside the figures of the HTML report."""

from __future__ import annotations

from autocompress.report.data import Row, RunData
from autocompress.report.limits import mapping
from autocompress.report.markup import Column, Raw, TableRow, table, yes_no
from autocompress.report.units import (
    NOTHING,
    compact_text,
    latency_text,
    number,
    plain_text,
    shape_text,
    short_share_text,
    signed_percent_text,
    size_text,
)


def budget_table(run: RunData) -> str:
    """Quality, size and latency: original, limit, predicted, measured."""
    columns = [
        Column("", "id"),
        Column("original", "n"),
        Column("limit", "n"),
        Column("as asked", "n"),
        Column("predicted", "n"),
        Column("measured", "n"),
        Column("error", "n", "measured against predicted"),
        Column("change", "n", "measured against the original; costs as a share of it"),
        Column("room", "n", "distance from the limit"),
        Column("met", "n"),
    ]
    rows = []
    for limit in run.limits:
        name = f"{limit.label} (binds)" if limit.binding else limit.label
        cells: list[str | Raw] = [
            name,
            limit.show(limit.original),
            limit.asked,
            limit.text or NOTHING,
            limit.predicted_shown,
            limit.show(limit.measured),
            signed_percent_text(limit.prediction_error),
            limit.change,
            limit.distance,
            yes_no(limit.met if limit.limit is not None else None),
        ]
        rows.append(TableRow(cells))
    return table(columns, rows)


def layers_table(run: RunData) -> str:
    """Every layer with its option, bytes, predicted latency and the loss it costs alone."""
    columns = [
        Column("layer", "name"),
        Column("kind and shape", "id"),
        Column("work", "n", "multiply-adds of one pass"),
        Column("option", "id"),
        Column("stored as", "name"),
        Column("runs as", "name", "operators on the runtime's own optimised graph"),
        Column("bytes", "n", "before → after"),
        Column("latency", "n", "predicted, before → after"),
        Column("loss alone", "n", "of the model when only this layer is treated"),
    ]
    rows = []
    for row in run.layers:
        cells: list[str | Raw] = [
            str(row.get("name", "")),
            f"{row.get('kind', '')} {shape_text(row.get('weight_shape'))}",
            compact_text(row.get("macs")),
            str(row.get("option") or NOTHING),
            _stored(row),
            " + ".join(map(str, row.get("operators") or ())) or NOTHING,
            _change(size_text(row.get("bytes_before")), size_text(row.get("bytes_after"))),
            _change(
                latency_text(row.get("latency_before_ms")),
                latency_text(row.get("latency_after_ms")),
            ),
            plain_text(row.get("loss_alone"), 2),
        ]
        rows.append(TableRow(cells))
    return table(columns, rows)


def finalists_table(run: RunData) -> str:
    """Candidates that were measured, and why one was chosen."""
    columns = [
        Column("candidate", "id"),
        Column("loss", "n", "predicted: distance from the original's outputs"),
        Column("quality", "n", "measured on the selection split"),
        Column("size", "n", "predicted → measured"),
        Column("latency", "n", "predicted → measured"),
        Column("range", "n", "measured latency, low to high"),
        Column("met", "n"),
        Column("remark", "text"),
    ]
    rows = []
    for row in run.finalists:
        predicted, measured = mapping(row, "predicted"), mapping(row, "measured")
        met = row.get("met")
        is_chosen = bool(row.get("chosen"))
        low, high = measured.get("latency_low_ms"), measured.get("latency_high_ms")
        sizes = predicted.get("size_bytes"), measured.get("size_bytes")
        latencies = predicted.get("latency_ms"), measured.get("latency_ms")
        remark = str(row.get("reason") or "")
        cells: list[str | Raw] = [
            str(row.get("candidate", "")),
            plain_text(predicted.get("loss"), 3),
            run.limit("quality").show(number(measured.get("quality"))),
            _change(*map(size_text, sizes)),
            _change(*map(latency_text, latencies)),
            f"{latency_text(low)} – {latency_text(high)}" if number(low) else NOTHING,
            yes_no(met if isinstance(met, bool) else None),
            "; ".join(filter(None, ("chosen" if is_chosen else "", remark))),
        ]
        rows.append(TableRow(cells, is_best=is_chosen))
    return table(columns, rows)


def _change(before: str, after: str) -> str:
    return NOTHING if before == after == NOTHING else f"{before} → {after}"


def _stored(row: Row) -> str:
    """Bits, zeros, rank, channels and activations in words, or why the layer stays dense."""
    if row.get("reason"):
        return str(row["reason"])
    bits, zeros = number(row.get("bits")), number(row.get("sparsity"))
    rank, core = number(row.get("rank")), number(row.get("tucker"))
    parts = [
        f"{bits:g} bit" if bits else "",
        f"{short_share_text(zeros)} zero" if zeros else "",
        f"{short_share_text(rank)} rank" if rank is not None and rank < 1 else "",
        f"{short_share_text(core)} Tucker core" if core is not None and core < 1 else "",
        *(
            f"{short_share_text(share)} of the {side}"
            for side in ("inputs", "outputs")
            if (share := number(row.get(side))) is not None and share < 1
        ),
        {"int8": "int8 activations", "dynamic": "packed weights"}.get(
            str(row.get("activations")), ""
        ),
    ]
    return ", ".join(filter(None, parts)) or NOTHING
