"""A compressed model in its real width, as torch runs it: what is gone is not computed.

`stitched` keeps every tensor as wide as it was, with zeros, so that candidates can be compared
layer by layer; this is the model to deploy where torch itself is the runtime.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from autocompress.compression.stitch import stitched
from autocompress.compression.treated import Treated
from autocompress.model.channels import ChannelGroup
from autocompress.model.layer import matrix_shape
from autocompress.model.matrix import weight_shape


@dataclass(frozen=True)
class Count:
    """An attribute that counts channels of a layer, such as a number of heads.

    Args:
        path: Dotted path of the attribute.
        each: By how much it is less where a piece is gone.
        width: Rows of the layer that are a piece.
        layer: Makes the channels.
    """

    path: str
    each: int
    width: int
    layer: str

    def __str__(self) -> str:
        return f"{self.path}={self.each}/{self.width}*{self.layer}"

    @staticmethod
    def parse(text: str) -> Count:
        """The inverse of `str`.

        Raises:
            ValueError: If it is none.
        """
        found = re.fullmatch(r"([^=]+)=([1-9]\d{0,8})/([1-9]\d{0,8})\*(.+)", text, re.ASCII)
        if found is None:
            raise ValueError(f"{text!r} is no count of channels")
        path, each, width, layer = found.groups()
        return Count(path, int(each), int(width), layer)


def counts_of(groups: Sequence[ChannelGroup]) -> tuple[Count, ...]:
    """The attributes that count the pieces of some groups."""
    return tuple(
        Count(
            f"{counter.module}.{counter.attribute}".lstrip("."),
            counter.each,
            group.producers[0].width,
            group.producers[0].name,
        )
        for group in groups
        for counter in group.counters
    )


def narrowed(
    model: nn.Module, treated: Mapping[str, Treated], counts: Sequence[Count] = ()
) -> nn.Module:
    """A new model with the given layers, each as wide as what is stored for it.

    Args:
        model: The dense model, in canonical form; not changed.
        treated: What is stored, narrow or not, by layer; all that makes or reads channels that are
            gone is among them.
        counts: Attributes that may change with the channels; those of layers that are not treated
            do not.
    """
    changing = [count for count in counts if count.layer in treated]
    result = stitched(model, {name: own_width(layer) for name, layer in treated.items()})
    recount(result, recounted(model, changing, treated))
    return result


def own_width(treated: Treated) -> Treated:
    """The same without a mark of which channels of the whole layer it has."""
    return replace(treated, narrow=None)


def recounted(
    model: nn.Module, counts: Sequence[Count], treated: Mapping[str, Treated]
) -> dict[str, int]:
    """What attributes that count channels are in the narrower model, by path.

    Args:
        model: The dense model.
        counts: What is counted.
        treated: What is stored by layer.

    Raises:
        ValueError: If the model has no such attribute, or nothing would be left to count.
    """
    found = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for count in counts:
        module, _, attribute = count.path.rpartition(".")
        here = vars(modules[module]).get(attribute) if module in modules else None
        layer = treated.get(count.layer)
        if layer is None or type(here) is not int or count.layer not in modules:
            raise ValueError(f"{count} counts nothing that is in the model")
        rows, _ = matrix_shape(weight_shape(modules[count.layer]))
        left = here - count.each * ((rows - len(layer.weights[-1].codes)) // count.width)
        if not 0 < left <= here:
            raise ValueError(f"{count} leaves {left} of {here}")
        found[count.path] = left
    return found


def recount(model: nn.Module, values: Mapping[str, int]) -> None:
    """Sets attributes that count channels, in place."""
    for path, value in values.items():
        module, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(module), attribute, value)
