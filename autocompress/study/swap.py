"""The swap table: the loss of every option alone in the original, and its push on the outputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.objective.products import products
from autocompress.objective.quality import WORST, Proxy
from autocompress.search_space.space import Space
from autocompress.study.config import Study
from autocompress.study.evaluator import Evaluator
from autocompress.study.events import Listener
from autocompress.study.executors.executor import Lost
from autocompress.study.judge import Swap


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
    study: Study, space: Space, proxy: Proxy, evaluator: Evaluator, listener: Listener
) -> Swapped:
    """Measures every option alone, on `knobs.swap_examples` of the search inputs.

    The last unit comes first: what the layers before it compute is then reused longest.
    """
    parts = tuple(_parts(proxy, study.settings.knobs.swap_examples))
    dense = tuple(
        next(i for i, option in enumerate(menu) if option.is_identity)
        for menu in space.units.values()
    )
    swaps: list[Swap] = [
        ((*dense[:place], option, *dense[place + 1 :]), place, parts)
        for place, menu in reversed(list(enumerate(space.units.values())))
        for option in range(len(menu))
        if option != dense[place]
    ]
    names = list(space.units)
    losses = [np.zeros(len(menu)) for menu in space.units.values()]
    pushed = [[np.zeros(0, np.float32)] * len(menu) for menu in space.units.values()]
    share = sum(proxy.parts[part].stop - proxy.parts[part].start for part in parts)
    share /= len(proxy.inputs[0])
    shares = np.zeros(len(swaps))
    for done, (index, found) in enumerate(evaluator.swaps(swaps), 1):
        candidate, place, _ = swaps[index]
        option, name = candidate[place], names[place]
        if isinstance(found, Lost):
            text = f"layer {name}, option {space.units[name][option].id}: measuring it"
            listener.note(f"{text} {found.reason}; it will not be chosen")
            losses[place][option] = WORST
        else:
            losses[place][option], pushed[place][option], shares[index] = found
        listener.progress(done, len(swaps), f"swapping options of {name}")
    # What each costs where the original's activations are at hand: no matter of luck.
    passes = share * (1 + float(shares.sum()))
    width = max((len(push) for unit in pushed for push in unit), default=0)
    rows = [
        np.stack([push if len(push) else np.zeros(width, np.float32) for push in unit])
        for unit in pushed
    ]
    return Swapped(tuple(losses), products(rows, losses), passes)


def _parts(proxy: Proxy, examples: int) -> list[int]:
    """The first parts that hold so many examples; all for 0."""
    if not examples:
        return list(range(len(proxy.parts)))
    return [index for index, rows in enumerate(proxy.parts) if rows.start < examples]
