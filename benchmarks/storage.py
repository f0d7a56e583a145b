"""What recording a trial costs in each storage: how long the search waits for it, how long until
the storage has it, and how long reading all takes.

    python benchmarks/storage.py --json storage.json
    python benchmarks/storage.py --url postgresql+psycopg://me@host/studies
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from house_format import write_figures
from rich.console import Console
from rich.table import Table

from autocompress.hardware.device import get_device
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.option import Option
from autocompress.study.place import Place, own_journal, place_of
from autocompress.study.record import Record
from autocompress.study.storage import StudyStorage, load_records

PACKAGES = ("autocompress", "numpy", "optuna", "SQLAlchemy")
UNITS, OPTIONS, INPUTS = 30, 20, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=160)
    parser.add_argument(
        "--url", action="append", default=[], help="of a database; may be repeated"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(name, place, options.trials)
            for name, place in places(Path(folder), options.url)
        ]
    table = Table(title=f"{options.trials} trials of {UNITS} units")
    for head in ("storage", "search waits, ms", "until stored, ms", "CPU ms", "reading, s"):
        table.add_column(head, justify="left" if head == "storage" else "right")
    for row in rows:
        table.add_row(
            row["storage"],
            f"{row['waits_ms']:.1f}",
            f"{row['stored_ms']:.1f}",
            f"{row['cpu_ms']:.1f}",
            f"{row['reading_s']:.2f}",
        )
    Console().print(table)
    if options.json:
        device = get_device("onnxruntime-cpu")
        write_figures(options.json, "storage", device, PACKAGES, rows, {})


def places(folder: Path, urls: list[str]) -> Iterator[tuple[str, Place]]:
    """Name and place of every storage; all that they keep is in `folder`, or in a database under
    a name of its own."""
    yield "own journal", own_journal(folder / "study.journal")
    elsewhere = [f"{folder}/shared.journal", f"sqlite:///{folder}/studies.db", *urls]
    for number, storage in enumerate(elsewhere):
        run = folder / f"run{number}"
        run.mkdir()
        place = place_of(run, storage, f"benchmark-{time.time_ns()}")
        yield f"{place.kind} elsewhere" if place.journal else place.kind, place


def measure(name: str, place: Place, trials: int) -> dict[str, Any]:
    """One row, in ms a trial; batches of eight, as a search records them."""
    rng = np.random.default_rng(0)
    menu = [Option(4, sparsity=percent / 100).id for percent in range(OPTIONS)]
    menus = {f"layer{unit}": menu for unit in range(UNITS)}
    records = [record(menus, rng) for _ in range(trials)]
    begun, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    waited = 0.0
    with StudyStorage(place, menus, {"benchmark": "1"}) as storage:
        for start in range(0, trials, 8):
            asked = time.perf_counter()
            for one in records[start : start + 8]:
                storage.add(one, {"size_bytes": -0.1})
            storage.flush()
            waited += time.perf_counter() - asked
    stored, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    read = time.perf_counter()
    found = load_records(place)
    read = time.perf_counter() - read
    assert [one.id for one in found] == [one.id for one in records]
    spent = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
    return {
        "storage": name,
        "trials": trials,
        "waits_ms": 1000 * waited / trials,
        "stored_ms": 1000 * stored / trials,
        "cpu_ms": 1000 * spent / trials,
        "reading_s": read,
    }


def record(menus: dict[str, list[str]], rng: np.random.Generator) -> Record:
    """A candidate that was measured on every input."""
    choices = {unit: menu[rng.integers(OPTIONS)] for unit, menu in menus.items()}
    candidate = Candidate.from_dict(choices)
    samples = rng.random(INPUTS).astype(np.float32).astype(np.float64)
    loss = float(samples.mean())
    return Record(candidate.id, choices, loss, 0.01, 1e6, 1.0, "seed", 0.1, samples=samples)


if __name__ == "__main__":
    main()
