"""What a study of the knobs has shown, and what follows for the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autocompress.hardware.device import machine_fingerprint
from autocompress.study.config import Study
from autocompress.study.result import versions

SCHEMA = 1
NAME = "tune-settings"


@dataclass(frozen=True)
class Tuning:
    """What a study of the knobs has shown so far.

    Args:
        rows: One a finished trial, the defaults first: `trial`, `knobs`, `value` (loss over that
            of the defaults), `seconds` (bank, prices and search), `excess` (how far the limits
            are missed), `error`.
        importances: Knob to its share of what decides whether a trial is among the best, by
            PED-ANOVA (Watanabe et al., 2304.10255); empty with too few trials.
        best: Trial with the least value within the limits and the time.
        noise: Standard deviation of the defaults' log loss over draws of the calibration inputs.
        confirmed: `ratio`, `low`, `high`: the best trial's loss over that of the defaults on
            further draws, with its interval of 95 %; empty when the defaults are the best.
    """

    rows: tuple[Mapping[str, Any], ...]
    importances: Mapping[str, float]
    best: int
    noise: float
    confirmed: Mapping[str, float]

    @property
    def conclusion(self) -> str:
        """What follows for the defaults, in one sentence."""
        if not self.confirmed:
            return "No trial was better than the defaults: they stay."
        low, high = self.confirmed["low"], self.confirmed["high"]
        ratio = f"{self.confirmed['ratio']:.3f} ({low:.3f} to {high:.3f}) times the defaults' loss"
        if high < 1:
            return f"Trial {self.best} is better beyond noise: {ratio} on further draws."
        if low > 1:
            return (
                f"Trial {self.best} was the best by luck: {ratio} on further draws; the defaults"
                " stay."
            )
        return (
            f"No knob matters beyond noise: the best trial, {self.best}, has {ratio} on further"
            " draws; the defaults stay."
        )

    def as_dict(self, studies: Sequence[Study]) -> dict[str, Any]:
        """The content of the JSON file, in the form of a benchmark."""
        device = studies[0].device
        return {
            "schema": SCHEMA,
            "name": NAME,
            "machine": machine_fingerprint(device),
            "versions": versions(),
            "rows": [dict(row) for row in self.rows],
            "summary": {
                "studies": [study.name for study in studies],
                "importances": dict(self.importances),
                "best": self.best,
                "noise": self.noise,
                "confirmed": dict(self.confirmed),
                "conclusion": self.conclusion,
            },
        }
