"""What `pip install autocompress` gives: a package that needs no checkout, presets included."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress.toml import presets

pytest.importorskip("setuptools", minversion="77")

ROOT = Path(__file__).parents[1]
CATALOGUES = ("search_spaces", "objectives", "objectives/devices")
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is left in the checkout."""
    copy = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    for name in ("autocompress", "search_spaces", "objectives"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", copy / "dist", copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def pip(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


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
    wheel: Path, make_study: Callable[..., Path], tmp_path: Path
) -> None:
    study = make_study(space="uniform_bits", objective="balanced", evaluations=4)
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True
    )
    python = tmp_path / "venv" / "bin" / "python"
    installed = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.check_output([python, "-c", installed], text=True).strip()
    # A path within a path file brings packages, but not the path files that lie beside them: the
    # dependencies of this environment are there, its editable checkout is not.
    paths = sysconfig.get_paths()
    Path(site, "dependencies.pth").write_text(f"{paths['purelib']}\n{paths['platlib']}\n")
    pip("--python", python, "install", "--no-deps", "--no-index", "--force-reinstall", wheel)
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def installed_command(*arguments: object) -> str:
        done = subprocess.run(
            [python.with_name("autocompress"), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=empty,
            env=environment,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = "import autocompress; print(autocompress.__file__)"
    found = subprocess.check_output([python, "-c", where], cwd=empty, text=True)
    assert found.startswith(site)
    assert "Usage" in installed_command("--help")
    assert "cortex_m7" in installed_command("devices")
    assert "budget met" in installed_command("run", study, "--out", "out")
    assert (empty / "out" / "model.acz").is_file()
