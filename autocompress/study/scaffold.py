"""A new study's folder: `study.toml` and `task.py`, ready to read and to change."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from autocompress.errors import ConfigError, StorageError
from autocompress.study.model_source import Source, find_source
from autocompress.study.scaffold_text import EXAMPLE, LOADERS, MODEL, STUDY, fill

FILES = ("study.toml", "task.py")
_PARTS = ("calibration", "selection", "test")


def write_study(folder: Path, model: str = "") -> Source | None:
    """Writes a study; nothing that is there is overwritten.

    Args:
        folder: Where; made if it is not there.
        model: `module:function`, an exported program or a folder of weights; empty for an example
            that runs at once.

    Returns:
        What the model is; None for the example.

    Raises:
        ConfigError: If one of the files is there, or the model is none of what is allowed.
        TaskError: If the model cannot be made.
        StorageError: If a file cannot be written.
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ConfigError(
                f"{path}: is a file; init needs a folder that is new or has no study"
            )
    for name in FILES:
        if (folder / name).exists():
            raise ConfigError(f"{folder / name}: is there already; init never overwrites")
    source = find_source(model, folder.resolve()) if model else None
    for name, text in zip(FILES, _texts(folder, source), strict=True):
        _write(folder / name, text)
    return source


def _texts(folder: Path, source: Source | None) -> tuple[str, str]:
    """Contents of `FILES`."""
    name = _plain(folder.resolve().name)
    study = {
        "NAME": name,
        "DESCRIPTION": json.dumps("A small net that tells noisy patterns apart."),
        "METRIC": "accuracy",
        "EVALUATIONS": 40,
        "SPACE": "storage",
        "SIZE": "15%",
        "QUALITY": "-1pt",
    }
    if source is None:
        return fill(STUDY, study), fill(EXAMPLE, {"NAME": name})
    told = {
        "DESCRIPTION": json.dumps(f"Post-training: {_plain(source.title)}."),
        "EVALUATIONS": 100,
        "SIZE": "25%",
        "QUALITY": "-0.5pt",
    }
    return fill(STUDY, study | told), _task(folder, name, source)


def _task(folder: Path, name: str, source: Source) -> str:
    """`task.py` for a model of the user's."""
    own = [line for line in source.imports if line.startswith("from")]
    standard = [line for line in source.imports if not line.startswith("from")]
    imports = [
        *standard,
        "from functools import cache",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "import torch",
        "from torch import Tensor, nn",
        *([""] if own else []),
        *own,
    ]
    constant = ""
    if source.path is not None:
        where = os.path.relpath(source.path.resolve(), folder.resolve())
        constant = f"MODEL = Path(__file__).parent / {json.dumps(where, ensure_ascii=False)}\n"
    names = ", ".join(json.dumps(key) for key in source.inputs)
    return fill(
        MODEL,
        {
            "TITLE": f"{name}: {_plain(source.title)}.",
            "ARRAYS": _arrays(source),
            "IMPORTS": "\n".join(imports),
            "INPUTS": f"({names},)" if len(source.inputs) == 1 else f"({names})",
            "CONSTANTS": constant,
            "LOADER": fill(LOADERS[source.loader], source.values or {}),
        },
    )


def _plain(text: str) -> str:
    """`text` as it may stand in a docstring and in a TOML file."""
    return re.sub(r"[^\w .,:()/-]", "_", text)


def _arrays(source: Source) -> str:
    """Lines of `np.savez` in the head of `task.py`."""
    lines = []
    for part in _PARTS:
        lines += [f"{part}_{key}=...,  # {text}" for key, text in source.inputs.items()]
        lines += [f"{part}_labels=...,  # int64 (n,), or leave it out"] * (part != "calibration")
    return "\n".join(f"        {line}" for line in lines)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error


def next_steps(folder: Path, source: Source | None) -> Sequence[str]:
    """What to do with the new study, in sentences."""
    steps = []
    if source is not None:
        data = folder / "data.npz"
        steps.append(f"write {data}: the head of {folder / 'task.py'} says what it holds")
    steps.append(f"autocompress check {folder}")
    steps.append(f"autocompress run {folder}")
    return steps
