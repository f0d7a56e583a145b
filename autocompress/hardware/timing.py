"""Timing on a shared machine: interleaved blocks, by process CPU time, and their 20th percentile.

Interleaving lets every rival meet the same disturbances; the low percentile leaves most of them
out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERCENTILE = 20.0
Clock = Callable[[], int]  # nanoseconds


@dataclass(frozen=True)
class Timing:
    """Time of one run, by the clock that was read.

    Args:
        p20_ms: 20th percentile over the blocks, per run.
        spread: Interquartile range of the blocks over their 20th percentile.
        blocks: Number of blocks.
        samples_ms: Time per run of each block, in running order.
    """

    p20_ms: float
    spread: float
    blocks: int
    samples_ms: tuple[float, ...] = ()

    @staticmethod
    def of(samples_ms: NDArray[np.float64]) -> Timing:
        low, p20, high = np.percentile(samples_ms, [25, PERCENTILE, 75])
        spread = float((high - low) / p20) if p20 else 0.0
        return Timing(float(p20), spread, len(samples_ms), tuple(map(float, samples_ms)))


@dataclass(frozen=True)
class Ratio:
    """A ratio of two timings and its 90 % interval."""

    value: float
    low: float
    high: float


def interleaved(
    callables: Mapping[str, Callable[[], object]],
    blocks: int = 25,
    block_ms: float = 3.0,
    warmup: int = 2,
    patience: float = 2.0,
    clock: Clock = time.process_time_ns,
) -> dict[str, Timing]:
    """Time several functions in turn: one block of each, then the next round.

    While another program shares the processor, CPU time too is longer, up to half as much again
    for integer kernels.  So rounds are added until a fifth of them are nearly the quickest.

    Args:
        callables: What to time, by name.
        blocks: Rounds, at least; 25 or more for figures that are reported.
        block_ms: Time that a block should take; short functions are repeated within it.
        warmup: Runs of each before the first block.
        patience: Rounds at most, as a multiple of `blocks`.
        clock: What is read before and after a block.

    Returns:
        The `Timing` of one run of each.
    """
    repeats = {}
    for name, run in callables.items():
        for _ in range(warmup):
            run()
        repeats[name] = _repeats(run, block_ms, clock)
    rounds: list[list[float]] = []
    while len(rounds) < blocks or (len(rounds) < patience * blocks and _is_disturbed(rounds)):
        rounds.append([_block_ms(run, repeats[name], clock) for name, run in callables.items()])
    samples = np.array(rounds).T
    return {name: Timing.of(row) for name, row in zip(callables, samples, strict=True)}


def _is_disturbed(rounds: list[list[float]]) -> bool:
    totals = np.array(rounds).sum(axis=1)
    return float(np.percentile(totals, PERCENTILE)) > 1.04 * float(totals.min())


def ratio(over: Timing, under: Timing, generator: np.random.Generator, draws: int = 400) -> Ratio:
    """`over / under` of two functions that were timed in the same rounds.

    Args:
        over: Timing of the numerator.
        under: Timing of the denominator, with as many blocks.
        generator: Draws the bootstrap's rounds, pairs kept together.
        draws: Bootstrap repetitions.

    Raises:
        ValueError: If the two were not timed in the same number of rounds.
    """
    if len(over.samples_ms) != len(under.samples_ms) or not over.samples_ms:
        raise ValueError(
            f"ratio: {len(over.samples_ms)} and {len(under.samples_ms)} blocks are not pairs"
        )
    pairs = np.array([over.samples_ms, under.samples_ms])
    rounds = generator.integers(pairs.shape[1], size=(draws, pairs.shape[1]))
    above, below = np.percentile(pairs[:, rounds], PERCENTILE, axis=2)
    low, high = np.percentile(above / below, [5, 95])
    return Ratio(over.p20_ms / under.p20_ms, float(low), float(high))


def _repeats(run: Callable[[], object], block_ms: float, clock: Clock) -> int:
    """How many runs fill a block."""
    repeats = 1
    while True:
        spent = _block_ms(run, repeats, clock) * repeats
        if spent >= block_ms / 4:
            return max(1, round(repeats * block_ms / spent))
        repeats *= 2


def _block_ms(run: Callable[[], object], repeats: int, clock: Clock) -> float:
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / 1e6 / repeats
