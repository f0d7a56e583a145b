"""Goals in one sentence: `minimise latency subject to size<=25% and quality>=-1pt`.

    goal   = aim [joint limits] | limits
    aim    = ("minimise" | "minimize") ("size" | "latency" | METRIC)
           | ("maximise" | "maximize") ("quality" | METRIC)
           | "as" ("small" | "fast" | "good" | "accurate") "as possible"
           | ["Pareto"] "front of" NAME {("," | "and") NAME}
    joint  = "subject to" | "s.t." | "within"
    limits = limit {("," | "and") limit}
    limit  = (NAME | "energy") sign NUMBER [UNIT] ["(soft)"] | LOSS
    sign   = "<=" | "at most" | ">=" | "at least" | "=" | "~"
    LOSS   = NUMBER ("pt" | "points" | "%") ["of" ("quality" | METRIC)] ["(soft)"]

NAME is `size`, `latency`, `quality` or METRIC, the name of the user's metric.  METRIC may be
minimised if it is one that is to be small, maximised if it is not.  Units are those of
`budget.py`: bytes (`2 MB`), time (`3 ms`), energy (`5 mJ`), points of the metric (`-0.5pt`) and
shares of the original (`25%`); without a unit a quality is the metric's own value
(`accuracy>=98.5`).  LOSS is what quality may lose, and follows `within` only: `as small as
possible within 0.5 points`.  A limit with `~` or `(soft)` is aimed at and reported, but may be
missed.  Quality is always one of the names of a front; energy can be limited only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autocompress.errors import ConfigError
from autocompress.objective.budget import (
    ANY_METRIC,
    LIMITED,
    OPTIMISED,
    Limit,
    Metric,
    parse_budget,
)
from autocompress.objective.preset import ObjectivePreset

EXAMPLES = (
    "'minimise latency subject to size<=25% and quality>=-1pt',"
    " 'as small as possible within 0.5 points' or 'front of quality, size and latency'"
)
_WORDS = {"small": "size", "fast": "latency", "good": "quality", "accurate": "quality"}
_JOINT = re.compile(r"\s*(?:\b(subject\s+to|within)\b|\b(s\.\s*t\.))\s*", re.IGNORECASE)
_OPTIMISE = re.compile(r"(mini|maxi)mi[sz]e\s+(.+)", re.IGNORECASE)
_AIM = re.compile(r"(?:minimi|maximi|as\s|front\s|pareto\s)", re.IGNORECASE)
_WITHIN = re.compile(r"\s*within\s*", re.IGNORECASE)
_COMPARISON = re.compile(r"[<>=~≤≥]|\bat\s+(?:most|least)\b", re.IGNORECASE)
_POSSIBLE = re.compile(r"as\s+(\w+)\s+as\s+possible", re.IGNORECASE)
_FRONT = re.compile(r"(?:pareto\s+)?front\s+of\s+(.+)", re.IGNORECASE)
_AND = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+", re.IGNORECASE)
_LOSS = re.compile(r"(\d+(?:\.\d+)?\s*(?:%|pt|points?))(?:\s+of\s+([^()]+?))?\s*(\(\s*soft\s*\))?")
_SIGNS = (
    (re.compile(r"\s*(?:≤|\bat\s+most\b)\s*", re.IGNORECASE), "<="),
    (re.compile(r"\s*(?:≥|\bat\s+least\b)\s*", re.IGNORECASE), ">="),
)


@dataclass(frozen=True)
class Goal:
    """What a sentence asks for.

    Args:
        text: The sentence.
        minimise: `quality` (lose as little as possible), `size` or `latency`; None when the
            sentence holds limits only.
        front: `size`, `latency` or both, when the front of quality and these is wanted.
        limits: By canonical name, in the order given.
    """

    text: str
    minimise: str | None
    front: tuple[str, ...]
    limits: Mapping[str, Limit]


def parse_goal(text: str, metric: Metric = ANY_METRIC) -> Goal:
    """Reads a sentence; the grammar is that of this file.

    Args:
        text: The sentence.
        metric: Name and direction of the user's metric.

    Raises:
        ConfigError: Naming the sentence, the part that is not understood and what is allowed.
    """
    try:
        return _parse(text, metric)
    except ConfigError as error:
        raise ConfigError(f"goal {text!r}: {str(error).removeprefix('budget ')}") from None


def _parse(text: str, metric: Metric) -> Goal:
    joint = _JOINT.search(text)
    aim = (text[: joint.start()] if joint else text).strip()
    if not aim:
        raise ConfigError(f"what is wanted? Such as {EXAMPLES}")
    if joint is None and _COMPARISON.search(aim):
        if _AIM.match(aim):
            raise ConfigError("'subject to' is missing between what is wanted and the limits")
        return Goal(text, None, (), _limits(aim, metric, takes_loss=False))
    minimise, front = _aim(aim, metric)
    if joint is None:
        return Goal(text, minimise, front, {})
    # "maximise quality within 25%" leaves open of what.
    takes_loss = bool(_WITHIN.fullmatch(joint[0])) and (minimise != "quality" or bool(front))
    return Goal(text, minimise, front, _limits(text[joint.end() :], metric, takes_loss))


def _aim(text: str, metric: Metric) -> tuple[str, tuple[str, ...]]:
    """What is minimised, and the front."""
    if found := _FRONT.fullmatch(text):
        return "quality", _front(found[1], metric)
    if found := _POSSIBLE.fullmatch(text):
        if found[1].lower() not in _WORDS:
            raise ConfigError(f"'as {found[1]} as possible': allowed are {', '.join(_WORDS)}")
        return _WORDS[found[1].lower()], ()
    found = _OPTIMISE.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is not understood; write such as {EXAMPLES}")
    is_least, name = found[1].lower() == "mini", found[2].strip()
    if len(_AND.split(name)) > 1:
        raise ConfigError(
            f"{name!r}: only one can be optimised; limit the others or ask for a"
            " 'front of quality, size and latency'"
        )
    known = _known(name, metric)
    if known != "quality":
        if not is_least:
            raise ConfigError(f"{text!r}: {known} is made small; write 'minimise {known}'")
        return known, ()
    # `quality` itself is good when large, whatever the metric that stands for it.
    large = metric.higher_is_better or name.lower() == "quality"
    if is_least == large:
        wanted, verb = ("large", "maximise") if large else ("small", "minimise")
        raise ConfigError(f"{text!r}: {name} is better when {wanted}; write '{verb} {name}'")
    return "quality", ()


def _front(text: str, metric: Metric) -> tuple[str, ...]:
    names = [_known(name, metric) for name in _AND.split(text.strip())]
    if len(set(names)) < len(names):
        raise ConfigError(f"'front of {text}': names one twice")
    if set(names) <= {"quality"}:
        raise ConfigError(f"'front of {text}': name size, latency or both beside quality")
    return tuple(name for name in names if name != "quality")


def _known(name: str, metric: Metric) -> str:
    known = metric.canonical(name)
    if known == "energy":
        raise ConfigError("energy can be limited only, such as energy<=50%")
    if known not in OPTIMISED:
        allowed = [name for name in metric.names if name != "energy"]
        raise ConfigError(f"{name!r} is not known; allowed are {', '.join(allowed)}")
    return known


def _limits(text: str, metric: Metric, takes_loss: bool) -> dict[str, Limit]:
    """The limits of a list; `takes_loss` says whether a bare `0.5 points` may be one."""
    for pattern, sign in _SIGNS:
        text = pattern.sub(sign, text)
    lines = []
    for part in _AND.split(text.strip()):
        found = _LOSS.fullmatch(part)
        if found is not None and not takes_loss:
            size = f"size<={part} or " if "%" in part else ""
            raise ConfigError(f"{part!r}: of what? write {size}quality>=-{part}")
        if found is not None:
            if found[2] and _known(found[2], metric) != "quality":
                raise ConfigError(f"{part!r}: write {found[2]}<={found[1]}")
            part = f"quality>=-{found[1]}{found[3] or ''}"
        elif not _COMPARISON.search(part):
            raise ConfigError(
                f"{part!r} is not a limit; write such as size<=25%, latency<=3ms, quality>=-0.5pt"
                " or quality>=98.5, joined by 'and'"
            )
        lines.append(part)
    return parse_budget(lines, metric)


def settle(
    objective: ObjectivePreset,
    goal: Goal | None,
    beside: Mapping[str, Limit],
    later: Mapping[str, Limit],
) -> tuple[ObjectivePreset, dict[str, Limit]]:
    """What is optimised, and under which limits.

    Args:
        objective: Its limits hold where nobody gives another, unless there is a goal.
        goal: Takes the place of what the objective minimises and of all its limits.
        beside: Limits given together with the goal; may not limit the same.
        later: Limits that replace those of the same name.

    Returns:
        The objective with the goal's aim, and the limits by name, in the order given.

    Raises:
        ConfigError: If goal and budget limit the same, or what is asked has no bound.
    """
    if goal is None:
        return objective, objective.limits() | dict(beside) | dict(later)
    for name in goal.limits:
        if name in beside:
            raise ConfigError(
                f"goal {goal.text!r}: the budget limits {name} as well ({beside[name].text});"
                " give it in one of them"
            )
    limits = {**goal.limits, **beside, **later}
    change: dict[str, object] = dict.fromkeys(LIMITED, "")
    if goal.minimise is not None:
        change |= {"minimise": goal.minimise, "front": goal.front}
    aimed = objective.model_copy(update=change)
    if aimed.minimise != "quality" and "quality" not in limits:
        raise ConfigError(
            f"goal {goal.text!r}: nothing holds the quality while {aimed.minimise} is made small;"
            " add a limit such as quality>=-0.5pt"
        )
    if aimed.minimise == "quality" and not aimed.front and set(limits) <= {"quality"}:
        raise ConfigError(
            f"goal {goal.text!r}: the original is the best without a limit on size or latency;"
            " add one such as size<=25%"
        )
    return aimed, limits
