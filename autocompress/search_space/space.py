"""The search space: for each unit its options, and why the others are not offered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from autocompress.errors import ConfigError
from autocompress.model.layer import Layer
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.factors import factor_shapes
from autocompress.search_space.option import Option
from autocompress.search_space.preset import SpacePreset
from autocompress.search_space.widths import SharedWidth, narrow_pairs

NAMED = 8  # options of one reason that a sentence names


@dataclass(frozen=True)
class Space:
    """Units with their menus.

    Args:
        units: Unit (layer) name to its options; the identity is always among them.
        removed: Sentences that say which options were left out of which unit, and why.
        widths: What units must have in common.
    """

    units: Mapping[str, tuple[Option, ...]]
    removed: tuple[str, ...] = ()
    widths: tuple[SharedWidth, ...] = ()

    @property
    def computed(self) -> Space:
        """The options that differ in what they compute: all of them keep their outputs."""
        units = {
            unit: tuple(dict.fromkeys(option.computed for option in menu))
            for unit, menu in self.units.items()
        }
        return replace(self, units=units)

    def with_outputs(self) -> Space:
        """The options in all widths of their outputs, given those that differ in what they
        compute; the inverse of `computed`."""
        units = {}
        for unit, menu in self.units.items():
            pairs = set(narrow_pairs(unit, self.widths))
            shares = sorted({makes for _, makes in pairs}, reverse=True)
            units[unit] = tuple(
                replace(option, outputs=share)
                for share in shares
                for option in menu
                if (option.inputs, share) in pairs
            )
        return replace(self, units=units)

    def candidate(self, indices: Sequence[int]) -> Candidate:
        """The candidate that a solver's option numbers mean."""
        pairs = zip(self.units.items(), indices, strict=True)
        return Candidate(tuple((unit, menu[index]) for (unit, menu), index in pairs))

    def indices(self, candidate: Candidate) -> tuple[int, ...]:
        """The option number of each unit.

        Raises:
            ConfigError: If the candidate has another unit or an option that is not on the menu.
        """
        choices = dict(candidate.choices)
        if list(choices) != list(self.units):
            raise ConfigError(
                f"candidate {candidate.id} has the units {list(choices)},"
                f" the space has {list(self.units)}"
            )
        for unit, option in choices.items():
            if option not in self.units[unit]:
                menu = ", ".join(item.id for item in self.units[unit])
                raise ConfigError(f"unit {unit!r} has no option {option.id!r}; there are: {menu}")
        return tuple(self.units[unit].index(option) for unit, option in choices.items())


def build_space(
    layers: Sequence[Layer],
    preset: SpacePreset,
    reject: Callable[[Option, Layer], str],
    file: str = "the search space",
    suited: Callable[[Option], Option] = lambda option: option,
    widths: Sequence[SharedWidth] = (),
) -> Space:
    """Offers every option of the preset that the device can hold and run, for every treated layer.

    Args:
        layers: As traced; those with a reason stay out.
        preset: The catalogue of options.
        reject: Says why the device cannot take an option for a layer; empty when it can.
        file: Where the preset came from, for messages.
        suited: The option that takes the place of one which the device does not run well.
        widths: What layers have in common; only those whose layers are all treated count.

    Raises:
        ConfigError: If a pattern matches no layer, or no layer is left to treat.
    """
    treatable = [layer for layer in layers if layer.is_treated]
    preset.check_patterns([layer.name for layer in layers], file)
    selected = {layer.name for layer in treatable if preset.selects(layer.name)}
    widths = tuple(width for width in widths if selected >= set(width.units))
    units: dict[str, tuple[Option, ...]] = {}
    removed: dict[str, list[str]] = {}
    for layer in treatable:
        if not preset.selects(layer.name):
            removed.setdefault("excluded by the search space", []).append(layer.name)
            continue
        menu = []
        for option in dict.fromkeys(map(suited, preset.options())):
            reason = (
                "" if option.is_identity else _no_smaller(option, layer) or reject(option, layer)
            )
            if reason:
                removed.setdefault(reason, []).append(f"{layer.name} {option.id}")
            else:
                menu.append(option)
        shares = dict.fromkeys(inputs for inputs, _ in narrow_pairs(layer.name, widths))
        units[layer.name] = tuple(
            replace(option, inputs=share)
            for share in shares
            for option in menu
            if share == 1 or not option.pattern  # a pattern counts along all inputs
        )
    if not any(len(menu) > 1 for menu in units.values()):
        raise ConfigError(
            f"{file}: no layer can be treated; `autocompress layers` gives the reasons"
        )
    sentences = tuple(f"{reason}: {_listed(names)}" for reason, names in removed.items())
    return Space(units, sentences, widths).with_outputs()


def _listed(names: list[str]) -> str:
    """The first few of some names, and how many there are more."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _no_smaller(option: Option, layer: Layer) -> str:
    """A rank or a core that does not cut the number of weights is no compression."""
    if option.is_factored:
        held = sum(rows * columns for rows, columns in factor_shapes(layer, option))
        if held >= prod(layer.weight_shape):
            return "the factors would hold more weights than the layer"
    return ""
