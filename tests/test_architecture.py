"""The house rule: data flows down the list of folders and never back up."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import autocompress

PACKAGE = Path(autocompress.__file__).parent
ORDER = [
    "model",
    "search_space",
    "compression",
    "hardware",
    "deploy",
    "objective",
    "search",
    "study",
    "report",
]
SHARED = {"errors", "files", "toml"}
ENTRANCES = {
    "__init__",
    "api",
    "cli",
    "cli_archive",
    "cli_devices",
    "cli_nightly",
    "cli_options",
    "cli_runs",
    "cli_study",
    "cli_tuning",
}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules that a file names in imports, those within functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            # `from autocompress import files` names a module as well.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def complaint(file: str, module: str) -> str:
    """What is wrong with an import; empty when nothing is."""
    parts = module.split(".")
    home = Path(file).parts[0].removesuffix(".py")
    if home == "search" and parts[0] == "torch":
        return "search sees numbers only"
    if parts[0] != "autocompress" or home in ENTRANCES:
        return ""
    target = parts[1] if len(parts) > 1 else "__init__"
    if target in SHARED:
        return "only errors is below it" if home in SHARED and target != "errors" else ""
    if target not in ORDER:
        return f"{target} is an entrance, not a part"
    if home in SHARED:
        return f"{home} imports only errors"
    return "" if ORDER.index(target) <= ORDER.index(home) else f"{target} comes after {home}"


@pytest.mark.parametrize("file", FILES)
def test_folder_imports_only_what_comes_before_it(file: str) -> None:
    tree = ast.parse((PACKAGE / file).read_text())
    wrong = {f"{module}: {why}" for module in imports(tree) if (why := complaint(file, module))}
    assert not wrong, f"{file} imports {wrong}"


def test_every_folder_has_its_place() -> None:
    folders = {Path(file).parts[0] for file in FILES if "/" in file}
    assert folders == set(ORDER)
    assert {Path(file).stem for file in FILES if "/" not in file} == SHARED | ENTRANCES


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("model/trace.py", "autocompress.study.run.run_study"),
        ("search/problem.py", "torch.nn"),
        ("study/run.py", "autocompress.report.html.write_report"),
        ("hardware/table.py", "autocompress.api"),
        ("files.py", "autocompress.toml"),
    ],
)
def test_the_rule_refuses(file: str, module: str) -> None:
    assert complaint(file, module)


def test_function_level_imports_are_seen() -> None:
    tree = ast.parse("def f():\n    from autocompress.study import run\n")
    assert list(imports(tree)) == ["autocompress.study.run"]
