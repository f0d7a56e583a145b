"""What the site needs beside the pages of docs/: the READMEs of the catalogues, links that hold
outside of the repository, the options of every command and the keys of `study.toml`.

Pages are written as GitHub shows them.  Python-Markdown wants an empty line before a table or a
list, and links may only lead to pages of the site.
"""

from __future__ import annotations

import importlib
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from autocompress.cli import app

ROOT = Path(__file__).parents[2]
# Pages of the repository that lie outside of docs/, and where the site has them.
OUTSIDE = {
    "README.md": "project/overview.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "search_spaces/README.md": "catalogue/search_spaces.md",
    "objectives/README.md": "catalogue/objectives.md",
    "objectives/devices/README.md": "catalogue/data_sheets.md",
    "studies/README.md": "catalogue/studies.md",
    "benchmarks/README.md": "catalogue/benchmarks.md",
}
COMMANDS = "<!-- commands -->"
_KEYS = re.compile(r"<!-- keys: (\S+)\.(\w+) -->")
_ATTRIBUTE = re.compile(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", re.MULTILINE)
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]+)\)")
_START = re.compile(r"\|.*\||[-*+] |\d+\. ")
_FENCE = re.compile(r"\s*(```|~~~)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that lie outside of docs/."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page as Python-Markdown and the site want it."""
    home = page.file.src_uri
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, "\n".join(command_pages()))
    markdown = _KEYS.sub(lambda found: "\n".join(keys_of(*found.groups())), markdown)
    return "\n".join(spaced(linked(line, home) for line in unfenced(markdown)))


def unfenced(markdown: str) -> Iterator[tuple[str, bool]]:
    """Lines, and whether each is text, not code between fences."""
    is_code = False
    for line in markdown.splitlines():
        is_fence = bool(_FENCE.match(line))
        yield line, not is_code and not is_fence
        is_code ^= is_fence


def linked(line: tuple[str, bool], home: str) -> tuple[str, bool]:
    """A line whose links lead to pages of the site; those that cannot become plain words."""
    text, is_text = line
    return (_LINK.sub(lambda found: _link(found, home), text) if is_text else text), is_text


def _link(found: re.Match[str], home: str) -> str:
    words, target = found.groups()
    path, _, anchor = target.partition("#")
    if not path or "://" in target or target.startswith("mailto:"):
        return found[0]
    sources = {page: source for source, page in OUTSIDE.items()}
    folder = posixpath.dirname(sources.get(home, f"docs/{home}"))
    wanted = posixpath.normpath(posixpath.join(folder, path))
    if wanted in OUTSIDE:
        place = OUTSIDE[wanted]
    elif wanted.startswith("docs/"):
        place = wanted.removeprefix("docs/")
    elif f"{wanted}/README.md" in OUTSIDE:
        place = OUTSIDE[f"{wanted}/README.md"]
    else:
        return words  # a file of the repository that is no page
    here = posixpath.relpath(place, posixpath.dirname(home) or ".")
    return f"[{words}]({here}{'#' if anchor else ''}{anchor})"


def spaced(lines: Any) -> Iterator[str]:
    """Lines with an empty one before each table and each list that follows something else."""
    before = ""
    for line, is_text in lines:
        follows = before.strip() and not before.startswith((" ", "#"))
        if is_text and follows and _START.match(line) and not _START.match(before):
            yield ""
        # A second line of an item belongs to it.
        is_rest = is_text and line.startswith(" ") and _START.match(before)
        before = before if is_rest else line
        yield line


def command_pages() -> Iterator[str]:
    """Every command of the command line: what it does, its arguments and options."""
    group: Any = typer.main.get_command(app)
    yield f"{group.help}\n"
    yield f"{group.epilog}\n"
    for name, command in group.commands.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        words = [_placeholder(p) for p in arguments]
        yield f"## `autocompress {name}`\n"
        yield f"    autocompress {' '.join([name, *words, '[OPTIONS]' if options else ''])}\n"
        yield f"{command.help}\n"
        yield "| argument or option | |"
        yield "| --- | --- |"
        for parameter in [*arguments, *options]:
            yield f"| {_title(parameter)} | {_cell(parameter.help or '')}{_default(parameter)} |"
        yield f"\n{command.epilog or ''}\n"


def keys_of(module: str, name: str) -> Iterator[str]:
    """The keys of a table, with their defaults, from the class that reads it."""
    schema = getattr(importlib.import_module(module), name)
    said = dict(_ATTRIBUTE.findall(schema.__doc__))
    yield "| key | default | meaning |"
    yield "| --- | --- | --- |"
    for key, field in schema.model_fields.items():
        value = field.get_default(call_default_factory=True)
        is_table = isinstance(value, dict | BaseModel)
        if key in said:
            default = "a table" if is_table else f"`{json.dumps(value)}`"
            yield f"| `{key}` | {default} | {_cell(said[key])} |"


def _placeholder(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return f"{name}..." if parameter.nargs == -1 else name


def _title(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_placeholder(parameter)}`"
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {_placeholder(parameter)}"


def _default(parameter: Any) -> str:
    value = parameter.default
    return "" if value is None or value is False or callable(value) else f" (default `{value}`)"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
