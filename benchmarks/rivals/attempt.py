"""One tool on one problem: run it, score what comes out, and never crash."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rivals.entries import Entry
from rivals.environment import ToolError, call
from rivals.problem import Budget, Problem
from rivals.scoring import Score, score

TOOLS = Path(__file__).with_name("tools")
NOT_MET = 3  # our exit code when a budget cannot be kept: the closest model was written


@dataclass(frozen=True)
class Effort:
    """What the searches may spend.

    Args:
        evaluations: Passes of ours.
        trials: Of the hand-written search.
        seconds: The most that one tool may take.
        seed: Fixes every draw.
    """

    evaluations: int = 100
    trials: int = 200
    seconds: float = 3600.0
    seed: int = 0


def attempts(
    entry: Entry, problem: Problem, budgets: Sequence[Budget], python: Path, effort: Effort
) -> Iterator[dict[str, Any]]:
    """A row for each budget.  A tool that can be told none runs once and is held to all."""
    shutil.rmtree(problem.folder / folder_name(entry), ignore_errors=True)
    shared: dict[str, Any] = {}
    for budget in budgets:
        told = budget if budget.name in entry.limits else None
        if told is None and shared:
            found = shared
        else:
            found = _attempt(entry, problem, told, python, effort)
        if told is None:
            shared = found
        yield row(entry.name, budget, **found)


def row(
    tool: str, budget: Budget, seconds: float, result: Score | None = None, error: str = ""
) -> dict[str, Any]:
    """The keys of a result; without a result they are None and `error` says why."""
    figures: dict[str, Any] = dict.fromkeys(
        ("agreement", "kl", "bytes_percent", "latency_percent")
    )
    if result is not None:
        figures = asdict(result)
    met = result is not None and result.meets(budget)
    return {
        "tool": tool,
        "budget": str(budget),
        "met": met,
        **figures,
        "seconds": seconds,
        "error": error,
    }


def folder_name(entry: Entry) -> str:
    """Of all that a tool leaves behind."""
    return entry.name.replace(",", "").replace(" ", "_")


def _attempt(
    entry: Entry, problem: Problem, budget: Budget | None, python: Path, effort: Effort
) -> dict[str, Any]:
    # Ours goes on from one budget to the next where only the budget differs, as its users do.
    told = "default" if budget is None else str(budget) if entry.script else budget.name
    out = problem.folder / folder_name(entry) / told.replace("=", "_").replace("%", "")
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        if entry.script:
            _run_script(entry, problem, budget, python, effort, out)
        else:
            assert budget is not None
            _run_ours(problem, budget, effort, out)
        seconds = time.monotonic() - start
        model, shipped = _made(problem, out)
        return {"seconds": seconds, "result": score(problem, model, shipped)}
    except Exception as error:  # noqa: BLE001 - whatever a tool does wrong is its row
        text = str(error) if isinstance(error, ToolError) else f"{type(error).__name__}: {error}"
        return {"seconds": time.monotonic() - start, "error": text[:300]}


def _run_script(
    entry: Entry,
    problem: Problem,
    budget: Budget | None,
    python: Path,
    effort: Effort,
    out: Path,
) -> None:
    request = {
        "study": str(problem.study.resolve()),
        "limit": budget.name if budget else None,
        "share": budget.share if budget else None,
        "trials": effort.trials,
        "seed": effort.seed,
        "settings": entry.settings,
    }
    (out / "request.json").write_text(json.dumps(request))
    script = TOOLS / entry.script
    call([str(python), str(script), str(problem.folder), str(out)], effort.seconds)


def _run_ours(problem: Problem, budget: Budget, effort: Effort, out: Path) -> None:
    limit, space = f"{100 * budget.share:g}%", "int8_mixed"
    if budget.name == "size":
        # Absolute, for a share would be of the original as a safetensors file.
        limit, space = f"{int(budget.share * problem.original_bytes)} B", "storage"
    words = [
        *(sys.executable, "-c", "from autocompress.cli import main; main()"),
        *("run", str(problem.study), "--out", str(out)),
        *("--goal", f"maximise quality subject to {budget.name}<={limit}"),
        *("--space", space),
        *("--evaluations", str(effort.evaluations), "--seed", str(effort.seed)),
    ]
    call(words, effort.seconds, ok=(0, NOT_MET))


def _made(problem: Problem, out: Path) -> tuple[Path, Path]:
    """What runs and what ships.  Ours may keep the original; another tool must write a model."""
    model = out / "model.onnx"
    if not model.is_file() and (out / "result.json").is_file():
        model = problem.folder / "float.onnx"
        return model, model
    if not model.is_file():
        raise ToolError("no model was written")
    shipped = [out / name for name in ("model.acz", "model.bin") if (out / name).is_file()]
    return model, shipped[0] if shipped else model
