from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from autocompress.report.check_table import checks_table, verdict
from autocompress.study.finding import Findings


def rendered(findings: Findings) -> str:
    console = Console(width=80, record=True, file=StringIO())
    console.print(checks_table(findings))
    return console.export_text()


def test_every_finding_has_a_row_and_markup_is_text() -> None:
    findings = Findings()
    findings.ok("model", "fine")
    findings.warn("data leaks", "3 of [red]9[/red]\x1b[2J " + "long " * 40)
    findings.fail("evaluate", "raised")
    text = rendered(findings)
    for words in ("model", "ok", "data leaks", "warning", "[red]9[/red]", "evaluate", "error"):
        assert words in text
    assert "\x1b" not in text
    assert text.count("long") == 40


@pytest.mark.parametrize(
    ("states", "words", "style"),
    [
        ([], "nothing wrong was found: autocompress run a/b", "green"),
        (["ok", "warning"], "0 errors, 1 warning: autocompress run a/b", "yellow"),
        (["error", "warning", "warning", "error"], "2 errors, 2 warnings: a run", "bold red"),
    ],
)
def test_verdict(states: list[Any], words: str, style: str) -> None:
    findings = Findings()
    add = {"ok": findings.ok, "warning": findings.warn, "error": findings.fail}
    for state in states:
        add[state]("a", "b")
    text, said = verdict(findings, Path("a/b"))
    assert text.startswith(words)
    assert said == style
