"""Where work runs: in this process, in others, or on a cluster.  One protocol for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

State = TypeVar("State")
State_co = TypeVar("State_co", covariant=True)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Source(Protocol[State_co]):
    """What many pieces of work have in common, such as a model and its bank; handed over once."""

    def open(self, workers: int = 1) -> Sequence[State_co]:
        """What each of `workers` threads of one process works with."""
        ...


@dataclass(frozen=True)
class Lost:
    """Stands for the result of work that ended its worker or never ended.

    Args:
        reason: What happened, for a person.
    """

    reason: str


class Executor(Protocol):
    """Runs pieces of work.

    A piece is `function(state, item)`, with the state that its worker made of the source.  Its
    result depends on nothing else, so it is the same everywhere, in any order, on one thread.

    Attributes:
        name: As in `study.toml`.
        workers: Pieces that run at a time.
    """

    name: str

    @property
    def workers(self) -> int: ...

    def map_unordered(
        self,
        function: Callable[[State, Item], Result],
        source: Source[State],
        items: Sequence[Item],
        *,
        alike: bool = True,
    ) -> Iterator[tuple[int, Result | Lost]]:
        """Runs all items; yields the place of each and its result as they are finished.

        Args:
            function: Of a module, so that other processes find it.
            source: Handed over once for all calls that name the same object.
            items: Small; neighbours may be given to one worker.
            alike: Whether items take about the same time, so that one that takes far longer is
                given up; where they differ there is no time limit.

        Raises:
            AutocompressError: What `function` raises; and if no worker can be had.
        """
        ...

    def close(self) -> None:
        """Ends every worker."""
        ...
