"""`origins.json` of a run directory: what the run was made from, piece by piece, so that a later
run can say what has changed since."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autocompress.compression.bank import recipe
from autocompress.errors import StorageError
from autocompress.files import read_json
from autocompress.hardware.device import machine_fingerprint
from autocompress.study.config import Study
from autocompress.study.packing import packed
from autocompress.study.result import versions
from autocompress.study.sketch import sketch
from autocompress.study.subject import Model

NAME = "origins.json"
SCHEMA = 1
# Keys that decide how hard a search tries, not what it is after.
EFFORT = ("batch", "evaluations", "patience", "sampler", "seed", "stop_when_met")
# Keys that decide what two runs are compared by: another value needs another baseline.
ASKED = (
    "device",
    "format",
    "goal",
    "knobs",
    "metric",
    "metric_direction",
    "metric_unit",
    "recovery",
)


def origins_of(study: Study, model: Model) -> dict[str, Any]:
    """The content of `origins.json`.

    Keys: `asked` (what is compared by), `effort`, `layers` (module to hash and sketch of its
    weights, as they are after batch norms were folded), `calibration` (hash), `task` (hash of
    `task.py`), `code` (hash of what makes the bank's entries), `versions`, `machine`.
    """
    settings = study.settings.model_dump()
    file = Path(study.task.origin)
    return {
        "schema": SCHEMA,
        "asked": {
            **{name: settings[name] for name in ASKED},
            "search space": study.space.model_dump(mode="json", exclude={"description"}),
            "objective": study.objective.model_dump(mode="json", exclude={"description"}),
            "budget": {
                name: limit.text + " (soft)" * limit.soft for name, limit in study.budget.items()
            },
        },
        "effort": {name: settings[name] for name in EFFORT},
        "layers": layer_records(model.state),
        "calibration": _hash(model.calibration),
        "task": hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else "",
        "code": recipe()[:16],
        "versions": versions(),
        "machine": dict(machine_fingerprint(study.device)),
    }


def layer_records(state: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Module name to `hash` and `sketch` of its own tensors."""
    modules: dict[str, list[tuple[str, Tensor]]] = {}
    for key, tensor in state.items():
        name, _, own = key.rpartition(".")
        modules.setdefault(name, []).append((own, tensor))
    return {
        name: {
            "hash": _hash(tensor for _, tensor in tensors),
            "sketch": packed(sketch([t for _, t in tensors if t.is_floating_point()])),
        }
        for name, tensors in modules.items()
    }


def read_origins(run: Path) -> dict[str, Any]:
    """What a run was made from; empty for a run that did not write it down.

    Raises:
        StorageError: If the record is damaged.
    """
    path = run / NAME
    if not path.is_file():
        return {}
    value = read_json(path)
    keys = {"asked", "effort", "layers", "calibration", "task", "code", "versions", "machine"}
    if not isinstance(value, dict) or value.get("schema") != SCHEMA or not keys <= set(value):
        raise StorageError(f"{path}: not a record of schema {SCHEMA}")
    return value


def _hash(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(data.numpy().data)
    return digest.hexdigest()[:16]
