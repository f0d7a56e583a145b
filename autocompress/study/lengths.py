"""Dimensions of inputs, such as the length of a text, that are free in the exported file."""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.errors import ConfigError
from autocompress.hardware.runtimes.float_graph import Dimension
from autocompress.model.task import Inputs
from autocompress.study.config import Study


def free_dimensions(study: Study, example_inputs: Inputs) -> tuple[Dimension, ...]:
    """What `dynamic` in `study.toml` means: entries such as `input_ids:1`.

    Raises:
        ConfigError: If one names no input, or a dimension that it does not have.
    """
    asked = study.settings.dynamic
    names = study.task.interface.names if asked else ()
    found = []
    for text in asked:
        name, _, number = text.rpartition(":")
        if name not in names:
            raise ConfigError(
                f"{study.name}: dynamic: {text!r} names no input; write NAME:DIMENSION with one of"
                f" {', '.join(names)}"
            )
        index = names.index(name)
        rank = example_inputs[index].dim()
        if not number.isdigit() or not 1 <= int(number) < rank:
            raise ConfigError(
                f"{study.name}: dynamic: {text!r}: {name} has dimensions 1 to {rank - 1} beside"
                " the batch"
            )
        found.append((index, int(number)))
    return tuple(found)


def shortened(inputs: Inputs, dynamic: Sequence[Dimension]) -> Inputs:
    """The inputs with their free dimensions cut by a third."""
    result = list(inputs)
    for index, dimension in dynamic:
        length = max(1, 2 * result[index].shape[dimension] // 3)
        result[index] = result[index].narrow(dimension, 0, length)
    return tuple(result)
