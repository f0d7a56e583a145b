"""A finished run as a later one is compared with it: what it came to and what it was made from."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from autocompress.errors import StorageError
from autocompress.files import read_json
from autocompress.hardware.cost_model import LatencyPrices
from autocompress.search_space.option import Option
from autocompress.study.decisions import NAME as DECISIONS
from autocompress.study.decisions import Decisions, read_decisions
from autocompress.study.origins import read_origins
from autocompress.study.status import read_run


@dataclass(frozen=True)
class Facts:
    """What a finished run left behind.

    Args:
        folder: The run directory.
        result: Content of `result.json`.
        details: Content of `details.json`.
        origins: Content of `origins.json`; empty for a run of an older version.
        device: Content of `device.json`.
        metric: Name of the user's metric.
    """

    folder: Path
    result: Mapping[str, Any]
    details: Mapping[str, Any]
    origins: Mapping[str, Any]
    device: Mapping[str, Any]
    metric: str

    @cached_property
    def decisions(self) -> Decisions | None:
        """On the test split, where the run delivered a model."""
        return read_decisions(self.folder / DECISIONS)

    @property
    def asked(self) -> Mapping[str, Any]:
        """What the run was after, key by key."""
        found: Mapping[str, Any] = self.origins.get("asked", {})
        return found

    @property
    def metric_unit(self) -> str:
        return str(self.asked.get("metric_unit", ""))

    @property
    def higher_is_better(self) -> bool:
        return bool(self.asked.get("metric_direction", "maximize") == "maximize")

    @property
    def is_delivered(self) -> bool:
        """Whether a compressed model was delivered; else the original stayed."""
        return bool(self.result["best"]["candidate"] != "original")

    @property
    def selection_quality(self) -> float:
        """The delivered model's metric on the selection split."""
        measured = self.result["best"]["measured"]
        return float(measured.get("selection_quality", measured["quality"]))

    @property
    def split_gap(self) -> float | None:
        """How far the delivered model's distance from the original differs between selection and
        test split; None where the two are not told apart."""
        finalists = [row for row in self.details.get("finalists", []) if row.get("chosen")]
        original = self.details.get("original", {}).get("selection_quality")
        if not finalists or original is None:
            return None
        on_test = self.result["best"]["quality"] - self.result["original"]["quality"]
        return float(self.selection_quality - original - on_test)

    @property
    def latency_ratio(self) -> float:
        """The delivered model's latency over the original's, measured in the same minutes."""
        return float(self.result["best"]["latency_ms"] / self.result["original"]["latency_ms"])

    @property
    def latency_interval(self) -> tuple[float, float]:
        """90 % interval of that; of the original itself there is none."""
        low, high = self.result["best"]["measured"].get("latency_ratio", (1.0, 1.0))
        return float(low), float(high)

    @cached_property
    def prices(self) -> LatencyPrices:
        """What the device's table said."""
        return LatencyPrices.from_dict(self.device["profile"]["prices"])

    @property
    def fit_error(self) -> float:
        """Mean error of the cost model as a share; 0 where prices are estimates."""
        fit = self.device["profile"].get("fit")
        return float(fit["mape_percent"]) / 100 if fit else 0.0

    @property
    def dense_ms(self) -> float:
        """The original's latency as the table has it."""
        return float(self.prices.predict({name: Option() for name in self.prices.unit_ms}))

    @cached_property
    def front(self) -> list[dict[str, str]]:
        """The rows of `front.csv`."""
        with (self.folder / "front.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def load_facts(run: Path) -> Facts:
    """What a finished run left behind.

    Raises:
        StorageError: If it has not finished, or a file is missing or damaged.
    """
    begun = read_run(run)
    if not begun["finished"]:
        raise StorageError(f"{run}: has not finished; go on with it first")
    facts = Facts(
        run,
        read_json(run / "result.json"),
        read_json(run / "details.json"),
        read_origins(run),
        read_json(run / "device.json"),
        str(begun.get("metric", "quality")),
    )
    try:
        _ = (facts.latency_ratio, facts.dense_ms, facts.selection_quality, facts.front)
    except (KeyError, TypeError, OSError, ZeroDivisionError) as error:
        raise StorageError(f"{run}: not the record of a finished run ({error!r})") from None
    return facts
