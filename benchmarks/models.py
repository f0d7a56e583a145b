"""Models of many kinds: traced, compressed to a quarter of their size, written, read back.

    python benchmarks/models.py --json models.json
    python benchmarks/models.py --only gpt --only unet
    python benchmarks/models.py --smallest 0.5 --only squeezenet    as small as 0.5 points allow

Each model runs in a process of its own, which trains it first where it is one of `zoo`, so that
the peak of its memory (`VmHWM`) is its own.  Quality is that of the test split: right decisions,
or for what paints the share of variance explained.  Where a model cannot be exported to ONNX it
is compressed on torch-cpu, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from house_format import study_folder, write_figures
from rich.console import Console
from rich.table import Table
from zoo import ZOO

from autocompress.compression.stitch import stitched
from autocompress.deploy.onnx_file import OnnxModule
from autocompress.deploy.restore import load_archive
from autocompress.errors import AutocompressError, TaskError
from autocompress.hardware.device import get_device
from autocompress.model.task import Task
from autocompress.study.config import Study, StudyFile, load_study, make_study
from autocompress.study.events import Silent
from autocompress.study.run import run_study
from autocompress.study.ship import Outcome

PACKAGES = ("autocompress", "numpy", "onnxruntime", "torch")
STUDIES = ("lenet5_mnist", "cnn1d_timeseries", "lstm_timeseries", "resnet20_fashion")
QUARTER = {
    "objective": "balanced",
    "limits": ["size=25%", "latency=1000%", "quality=-100pt"],
}
EVALUATIONS = 40
MIB = 2**20


def asked(smallest: float | None) -> dict[str, Any]:
    """Objective and limits: a quarter of the size, or the least within so many points."""
    if smallest is None:
        return QUARTER
    limits = ["size=100%", "latency=1000%", f"quality=-{smallest:g}pt"]
    return {"objective": "smallest", "limits": limits}


def zoo_study(name: str, device: str, goal: Mapping[str, Any]) -> Study:
    """A trained model of the zoo as a study."""
    entry = ZOO[name]
    data = entry.data()
    model = entry.trained(data)
    calibration = data.inputs[data.part("calibration")]
    task = Task(
        lambda: model,
        lambda: [entry.call(calibration)],
        lambda: entry.call(calibration[:1]),
        lambda net, split="selection": entry.score(net, data, split),
        "benchmarks/models.py",
    )
    settings = StudyFile(
        device=device,
        metric="quality",
        metric_unit="%",
        evaluations=EVALUATIONS,
        objective=goal["objective"],
    )
    return make_study(name, task, settings, goal["limits"])


def study_of(name: str, device: str, goal: Mapping[str, Any]) -> Study:
    if name in ZOO:
        return zoo_study(name, device, goal)
    keys = {"device": device, "evaluations": EVALUATIONS, "objective": goal["objective"]}
    return load_study(study_folder(name), keys, goal["limits"])


def measure(name: str, folder: Path, goal: Mapping[str, Any]) -> dict[str, Any]:
    """The row of one model, whose process does nothing else."""
    torch.set_num_threads(1)
    started, notes = time.perf_counter(), []
    study = study_of(name, "onnxruntime-cpu", goal)
    trained = time.perf_counter() - started
    started = time.perf_counter()
    try:
        outcome = run_study(study, folder / "run", Silent())
    except TaskError as error:
        if "cannot be exported" not in str(error):
            raise
        notes.append("no ONNX: its control flow depends on the data")
        settings = study.settings.model_copy(update={"device": "torch-cpu"})
        study = make_study(name, study.task, settings, goal["limits"])
        outcome = run_study(study, folder / "again", Silent())
    seconds = time.perf_counter() - started
    return row_of(name, outcome, notes) | {"train_seconds": trained, "seconds": seconds}


def row_of(name: str, outcome: Outcome, notes: Sequence[str]) -> dict[str, Any]:
    """What a run came to, and whether its files give what was chosen."""
    result, model = outcome.result, outcome.prepared.model
    treated = [layer for layer in model.layers if layer.is_treated]
    held = sum(layer.parameters for layer in model.layers)
    left = {f"{layer.kind}" for layer in model.layers if not layer.is_treated and layer.parameters}
    winner = outcome.winner
    row: dict[str, Any] = {
        "model": name,
        "what": ZOO[name].what if name in ZOO else "study",
        "parameters": held,
        "layers": len(treated),
        "treated_percent": 100 * sum(layer.parameters for layer in treated) / held,
        "left_dense": sorted(left),
        "size_percent": 100.0,
        "before": result["original"]["quality"],
        "after": result["original"]["quality"],
        "archive_equal": None,
        "onnx_difference": None,
        "met": result["budget_met"],
        "notes": [*notes],
    }
    if winner is None:
        return row | {"notes": [*notes, "nothing is delivered: the original stays"]}
    row["after"] = result["best"]["quality"]
    row["size_percent"] = 100 * result["best"]["size_bytes"] / result["original"]["size_bytes"]
    inputs = model.search_inputs
    choices = {unit: option for unit, option in winner.candidate.choices if not option.is_identity}
    chosen = stitched(model.dense, {unit: winner.treated[unit] for unit in choices})
    with torch.no_grad():
        wanted = chosen(*inputs)
        restored = load_archive(outcome.folder / "model.acz", model.original or model.dense)
        row["archive_equal"] = bool(torch.equal(restored(*inputs), wanted))
        path = outcome.folder / "model.onnx"
        if path.is_file():
            found = OnnxModule(path)(*inputs)
            row["onnx_difference"] = float((found - wanted).abs().max() / wanted.abs().max())
    return row


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def in_a_process(name: str, smallest: float | None) -> dict[str, Any]:
    """The row of a model, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", __file__, "--child", name, folder]
        command += [] if smallest is None else ["--smallest", str(smallest)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return {"model": name, "failure": f"its process ended with {done.returncode}"}
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return row


def table(rows: Sequence[Mapping[str, Any]], smallest: float | None) -> Table:
    title = "A quarter of the size" if smallest is None else f"The least size for {smallest:g} pt"
    shown = Table(title=f"{title}, post-training")
    names = (
        "model",
        "what",
        "parameters",
        "treated",
        "size",
        "before",
        "after",
        "archive",
        "ONNX",
    )
    for name in (*names, "minutes", "peak MiB", "notes"):
        shown.add_column(name, justify="left" if name in ("model", "what", "notes") else "right")
    for row in rows:
        if "failure" in row:
            shown.add_row(row["model"], *[""] * 10, row["failure"])
            continue
        difference = row["onnx_difference"]
        shown.add_row(
            row["model"],
            row["what"],
            f"{row['parameters']:,}",
            f"{row['treated_percent']:.1f} %",
            f"{row['size_percent']:.1f} %" + ("" if row["met"] else " (missed)"),
            f"{row['before']:.2f}",
            f"{row['after']:.2f}",
            "equal" if row["archive_equal"] else "differs",
            "none" if difference is None else f"{difference:.0e}",
            f"{row['seconds'] / 60:.1f}",
            f"{row['peak_bytes'] / MIB:.0f}",
            "; ".join([*row["notes"], *(f"{kind} left" for kind in row["left_dense"])]),
        )
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = [*ZOO, *STUDIES]
    parser.add_argument("--only", action="append", choices=[*every, "minilm_sentiment"])
    parser.add_argument(
        "--smallest", type=float, help="as small as a loss of so many points allows"
    )
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, folder = options.child
        try:
            row = measure(name, Path(folder), asked(options.smallest))
        except AutocompressError as error:
            row = {"model": name, "failure": str(error)}
        print(json.dumps(row | {"peak_bytes": peak_bytes()}))
        return 0
    rows = []
    for name in options.only or every:
        print(f"{name} ...", file=sys.stderr)
        rows.append(in_a_process(name, options.smallest))
    Console(width=180).print(table(rows, options.smallest))
    if options.json:
        failed = {row["model"]: row["failure"] for row in rows if "failure" in row}
        device = get_device("onnxruntime-cpu")
        write_figures(options.json, "models", device, PACKAGES, rows, {"failed": failed})
    return 0


if __name__ == "__main__":
    sys.exit(main())
