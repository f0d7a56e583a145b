"""Numbers that a module keeps of its channels, such as its number of attention heads.

A forward pass that reshapes into `self.num_heads` heads fails on a narrower model until that
number is changed too.  Which attributes count a group's pieces is guessed from their values;
verification tells whether the guess is right.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from autocompress.model.channels import ChannelGroup, Counter


def guesses(model: nn.Module, group: ChannelGroup) -> Iterator[tuple[Counter, ...]]:
    """Sets of attributes that may count the pieces of a group, the most likely first.

    Args:
        model: Where the group was found.
        group: Its producers and consumers, and all that these are part of, are looked at.
    """
    pieces = _attributes(model, group, 1)
    heads = tuple(counter for counter in pieces if "head" in counter.attribute.lower())
    widths = {member.width for member in (*group.producers, *group.consumers)} - {1}
    totals = tuple(c for width in sorted(widths) for c in _attributes(model, group, width))
    tried: set[tuple[Counter, ...]] = {()}
    for guess in (heads, totals, (*heads, *totals), pieces):
        if guess not in tried:
            tried.add(guess)
            yield guess


def _attributes(model: nn.Module, group: ChannelGroup, each: int) -> tuple[Counter, ...]:
    """Integers that equal the number of pieces times `each`, in the modules around the group."""
    around: dict[str, None] = {}
    for member in (*group.producers, *group.consumers):
        path = member.name
        while path:
            path = path.rpartition(".")[0]
            around[path] = None
    return tuple(
        Counter(path, attribute, each)
        for path in around
        for attribute, value in vars(model.get_submodule(path)).items()
        if type(value) is int and value == each * group.size and not attribute.startswith("_")
    )
