"""What the pages name is there: links, files, commands with their options, keys of TOML files."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from autocompress.cli import app
from autocompress.hardware.sheet import DataSheet
from autocompress.objective.budget import Metric, budget_from, parse_budget
from autocompress.objective.goal import parse_goal
from autocompress.study.config import StudyFile
from autocompress.toml import read

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READMES = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "search_spaces/README.md",
        "objectives/README.md",
        "objectives/devices/README.md",
        "studies/README.md",
        "benchmarks/README.md",
    )
]
SCHEMAS = {"study.toml": StudyFile, "board.toml": DataSheet}
# Files of a run, of a night or of the reader's own; everything else that is named must be there.
ELSEWHERE = ("runs/", "mine/", "RUN/", "OUT/", "STUDY/", "my_", "/", "~", "dist/", "recovered/")
_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4}(\S.*)$", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_COMMAND = re.compile(r"(?<![\w/.\-])(?:\S*/)?autocompress ([a-z][a-z-]*)\b([^|#;&\n]*)")
_BENCHMARK = re.compile(r"benchmarks/(\w+)\.py\b([^|#;&\n]*)")
_OPTION = re.compile(r"(?<![\w-])(--?[a-z][a-z-]*)")
_FILE = re.compile(r"[\w./-]*[\w-]\.(?:py|md|toml|yml)")

each_page = pytest.mark.parametrize(
    "page", [*PAGES, *READMES], ids=lambda path: path.relative_to(ROOT).as_posix()
)


def prose(page: Path) -> str:
    """A page without its fenced code."""
    return _FENCE.sub("", page.read_text())


def code(page: Path) -> Iterator[str]:
    """Code of a page: lines of blocks, and what stands between backticks."""
    text = page.read_text()
    for kind, _, block in _FENCE.findall(text):
        if kind not in ("python", "toml"):
            yield from block.splitlines()
    yield from _INDENTED.findall(prose(page))
    yield from _SPAN.findall(prose(page))


@cache
def commands() -> dict[str, set[str]]:
    """Command to its options."""
    group: Any = typer.main.get_command(app)
    return {
        name: {text for p in command.params for text in (*p.opts, *p.secondary_opts)} | {"--help"}
        for name, command in group.commands.items()
    }


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and Python-Markdown make them."""
    words = (re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in _headings(page))
    return {re.sub(r"[\s]+", "-", text) for text in words}


def _headings(page: Path) -> list[str]:
    return _HEADING.findall(prose(page))


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(found), f"{target}: no such heading"


@each_page
def test_commands_and_their_options_exist(page: Path) -> None:
    for line in code(page):
        for name, rest in _COMMAND.findall(line):
            assert name in commands(), f"{line}: no command {name}"
            unknown = set(_OPTION.findall(rest)) - commands()[name]
            assert not unknown, f"{line}: {name} has no {', '.join(sorted(unknown))}"


@each_page
def test_budgets_and_goals_are_understood(page: Path) -> None:
    metrics = [Metric("accuracy"), Metric("perplexity", higher_is_better=False)]
    for line in code(page):
        for goal in re.findall(r'--goal "(.+?)"', line):
            parse_goal(goal, metrics["perplexity" in goal])
        for limit in re.findall(r"--budget ('.+?'|[\w~=%.<>-]*\d[\w%.]*)", line):
            parse_budget([limit.strip("'")], metrics["perplexity" in limit])


@each_page
def test_options_of_benchmarks_exist(page: Path) -> None:
    known = "\n".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    for line in code(page):
        for name, rest in _BENCHMARK.findall(line):
            assert (ROOT / "benchmarks" / f"{name}.py").is_file(), f"{line}: no such benchmark"
            unknown = {option for option in _OPTION.findall(rest) if f'"{option}"' not in known}
            assert not unknown, f"{line}: no benchmark has {', '.join(sorted(unknown))}"


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    for text in _SPAN.findall(prose(page)):
        for word in text.split():
            if "*" in word or not _FILE.fullmatch(word) or word.startswith(ELSEWHERE):
                continue
            if "/" in word:
                homes = (ROOT, ROOT / "autocompress", DOCS, page.parent)
                assert any((home / word).exists() for home in homes), f"{word}: no such file"
            elif word.endswith(".py") and word != "use.py":
                assert any(known(word)), f"{word}: no such file"


def known(name: str) -> Iterator[Path]:
    for folder in ("autocompress", "benchmarks", "studies", "tests"):
        yield from (ROOT / folder).rglob(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_toml_with_a_title_is_read(page: Path, tmp_path: Path) -> None:
    for kind, title, block in _FENCE.findall(page.read_text()):
        name = re.search(r'title="(.+?)"', title)
        if kind == "toml" and name:
            (tmp_path / name[1]).write_text(block)
            found = read(tmp_path / name[1], SCHEMAS[name[1]])
            if isinstance(found, StudyFile):
                budget_from(
                    found.budget, Metric(found.metric, found.metric_direction == "maximize")
                )


def test_the_site_lists_every_page_once() -> None:
    listed = re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    here = {path.relative_to(DOCS).as_posix() for path in PAGES}
    outside = {name for name in listed if name.startswith(("project/", "catalogue/"))}
    assert len(set(listed)) == len(listed)
    assert set(listed) - outside == here


def test_what_is_looked_for_is_found() -> None:
    lines = [line for page in PAGES for line in code(page)]
    named = {name for line in lines for name, _ in _COMMAND.findall(line)}
    assert len(named) > 10
    assert _OPTION.findall("RUN --budget size=5% -o small.onnx") == ["--budget", "-o"]
    assert _COMMAND.findall(".venv/bin/autocompress nightly studies/ --accept") == [
        ("nightly", " studies/ --accept")
    ]
    assert anchors(DOCS / "search.md") >= {"channels-widths-that-layers-share", "the-race"}


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    remote = re.compile(r'<(?:script|img|iframe)\b[^>]*\bsrc="https?:|<link\b[^>]*"https?:')
    raw = re.compile(r"<p>(?:(?!</p>).)*^(?:\||- )", re.MULTILINE | re.DOTALL)
    for page in pages:
        text = page.read_text()
        assert not remote.search(text), page
        assert not raw.search(text), f"{page}: a table or list is shown as text"
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?://|@import", sheet.read_text()), sheet
    shown = (tmp_path / "reference" / "commands.html").read_text()
    assert all(f"autocompress {name}" in shown for name in commands())
