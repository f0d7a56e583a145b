"""Nights that are simulated on one small net: what is said of each, and what is kept."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file, save_file

from autocompress.errors import ConfigError, StorageError
from autocompress.model.task import load_task
from autocompress.report.night_files import write_night
from autocompress.study.diff import diff_runs
from autocompress.study.events import Silent
from autocompress.study.night_run import Order, run_here
from autocompress.study.nightly import Night, all_verdicts, finish, nightly, read_accepted
from autocompress.study.storage import load_records

Make = Callable[..., Path]

DEVICE = """
schema = 1
runtime = "nothing"
float32_gmacs = 1.0
int8_gmacs = {int8}
bandwidth_gb_s = 4.0
"""
SPACE = """
schema = 1
bits = [3, 4, 6, 8]
activations = ["float32", "int8"]
sparsity = [0, 0.5]
menu = 6
"""
BUDGET = {"size": "25%", "latency": "80%", "quality": "-5pt"}


def trained_briefly(folder: Path) -> None:
    """Weights of the same net, after a sixth of the training."""
    script = (folder / "task.py").read_text()
    namespace: dict[str, Any] = {"__file__": str(folder / "task.py"), "__name__": "brief"}
    exec(compile(script, "task.py", "exec"), namespace)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = namespace["Net"]()
        x, y = namespace["images"](4, 2000)
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
        for rows in torch.arange(len(x)).split(100):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    save_file(net.state_dict(), folder / "net.safetensors")


def damaged(folder: Path) -> None:
    """One layer's weights drowned in noise."""
    state = load_file(folder / "net.safetensors")
    noise = torch.randn(state["conv2.weight"].shape, generator=torch.Generator().manual_seed(1))
    state["conv2.weight"] += 1.5 * state["conv2.weight"].std() * noise
    save_file(state, folder / "net.safetensors")


def one_night(studies: Path, out: Path, **more: Any) -> Night:
    night = nightly(studies, out, more.pop("run", run_here), Silent(), **more)
    write_night(night)
    finish(night)
    return night


@pytest.fixture(scope="module")
def studies(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one study, on a device known from its data sheet: no clock, no noise."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from conftest import STUDY, toml  # the tiny study's own settings

    folder = tmp_path_factory.mktemp("nights") / "studies" / "tiny"
    shutil.copytree(trained, folder)
    (folder / "space.toml").write_text(SPACE)
    (folder / "device.toml").write_text(DEVICE.format(int8=4.0))
    keys = {**STUDY, "device": "device.toml", "evaluations": 8}
    (folder / "study.toml").write_text(toml(keys, BUDGET))
    return folder.parent


@pytest.fixture(scope="module")
def nights(studies: Path) -> dict[str, Any]:
    """Every night, in the order in which they came; what was accepted after each."""
    folder, out = studies / "tiny", studies.parent / "out"
    good = (folder / "net.safetensors").read_bytes()
    found: dict[str, Any] = {"out": out, "accepted": {}}

    def night(name: str, **more: Any) -> None:
        found[name] = one_night(studies, out, **more)
        found["accepted"][name] = read_accepted(out, "tiny")

    trained_briefly(folder)
    night("first")
    night("unchanged")
    (folder / "net.safetensors").write_bytes(good)
    night("better")
    damaged(folder)
    night("damaged")
    (folder / "net.safetensors").write_bytes(good)
    (folder / "device.toml").write_text(DEVICE.format(int8=1.5))
    night("slower")
    (folder / "device.toml").write_text(DEVICE.format(int8=4.0))
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace("25%", "24%"))
    night("asked")
    night("taken", accept=True)
    return found


def test_x(nights: dict[str, Any]) -> None:
    for name, night in nights.items():
        if isinstance(night, Night):
            from autocompress.study.nightly import headline

            print(name, night.exit_code, headline(night.studies[0]))
    print((nights["out"] / "nightly.md").read_text())
    for e in all_verdicts(nights["out"]):
        print(json.dumps(e["measured"]))
        for f in e["figures"]:
            print(
                "   ",
                f["name"],
                f["before"],
                f["after"],
                f["band"],
                f["grade"],
                f["note"],
                f["basis"],
            )
    shutil.copytree(nights["out"], "/tmp/w/n/pt", dirs_exist_ok=True)
