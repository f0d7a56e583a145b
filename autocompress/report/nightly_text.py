"""A night as Markdown, and as JUnit XML for whatever shows test results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from autocompress.report.units import (
    NOTHING,
    energy_text,
    latency_text,
    number,
    plain_text,
    printable,
    seconds_text,
    share_text,
    size_text,
)
from autocompress.study.nightly import Night
from autocompress.study.verdict import FAILED, NEEDED, WORSE, headline

MARKS = {"better": "better", "same": "same", "worse": "**worse**", FAILED: "**failed**"}


def night_markdown(night: Night) -> str:
    """`nightly.md`: a table of all studies, then what there is to say of each."""
    counts = _counts(night.studies)
    lines = [f"# Night {night.name}", "", counts, ""]
    head = (
        "study",
        "verdict",
        "quality",
        "size",
        "latency",
        "of the original's",
        "budget",
        "time",
    )
    lines += [_row(head), _row(["---"] * len(head))]
    for study in night.studies:
        found = study["measured"]
        lines.append(
            _row(
                [
                    study["study"],
                    MARKS.get(study["verdict"], study["verdict"]),
                    quality_text(found.get("quality"), found.get("metric_unit", "")),
                    size_text(found.get("size_bytes")),
                    latency_text(found.get("latency_ms")),
                    share_text(found.get("latency_ratio")),
                    _budget(study),
                    seconds_text(study["seconds"]),
                ]
            )
        )
    for study in night.studies:
        lines += ["", f"## {_safe(study['study'])}", "", f"{_safe(headline(study))}", ""]
        lines += [f"- {_safe(note)}" for note in study["notes"]]
        lines += [f"- {_safe(change_text(row))}" for row in study["changed"]]
        if study["figures"]:
            rows = [_row(("figure", "before", "now", "noise band", "verdict", ""))]
            rows.append(_row(["---"] * 6))
            rows += [_row(figure_cells(figure)) for figure in study["figures"]]
            lines += ["", *rows]
        if study["compared_with"]:
            lines += ["", f"Compared with `{_safe(study['compared_with'])}`."]
    return "\n".join(lines) + "\n"


def night_junit(night: Night) -> str:
    """`junit.xml`: a test case a study; a regression is a failure, a study that failed an error,
    one that asks for a new baseline is skipped."""
    names = [study["verdict"] for study in night.studies if not study["accepted"]]
    suite = ElementTree.Element(
        "testsuite",
        name="autocompress nightly",
        tests=str(len(night.studies)),
        failures=str(names.count(WORSE)),
        errors=str(names.count(FAILED)),
        skipped=str(names.count(NEEDED)),
        time=f"{sum(study['seconds'] for study in night.studies):.3f}",
        timestamp=night.begun,
    )
    kinds = {WORSE: "failure", FAILED: "error", NEEDED: "skipped"}
    for study in night.studies:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname="autocompress.nightly",
            name=_xml(study["study"]),
            time=f"{study['seconds']:.3f}",
        )
        text = _xml(headline(study))
        kind = kinds.get(study["verdict"])
        if kind and not study["accepted"]:
            ElementTree.SubElement(case, kind, message=text, type=study["verdict"]).text = text
        figures = [" | ".join(figure_cells(figure)) for figure in study["figures"]]
        output = ElementTree.SubElement(case, "system-out")
        output.text = _xml("\n".join([headline(study), *study["notes"], *figures]))
    whole = ElementTree.Element("testsuites")
    whole.append(suite)
    ElementTree.indent(whole)
    return ElementTree.tostring(whole, encoding="unicode", xml_declaration=True) + "\n"


def figure_cells(figure: Mapping[str, Any]) -> list[str]:
    """Name, before, now, band, verdict and note of a figure, as text."""
    unit = figure["unit"]
    band = value_text(figure["band"], unit) if figure["band"] else NOTHING
    notes = [figure["note"], figure["basis"] if figure["band"] else ""]
    return [
        figure["name"],
        value_text(figure["before"], unit),
        value_text(figure["after"], unit),
        band if band == NOTHING else f"± {band}",
        figure["grade"] or NOTHING,
        "; ".join(filter(None, notes)),
    ]


def value_text(value: Any, unit: str) -> str:
    """A figure in its unit; a share without one with four digits."""
    if number(value) is None:
        return NOTHING
    shown = {"B": size_text, "ms": latency_text, "mJ": energy_text}.get(unit)
    return shown(value) if shown else quality_text(value, unit)


def quality_text(value: Any, unit: str) -> str:
    """The user's metric in its unit."""
    text = plain_text(value)
    return text if text == NOTHING else f"{text} {printable(unit)}".rstrip()


def change_text(row: Mapping[str, Any]) -> str:
    """What of a study's file has changed."""
    return f"{row['key']}: {_plain(row['before'])} before, {_plain(row['after'])} now"


def _plain(value: Any) -> str:
    return "nothing" if value in (None, "") else printable(value)


def _counts(studies: Sequence[Mapping[str, Any]]) -> str:
    verdicts = [study["verdict"] for study in studies]
    parts = [f"{verdicts.count(name)} {name}" for name in dict.fromkeys(verdicts)]
    return f"{len(studies)} {'study' if len(studies) == 1 else 'studies'}: {', '.join(parts)}."


def _budget(study: Mapping[str, Any]) -> str:
    if study["budget_met"] is None:
        return NOTHING
    if study["budget_met"]:
        return "met"
    return f"not met: {study['binding']} binds" if study["binding"] else "not met"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_safe(cell) for cell in cells)} |"


def _safe(text: Any) -> str:
    """Text that ends no cell of a table and opens no tag; our own marks of emphasis stay."""
    return printable(text).replace("|", "\\|").replace("<", "&lt;")


def _xml(text: str) -> str:
    """Text that XML 1.0 can hold: lines of printable characters."""
    return "\n".join(printable(line) for line in text.split("\n"))
