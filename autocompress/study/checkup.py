"""Looks for a study's mistakes before time is spent: everything that a run would trip over."""

from __future__ import annotations

import time
from collections import Counter

from autocompress.model.task import batches
from autocompress.model.trace import run
from autocompress.search_space.space import Space
from autocompress.study.config import Study
from autocompress.study.evaluate_checks import check_evaluate
from autocompress.study.events import Listener, Silent
from autocompress.study.finding import Findings
from autocompress.study.model_checks import check_calibration, check_example, check_model
from autocompress.study.subject import Model, look

ENOUGH = 0.5  # share of the parameters that treated layers should have
TIMED = 256  # search inputs that are timed at most
BATCH = 64
REASONS_NAMED = 3


def check_study(study: Study, listener: Listener | None = None) -> Findings:
    """Looks at all that a run takes from the user; writes nothing.

    What cannot be looked at because of an earlier error is left out.

    Args:
        study: Read and well-formed.
        listener: Hears of what is looked at.

    Returns:
        What was found, in the order of a run.
    """
    findings, listener = Findings(), listener or Silent()
    listener.stage("model", "two of them, and their inputs")
    _check_device(study, findings)
    usable = check_model(study.task, findings)
    example = findings.attempt("example inputs", study.task.example_inputs)
    model = findings.attempt("model", study.task.model) if usable and example else None
    if model is None or example is None or not check_example(model, example, findings):
        return findings
    listener.stage("data", "calibration inputs")
    calibration = check_calibration(study.task, model, example, findings)
    listener.stage("evaluate", "twice on the selection split, once on the test split")
    evaluation = check_evaluate(study.task, model, calibration, findings)
    if calibration is None:
        return findings
    looked = findings.attempt("layers", lambda: look(study, listener))
    if looked is None:
        return findings
    traced, space = looked
    _check_layers(traced, space, findings)
    listener.stage("export", "to ONNX")
    if findings.attempt("ONNX export", lambda: traced.graph) is not None:
        findings.ok("ONNX export", "the exported model gives the same outputs")
    if evaluation is not None:
        _estimate(study, traced, space, evaluation, findings)
    return findings


def _check_device(study: Study, findings: Findings) -> None:
    device = study.device
    if device.sheet is not None:
        findings.warn("device", f"{device.name} is not here: latencies are estimated")
    elif reason := device.missing():
        findings.fail("device", f"{device.name}: {reason}")
    else:
        findings.ok("device", f"{device.name} is here")


def _check_layers(model: Model, space: Space, findings: Findings) -> None:
    """Which layers are treated, and how much of the model they are."""
    total = sum(tensor.numel() for tensor in model.state.values()) or 1
    chosen = [layer for layer in model.layers if layer.name in space.units]
    share = sum(layer.parameters for layer in chosen) / total
    left = Counter(
        layer.reason or "left out by the search space"
        for layer in model.layers
        if layer.name not in space.units
    )
    text = (
        f"{len(chosen)} of {len(model.layers)} layers are treated, {100 * share:.1f} % of the"
        " parameters"
    )
    named = [f"{reason} ({count})" for reason, count in left.most_common(REASONS_NAMED)]
    if left:
        text += f"; left alone: {', '.join(named)}" + ", …" * (len(left) > REASONS_NAMED)
    if share >= ENOUGH:
        findings.ok("layers", text)
    else:
        findings.warn("layers", f"{text} (see `autocompress layers`)")


def _estimate(
    study: Study, model: Model, space: Space, evaluation: float, findings: Findings
) -> None:
    """Roughly what a run takes, by what was measured here."""
    inputs = tuple(tensor[:TIMED] for tensor in model.search_inputs)
    begun = time.perf_counter()
    for part in batches(inputs, BATCH):
        run(model.dense, part)
    seconds = time.perf_counter() - begun
    one = seconds * len(model.search_inputs[0]) / len(inputs[0])
    swapped = study.settings.knobs.swap_examples or len(model.search_inputs[0])
    share = min(1.0, swapped / len(model.search_inputs[0]))
    swaps = sum(min(len(menu), study.space.menu) - 1 for menu in space.units.values())
    passes = share * swaps + study.settings.evaluations
    # The original and each finalist on the selection split, the original and the winner on test.
    evaluations = study.objective.finalists + 3
    total = passes * one + evaluations * evaluation
    findings.ok(
        "time",
        f"evaluate {evaluation:.2g} s, a pass over {len(model.search_inputs[0])} search inputs"
        f" {one:.2g} s: at most {_about(total)} for prices, search and confirmation on one thread,"
        " for candidates reuse what they share; bank and device profile, made once, come on top",
    )


def _about(seconds: float) -> str:
    """A duration as roughly as it is known."""
    for name, unit in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * unit:
            return f"about {seconds / unit:.2g} {name}"
    return f"about {max(1, round(seconds))} s"
