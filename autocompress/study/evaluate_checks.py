"""Does `evaluate` measure what it should, on inputs that nothing was fitted to?"""

from __future__ import annotations

import time

from torch import nn

from autocompress.model.task import Inputs, Task
from autocompress.study.finding import Findings
from autocompress.study.seen_inputs import Seen, seen, state_hash, watching

CLOSE = 1e-6  # of the value, by which two evaluations may differ: the order of a sum
FAR = 1.0  # standard deviations between the means of calibration and evaluation inputs
WIDE = 3.0  # times one standard deviation is that of the other


def check_evaluate(
    task: Task, model: nn.Module, calibration: Inputs | None, findings: Findings
) -> float | None:
    """Notes what `evaluate` does; the test split is run, its value neither shown nor kept.

    Args:
        task: The user's callables.
        model: In evaluation mode.
        calibration: All calibration inputs; None where they are not usable.
        findings: What was found is added.

    Returns:
        Seconds that one evaluation took; None where it fails.
    """
    name = "evaluate"
    weights = state_hash(model)
    begun = time.perf_counter()
    with watching(model) as selection:
        value = findings.attempt(name, lambda: task.evaluate(model, "selection"))
    seconds = time.perf_counter() - begun
    if value is None:
        return None
    _check_effects(model, weights, findings)
    model.eval()
    again = findings.attempt(name, lambda: task.evaluate(model, "selection"))
    if again is not None:
        if abs(again - value) <= CLOSE * max(abs(value), abs(again)):
            findings.ok(name, f"{value:.6g} on the selection split, twice the same")
        else:
            findings.fail(
                name,
                f"{value:.6g} and then {again:.6g} on the same model and split: it must not draw"
                " anew, shuffle or count calls",
            )
    if not selection.rows:
        findings.warn(
            "data leaks",
            "evaluate() never called the model, so what it is evaluated on is not known"
            " (model.forward(x) and exported files are not seen)",
        )
        return seconds
    test = _test_split(task, model, selection, findings)
    if calibration is not None:
        _check_leaks(seen(calibration), selection, test, findings)
    return seconds


def _check_effects(model: nn.Module, weights: bytes, findings: Findings) -> None:
    name = "evaluate leaves the model alone"
    if state_hash(model) != weights:
        findings.fail(name, "it changes weights or buffers of the model that it is given")
    elif any(module.training for module in model.modules()):
        findings.fail(name, "it leaves the model in training mode")
    else:
        findings.ok(name, "same weights and mode after as before")


def _test_split(task: Task, model: nn.Module, selection: Seen, findings: Findings) -> Seen | None:
    """What `evaluate` feeds on the test split; None where there is none."""
    name = "splits"
    if not task.has_splits:
        findings.warn(
            name,
            "evaluate() takes no split: the winner is judged on the inputs that chose it; take"
            " split and keep test inputs apart",
        )
        return None
    with watching(model) as test:
        value = findings.attempt(name, lambda: task.evaluate(model, "test"))
    if value is None:
        return None
    if set(test.rows) == set(selection.rows):
        findings.fail(name, "evaluate() gives the model the same inputs on selection and test")
        return None
    found = f"{len(selection.rows)} selection and {len(test.rows)} test inputs"
    if common := _common(selection, test):
        findings.fail(name, f"{common} of {len(test.rows)} test inputs are selection inputs, too")
    else:
        findings.ok(name, f"{found}, none in both")
    return test


def _check_leaks(
    calibration: Seen, selection: Seen, test: Seen | None, findings: Findings
) -> None:
    name = "data leaks"
    in_test = _common(calibration, test) if test else 0
    in_selection = _common(calibration, selection)
    if test and in_test:
        findings.fail(
            name,
            f"{in_test} of {len(test.rows)} test inputs are calibration inputs, too: the result"
            " would look better than it is",
        )
    if in_selection:
        findings.warn(
            name,
            f"{in_selection} of {len(selection.rows)} selection inputs are calibration inputs,"
            " too: options were fitted to what then chooses among them",
        )
    if not in_test and not in_selection:
        findings.ok(name, "no calibration input is evaluated on")
    _check_likeness(calibration, selection, findings)


def _check_likeness(calibration: Seen, selection: Seen, findings: Findings) -> None:
    name = "same preparation"
    if calibration.shapes != selection.shapes:
        one, other = (
            ", ".join(map(str, part.shapes)) or "nothing" for part in (calibration, selection)
        )
        findings.warn(name, f"an example of calibration() is {one}, one of evaluate() {other}")
        return
    if not calibration.values or not selection.values:
        return
    spread, wide = sorted((calibration.deviation, selection.deviation))
    apart = abs(calibration.mean - selection.mean) > FAR * wide
    said = [
        f"mean {part.mean:.3g}, deviation {part.deviation:.3g}"
        for part in (calibration, selection)
    ]
    if apart or wide > WIDE * spread:
        findings.warn(
            name, f"calibration() has {said[0]}, evaluate() {said[1]}: is one not normalised?"
        )
    else:
        findings.ok(name, f"calibration() has {said[0]}, evaluate() {said[1]}")


def _common(one: Seen, other: Seen) -> int:
    """How many examples of `other` are among those of `one`."""
    known = set(one.rows)
    return sum(row in known for row in other.rows)
