"""The top of the report: verdict, the three figures, and what was asked, came out, was done."""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.report.commands import begun_with
from autocompress.report.data import RunData
from autocompress.report.html_tables import budget_table
from autocompress.report.limits import Limit, is_estimated, mapping
from autocompress.report.markup import bullets, command, escaped, tile
from autocompress.report.notes import sorted_notes
from autocompress.report.story import done_lines, next_steps
from autocompress.report.summary import asked_lines, outcome_lines, verdict
from autocompress.report.units import plain_text, printable, share_text


def study_name(run: RunData) -> str:
    """Name of the study, or of the directory where it is not known."""
    return printable(run.result.get("study") or run.provenance.get("study") or run.path.name)


def top(run: RunData) -> str:
    """Everything above the figures."""
    found = verdict(run)
    parts = [
        f"<h1>{escaped(study_name(run))}</h1>",
        f'<p class="soft">{escaped(_about(run))}</p>',
        f'<div class="verdict {found.state}">{escaped(found.headline)}</div>',
        _tiles(run),
        f'<div class="story">{_story(run)}</div>',
    ]
    if run.result:
        parts.append(budget_table(run))
    if run.missing:
        names = ", ".join(run.missing)
        text = f"Not there (yet): {names}. What depends on it is left out below."
        parts.append(f'<div class="note">{escaped(text)}</div>')
    if notes := sorted_notes(run).telling:
        parts.append(f'<div class="note"><b>Worth knowing</b>{bullets(notes, "")}</div>')
    return "".join(parts)


def _about(run: RunData) -> str:
    device = mapping(run.result, "device").get("name")
    known = " (estimated from its data sheet)" if is_estimated(run.result) else ""
    seed = plain_text(run.result.get("seed", run.provenance.get("seed")), 12)
    parts = ("autocompress report", str(run.path), f"device {device}{known}" if device else "")
    return " · ".join(filter(None, (*parts, f"seed {seed}")))


def _tiles(run: RunData) -> str:
    found = [_tile(limit) for limit in run.limits if limit.measured is not None]
    return f'<div class="tiles">{"".join(found)}</div>' if run.best and found else ""


def _tile(limit: Limit) -> str:
    below = []
    if limit.original is not None:
        was = limit.show(limit.original)
        is_cost = limit.name != "quality" and limit.original and limit.measured
        share = share_text((limit.measured or 0.0) / limit.original) if is_cost else ""
        below.append(f"{share} of {was}" if share else f"was {was}")
    if limit.limit is not None:
        below.append(f"limit {limit.show(limit.limit)}")
    kind = "" if limit.met is None else "yes" if limit.met else "no"
    return tile(limit.label, limit.show(limit.measured), ", ".join(below), kind)


def _story(run: RunData) -> str:
    asked = [line.removeprefix("Asked: ") for line in asked_lines(run)]
    if not asked and not run.result:
        asked = begun_with(run) or ["Not known yet."]
    steps = "".join(
        f"<p>{escaped(step.text)}</p>{command(step.line) if step.line else ''}"
        for step in next_steps(run)
    )
    told = _block("What was asked", asked or ["No limits."])
    told += _block("What came out", outcome_lines(run))
    done = _block("What was done", done_lines(run))
    done += f'<h3>What to do next</h3><div class="steps">{steps}</div>'
    return f"<div>{told}</div><div>{done}</div>"


def _block(title: str, lines: Sequence[str]) -> str:
    return f"<h3>{escaped(title)}</h3>{bullets(lines)}" if lines else ""
