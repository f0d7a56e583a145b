"""Times more whole models than fit into memory at once: in batches that share one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autocompress.hardware.clock import Progress, time_models
from autocompress.hardware.runtimes.catalogue import DEFAULT
from autocompress.hardware.runtimes.runtime import Program, Runtime, Values
from autocompress.hardware.timing import Timing

REFERENCE = "reference"


def time_in_batches(
    makers: Sequence[Callable[[], Program]],
    values: Values,
    most: int,
    blocks: int = 25,
    block_ms: float = 3.0,
    progress: Progress | None = None,
    runtime: Runtime = DEFAULT,
) -> list[Timing]:
    """Time models in turn, at most `most` open at a time.

    The first model is in every batch.  What a later batch measures is multiplied by the time of
    the first model in the first batch over that in its own, so that all are on one scale.

    Args:
        makers: Each makes a model; called when its batch is opened.
        values: Input name to array.
        most: Models of a batch, two or more.
        blocks: Rounds.
        block_ms: CPU time of a block.
        progress: Called with what is being done and the share that is done.
        runtime: What runs them.

    Returns:
        Timings in the order of `makers`.

    Raises:
        ValueError: If a batch has no room beside the first model.
    """
    if most < 2:
        raise ValueError(f"time_in_batches: {most} model in a batch, two are needed")
    timings: list[Timing] = []
    while len(timings) < len(makers):
        start = max(len(timings), 1)
        part = range(start, min(start + most - 1, len(makers)))
        models = {REFERENCE: makers[0](), **{str(index): makers[index]() for index in part}}
        timed = time_models(
            models, values, blocks, block_ms, _within(progress, part, makers), runtime
        )
        if not timings:
            timings.append(timed[REFERENCE])
        scale = timings[0].p20_ms / timed[REFERENCE].p20_ms
        timings += [Timing.of(scale * np.array(timed[str(index)].samples_ms)) for index in part]
    return timings


def _within(
    progress: Progress | None, part: range, makers: Sequence[Callable[[], Program]]
) -> Progress | None:
    """Progress of one batch as a share of all."""
    if progress is None:
        return None
    done, size = part.start / len(makers), len(part) / len(makers)
    return lambda stage, share: progress(stage, done + size * share)
