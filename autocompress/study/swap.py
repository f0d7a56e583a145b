"""The swap table: the loss of every option alone in the original, and its push on the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.compression.stitch import Stitcher
from autocompress.objective.products import Sketch, products
from autocompress.objective.quality import Proxy
from autocompress.search.problem import Candidate
from autocompress.search_space.space import Space
from autocompress.study.config import Study
from autocompress.study.evaluator import Evaluator
from autocompress.study.events import Listener
from autocompress.study.subject import Model


@dataclass(frozen=True)
class Swapped:
    """What single swaps tell.

    Args:
        losses: For each unit `(options,)` the loss of each option alone.
        products: `(all options, all options)`: see `objective.products`.
        passes: What the swaps took, in passes of the model over all search inputs.
    """

    losses: tuple[NDArray[np.float64], ...]
    products: NDArray[np.float32]
    passes: float


def swap_prices(
    study: Study,
    model: Model,
    space: Space,
    stitcher: Stitcher,
    proxy: Proxy,
    listener: Listener,
) -> Swapped:
    """Measures every option alone, on `knobs.swap_examples` of the search inputs.

    The last unit comes first: what the layers before it compute is then reused longest.
    """
    evaluator = Evaluator(model, space, stitcher, proxy, study.workers)
    parts = _parts(proxy, study.settings.knobs.swap_examples)
    dense = tuple(
        next(i for i, option in enumerate(menu) if option.is_identity)
        for menu in space.units.values()
    )
    losses = [np.zeros(len(menu)) for menu in space.units.values()]
    pushed: list[list[NDArray[np.float32]]] = [[] for _ in losses]
    total, done = sum(len(menu) - 1 for menu in space.units.values()), 0
    share = sum(proxy.parts[part].stop - proxy.parts[part].start for part in parts)
    share /= len(proxy.inputs[0])
    passes = share
    sketch = Sketch()
    for place, name in reversed(list(enumerate(space.units))):
        swaps = list(_swaps(dense, place, len(losses[place])))
        given = evaluator.outputs([swap for swap in swaps if swap != dense], parts)
        for option, swap in enumerate(swaps):
            if swap == dense:
                pushed[place].append(np.zeros(0, np.float32))
                continue
            loss, push = _judged(proxy, parts, next(given))
            losses[place][option] = loss
            pushed[place].append(sketch(push))
            done += 1
            # What it costs where the original's activations are at hand: no matter of luck.
            passes += share * evaluator.left(place)
            listener.progress(done, total, f"swapping options of {name}")
    width = max((len(push) for unit in pushed for push in unit), default=0)
    rows = [
        np.stack([push if len(push) else np.zeros(width, np.float32) for push in unit])
        for unit in pushed
    ]
    return Swapped(tuple(losses), products(rows, losses), passes)


def _swaps(dense: Candidate, place: int, options: int) -> Iterator[Candidate]:
    for option in range(options):
        yield (*dense[:place], option, *dense[place + 1 :])


def _parts(proxy: Proxy, examples: int) -> list[int]:
    """The first parts that hold so many examples; all for 0."""
    if not examples:
        return list(range(len(proxy.parts)))
    return [index for index, rows in enumerate(proxy.parts) if rows.start < examples]


def _judged(proxy: Proxy, parts: list[int], outputs: list[Tensor]) -> tuple[float, Tensor]:
    scores, pushes = [], []
    for part, given in zip(parts, outputs, strict=True):
        rows = proxy.parts[part]
        scores.append(proxy.score(given, rows))
        pushes.append(proxy.pushes(given, rows))
    values = np.concatenate(scores)
    push = torch.cat([part.flatten() for part in pushes]) / len(values) ** 0.5
    return float(values.mean()), push
