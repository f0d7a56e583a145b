"""What was done in plain sentences, and what to do next with the commands for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from autocompress.report.commands import (
    is_from_python,
    load_text,
    outputs,
    retarget_text,
    run_text,
)
from autocompress.report.data import Row, RunData
from autocompress.report.limits import Limit, mapping
from autocompress.report.units import (
    count_text,
    number,
    plain_text,
    printable,
    seconds_text,
    short_share_text,
)


class Step(NamedTuple):
    """Something that can be done next: why, and a line to copy (may be empty)."""

    text: str
    line: str


def done_lines(run: RunData) -> tuple[str, ...]:
    """What the run did to the model, what it tried, and where times were taken."""
    return tuple(map(printable, (*_layer_lines(run), *_search_lines(run), *_device_lines(run))))


def next_steps(run: RunData) -> tuple[Step, ...]:
    """What a reader would want to do now."""
    if not run.best:
        again = run_text(run)
        return (Step("The same call goes on where the run stopped.", again),)
    missed = [limit for limit in run.limits if limit.met is False and not limit.soft]
    found = [step for limit in missed for step in _relief(run, limit)]
    if missed:
        count = 2 * int(number(run.result.get("evaluations")) or 0)
        if again := run_text(run, "--evaluations", str(count)) if count else "":
            found.append(Step("Or search for twice as long:", again))
    files = [name for name in outputs(run) if name in run.files]
    for name in files:
        what = "the packed file, the smallest" if name.endswith(".acz") else "the ONNX file"
        found.append(Step(f"Use the chosen model from Python ({what}):", load_text(run, name)))
    if not missed:
        text = "Ask for another budget; what was measured and priced is used again:"
        found.append(Step(text, retarget_text(run, *_another(run))))
    if is_from_python(run):
        text = "Any other point: call compress() again with the same out, then take it by its id:"
        line = f"result = autocompress.compress(..., out={str(run.path)!r})"
        found.append(Step(text, line))
    return tuple(found)


def _layer_lines(run: RunData) -> list[str]:
    if not run.layers:
        return []
    treated = [row for row in run.layers if str(row.get("option") or "dense") != "dense"]
    parameters = sum(number(row.get("parameters")) or 0.0 for row in run.layers)
    weights = f" with {count_text(parameters)} parameters" if parameters else ""
    text = f"{len(treated)} of the model's {len(run.layers)} layers{weights} were compressed"
    parts = [
        _range(treated, "bits", "weights in {} bits", 32),
        _range(treated, "sparsity", "{} of the weights zero", 0, is_share=True),
        _range(treated, "rank", "{} of the rank kept", 1, is_share=True),
        _range(treated, "tucker", "a Tucker core of {}", 1, is_share=True),
        _range(treated, "outputs", "{} of the outputs kept", 1, is_share=True),
        *(
            _counted(sum(row.get("activations") == kind for row in treated), text)
            for kind, text in (("int8", "int8 arithmetic"), ("dynamic", "packed weights"))
        ),
    ]
    told = "; ".join(filter(None, parts))
    return [f"{text}: {told}." if told else f"{text}."]


def _range(
    rows: Sequence[Row], key: str, text: str, neutral: float, *, is_share: bool = False
) -> str:
    """Least to most of a setting, and in how many layers it is not neutral."""
    values = [value for row in rows if (value := number(row.get(key))) not in (None, neutral)]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    ends = [
        short_share_text(value) if is_share else plain_text(value)
        for value in sorted({min(known), max(known)})
    ]
    return _counted(len(known), text.format(" to ".join(ends)))


def _counted(count: int, text: str) -> str:
    return f"{text} ({count} {'layer' if count == 1 else 'layers'})" if count else ""


def _search_lines(run: RunData) -> list[str]:
    tried = number(run.result.get("evaluations")) or float(len(run.history))
    if not tried:
        return []
    seconds = {key: number(value) for key, value in mapping(run.result, "seconds").items()}
    total = sum(value for value in seconds.values() if value is not None)
    text = f"The search tried {count_text(tried)} candidates"
    if seconds.get("search"):
        text += f" in {seconds_text(seconds['search'])}"
    if run.finalists:
        text += f"; the best {len(run.finalists)} were measured, in bytes, on the clock and by "
        text += "your metric"
    return [f"{text}. The whole run took {seconds_text(total)}." if total else f"{text}."]


def _device_lines(run: RunData) -> list[str]:
    device = mapping(run.result, "device")
    name = device.get("name")
    if not name:
        return []
    told = [str(device[key]) for key in ("processor", "runtime") if device.get(key)]
    threads = device.get("threads")
    told += [f"{threads} thread{'' if str(threads) == '1' else 's'}"] if threads else []
    return [f"Times are those of {name}" + (f" ({', '.join(told)})." if told else ".")]


def _relief(run: RunData, limit: Limit) -> list[Step]:
    """Ways out where a limit was missed."""
    found = []
    if wish := _reached(limit):
        text = f"Accept the {limit.name} that was reached:"
        found.append(Step(text, retarget_text(run, limit.name, wish)))
    if limit.name == "quality":
        if line := run_text(run, "--recover", "distil"):
            found.append(Step("Or train what was chosen, taught by the original:", line))
    elif wish := _more_loss(run.limit("quality")):
        line = retarget_text(run, "quality", wish)
        found.append(Step("Or allow a larger loss of quality:", line))
    return found


def _reached(limit: Limit) -> str:
    """A limit that what was measured keeps."""
    if limit.measured is None or not limit.original:
        return ""
    if limit.name != "quality":
        return f"{math.ceil(100 * limit.measured / limit.original + 1)}%"
    lost = abs(limit.original - limit.measured) * (100 if limit.is_share else 1)
    return f"-{math.ceil(10 * lost + 1) / 10:g}pt"


def _more_loss(quality: Limit) -> str:
    if quality.limit is None or quality.original is None:
        return ""
    lost = abs(quality.original - quality.limit) * (100 if quality.is_share else 1)
    return f"-{2 * lost:.3g}pt" if lost else ""


def _another(run: RunData) -> tuple[str, str]:
    """A budget to show how: what binds, a little looser, else a little tighter than reached."""
    costs = [limit for limit in run.limits if limit.name in ("size", "latency")]
    limit = next((one for one in costs if one.binding and one.limit), None)
    if limit is not None and limit.limit and limit.original:
        return limit.name, f"{plain_text(130 * limit.limit / limit.original, 2)}%"
    size = run.limit("size")
    if size.measured and size.original:
        return "size", f"{plain_text(80 * size.measured / size.original, 2)}%"
    return "size", "25%"
