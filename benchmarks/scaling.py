"""What trace, bank and pricing take as a model grows: seconds and peak memory by layers, width,
options and calibration examples, with the laws fitted to them; and whether bank and pricing of a
model of 100 M parameters keep to three times its size.

Every stage runs in a process of its own, on one thread.  Memory is the most that was ever resident
(`VmHWM`) less what the same process takes when it has imported everything and done nothing;
it contains the model, the calibration inputs and every mapped page of the bank.

    python benchmarks/scaling.py --json scaling.json
    python benchmarks/scaling.py --only large

In the large case the process may map no more private memory than that (`RLIMIT_DATA`: heap and
private mappings, of which the bank's are some); it fails where it asks for more.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families.transformer import Encoder
from house_format import write_figures
from rich.console import Console
from rich.table import Table

from autocompress.compression.bank import Bank
from autocompress.compression.stitch import Stitcher
from autocompress.hardware.device import get_device
from autocompress.model.task import Task
from autocompress.objective.quality import Proxy
from autocompress.study.banking import fill_bank
from autocompress.study.config import Study, StudyFile, make_study
from autocompress.study.events import Silent
from autocompress.study.executors.local import LocalExecutor
from autocompress.study.pricing import price
from autocompress.study.profiling import profile_device
from autocompress.study.subject import look

PACKAGES = ("autocompress", "numpy", "torch")
STAGES = ("trace", "bank", "price")
MIB = 2**20
CLASSES = 10
HEAD = 64  # features of an attention head
# Menus of so many options beside the identity, of weights that are all kept.
MENUS = {
    1: ([16], [1.0], ["float32"]),
    2: ([4, 8], [1.0], ["float32"]),
    4: ([4, 8], [1.0, 0.25], ["float32"]),
    8: ([4, 8], [1.0, 0.25], ["float32", "int8"]),
    16: ([3, 4, 6, 8], [1.0, 0.25], ["float32", "int8"]),
}


@dataclass(frozen=True)
class Case:
    """One model and what is done with it.

    Args:
        width: Features of a token.
        layers: Blocks of the encoder, each of six linear layers.
        options: Options a layer beside the identity, a key of `MENUS`.
        examples: Calibration examples; a quarter judges, the rest fits.
        tokens: Tokens of an example.
        sparsity: Share of zeros of one more option; 0 for none.
        method: `obs`, or `nearest`, which takes far less time and the same moments.
        include: Pattern of the layers that are treated.
    """

    width: int = 256
    layers: int = 4
    options: int = 4
    examples: int = 64
    tokens: int = 16
    sparsity: float = 0.0
    method: str = "obs"
    include: str = "*"


BASE = Case(layers=2)
LARGE = Case(768, 14, 1, 64, 32, method="nearest")
SERIES: Mapping[str, tuple[Case, ...]] = {
    "layers": tuple(replace(BASE, layers=n) for n in (2, 4, 8)),
    "width": tuple(replace(BASE, layers=1, width=n) for n in (128, 256, 384, 512)),
    "options": tuple(replace(BASE, options=n) for n in (2, 4, 8)),
    "examples": tuple(replace(BASE, examples=n) for n in (64, 256, 1024)),
    "sparsity": tuple(replace(BASE, layers=1, width=n, sparsity=0.5) for n in (128, 256)),
    "large": (LARGE, replace(LARGE, options=4, method="obs", include="layers.13.*")),
}
VARIES = {"sparsity": "width"}  # what grows in a series, where its name does not say it
LIMIT = 3.0  # sizes of the model that bank and pricing of the large one may take


def make_model(case: Case) -> Encoder:
    """An encoder with made-up weights."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        heads = case.width // HEAD
        return Encoder(case.width, case.layers, heads, case.tokens, CLASSES).eval()


def make_inputs(case: Case, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, case.tokens, case.width, generator=generator)


def space_text(case: Case) -> str:
    """A search space of few options as TOML."""
    bits, rank, activations = MENUS[case.options]
    lines = [
        "schema = 1",
        'description = "a few options a layer"',
        f"bits = {bits}",
        f"rank = {rank}",
        f'methods = ["{case.method}"]',
        f"activations = {json.dumps(activations)}",
        f"sparsity = {[0, case.sparsity] if case.sparsity else [0]}",
        f'include = ["{case.include}"]',
        'exclude = ["classifier"]',
    ]
    return "\n".join(lines) + "\n"


def study_of(case: Case, folder: Path) -> Study:
    """The study of a case; its search space lies in the folder."""
    space = folder / "space.toml"
    space.write_text(space_text(case), encoding="utf-8")
    task = Task(
        lambda: make_model(case),
        lambda: make_inputs(case, case.examples, 1),
        lambda: make_inputs(case, 1, 2),
        lambda model: 0.0,
        "benchmarks/scaling.py",
    )
    settings = StudyFile(space=str(space), device="cortex_a76", workers=1)
    return make_study("scaling", task, settings, ["size=25%"])


