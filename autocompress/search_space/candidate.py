"""A candidate: one option for each unit of the whole model, as data with a stable short id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from autocompress.search_space.option import Option


@dataclass(frozen=True)
class Candidate:
    """Unit to option, in the order of the search space.

    Args:
        choices: Pairs of unit name and option.
    """

    choices: tuple[tuple[str, Option], ...]

    @property
    def id(self) -> str:
        """Ten hexadecimal digits of a hash over units and options; the same on every machine."""
        return hashlib.sha256(json.dumps(self.as_dict()).encode()).hexdigest()[:10]

    def __getitem__(self, unit: str) -> Option:
        return dict(self.choices)[unit]

    def as_dict(self) -> dict[str, str]:
        """Unit name to option id, ready for JSON."""
        return {unit: option.id for unit, option in self.choices}

    @staticmethod
    def from_dict(choices: Mapping[str, str]) -> Candidate:
        """The inverse of `as_dict`.

        Raises:
            ConfigError: If an option id is malformed.
        """
        return Candidate(tuple((unit, Option.parse(text)) for unit, text in choices.items()))
