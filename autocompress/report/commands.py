"""What a reader can copy: commands of the shell, or Python where the run was begun from there."""

from __future__ import annotations

import shlex

from autocompress.report.data import RunData

ARCHIVE, ONNX = "model.acz", "model.onnx"
_FLAGS = ("goal", "space", "objective", "device", "format", "sampler", "evaluations", "max_time")


def is_from_python(run: RunData) -> bool:
    """Whether the run was begun by `autocompress.compress`: only that call can go on with it."""
    return bool(run.asked) and not run.asked.get("study")


def outputs(run: RunData) -> tuple[str, ...]:
    """Names of the files that a point can be written as, what the budget counts first."""
    only_archive = ARCHIVE in run.files and ONNX not in run.files
    if only_archive:
        return (ARCHIVE,)
    return (ONNX, ARCHIVE) if _format(run) == "onnx" else (ARCHIVE, ONNX)


def export_text(run: RunData, candidate: str, output: str) -> str:
    """Writes one candidate as a file."""
    if is_from_python(run):
        return f"result.candidate({candidate!r}).export({output!r})"
    wanted = shlex.quote(candidate)
    return f"autocompress export {_folder(run)} --candidate {wanted} -o {output}"


def load_text(run: RunData, output: str) -> str:
    """Loads a file that the run has written."""
    path = str(run.path / output)
    if output == ONNX:
        return f"session = autocompress.load_onnx({path!r})"
    return f"model = autocompress.load_archive({path!r}, model)  # the original's module"


def begun_with(run: RunData) -> list[str]:
    """Goal and limits of the call, as they were written."""
    overrides, budget = run.asked.get("overrides"), run.asked.get("budget")
    goal = overrides.get("goal") if isinstance(overrides, dict) else None
    limits = budget if isinstance(budget, list) else []
    return [str(text) for text in (goal, *limits) if text]


def retarget_text(run: RunData, name: str, text: str) -> str:
    """Answers another budget from this run.

    Args:
        run: What the answer is taken from.
        name: Of the limit that changes.
        text: Its new value, such as `50%`.
    """
    if is_from_python(run):
        limits = {limit.name: limit.text for limit in run.limits if limit.text} | {name: text}
        return f"autocompress.compress(..., out={str(run.path)!r}, budget={limits})"
    budget = f"{name}={text}"
    return f"autocompress retarget {_folder(run)} --budget {shlex.quote(budget)}"


def run_text(run: RunData, *more: str) -> str:
    """The call that made the run; empty where it is not known.

    Args:
        run: What was called.
        more: Words to add, such as `--recover` and `distil`.
    """
    study = run.asked.get("study")
    if not study:
        return ""
    words = ["autocompress", "run", str(study)]
    overrides = run.asked.get("overrides")
    given = overrides if isinstance(overrides, dict) else {}
    for key in _FLAGS:
        if given.get(key) is not None:
            words += [f"--{key.replace('_', '-')}", str(given[key])]
    budget = run.asked.get("budget")
    for limit in budget if isinstance(budget, list) else []:
        words += ["--budget", str(limit)]
    return shlex.join([*words, *more, "--out", str(run.path)])


def report_text(run: RunData) -> str:
    """Writes this page again."""
    return "result.report()" if is_from_python(run) else f"autocompress report {_folder(run)}"


def _folder(run: RunData) -> str:
    return shlex.quote(str(run.path))


def _format(run: RunData) -> str:
    made = run.asked.get("fingerprint")
    return str(made.get("storage format", "")) if isinstance(made, dict) else ""
