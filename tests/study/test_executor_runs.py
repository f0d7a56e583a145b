"""Whole runs on other executors end like runs on threads, whatever dies on the way."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., tuple[int, str, str]]

# A candidate whose first convolution and last layer both have few levels ends its process.
POISON = """

class Poisoned(Net):
    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            weights = [getattr(layer, "weight", x) for layer in (self.conv1, self.fc2)]
            if all(len(weight.unique()) < 60 for weight in weights) and float(x.abs().max()) > 0:
                import os

                os._exit(7)
        return super().forward(x)


def model() -> nn.Module:
    net = Poisoned()
    net.load_state_dict(load_file(Path(__file__).with_name("net.safetensors")))
    return net.eval()
"""


@pytest.fixture(autouse=True)
def _others_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        yield


def trials(folder: Path) -> list[tuple[str, Any]]:
    """Candidate and loss of every trial, None if it was given up, from the journal's lines."""
    lines = (folder / "study.journal").read_bytes().split(b"\n")[:-1]
    attributes = [(line, line.get("user_attrs")) for line in map(json.loads, lines)]
    return [
        (found["candidate"], line["values"] and line["values"][0])
        for line, found in attributes
        if isinstance(found, dict) and "candidate" in found
    ]


@pytest.fixture(scope="module")
def undisturbed(finished: tuple[Path, Any]) -> tuple[bytes, list[tuple[str, Any]]]:
    folder = finished[0]
    return (folder / "plan.json").read_bytes(), trials(folder)


@pytest.mark.parametrize("name", ["processes", "ray"])
def test_another_executor_finds_the_same(
    cli: Cli, trained: Path, with_device: Any, tmp_path: Path, undisturbed: Any, name: str
) -> None:
    if name == "ray":
        pytest.importorskip("ray")
    folder = with_device(tmp_path / "run")
    code, _, err = cli("run", trained, "--out", folder, "--executor", name, "--workers", "2")
    assert code == 0, err
    assert ((folder / "plan.json").read_bytes(), trials(folder)) == undisturbed


def test_candidates_that_end_their_process_are_given_up(
    cli: Cli, make_study: Callable[..., Path], tmp_path: Path
) -> None:
    study = make_study(sampler="random", executor="processes", workers=2, device="cortex_a76")
    task = study / "task.py"
    task.write_text(task.read_text() + POISON)
    folder = tmp_path / "run"
    code, out, err = cli("run", study, "--out", folder)
    assert code in (0, 3), err
    assert "ended its process with exit code 7: it was given up" in out + err
    given_up = [loss for _, loss in trials(folder)].count(None)
    assert given_up > 0
    before = trials(folder)
    code, out, err = cli("run", study, "--out", folder)
    assert code in (0, 3), err
    assert trials(folder) == before, "what was given up is not tried again"


def start(study: Path, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "autocompress.cli", "run", str(study), "--out", str(folder)]
    with folder.with_suffix(".txt").open("ab") as output:
        return subprocess.Popen(
            [*arguments, *options], stdout=output, stderr=output, start_new_session=True
        )


def workers_of(pid: int) -> list[int]:
    """Processes of a run that measure candidates; not those that keep Ray together, with which it
    stands and falls."""
    found = []
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{child}/cmdline").read_text()
            if "ray::ChunkTrainable" in title or "spawn_main" in title:
                found.append(child)
    return found


def descendants(pid: int) -> list[int]:
    """Processes below one, those that it started first."""
    found = []
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for child in children.read_text().split() if children.is_file() else ():
        found += [int(child), *descendants(int(child))]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", "processes", "ray"])
def test_kills_at_random_moments(
    trained: Path, with_device: Any, tmp_path: Path, undisturbed: Any, name: str
) -> None:
    """A driver with its workers, or a worker alone, is killed, twenty times in all; a run that
    comes to its end makes room for another one."""
    rng, killed, number = random.Random(0), 0, 0
    options = ["--executor", name, "--workers", "2"]
    while killed < 20:
        folder, recorded = with_device(tmp_path / f"run{number}"), {}
        process = start(trained, folder, *options)
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(1, 8) if killed < 20 else 300)
                continue
            workers = workers_of(process.pid)
            killed += 1
            if workers and rng.random() < 0.5:
                kill(rng.choice(workers))
                continue
            for victim in (process.pid, *descendants(process.pid)):
                kill(victim)
            process.wait()
            if (folder / "study.journal").is_file():
                now = dict(trials(folder))
                assert recorded.items() <= now.items(), "nothing recorded is lost"
                recorded = now
            process = start(trained, folder, *options)
        assert process.returncode == 0, folder.with_suffix(".txt").read_text()
        assert ((folder / "plan.json").read_bytes(), trials(folder)) == undisturbed
        assert set(Counter(candidate for candidate, _ in trials(folder)).values()) == {1}
        number += 1


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.mark.slow
def test_a_node_is_lost(
    cli: Cli, trained: Path, with_device: Any, tmp_path: Path, undisturbed: Any
) -> None:
    """Three nodes of one core each; one is killed amid the search."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    folder = with_device(tmp_path / "run")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        process = start(
            trained, folder, "--executor", "ray", "--address", cluster.address, "--batch", "4"
        )
        deadline = time.monotonic() + 240
        while not ((folder / "study.journal").is_file() and len(trials(folder)) > 2):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cluster.remove_node(nodes[0], allow_graceful=False)
        assert process.wait(300) == 0, folder.with_suffix(".txt").read_text()
    finally:
        ray.shutdown()
        cluster.shutdown()
    code, _, err = cli("run", trained, "--out", with_device(tmp_path / "local"), "--batch", "4")
    assert code == 0, err
    assert trials(folder) == trials(tmp_path / "local")
    assert set(Counter(candidate for candidate, _ in trials(folder)).values()) == {1}
