"""How good the cost model is: predicted against measured latency on candidates it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from autocompress.hardware.timing import PERCENTILE, Timing


@dataclass(frozen=True)
class Point:
    """One candidate of the fit.

    Args:
        name: Its layers' options.
        predicted_ms: By the cost model.
        measured_ms: By the clock.
        macs: Multiply-adds, what a FLOPs-only model knows.
        held_out: Whether the fit did not see it.
    """

    name: str
    predicted_ms: float
    measured_ms: float
    macs: float
    held_out: bool


@dataclass(frozen=True)
class Fit:
    """Error of the cost model on held-out candidates.

    Args:
        mape_percent: Mean absolute error relative to the measured latency.
        worst_percent: The largest of these errors.
        spearman: Rank correlation of predicted and measured.
        bias: Mean of predicted over measured.
        noise_floor_percent: Mean difference of two halves of the same measurement.
        flops_spearman: Rank correlation of multiply-adds and measured.
        flops_mape_percent: Error of an affine function of multiply-adds fitted to the same runs.
        table_seconds: Time that measuring single operations took; 0 when all were known.
        fit_seconds: Time that measuring whole models took.
        points: All candidates.
    """

    mape_percent: float
    worst_percent: float
    spearman: float
    bias: float
    noise_floor_percent: float
    flops_spearman: float
    flops_mape_percent: float
    table_seconds: float
    fit_seconds: float
    points: tuple[Point, ...]

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Fit:
        """A fit from the plain values of `dataclasses.asdict`."""
        points = tuple(Point(**point) for point in content["points"])
        return Fit(**{**content, "points": points})


def judge(
    points: Sequence[Point],
    timings: Sequence[Timing],
    table_seconds: float,
    fit_seconds: float,
) -> Fit:
    """Sum up a fit.

    Args:
        points: Calibration and held-out candidates.  With fewer than two of the latter, in a space
            of a handful of candidates, all are judged.
        timings: Their timings, in the same order.
        table_seconds: See `Fit`.
        fit_seconds: See `Fit`.
    """
    unseen = [point for point in points if point.held_out]
    unseen = unseen if len(unseen) > 1 else list(points)
    predicted = np.array([point.predicted_ms for point in unseen])
    measured = np.array([point.measured_ms for point in unseen])
    macs = np.array([point.macs for point in unseen])
    errors = np.abs(predicted / measured - 1)
    by_flops = _affine([point for point in points if not point.held_out], macs)
    return Fit(
        mape_percent=float(100 * errors.mean()),
        worst_percent=float(100 * errors.max()),
        spearman=spearman(predicted, measured),
        bias=float((predicted / measured).mean()),
        noise_floor_percent=float(np.mean([_split_half(timing) for timing in timings])),
        flops_spearman=spearman(macs, measured),
        flops_mape_percent=float(100 * np.abs(by_flops / measured - 1).mean()),
        table_seconds=table_seconds,
        fit_seconds=fit_seconds,
        points=tuple(points),
    )


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Rank correlation; 0 when one side is constant."""
    ranks = np.array([rankdata(first), rankdata(second)])
    if (ranks.std(axis=1) == 0).any():
        return 0.0
    return float(np.corrcoef(ranks)[0, 1])


def _affine(points: Sequence[Point], macs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Latency as an affine function of multiply-adds, least relative error on `points`."""
    measured = np.array([point.measured_ms for point in points])
    rows = np.array([[point.macs, 1.0] for point in points]) / measured[:, None]
    slope, constant = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0]
    return np.asarray(slope * macs + constant)


def _split_half(timing: Timing) -> float:
    samples = np.array(timing.samples_ms)
    halves = [float(np.percentile(samples[start::2], PERCENTILE)) for start in (0, 1)]
    return 100 * abs(halves[0] - halves[1]) / timing.p20_ms
