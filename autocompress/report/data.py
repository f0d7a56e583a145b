"""A run directory in one record: what is not there yet is named, what is damaged is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.errors import StorageError
from autocompress.report.limits import Limit, limits_of, mapping
from autocompress.report.prices import Alone, read_prices
from autocompress.report.units import number

if TYPE_CHECKING:
    import pandas

Row = Mapping[str, Any]
FRONT_NUMBERS = ("loss", "size_bytes", "latency_ms", "quality")
_FRONT_NEEDED = ("candidate", "loss", "size_bytes", "latency_ms")


@dataclass(frozen=True)
class RunData:
    """What a run has left on disk.

    Args:
        path: The run directory as the caller named it.
        result: `result.json`; empty while the run has not finished.
        plan: `plan.json`; empty when absent.
        front: `front.csv`: `candidate`, `loss`, `size_bytes`, `latency_ms`, `quality` (NaN where
            it was not measured) and one text column per layer; no rows when absent.
        layers: Layers of `details.json`, in the model's order.
        budget: Limits of `details.json`.
        finalists: Candidates that were measured on the device and by the user's metric.
        history: Evaluations of the search, in order.
        moves: What each move of the search did and earned.
        price: What a candidate cost the search.
        knee: Candidate at the knee of the front, or empty.
        stopped: Why the search ended, or empty.
        proxy: Pairs of proxy loss and measured quality.
        latency: The cost model's audit: `points`, `mape_percent`, `spearman` and others.
        notes: Sentences for the user.
        provenance: Versions, machine, seed, times.
        files: Bytes of every artefact that is there, by name; directories count what they hold.
        prices: Layer to what each of its options costs alone; empty when unknown.
        selection_original: Quality of the original on the selection split, where candidates are
            compared; None where unknown.
        asked: `run.json`: how the run was called; empty when absent.
        missing: Names of the files that the report would use and that are not there.
    """

    path: Path
    result: Row
    plan: Row
    front: pandas.DataFrame
    layers: tuple[Row, ...] = ()
    budget: tuple[Row, ...] = ()
    finalists: tuple[Row, ...] = ()
    history: tuple[Row, ...] = ()
    moves: tuple[Row, ...] = ()
    price: Row = field(default_factory=dict)
    knee: str = ""
    stopped: str = ""
    proxy: tuple[Row, ...] = ()
    latency: Row = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    provenance: Row = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    prices: Mapping[str, tuple[Alone, ...]] = field(default_factory=dict)
    selection_original: float | None = None
    asked: Row = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @cached_property
    def limits(self) -> tuple[Limit, ...]:
        """Quality, size, latency and other limits, each with its measured value."""
        return limits_of(self.result, self.budget, self.provenance)

    def limit(self, name: str) -> Limit:
        """The row of one cost; without a limit its `limit` is None."""
        return next((limit for limit in self.limits if limit.name == name), Limit(name))

    @property
    def selection_shift(self) -> float:
        """What to add to a test quality to compare it with those of the selection split."""
        original = self.limit("quality").original
        if self.selection_original is None or original is None:
            return 0.0
        return self.selection_original - original

    @property
    def best(self) -> Row:
        return mapping(self.result, "best")

    @property
    def original(self) -> Row:
        return mapping(self.result, "original")

    @property
    def best_id(self) -> str:
        """Id of the winner, or empty."""
        return str(self.best.get("candidate") or "")

    @property
    def layer_columns(self) -> list[str]:
        """Columns of `front` that hold the option of a layer."""
        return [c for c in self.front.columns if c not in ("candidate", *FRONT_NUMBERS)]


def load_run(run_dir: Path | str) -> RunData:
    """Reads what is there of a run.

    Args:
        run_dir: The run directory.

    Raises:
        StorageError: If the directory does not exist, or a file in it is damaged or unreadable.
    """
    path = Path(run_dir)
    if not path.is_dir():
        raise StorageError(f"{path}: no such run directory")
    details_path = path / "details.json"
    result, plan, details, asked = (
        _read_json(path / name)
        for name in ("result.json", "plan.json", "details.json", "run.json")
    )
    front = read_front(path / "front.csv")
    audit = _object(details, "audit", details_path)
    used = ("result.json", "details.json", "front.csv", "plan.json", "trials.parquet")
    return RunData(
        path=path,
        result=result,
        plan=plan,
        front=front,
        layers=_rows(details, "layers", details_path),
        budget=_rows(details, "budget", details_path),
        finalists=_rows(details, "finalists", details_path),
        history=_rows(details, "history", details_path),
        moves=_rows(details, "moves", details_path),
        price=_object(details, "price", details_path),
        knee=str(details.get("knee") or ""),
        stopped=str(details.get("stopped") or ""),
        proxy=_rows(audit, "proxy", details_path),
        latency=_latency_audit(audit, details_path),
        notes=_sentences(details, "notes", details_path),
        provenance=_object(details, "provenance", details_path),
        files=_files(path),
        prices=read_prices(path / "prices.json"),
        selection_original=number(mapping(details, "original").get("selection_quality")),
        asked=asked,
        missing=tuple(name for name in used if not (path / name).exists()),
    )


def read_front(path: Path) -> pandas.DataFrame:
    """The front as a table sorted by size; empty when the file is not there.

    Raises:
        StorageError: If the file cannot be read, lacks a column, or holds text for a number.
    """
    import pandas

    if not path.exists():
        return pandas.DataFrame(columns=["candidate", *FRONT_NUMBERS])
    try:
        front = pandas.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: not a readable table ({error})") from error
    lacking = [name for name in _FRONT_NEEDED if name not in front.columns]
    if lacking:
        raise StorageError(f"{path}: lacks the column {', '.join(lacking)}")
    if "quality" not in front.columns:
        front.insert(len(_FRONT_NEEDED), "quality", "")
    for name in FRONT_NUMBERS:
        try:
            front[name] = [float(text or "nan") for text in front[name]]
        except ValueError as error:
            raise StorageError(f"{path}: column {name} holds a text ({error})") from error
    return front.sort_values("size_bytes", kind="stable", ignore_index=True)


def _read_json(path: Path) -> Row:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path}: damaged, not JSON ({error})") from error
    if not isinstance(content, dict):
        raise StorageError(f"{path}: damaged, expected an object, got {type(content).__name__}")
    return content


def _object(record: Row, key: str, path: Path) -> Row:
    value = record.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise StorageError(f"{path}: {key} must be an object, got {type(value).__name__}")
    return value


def _rows(record: Row, key: str, path: Path) -> tuple[Row, ...]:
    value = record.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise StorageError(f"{path}: {key} must be a list of objects")
    return tuple(value)


def _sentences(record: Row, key: str, path: Path) -> tuple[str, ...]:
    value = record.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise StorageError(f"{path}: {key} must be a list of sentences")
    return tuple(map(str, value))


def _latency_audit(audit: Row, path: Path) -> Row:
    latency = dict(_object(audit, "latency", path))
    latency["points"] = _rows(latency, "points", path)
    return latency


def _files(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in sorted(path.iterdir()):
        # The report would otherwise list itself and differ from one writing to the next.
        if entry.name == "report.html" or entry.name.startswith("."):
            continue
        inside = entry.rglob("*") if entry.is_dir() else (entry,)
        try:
            found[entry.name] = sum(file.stat().st_size for file in inside if file.is_file())
        except OSError:  # A running study may remove a file while it is being counted.
            continue
    return found
