"""What a look at a study found: one line of `autocompress check`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from autocompress.errors import AutocompressError

State = Literal["ok", "warning", "error"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: What, such as `calibration inputs`.
        state: `ok`; `warning`, with which a run works but may disappoint; `error`, with which it
            fails or misleads.
        text: What was found, in a sentence.
    """

    name: str
    state: State
    text: str


class Findings(list[Finding]):
    """Findings in the order in which they were made."""

    def ok(self, name: str, text: str) -> None:
        self.append(Finding(name, "ok", text))

    def warn(self, name: str, text: str) -> None:
        self.append(Finding(name, "warning", text))

    def fail(self, name: str, text: str) -> None:
        self.append(Finding(name, "error", text))

    def attempt(self, name: str, function: Callable[[], Value]) -> Value | None:
        """What the function returns; None where it raised an error of ours, which is noted."""
        try:
            return function()
        except AutocompressError as error:
            self.fail(name, str(error))
            return None

    @property
    def has_errors(self) -> bool:
        return any(finding.state == "error" for finding in self)
