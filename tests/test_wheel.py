"""What `pip install autocompress` gives: a package that needs no checkout, presets included."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress.toml import presets

ROOT = Path(__file__).parents[1]
CATALOGUES = ("search_spaces", "objectives", "objectives/devices")


def test_the_wheel_holds_every_module_and_preset_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "autocompress").rglob("*.py")}
    files = {
        f"autocompress/presets/{catalogue}/{path.name}"
        for catalogue in CATALOGUES
        for path in (ROOT / catalogue).glob("*.toml")
    }
    assert names == modules | files | {"autocompress/py.typed"}


@pytest.mark.parametrize("catalogue", CATALOGUES)
def test_presets_of_a_wheel_lie_where_they_are_looked_for(
    wheel: Path, catalogue: str, tmp_path: Path
) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "from autocompress import toml\n"
        f"for name, path in toml.presets({catalogue!r}).items(): print(name, path)"
    )
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": True}
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, **options).stdout
    rows = [line.split(" ", 1) for line in out.splitlines()]
    assert [name for name, _ in rows] == list(presets(catalogue))
    assert all(path.startswith(str(tmp_path)) for _, path in rows)


@pytest.mark.slow
def test_the_installed_wheel_runs_in_an_empty_folder(
    installed_command: Callable[..., subprocess.CompletedProcess[str]],
    make_study: Callable[..., Path],
    tmp_path: Path,
) -> None:
    study = make_study(space="uniform_bits", objective="balanced", evaluations=4)
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, words in (
        ("--help", "Usage"),
        ("devices", "cortex_m7"),
        (f"run {study} --out out", "budget met"),
    ):
        done = installed_command(f"autocompress {arguments}", empty)
        assert done.returncode == 0, done.stdout
        assert words in done.stdout
    assert (empty / "out" / "model.acz").is_file()
