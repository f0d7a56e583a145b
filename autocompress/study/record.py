"""An evaluated candidate, and the finished Optuna trial that it is kept as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autocompress.study.packing import packed, unpacked

NAMES = ("loss", "size_bytes", "latency_ms")
GIVEN_UP = (float("inf"), float("nan"), float("nan"))  # values of what was not measured
LONGEST = 60_000  # characters of one attribute; MySQL's TEXT holds 65 535 bytes


@dataclass(frozen=True)
class Record:
    """An evaluated candidate.

    Args:
        id: Short id of the candidate.
        choices: Unit to option id.
        loss: Proxy loss, measured.
        spread: Standard error of the loss.
        size_bytes: Predicted, exact for an archive.
        latency_ms: Predicted by the cost model.
        origin: What proposed it.
        seconds: Time of the evaluation.
        attributes: What the sampler wants back on resume.
        examples: On how many search inputs it was measured, where that is known.
        passes: The same as a share of all of them.
        work: What that cost, in passes of the whole model over all of them; less where activations
            were reused.
        doubt: Relative standard error of the loss, 0 when it was measured on every input.
        samples: `(n,)` loss of each search input; empty when it was not measured on all.
        error: Why it was given up; empty for what was measured.
    """

    id: str
    choices: Mapping[str, str]
    loss: float
    spread: float
    size_bytes: float
    latency_ms: float
    origin: str
    seconds: float
    attributes: Mapping[str, Any] = field(default_factory=dict)
    examples: int = 0
    passes: float = 1.0
    work: float = 1.0
    doubt: float = 0.0
    samples: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    error: str = ""

    @property
    def complete(self) -> bool:
        """Whether it was measured on every search input; others were dropped by the race, and
        their loss is an estimate."""
        return self.doubt == 0 and not self.error

    def value(self, name: str) -> float:
        """Loss or a cost by name."""
        return float(getattr(self, name))


def attributes_of(record: Record) -> dict[str, Any]:
    """The user attributes of a record's trial, ready for JSON."""
    samples = packed(record.samples) if record.complete else ""
    return {
        "candidate": record.id,
        "spread": record.spread,
        "origin": record.origin,
        "seconds": record.seconds,
        "sampler": dict(record.attributes),
        "examples": record.examples,
        "passes": record.passes,
        "work": record.work,
        "doubt": record.doubt,
        **dict(_parts("samples", samples)),
        **({"error": record.error} if record.error else {}),
    }


def trial_with(
    choices: Mapping[str, str],
    values: Sequence[float],
    attributes: Mapping[str, Any],
    constraints: Mapping[str, float],
    distributions: Mapping[str, CategoricalDistribution],
) -> FrozenTrial:
    """A finished trial, its values in the order of `NAMES`; without any it has failed."""
    return create_trial(
        state=TrialState.COMPLETE if values else TrialState.FAIL,
        params=dict(choices),
        distributions=dict(distributions),
        values=list(values) or None,
        user_attrs=dict(attributes),
        constraints=dict(constraints),
    )


def read_records(trials: Sequence[FrozenTrial], units: Sequence[str] = ()) -> list[Record]:
    """Finished trials as records, in order; of two with the same candidate the first.  One that
    was given up has an infinite loss and no costs.

    Args:
        trials: Of one study.
        units: Their order, on which a candidate's id depends and which a database does not keep;
            empty where the trials keep it.
    """
    records: dict[str, Record] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE or "error" in trial.user_attrs:
            record = _record(trial, units)
            records.setdefault(record.id, record)
    return list(records.values())


def _record(trial: FrozenTrial, units: Sequence[str]) -> Record:
    attributes = trial.user_attrs
    loss, size_bytes, latency_ms = trial.values or GIVEN_UP
    return Record(
        id=attributes["candidate"],
        choices={unit: trial.params[unit] for unit in units or trial.params},
        loss=loss,
        spread=attributes["spread"],
        size_bytes=size_bytes,
        latency_ms=latency_ms,
        origin=attributes["origin"],
        seconds=attributes["seconds"],
        attributes=attributes.get("sampler", {}),
        examples=attributes.get("examples", 0),
        passes=attributes.get("passes", 1.0),
        work=attributes.get("work", 1.0),
        doubt=attributes.get("doubt", 0.0),
        samples=unpacked(joined(attributes, "samples")),
        error=attributes.get("error", ""),
    )


def _parts(key: str, text: str) -> Iterator[tuple[str, str]]:
    """A text as attributes that every database holds: `key`, `key.1`, `key.2`, ..."""
    yield key, text[:LONGEST]
    for number, start in enumerate(range(LONGEST, len(text), LONGEST), 1):
        yield f"{key}.{number}", text[start : start + LONGEST]


def split(key: str, text: str) -> dict[str, str]:
    """A text as attributes that every database holds; `joined` puts it together.

    The last part comes first, so that a reader who finds `key` finds all of it.
    """
    return dict(reversed(list(_parts(key, text))))


def joined(attributes: Mapping[str, Any], key: str) -> str:
    """The text that was split under a key; empty when there is none."""
    text, number = str(attributes.get(key, "")), 1
    while (part := attributes.get(f"{key}.{number}")) is not None:
        text, number = text + str(part), number + 1
    return text
