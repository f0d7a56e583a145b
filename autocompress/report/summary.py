"""The run in plain sentences: what was asked, what came out, how good the predictions were."""

from __future__ import annotations

from dataclasses import dataclass

from autocompress.report.data import RunData
from autocompress.report.device_tables import coverage_text, further_costs
from autocompress.report.limits import Limit, mapping
from autocompress.report.recovery_text import recovery_lines
from autocompress.report.units import number, plain_text, printable, share_text, size_text


@dataclass(frozen=True)
class Verdict:
    """The first line of the report.

    Args:
        state: `met`, `missed`, `open` (a winner without limits) or `unfinished`.
        headline: One short sentence.
    """

    state: str
    headline: str


def verdict(run: RunData) -> Verdict:
    """Whether the budget is met, as measured."""
    if not run.best:
        return Verdict("unfinished", "This run has not finished: there is no winner yet.")
    asked = [limit for limit in run.limits if limit.limit is not None]
    missed = [limit.name for limit in asked if limit.met is False and not limit.soft]
    soft = [limit.name for limit in asked if limit.met is False and limit.soft]
    is_met = run.result.get("budget_met")
    if not asked:
        return Verdict("open", "No limits were asked for.")
    if is_met is False or missed:
        names = " and ".join(missed) or "at least one limit"
        return Verdict("missed", f"Budget not met: {names} stays beyond its limit.")
    if soft:
        names = " and ".join(soft)
        return Verdict("met", f"Budget met; {names} stays beyond what was aimed at (soft).")
    count = "the limit is" if len(asked) == 1 else f"all {len(asked)} limits are"
    estimated = " and ".join(limit.name for limit in asked if limit.estimated)
    known = f"; {estimated} as estimated" if estimated else ""
    return Verdict("met", f"Budget met: {count} kept, as measured{known}.")


def sentences(run: RunData) -> tuple[str, ...]:
    """What was asked, each result against its limit and prediction, and which limit binds."""
    return (*asked_lines(run), *outcome_lines(run))


def asked_lines(run: RunData) -> tuple[str, ...]:
    """The limits in one sentence; empty where none were given."""
    asked = [limit for limit in run.limits if limit.limit is not None]
    if not asked:
        return ()
    wishes = "; ".join(f"{limit.name} {limit.asked} ({limit.text})" for limit in asked)
    return (printable(f"Asked: {wishes}.".replace(" ()", "")),)


def outcome_lines(run: RunData) -> tuple[str, ...]:
    """Each result against limit and prediction, what binds, and further costs."""
    found: list[str] = []
    if run.best:
        found += [_outcome(limit) for limit in run.limits if limit.measured is not None]
        found += _binding(run)
        coverage = coverage_text(mapping(mapping(run.result, "device"), "coverage"))
        further = [coverage, *further_costs(mapping(run.result, "estimates"))]
        further += recovery_lines(run.result)
        found += [f"{line[:1].upper()}{line[1:]}." for line in further if line]
    elif run.history:
        found.append(_so_far(run))
    return tuple(map(printable, found))


def _outcome(limit: Limit) -> str:
    name = limit.label.capitalize()
    text = f"{name}: {limit.show(limit.measured)}"
    if limit.original is not None:
        text += f", from {limit.show(limit.original)} ({_relation(limit)})"
    if limit.limit is not None:
        text += f"; {limit.distance} its limit"
    error = limit.prediction_error
    if limit.estimated:
        text += ". No clock was asked: the device is known from its data sheet"
    elif error is not None:
        side = "above" if error > 0 else "below"
        gap = f"{100 * abs(error):.1f} % {side}" if abs(error) >= 0.0005 else "within 0.1 % of"
        text += f". Predicted {limit.show(limit.predicted)}, measured {gap} that"
    elif limit.predicted_loss is not None:
        text += (
            f". Its predicted loss (KL to the original's outputs) was "
            f"{plain_text(limit.predicted_loss, 3)}"
        )
    return f"{text}."


def _relation(limit: Limit) -> str:
    measured, original = limit.measured, limit.original
    if limit.name == "quality" or not measured or not original:
        return limit.change
    word = {"size": "smaller", "latency": "faster"}.get(limit.name, "lower")
    times = f", {original / measured:.3g} times {word}" if measured < original else ""
    return f"{share_text(measured / original)} of it{times}"


def _binding(run: RunData) -> list[str]:
    names = [limit.name for limit in run.limits if limit.binding]
    if not names:
        return []
    if len(names) > 1:
        return [f"The limits that bind: {' and '.join(names)}."]
    return [f"The limit that binds: {names[0]}. Only loosening it would allow a better model."]


def _so_far(run: RunData) -> str:
    feasible = [row for row in run.history if row.get("feasible")]
    known = [(loss, row) for row in feasible if (loss := number(row.get("loss"))) is not None]
    text = f"So far: {len(run.history)} evaluations, {len(feasible)} within the limits"
    if known:
        loss, best = min(known, key=lambda pair: pair[0])
        text += f"; best loss {plain_text(loss, 3)} at {size_text(best.get('size_bytes'))}"
    return f"{text}."
