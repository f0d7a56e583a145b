"""The report as one offline HTML file: a plain-language top, then figures beside tables."""

from __future__ import annotations

from pathlib import Path

from plotly.offline import get_plotlyjs

from autocompress.files import write_bytes
from autocompress.report.audit_tables import audit_table
from autocompress.report.choose_tables import (
    candidates_table,
    choose_text,
    picked_panel,
    picks_table,
)
from autocompress.report.data import RunData, load_run
from autocompress.report.figures import FIGURES
from autocompress.report.html_tables import finalists_table, layers_table
from autocompress.report.limits import mapping
from autocompress.report.markup import bullets, escaped, folded, pairs_table
from autocompress.report.notes import sorted_notes
from autocompress.report.page import POLICY, STYLE
from autocompress.report.provenance_tables import provenance
from autocompress.report.script import SCRIPT
from autocompress.report.search_figures import MOST_EVALUATIONS
from autocompress.report.search_tables import moves_table, search_facts
from autocompress.report.top import study_name, top
from autocompress.report.words import words_list

_SECTIONS = (
    ("front", "What to choose"),
    ("finalists", "Finalists, measured"),
    ("layers", "Layers: what was done, and what it saved"),
    ("search", "How the search went"),
    ("audit", "How good the predictions are"),
    ("provenance", "Provenance"),
    ("words", "Words used here"),
)


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
    title = escaped(f"{study_name(run)} – autocompress report")
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
        f"<header>{top(run)}<nav>{links}</nav></header>\n{body}\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _front(run: RunData) -> str:
    chosen = picks_table(run)
    return (
        (choose_text(run) + chosen if chosen else "")
        + _figures(run, "front")
        + (picked_panel(run) if len(run.front) or run.finalists else "")
        + _figures(run, "speed")
        + (f"<h3>Every point to choose from</h3>{candidates_table(run)}" if chosen else "")
    )


def _finalists(run: RunData) -> str:
    lead = (
        "<p>At the end the search's best candidates are measured: the file's bytes, the clock "
        "beside the original, and your metric on the selection split. The winner then meets the "
        "test split, once; that figure stands at the top.</p>"
    )
    figures = _figures(run, "measured", "measured-speed")
    return lead + figures + (finalists_table(run) if run.finalists else "")


def _layers(run: RunData) -> str:
    lead = (
        "<p>What the chosen model does to each layer of the original, which layers mind it, and "
        "where bytes and time went.</p>"
    )
    figures = lead + _figures(run, "heat", "sensitivity", "bytes", "times", "shares")
    left_out = sorted_notes(run).left_out
    notes = folded(
        f"What was not offered to the search, and why ({len(left_out)})", bullets(left_out)
    )
    return figures + (layers_table(run) if run.layers else "") + (notes if left_out else "")


def _search(run: RunData) -> str:
    facts = search_facts(run)
    lead = (
        "<p>The search proposes candidates, predicts their size and latency, and measures their "
        "loss on a growing part of the inputs: what falls behind is dropped early. It pays in "
        "full passes of the model.</p>"
    )
    if len(run.history) > MOST_EVALUATIONS:
        count = f"{MOST_EVALUATIONS} of {len(run.history)} candidates are drawn."
        lead += f"<p>{escaped(count)}</p>"
    return (
        lead
        + _figures(run, "progress", "hypervolume")
        + (pairs_table(facts) if facts else "")
        + (f"<h3>What each move earned</h3>{moves_table(run)}" if run.moves else "")
    )


def _audit(run: RunData) -> str:
    warning = mapping(run.result, "audit").get("warning")
    note = f'<div class="note">{escaped(warning)}</div>' if warning else ""
    lead = (
        "<p>The search believes its predictions; here they are held against what was measured, "
        "so that you can tell how far to trust the points that were not.</p>"
    )
    return lead + note + _figures(run, "latency", "size", "proxy", "model") + audit_table(run)


def _words(run: RunData) -> str:
    del run
    return words_list()


def _figures(run: RunData, *keys: str) -> str:
    return f'<div class="grid">{"".join(_figure(run, key) for key in keys)}</div>'


def _figure(run: RunData, key: str) -> str:
    spec = FIGURES[key]
    drawing = spec.draw(run)
    width = "wide" if spec.is_wide else ""
    head = f"<h3>{escaped(spec.title)}</h3>"
    if drawing is None:
        text = f"Nothing to draw: needs {spec.needs}."
        empty = f'<figure class="{width}">{head}<div class="empty">{escaped(text)}</div></figure>'
        return "" if spec.is_optional else empty
    # "<" is the only character that could end a script element.
    data = drawing.to_json().replace("<", "\\u003c")
    least = f' style="min-width:{spec.least_width}px"' if spec.least_width else ""
    return (
        f'<figure class="{width}">{head}<figcaption>{escaped(spec.caption)}</figcaption>'
        f'<div class="plot"><div id="figure-{key}" data-figure role="img"{least} '
        f'aria-label="{escaped(spec.title)}"></div></div>'
        f'<script type="application/json" id="figure-{key}-data">{data}</script></figure>'
    )


_SECTION_BODIES = {
    "front": _front,
    "finalists": _finalists,
    "layers": _layers,
    "search": _search,
    "audit": _audit,
    "provenance": provenance,
    "words": _words,
}
