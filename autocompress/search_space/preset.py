"""Reads a catalogue of options from a flat TOML: a preset's name, or the path of the user's own
file.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field

from autocompress.errors import ConfigError
from autocompress.search_space.option import Option
from autocompress.toml import Schema, load

FOLDER = "search_spaces"


class SpacePreset(Schema):
    """The options that a search may choose from; every combination that makes sense is offered.

    Attributes:
        bits: Bits of a stored weight.
        sparsity: Shares of zero weights.
        rank: Shares of the full rank; 1 is not factored.
        activations: `float32`, `int8`.
        methods: `obs`, or the baseline `nearest`.
        channels: Shares of the channels that layers keep which can be made narrower together.
        composed: Whether one option may combine rank with sparsity.
        menu: The most options a unit keeps after dominated ones are gone.
        include: Patterns of layer names that may be treated (`fc*`, `features.?`).
        exclude: Patterns of layer names that stay dense; wins over `include`.
    """

    bits: list[int] = Field(default=[32], min_length=1)
    sparsity: list[Annotated[float, Field(ge=0, lt=1)]] = Field(default=[0.0], min_length=1)
    rank: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[1.0], min_length=1)
    channels: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[1.0], min_length=1)
    activations: list[str] = Field(default=["float32"], min_length=1)
    methods: list[str] = Field(default=["obs"], min_length=1)
    composed: bool = True
    menu: int = Field(default=24, ge=2, le=256)
    include: list[str] = ["*"]
    exclude: list[str] = []

    def options(self) -> tuple[Option, ...]:
        """Every option of the catalogue, the identity first."""
        made = {Option(): None}
        for method in self.methods:
            for activations in self.activations:
                for rank in self.rank:
                    for sparsity in self.sparsity:
                        for bits in self.bits:
                            if activations == "int8" and bits > 8:
                                continue
                            if rank < 1 and sparsity and not self.composed:
                                continue
                            option = Option(bits, sparsity, rank, activations, method)
                            if not option.is_identity:  # by either method it is the same
                                made[option] = None
        return tuple(made)

    def axes(self) -> list[str]:
        """What is combined, a line for each axis."""
        return [
            f"weight bits {', '.join(map(str, self.bits))}",
            f"zero weights {', '.join(f'{100 * share:g} %' for share in self.sparsity)}",
            f"rank {', '.join(f'{100 * share:g} %' for share in self.rank)}",
            *(
                [f"channels {', '.join(f'{100 * share:g} %' for share in self.channels)}"]
                if min(self.channels) < 1
                else []
            ),
            f"activations {', '.join(self.activations)}",
            f"method {', '.join(self.methods)}",
        ]

    def selects(self, layer: str) -> bool:
        """Whether the patterns let the layer be treated."""
        return _matches(layer, self.include) and not _matches(layer, self.exclude)

    def check_patterns(self, layers: list[str], file: str) -> None:
        """Refuses a pattern that matches no layer: a typing error would otherwise pass unseen.

        Raises:
            ConfigError: Naming the file, the key and the layers there are.
        """
        for key in ("include", "exclude"):
            for pattern in getattr(self, key):
                if not any(fnmatchcase(layer, pattern) for layer in layers):
                    raise ConfigError(
                        f"{file}: {key} pattern {pattern!r} matches no layer;"
                        f" there are: {', '.join(layers)}"
                    )


def _matches(layer: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(layer, pattern) for pattern in patterns)


def load_space_preset(name: str, relative_to: Path | None = None) -> tuple[SpacePreset, str]:
    """A preset by name or path, and the file it came from.

    Args:
        name: Such as `storage`, or a path ending in `.toml`.
        relative_to: Folder that relative paths start from.

    Raises:
        ConfigError: If there is none, or it is malformed.
    """
    return load(FOLDER, name, relative_to, SpacePreset, SpacePreset.options)
