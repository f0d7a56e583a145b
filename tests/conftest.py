"""A study that runs in seconds: a small network on synthetic images, and runs of it to copy; and
what `pip install autocompress` gives.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

TASK = '''
from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

CLASSES = 6


class Net(nn.Module):
    """About 3 500 parameters; the norm is there to be left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.norm = nn.LayerNorm(64)
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.fc1(self.norm(x.flatten(1))).relu())


def images(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """One smooth pattern a class, moved about and drowned in noise."""
    patterns = torch.randn(CLASSES, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    patterns = nn.functional.avg_pool2d(patterns, 3, 1, 1) * 3
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    moved = [
        torch.roll(patterns[label], int(shift), dims=-1)
        for label, shift in zip(labels, torch.randint(-1, 2, (count,), generator=generator))
    ]
    return torch.stack(moved) + 1.6 * torch.randn(count, 1, 8, 8, generator=generator), labels


def model() -> nn.Module:
    net = Net()
    net.load_state_dict(load_file(Path(__file__).with_name("net.safetensors")))
    return net.eval()


def calibration() -> Tensor:
    return images(1, 256)[0]


def example_inputs() -> Tensor:
    return images(1, 256)[0][:1]


@torch.no_grad()
def evaluate(net: nn.Module, split: str = "selection") -> float:
    x, y = images({"selection": 2, "test": 3}[split], 400)
    return 100 * (net(x).argmax(1) == y).double().mean().item()
'''

TRAIN = """
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
import task

torch.manual_seed(0)
torch.set_num_threads(1)
net = task.Net()
x, y = task.images(4, 2000)
optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
for _ in range(12):
    for rows in torch.randperm(len(x)).split(100):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimiser.step()
save_file(net.state_dict(), folder / "net.safetensors")
"""

STUDY = {
    "schema": 1,
    "space": "space.toml",
    "objective": "objective.toml",
    "evaluations": 12,
    "seed": 0,
    "metric_unit": "%",
    "clock_patience": "0.1s",  # other tests keep the machine busy
}
BUDGET = {"size": "25%", "quality": "-5pt"}
SPACE = """
schema = 1
bits = [2, 3, 4, 6, 8]
sparsity = [0, 0.5, 0.8]
menu = 8
"""
# Few finalists, and no limits of its own.
OBJECTIVE = """
schema = 1
minimise = "quality"
finalists = 3
"""


ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")


def toml(values: Mapping[str, Any], budget: Mapping[str, str]) -> str:
    """A study file; JSON's strings and numbers are TOML's."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    limits = [f"{name} = {json.dumps(text)}" for name, text in budget.items()]
    return "\n".join([*lines, "[budget]", *limits]) + "\n"


@pytest.fixture(scope="session", autouse=True)
def _one_thread_and_own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Child processes count one thread and share a table of operations that is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("COLUMNS", "160")
        yield


@pytest.fixture(scope="session")
def train() -> Callable[[Path], None]:
    """Trains the net of a study folder and leaves its weights there."""

    def run(folder: Path) -> None:
        subprocess.run([sys.executable, "-c", TRAIN, str(folder)], check=True)
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, train: Callable[[Path], None]) -> Path:
    """The study folder that `make_study` copies; trained once a session."""
    folder = tmp_path_factory.mktemp("trained") / "tiny"
    folder.mkdir()
    (folder / "task.py").write_text(TASK)
    (folder / "study.toml").write_text(toml(STUDY, BUDGET))
    (folder / "space.toml").write_text(SPACE)
    (folder / "objective.toml").write_text(OBJECTIVE)
    train(folder)
    return folder


@pytest.fixture
def make_study(trained: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny study with other keys: `make_study(evaluations=6, budget={...})`."""

    def make(budget: Mapping[str, str] = BUDGET, **keys: Any) -> Path:
        folder = tmp_path / "tiny"
        shutil.copytree(trained, folder, dirs_exist_ok=True)
        (folder / "study.toml").write_text(toml({**STUDY, **keys}, budget))
        return folder

    return make


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `autocompress ARGUMENTS` in a process of its own and waits for it."""

    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "autocompress.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | options.pop("env", {}),
            **options,
        )

    return run


@pytest.fixture(scope="session")
def finished(
    trained: Path, tmp_path_factory: pytest.TempPathFactory, command: Any
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A finished run directory and what the command said; not to be written to."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, command("run", trained, "--out", folder)


@pytest.fixture
def with_device(finished: tuple[Path, Any]) -> Callable[[Path], Path]:
    """Puts a recorded device into a run directory: no profile, the same plan every time."""

    def put(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(finished[0] / "device.json", folder / "device.json")
        return folder

    return put


@pytest.fixture
def run_copy(finished: tuple[Path, Any], tmp_path: Path) -> Path:
    """A finished run directory to do anything with."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: exit code, standard output, standard error.

    What is not an error of ours leaves it as an exception, that is as a traceback.
    """
    from autocompress.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["autocompress", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code or 0
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is left in the checkout."""
    pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    for name in ("autocompress", "search_spaces", "objectives"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", copy / "dist", copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment with the wheel, and without this checkout."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.check_output([python, "-c", asked], text=True).strip()
    # A path within a path file brings packages, but not the path files that lie beside them: the
    # dependencies of this environment are there, its editable checkout is not.
    paths = sysconfig.get_paths()
    Path(site, "dependencies.pth").write_text(f"{paths['purelib']}\n{paths['platlib']}\n")
    pip("--python", python, "install", "--no-deps", "--no-index", "--force-reinstall", wheel)
    where = "import autocompress; print(autocompress.__file__)"
    options: dict[str, Any] = {"cwd": venv, "env": without_checkout(), "text": True}
    assert subprocess.check_output([python, "-c", where], **options).startswith(site)
    return python


def without_checkout() -> dict[str, str]:
    """The environment without what leads Python here."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def pip(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def installed_command(installed: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a line of the shell in a folder, where `autocompress` and `python` are those of the
    wheel."""

    def run(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{installed.parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            line,
            shell=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=without_checkout() | {"PATH": path} | variables,
            timeout=600,
        )

    return run