def memory(key: str) -> int:
    """Bytes of a line of `/proc/self/status`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def run_stage(case: Case, stage: str, folder: Path, limit: float) -> dict[str, Any]:
    """Runs one stage here, after what it needs of the others; the process does nothing else.

    Args:
        case: The model.
        stage: One of `STAGES`; each finds what the one before left in the folder.
        folder: The run directory.
        limit: Most memory above the idle process, in sizes of the model; 0 for none.
    """
    torch.set_num_threads(1)
    idle, data = memory("VmRSS"), memory("VmData")
    parameters = parameters_of(case)
    size = 4 * parameters
    if limit:
        most = data + int(limit * size)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    study = study_of(case, folder)
    listener = Silent()
    start, cpu = time.perf_counter(), time.process_time()
    model, space = look(study, listener)
    if stage == "trace":
        profile_device(study, model, space, folder / "device.json", listener)
    else:
        profile = profile_device(study, model, space, folder / "device.json", listener)
        proxy = Proxy(model.dense, model.search_inputs, study.objective.proxy)
        bank = Bank(folder / "bank", model.key)
        start, cpu = time.perf_counter(), time.process_time()
        fill_bank(bank, model, space, LocalExecutor(), listener)
        if stage == "price":
            start, cpu = time.perf_counter(), time.process_time()
            stitcher = Stitcher(model.dense, lambda name, option: bank[name, option].treated)
            path = folder / "prices.json"
            price(
                study,
                model,
                space,
                bank,
                stitcher,
                proxy,
                profile.prices,
                path,
                listener,
                LocalExecutor(),
            )
    peak = memory("VmHWM")  # `ru_maxrss` may be that of the process which started this one
    return {
        **asdict(case),
        "stage": stage,
        "parameters": parameters,
        "model_bytes": size,
        "units": len(space.units),
        "entries": sum(len(menu) - 1 for menu in space.computed.units.values()),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "idle_bytes": idle,
        "peak_bytes": peak,
        "above_idle_bytes": peak - idle,
        "models": (peak - idle) / size,
        "limit_models": limit or None,
    }


def parameters_of(case: Case) -> int:
    """Parameters of the case's model, which is not made."""
    with torch.device("meta"):
        heads = case.width // HEAD
        made = Encoder(case.width, case.layers, heads, case.tokens, CLASSES)
    return sum(parameter.numel() for parameter in made.parameters())


def measure(case: Case, stages: Sequence[str], limit: float) -> Iterator[dict[str, Any]]:
    """A row for each stage, each measured in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for stage in STAGES[: 1 + max(STAGES.index(stage) for stage in stages)]:
            asked = {"case": asdict(case), "stage": stage, "folder": folder}
            asked["limit"] = limit if stage in ("bank", "price") else 0
            command = [sys.executable, __file__, "--child", json.dumps(asked)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{stage} of {case}: the process ended with {done.returncode}")
            row = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{stage}: {row['cpu_seconds']:.1f} s, {row['models']:.2f} models",
                file=sys.stderr,
            )
            if stage in stages:
                yield row


def laws(series: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """How processor time and memory grow in a series, stage by stage.

    Time is fitted as `c x^p` (least squares of the logarithms), memory as `a + b x`.
    """
    key = VARIES.get(series, series)
    for stage in STAGES:
        own = [row for row in rows if row["stage"] == stage]
        x = np.array([row[key] for row in own], dtype=float)
        seconds = np.array([row["cpu_seconds"] for row in own])
        mib = np.array([row["above_idle_bytes"] for row in own]) / MIB
        power, scale = np.polyfit(np.log(x), np.log(seconds), 1)
        slope, start = np.polyfit(x, mib, 1)
        yield {
            "series": series,
            "stage": stage,
            "seconds_power": float(power),
            "seconds_scale": float(np.exp(scale)),
            "mib_start": float(start),
            "mib_each": float(slope),
        }


def show(series: str, rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title=series)
    columns = ("width", "layers", "options", "examples", "M parameters", "stage")
    for column in (*columns, "s (CPU)", "s (wall)", "peak MiB", "above idle", "x model"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in rows:
        table.add_row(
            *(str(row[key]) for key in columns[:4]),
            f"{row['parameters'] / 1e6:.1f}",
            row["stage"],
            f"{row['cpu_seconds']:.1f}",
            f"{row['seconds']:.1f}",
            f"{row['peak_bytes'] / MIB:.0f}",
            f"{row['above_idle_bytes'] / MIB:.0f}",
            f"{row['models']:.2f}",
        )
    Console(width=120).print(table)


def show_laws(found: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="what was fitted: seconds = c x^p, MiB above idle = a + b x")
    for column in ("x", "stage", "c", "p", "a", "b"):
        table.add_column(column, justify="left" if column in ("x", "stage") else "right")
    for law in found:
        numbers = (law[key] for key in ("seconds_scale", "seconds_power", "mib_start", "mib_each"))
        table.add_row(law["series"], law["stage"], *(f"{value:.3g}" for value in numbers))
    Console(width=120).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(SERIES), help="may be repeated")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="of the large case; 0 measures it without one"
    )
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        asked = json.loads(options.child)
        case, folder = Case(**asked["case"]), Path(asked["folder"])
        print(json.dumps(run_stage(case, asked["stage"], folder, asked["limit"])))
        return 0
    every: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    kept = True
    for name in options.only or SERIES:
        print(f"{name}:", file=sys.stderr)
        limit = options.limit if name == "large" else 0.0
        rows = [row for case in SERIES[name] for row in measure(case, STAGES, limit)]
        show(name, rows)
        every += [{"series": name, **row} for row in rows]
        if name == "large":
            most = max(row["models"] for row in rows if row["stage"] != "trace")
            kept = most <= LIMIT
            print(
                f"peak of bank and pricing of {rows[0]['parameters'] / 1e6:.0f} M parameters:"
                f" {most:.2f} times the model's {rows[0]['model_bytes'] / MIB:.0f} MiB,"
                f" {'within' if kept else 'above'} {LIMIT:g}"
            )
        else:
            found += laws(name, rows)
    if found:
        show_laws(found)
    if options.json:
        device = get_device("onnxruntime-cpu")
        write_figures(options.json, "scaling", device, PACKAGES, every, {"laws": found})
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
