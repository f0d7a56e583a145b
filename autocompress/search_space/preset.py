"""Reads a catalogue of options from a flat TOML: a preset's name, or the path of the user's own
file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from autocompress.errors import ConfigError
from autocompress.search_space.option import DYNAMIC_RUNS, LEVELS, LONGEST_RUN, Option
from autocompress.toml import Schema, load

FOLDER = "search_spaces"
# Columns of a run that integer kernels take; those of float activations take any.
_RUNS: dict[str, tuple[int, ...]] = {"int8": (), "dynamic": DYNAMIC_RUNS}


def _check_levels(levels: int) -> int:
    if levels and not LEVELS[0] <= levels <= LEVELS[1]:
        raise ValueError(f"expected 0 or {LEVELS[0]} to {LEVELS[1]} values")
    return levels


def _check_scales(scales: int | str) -> int | str:
    is_run = isinstance(scales, int) and 2 <= scales <= LONGEST_RUN
    if not is_run and scales not in ("channel", "tensor"):
        raise ValueError(
            f"expected 'channel', 'tensor' or a number of columns from 2 to {LONGEST_RUN}"
        )
    return scales


def _check_pattern(pattern: str) -> str:
    if pattern != "none":
        try:
            Option(bits=4, pattern=pattern)
        except ConfigError as error:
            raise ValueError(str(error)) from error
    return pattern


Levels = Annotated[int, AfterValidator(_check_levels)]
Scales = Annotated[int | str, AfterValidator(_check_scales)]
Pattern = Annotated[str, Field(min_length=1), AfterValidator(_check_pattern)]


class SpacePreset(Schema):
    """The options that a search may choose from; every combination that makes sense is offered.

    Attributes:
        bits: Bits of a stored weight.
        sparsity: Shares of zero weights.
        rank: Shares of the full rank; 1 is not factored.
        tucker: Shares of the input and output channels that the core of a convolution keeps; 1
            is not factored.
        activations: `float32`, `int8`, `dynamic`; see `Option`.
        methods: `obs`, or the baseline `nearest`.
        channels: Shares of the channels that layers keep which can be made narrower together.
        codebook: How many values a weight may have, instead of integer codes; 0 for none.
        scales: What shares one step of integer codes: `channel`, `tensor`, or a run of so many
            columns.
        affine: Whether codes have a zero point; both may be listed.
        patterns: N of M successive inputs that stay, such as `2:4`; `none` for none.
        rate: What a bit is worth while weights are rounded: the share of the layer's output energy
            that one bit a weight may cost; 0 rounds for the least error.
        composed: Whether one option may combine techniques: rank with zeros, rate with zeros that
            were chosen before, and other scales, zero points, rate and codebook with one another.
        menu: The most options a unit keeps after dominated ones are gone.
        include: Patterns of layer names that may be treated (`fc*`, `features.?`).
        exclude: Patterns of layer names that stay dense; wins over `include`.
    """

    bits: list[int] = Field(default=[32], min_length=1)
    sparsity: list[Annotated[float, Field(ge=0, lt=1)]] = Field(default=[0.0], min_length=1)
    rank: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[1.0], min_length=1)
    tucker: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[1.0], min_length=1)
    channels: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[1.0], min_length=1)
    activations: list[str] = Field(default=["float32"], min_length=1)
    methods: list[str] = Field(default=["obs"], min_length=1)
    codebook: list[Levels] = Field(default=[0], min_length=1)
    scales: list[Scales] = Field(default=["channel"], min_length=1)
    affine: list[bool] = Field(default=[False], min_length=1)
    patterns: list[Pattern] = Field(default=["none"], min_length=1)
    rate: list[Annotated[float, Field(ge=0, le=10)]] = Field(default=[0.0], min_length=1)
    composed: bool = True
    menu: int = Field(default=24, ge=2, le=256)
    include: list[str] = ["*"]
    exclude: list[str] = []

    def options(self) -> tuple[Option, ...]:
        """Every option of the catalogue, the identity first."""
        made = {Option(): None}
        for method, activations in product(self.methods, self.activations):
            for base in self._bases(method):
                for codes in self._codes(method, activations, base.zeros > 0):
                    option = replace(base, **codes, activations=activations)
                    if not option.is_identity:  # by either method it is the same
                        made[option] = None
        return tuple(made)

    def _bases(self, method: str) -> Iterator[Option]:
        """How a weight is factored, and which weights are zero."""
        for rank, tucker in product(self.rank, self.tucker):
            if tucker == 1:
                for sparsity, pattern in self._zeros(rank, method):
                    yield Option(sparsity=sparsity, rank=rank, method=method, pattern=pattern)
            elif rank == 1:
                yield Option(method=method, tucker=tucker)

    def _zeros(self, rank: float, method: str) -> Iterator[tuple[float, str]]:
        """Shares of zeros, then patterns."""
        for sparsity in self.sparsity:
            if not sparsity or rank == 1 or self.composed:
                yield sparsity, ""
        for pattern in self.patterns if method == "obs" else []:
            if pattern != "none" and (rank == 1 or self.composed):
                yield 0.0, pattern

    def _codes(self, method: str, activations: str, has_zeros: bool) -> Iterator[dict[str, Any]]:
        """How values are coded: what goes together, of all that is listed."""
        integers, baseline = activations in _RUNS, method == "nearest"
        runs = _RUNS.get(activations)
        rates = [rate for rate in self.rate if self.composed or not (rate and has_zeros)]
        for levels, bits in product(self.codebook, self.bits):
            if levels:
                if not integers and not baseline:
                    for rate in rates if self.composed else [0.0]:
                        yield {"codebook": levels, "bits": 32, "rate": rate}
                continue
            if integers and bits > 8:
                continue
            for scales, affine, rate in product(self.scales, self.affine, rates):
                further = (scales != "channel") + affine + (rate > 0)
                if further > 1 and not self.composed:
                    continue
                if further and (bits > 8 or baseline):
                    continue
                if affine and not 2 <= bits <= 7:
                    continue
                if isinstance(scales, int) and runs is not None and scales not in runs:
                    continue
                yield {"bits": bits, "scales": str(scales), "affine": affine, "rate": rate}

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
            *self._more_axes(),
            f"activations {', '.join(self.activations)}",
            f"method {', '.join(self.methods)}",
        ]

    def _more_axes(self) -> Iterator[str]:
        """Axes that are named only where they offer something."""
        if min(self.tucker) < 1:
            yield f"Tucker core {', '.join(f'{100 * share:g} %' for share in self.tucker)}"
        if any(self.codebook):
            yield f"codebook values {', '.join(str(levels or 'none') for levels in self.codebook)}"
        if self.scales != ["channel"]:
            runs = (f"{way} columns" if isinstance(way, int) else way for way in self.scales)
            yield f"one step for each {', '.join(runs)}"
        if any(self.affine):
            yield f"zero points {', '.join('yes' if way else 'no' for way in self.affine)}"
        if self.patterns != ["none"]:
            yield f"patterns {', '.join(self.patterns)}"
        if any(self.rate):
            yield f"rate {', '.join(f'{rate:g}' for rate in self.rate)}"

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
