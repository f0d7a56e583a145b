"""Options that gain nothing on the device are not offered, with the reason.

An integer kernel, a lower rank or a Tucker core that is not faster than what it stands for costs
quality and buys nothing: bits and zeros make the file smaller without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from autocompress.hardware.cost_model import LatencyPrices
from autocompress.search_space.option import Option
from autocompress.search_space.space import Space

INT8 = "int8 kernels"
KERNELS = {"int8": INT8, "dynamic": "kernels of packed weights"}
RANKS, CORES = "lower ranks", "Tucker cores"
ON = {"float32": "", "int8": " on int8", "dynamic": " on packed weights"}


def without_losers(space: Space, latency: LatencyPrices) -> Space:
    """The space without integer kernels, ranks and cores that cannot make the model faster.

    An int8 layer is given the benefit of all the changes of precision around it that it may spare
    its neighbours.  Each option is compared with another of the same width.

    Args:
        space: As the device allows it.
        latency: Prices of every option.

    Returns:
        The same space with shorter menus; its `removed` says what went, and why.
    """
    units, removed = {}, list(space.removed)
    for unit, menu in space.units.items():
        spared = _spared_ms(unit, latency)
        worth: set[Option] = set()
        slow: dict[str, list[tuple[float, float]]] = {}
        for option in menu:
            name, instead = _stands_for(option)
            allowance = spared if name == INT8 else 0.0
            # What it stands for may not be on the menu: then the dense layer is the rival.
            rival = next(o for o in (instead, _plain(option)) if o in menu or o == _plain(o))
            own, other = latency.unit(unit, option), latency.unit(unit, rival)
            if name and own - allowance >= other:
                slow.setdefault(name, []).append((own, other))
            else:
                worth.add(option.computed)
        # What pays at one number of outputs stays at all of them: which it will be, others decide.
        kept = tuple(option for option in menu if option.computed in worth)
        units[unit] = kept
        for name, times in slow.items():
            if not _offers(kept, name):
                own, other = min(times)
                removed.append(
                    f"{unit}: {name}, which make nothing faster here"
                    f" ({own:.4f} ms at best, {other:.4f} ms without)"
                )
    return replace(space, units=units, removed=tuple(removed))


def _spared_ms(unit: str, latency: LatencyPrices) -> float:
    """What an int8 layer may spare its neighbours: every change of precision at its edges, and
    all that the residual additions around it may save."""
    edges = sum(
        edge.down_ms if edge.head == unit else edge.up_ms
        for edge in latency.edges
        if unit in (edge.tail, edge.head) and None not in (edge.tail, edge.head)
    )
    return edges + sum(found.saved_ms for found in latency.sums if unit in found.layers)


def _stands_for(option: Option) -> tuple[str, Option]:
    """The sort of an option and what it should be faster than; no sort for the others."""
    if option.is_factored:
        name = RANKS if option.rank < 1 else CORES
        return name + ON[option.activations], replace(option, rank=1.0, tucker=1.0)
    if option.activations != "float32":
        return KERNELS[option.activations], _plain(option)
    return "", option


def _plain(option: Option) -> Option:
    """The dense float layer of the same width."""
    return Option(inputs=option.inputs, outputs=option.outputs)


def _offers(menu: Iterable[Option], name: str) -> bool:
    """Whether options of that sort are left."""
    return any(_stands_for(option)[0] == name for option in menu)
