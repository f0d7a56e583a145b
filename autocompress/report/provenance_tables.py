"""Where the run came from: call, device, versions, times and files, each in a small table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autocompress.report.commands import report_text, run_text
from autocompress.report.data import RunData
from autocompress.report.limits import mapping
from autocompress.report.markup import command, escaped, pairs_table
from autocompress.report.units import number, plain_text, seconds_text, size_text

_GROUPS = (("version of ", "Versions"), ("device ", "Device"), ("seconds of ", "Time by stage"))
_NAMES = {"content": "content of model and inputs"}

Pairs = list[tuple[str, str]]


def provenance(run: RunData) -> str:
    """All of it, with the calls that make the run and this page again."""
    groups: dict[str, Pairs] = {"Run": [], **{title: [] for _, title in _GROUPS}}
    for key, value in run.provenance.items():
        title, name = _placed(str(key))
        groups[title].append((_NAMES.get(name, name), _flat(value)))
    if "evaluations" in run.result:
        groups["Run"].append(("candidates tried", plain_text(run.result["evaluations"], 8)))
    known = {name for name, _ in groups["Versions"]}
    versions = mapping(run.result, "versions")
    groups["Versions"] += [(name, _flat(v)) for name, v in versions.items() if name not in known]
    if seconds := mapping(run.result, "seconds"):
        groups["Time by stage"] = [(name, seconds_text(value)) for name, value in seconds.items()]
    groups["Files"] = [(name, size_text(size)) for name, size in run.files.items()]
    tables = "".join(
        f"<div><h3>{escaped(title)}</h3>{pairs_table(rows)}</div>"
        for title, rows in groups.items()
        if rows
    )
    again = run_text(run)
    made = f'<p class="soft">Made by</p>{command(again)}' if again else ""
    written = f'<p class="soft">This page again</p>{command(report_text(run))}'
    return f'<div class="grid">{tables}</div>{made}{written}'


def _placed(key: str) -> tuple[str, str]:
    for prefix, title in _GROUPS:
        if key.startswith(prefix):
            return title, key.removeprefix(prefix)
    return "Run", key


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items())
    if number(value) is not None:
        return plain_text(value, 8)
    # A record that was written as text.
    return str(value).strip("{}").replace("'", "")
