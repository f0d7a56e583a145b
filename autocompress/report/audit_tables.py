"""How far to trust the run, in a table that says how to read each figure."""

from __future__ import annotations

from typing import Any

from autocompress.report.data import RunData
from autocompress.report.limits import mapping
from autocompress.report.markup import Column, TableRow, table
from autocompress.report.units import NOTHING, count_text, plain_text, share_text

# Key of `audit` in result.json: name, how to read it, how to show it.
_FIGURES = {
    "latency_mape": ("Latency: mean error of the cost model", "on candidates it had not seen"),
    "latency_spearman": ("Latency: order of the cost model", "Spearman: 1 is the clock's order"),
    "latency_error_percent": ("Latency: error for the chosen model", "predicted to measured"),
    "size_error_percent": ("Size: error for the chosen model", "predicted to the file's bytes"),
    "proxy_spearman": (
        "Quality: order of the loss",
        "Spearman with your metric: 1 is the same order; near 0 the metric hardly differs or "
        "the loss misleads",
    ),
    "proxy_regret": (
        "Quality: lost by trusting the loss",
        "best quality seen, less that of the candidate with the least loss",
    ),
    "proxy_tolerance": ("Quality: loss that tells nothing", "less than this is within the noise"),
    "promotions": ("Candidates promoted to confirmation", "because the loss misled"),
    "promoted": ("Candidates promoted to confirmation", "because the loss misled"),
    "agreement": (
        "File and module agree",
        "share of test decisions in which the written file and the torch module say the same",
    ),
    "agreement_examples": ("Decisions compared", "for the line above"),
}
_PERCENT = ("latency_mape", "latency_error_percent", "size_error_percent")


def audit_table(run: RunData) -> str:
    """Every known figure with its reading; empty without any."""
    latency = run.latency
    rows = [
        (
            "Latency: mean error of the cost model",
            _percent(latency.get("mape_percent")),
            "on candidates it had not seen",
        ),
        (
            "Latency: noise of the clock",
            _percent(latency.get("noise_floor_percent")),
            "no model can err by less",
        ),
        (
            "Latency: order of the cost model",
            plain_text(latency.get("spearman"), 3),
            "Spearman: 1 is the clock's order",
        ),
        (
            "Latency: order by multiply-adds",
            plain_text(latency.get("flops_spearman"), 3),
            "what counting operations would have said instead",
        ),
    ]
    said = {name for name, value, _ in rows if value != NOTHING}
    for key, value in mapping(run.result, "audit").items():
        name, reading = _FIGURES.get(key, (str(key).replace("_", " "), ""))
        if key != "warning" and name not in said:
            rows.append((name, _shown(key, value), reading))
    shown = [TableRow(row) for row in rows if row[1] != NOTHING]
    columns = [Column("figure", "id"), Column("value", "n"), Column("how to read it", "text")]
    return table(columns, shown) if shown else ""


def _shown(key: str, value: Any) -> str:
    if key in _PERCENT:
        return _percent(value)
    if key == "agreement":
        return share_text(value, 2)
    if key == "agreement_examples":
        return count_text(value)
    return plain_text(value, 3)


def _percent(value: Any) -> str:
    text = plain_text(value, 3)
    return text if text == NOTHING else f"{text} %"
