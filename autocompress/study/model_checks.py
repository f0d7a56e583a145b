"""Is the model what a run needs, and do its inputs fit it?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autocompress.errors import TaskError
from autocompress.model.task import Inputs, Task
from autocompress.model.trace import run
from autocompress.study.finding import Findings
from autocompress.study.seen_inputs import row_hashes, state_hash
from autocompress.study.subject import FEWEST

GOOD = 500  # calibration examples
NAMED = 4  # parts in a sentence


def check_model(task: Task, findings: Findings) -> bool:
    """Whether the user's `model()` gives what can be compressed; notes how it comes."""
    name = "model"
    given = _made(task, findings)
    if given is None:
        return False
    parameters = sum(parameter.numel() for parameter in given.parameters())
    if not parameters:
        findings.fail(name, "the model has no parameters, so there is nothing to compress")
        return False
    training = [part for part, module in given.named_modules() if module.training]
    before = state_hash(given)
    again = _made(task, findings)
    if again is None:
        return False
    if state_hash(again) != before:
        findings.fail(
            name,
            "model() gives other weights each time: load them from a file, or a run cannot go on"
            " after an interruption",
        )
    elif training:
        findings.warn(
            name,
            f"model() returns it in training mode ({_listed(training)}); a run puts it into"
            " evaluation mode, and so should you: return net.eval()",
        )
    else:
        findings.ok(name, f"{type(given).__name__}, {parameters:,} parameters, evaluation mode")
    return True


def _made(task: Task, findings: Findings) -> nn.Module | None:
    """The model as the user's function returns it, in the mode in which it does."""
    try:
        given = task.make_model()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        findings.fail("model", f"model() raised {type(error).__name__}: {error}")
        return None
    if not isinstance(given, nn.Module):
        findings.fail("model", f"model() must return an nn.Module, got {type(given).__name__}")
        return None
    return given


def check_example(model: nn.Module, inputs: Inputs, findings: Findings) -> bool:
    """Whether the model runs on the example inputs; notes what it returns."""
    name = "example inputs"
    output = findings.attempt(name, lambda: run(model, inputs))
    if output is None:
        if not findings or findings[-1].name != name:
            findings.fail(name, "the model returned None; forward() must return one tensor")
        return False
    if not isinstance(output, Tensor):
        findings.fail(
            name,
            f"the model returned {type(output).__name__}; wrap it so that forward() returns one"
            " tensor of logits",
        )
        return False
    if not bool(torch.isfinite(output).all()):
        findings.fail(name, "the model's output holds NaN or infinity")
        return False
    findings.ok(name, f"{_shapes(inputs)} give an output of {_shape(output)}")
    name = "same output twice"
    if torch.equal(output, run(model, inputs)):
        findings.ok(name, "two passes over the same input agree")
    else:
        findings.fail(
            name,
            "two passes over the same input differ: dropout that ignores evaluation mode, or a"
            " draw in forward()?",
        )
    return True


def check_calibration(
    task: Task, model: nn.Module, example: Inputs, findings: Findings
) -> Inputs | None:
    """The calibration inputs, unless they cannot be used; notes their number and fit."""
    name = "calibration inputs"
    inputs = findings.attempt(name, task.calibration)
    if inputs is None:
        return None
    if not _fits(model, inputs, example, findings):
        return None
    rows = row_hashes(inputs)
    count, different = len(rows), len(set(rows))
    if different < FEWEST:
        findings.fail(
            name,
            f"{different} different examples; at least {FEWEST} are needed, {GOOD} or more are"
            " better",
        )
        return None if count < FEWEST else inputs
    repeated = f"{count - different} of {count} examples occur before" * (different < count)
    if count < GOOD or repeated:
        few = f"{count} examples: {GOOD} or more are better" * (count < GOOD)
        findings.warn(name, "; ".join(filter(None, (few, repeated))))
    else:
        findings.ok(name, f"{count} examples, all different")
    again = findings.attempt(name, task.calibration)
    if again is not None and row_hashes(again) != rows:
        findings.warn(
            name,
            "calibration() gives other inputs each time: a run cannot go on after an interruption;"
            " draw them with a fixed seed",
        )
    return inputs


def _fits(model: nn.Module, inputs: Inputs, example: Inputs, findings: Findings) -> bool:
    name = "input shapes"
    if len(inputs) != len(example):
        findings.fail(
            name,
            f"calibration() gives {len(inputs)} inputs of the model, example_inputs()"
            f" {len(example)}",
        )
        return False
    try:
        output = run(model, tuple(tensor[:2] for tensor in inputs))
    except TaskError as error:
        findings.fail(
            name,
            f"calibration() gives {_shapes(inputs)}, of which two at once are too much: {error}",
        )
        return False
    if not isinstance(output, Tensor) or len(output) != min(2, len(inputs[0])):
        findings.fail(
            name,
            f"two inputs gave an output of {_shape(output)}: the first dimension must count them",
        )
        return False
    differ = [
        index
        for index, (one, other) in enumerate(zip(inputs, example, strict=True))
        if one.shape[1:] != other.shape[1:] or one.dtype != other.dtype
    ]
    if differ:
        findings.warn(
            name,
            f"calibration() gives {_shapes(inputs)}, example_inputs() {_shapes(example)}: options"
            " are fitted to inputs that the device will not see",
        )
    else:
        findings.ok(name, f"calibration() {_shapes(inputs)} as example_inputs()")
    if not bool(torch.isfinite(output).all()):
        findings.fail(name, "the model's output on calibration inputs holds NaN or infinity")
        return False
    return True


def _shape(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return str(tuple(value.shape))


def _shapes(inputs: Sequence[Tensor]) -> str:
    kinds = (f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}" for x in inputs)
    return ", ".join(kinds)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    shown = ", ".join(name or "the model itself" for name in names[:NAMED])
    return f"{shown} and {more} more" if more > 0 else shown
