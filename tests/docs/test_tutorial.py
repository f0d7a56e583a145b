"""The tutorial, done as it is printed: in an empty folder, with the wheel."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def steps(text: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines printed below it."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def fixed(line: str) -> str:
    """What of a printed line is the same on every machine; empty where figures are in it."""
    return "" if line == "..." or re.search(r"\d", line) else " ".join(line.split())


def test_steps_are_read_as_printed() -> None:
    assert steps("$ a b\nx  y\n...\n$ c\n") == [("a b", ["x  y", "..."]), ("c", [])]
    assert [fixed(line) for line in ("x  y", "...", "3 kB")] == ["x y", "", ""]


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(
    installed_command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    commands = 0
    for kind, title, text in _BLOCK.findall(TUTORIAL.read_text()):
        if title:
            (tmp_path / title).write_text(text)
        if kind != "console":
            continue
        for command, printed in steps(text):
            # Warnings would mislead a newcomer who reads along.
            done = installed_command(command, tmp_path, COLUMNS="100", BROWSER="true")
            assert done.returncode == 0, f"$ {command}\n{done.stdout}"
            assert "Warning" not in done.stdout, f"$ {command}\n{done.stdout}"
            said = " ".join(done.stdout.split())
            for line in printed:
                assert fixed(line) in said, f"$ {command}\nnever said {line!r}:\n{done.stdout}"
            commands += 1
    assert commands >= 9
    names = {path.name for path in (tmp_path / "runs" / "mine").iterdir()}
    assert {"model.acz", "model.onnx", "report.html", "result.json", "plan.json"} <= names
