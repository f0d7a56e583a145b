"""The report as one offline HTML file: a plain-language top, then figures beside tables."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from autocompress.files import write_bytes
from autocompress.report.data import RunData, load_run
from autocompress.report.figures import FIGURES
from autocompress.report.html_tables import (
    budget_table,
    candidates_table,
    export_command,
    finalists_table,
    layers_table,
)
from autocompress.report.limits import is_estimated, mapping
from autocompress.report.markup import bullets, command, escaped, pairs_table
from autocompress.report.page import POLICY, SCRIPT, STYLE
from autocompress.report.search_tables import moves_table, search_facts
from autocompress.report.summary import sentences, verdict
from autocompress.report.units import plain_text, printable, seconds_text, size_text

_SECTIONS = (
    ("front", "The front and its candidates"),
    ("finalists", "Finalists, measured"),
    ("layers", "Layers"),
    ("search", "The search"),
    ("audit", "How good the predictions are"),
    ("provenance", "Provenance"),
)
_AUDIT_NAMES = {
    "proxy_spearman": "Proxy: Spearman with the quality",
    "proxy_regret": "Proxy: quality lost by trusting it",
    "promotions": "Candidates promoted to confirmation because the proxy misled",
    "promoted": "Candidates promoted to confirmation because the proxy misled",
    "latency_mape": "Cost model: mean error on held-out candidates, %",
}


def write_report(run_dir: Path | str) -> Path:
    """Writes `report.html` into the run directory; replaces an older one in one step.

    Args:
        run_dir: The run directory; what it lacks is named in the report.

    Returns:
        Path of the report.

    Raises:
        StorageError: If the directory does not exist, a file in it is damaged, or the report
            cannot be written.
    """
    run = load_run(run_dir)
    target = run.path / "report.html"
    write_bytes(target, report_html(run).encode())
    return target


def report_html(run: RunData) -> str:
    """The whole page as text, under 6 MB for any number of layers that people look at."""
    title = escaped(f"{_study(run)} – autocompress report")
    links = "".join(f'<a href="#{key}">{escaped(name)}</a>' for key, name in _SECTIONS)
    body = "".join(
        f'<section id="{key}"><h2>{escaped(name)}</h2>{_SECTION_BODIES[key](run)}</section>'
        for key, name in _SECTIONS
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n"
        f"<script>{get_plotlyjs()}</script>\n</head>\n<body>\n<main>\n"
        f"<header>{_top(run)}<nav>{links}</nav></header>\n{body}\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _top(run: RunData) -> str:
    found = verdict(run)
    device = mapping(run.result, "device").get("name")
    known = " (estimated from its data sheet)" if is_estimated(run.result) else ""
    about = [str(run.path), f"device {device}{known}" if device else "", f"seed {_seed(run)}"]
    parts = [
        f"<h1>{escaped(_study(run))}</h1>",
        f'<p class="soft">{escaped(" · ".join(filter(None, about)))}</p>',
        f'<div class="verdict {found.state}">{escaped(found.headline)}</div>',
        bullets(sentences(run)),
    ]
    if run.result:
        parts.append(budget_table(run))
    if run.missing:
        names = ", ".join(run.missing)
        text = f"Not there (yet): {names}. What depends on it is left out below."
        parts.append(f'<div class="note">{escaped(text)}</div>')
    if run.notes:
        parts.append(f'<div class="note"><b>Worth knowing</b>{bullets(run.notes, "")}</div>')
    if run.best_id:
        parts.append('<p class="soft">Write the winner, or any other point of the front:</p>')
        parts.append(command(export_command(run, run.best_id)))
    return "".join(parts)


def _front(run: RunData) -> str:
    tables = candidates_table(run) if len(run.front) else ""
    return _figures(run, "front") + tables


def _finalists(run: RunData) -> str:
    return _figures(run, "measured") + (finalists_table(run) if run.finalists else "")


def _layers(run: RunData) -> str:
    figures = _figures(run, "choice", "bytes", "shares")
    return figures + (layers_table(run) if run.layers else "")


def _search(run: RunData) -> str:
    facts = search_facts(run)
    return (
        _figures(run, "progress", "hypervolume")
        + (pairs_table(facts) if facts else "")
        + (moves_table(run) if run.moves else "")
    )


def _audit(run: RunData) -> str:
    latency = run.latency
    facts = [
        ("Cost model: mean error on held-out candidates", _percent(latency.get("mape_percent"))),
        ("Noise floor of the clock", _percent(latency.get("noise_floor_percent"))),
        ("Cost model: Spearman with the clock", plain_text(latency.get("spearman"), 3)),
        ("Multiply-adds: Spearman with the clock", plain_text(latency.get("flops_spearman"), 3)),
    ]
    facts += [
        (_AUDIT_NAMES.get(key, key.replace("_", " ")), plain_text(value, 3))
        for key, value in mapping(run.result, "audit").items()
        # The same error stands above, with its unit.
        if (key != "latency_mape" or "mape_percent" not in latency) and key != "warning"
    ]
    shown = [(name, value) for name, value in facts if value != "–"]
    figures = _figures(run, "latency", "size", "proxy", "model")
    warning = mapping(run.result, "audit").get("warning")
    note = f'<div class="note">{escaped(warning)}</div>' if warning else ""
    return note + figures + (pairs_table(shown) if shown else "")


def _provenance(run: RunData) -> str:
    facts = [(str(key), _flat(value)) for key, value in run.provenance.items()]
    versions = mapping(run.result, "versions")
    facts += [
        (f"version of {k}", _flat(v)) for k, v in versions.items() if k not in run.provenance
    ]
    if "evaluations" in run.result:
        facts.append(("evaluations", plain_text(run.result["evaluations"], 8)))
    seconds = mapping(run.result, "seconds")
    stages = [(f"time: {stage}", seconds_text(value)) for stage, value in seconds.items()]
    files = [(f"file: {name}", size_text(size)) for name, size in run.files.items()]
    rows = [*facts, *stages, *files]
    again = f"autocompress report {shlex.quote(str(run.path))}"
    return (pairs_table(rows) if rows else "") + command(again)


def _figures(run: RunData, *keys: str) -> str:
    return f'<div class="grid">{"".join(_figure(run, key) for key in keys)}</div>'


def _figure(run: RunData, key: str) -> str:
    spec = FIGURES[key]
    drawing = spec.draw(run)
    width = "wide" if spec.is_wide else ""
    head = f"<h3>{escaped(spec.title)}</h3>"
    if drawing is None:
        text = f"Nothing to draw: needs {spec.needs}."
        return f'<figure class="{width}">{head}<div class="empty">{escaped(text)}</div></figure>'
    # "<" is the only character that could end a script element.
    data = drawing.to_json().replace("<", "\\u003c")
    return (
        f'<figure class="{width}">{head}<figcaption>{escaped(spec.caption)}</figcaption>'
        f'<div id="figure-{key}" data-figure role="img" aria-label="{escaped(spec.title)}"></div>'
        f'<script type="application/json" id="figure-{key}-data">{data}</script></figure>'
    )


def _study(run: RunData) -> str:
    return printable(run.result.get("study") or run.provenance.get("study") or run.path.name)


def _seed(run: RunData) -> str:
    return plain_text(run.result.get("seed", run.provenance.get("seed")), 12)


def _percent(value: Any) -> str:
    text = plain_text(value, 3)
    return text if text == "–" else f"{text} %"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items())
    return plain_text(value, 8) if isinstance(value, (int, float)) else str(value)


_SECTION_BODIES = {
    "front": _front,
    "finalists": _finalists,
    "layers": _layers,
    "search": _search,
    "audit": _audit,
    "provenance": _provenance,
}
