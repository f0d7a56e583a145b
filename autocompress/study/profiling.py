"""The device's prices for one model, measured once for a run and kept in `device.json`.

A run that goes on uses the recorded prices, so that it ends where an undisturbed one would.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autocompress.errors import DeviceError, StorageError
from autocompress.files import read_json, write_json
from autocompress.hardware.device import kernel_class, machine_fingerprint
from autocompress.hardware.profile import Profile, fit_latency
from autocompress.search_space.space import Space
from autocompress.study.config import Study
from autocompress.study.events import Listener
from autocompress.study.subject import Model

SCHEMA = 1


def profile_device(
    study: Study, model: Model, space: Space, path: Path, listener: Listener
) -> Profile:
    """The recorded prices of a run, or new ones.

    Args:
        study: Names the device and the seed.
        model: The traced model.
        space: Whose kernels are priced.
        path: `device.json`.
        listener: Hears of the measurements.

    Raises:
        DeviceError: If the recorded prices are of another machine or runtime.
        StorageError: If the record is damaged or cannot be written.
    """
    kernels = _kernels(space)
    if path.is_file():
        # Never measured again in silence: other times would lead the search elsewhere.
        try:
            profile = _recorded(read_json(path), path, study, model, kernels)
        except StorageError as error:
            raise StorageError(f"{error}; delete {path} to measure the device again") from None
        listener.note(f"device: prices reused from {path}")
        return profile
    profile = fit_latency(
        model.dense,
        model.layers,
        model.example_inputs,
        space.units,
        np.random.default_rng([study.settings.seed, 1]),
        device=study.device,
        graph=model.graph,
        widths=space.widths,
        groups=model.groups if space.widths else (),
        progress=lambda what, share: listener.progress(round(100 * share), 100, what),
    )
    record = {
        "schema": SCHEMA,
        "device": study.device.name,
        "machine": machine_fingerprint(study.device),
        "content": model.content,
        "kernels": kernels,
        "profile": profile.as_dict(),
    }
    write_json(path, record)
    return profile


def is_valid(path: Path, study: Study, model: Model, space: Space) -> bool:
    """Whether there is a record of prices that a run of this study may take."""
    try:
        _recorded(read_json(path), path, study, model, _kernels(space))
    except (StorageError, DeviceError):
        return False
    return True


def _kernels(space: Space) -> dict[str, list[str]]:
    """Unit to the ids of the kernels that its options run on."""
    return {
        unit: sorted({kernel_class(option).id for option in menu})
        for unit, menu in space.units.items()
    }


def _recorded(
    record: object, path: Path, study: Study, model: Model, kernels: dict[str, list[str]]
) -> Profile:
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise StorageError(f"{path}: not a device record of schema {SCHEMA}")
    expected = {
        "device": study.device.name,
        "machine": machine_fingerprint(study.device),
        "content": model.content,
    }
    stale = [key for key, value in expected.items() if record.get(key) != value]
    if not _covers(record.get("kernels"), kernels):
        stale.append("kernels")
    if stale:
        raise DeviceError(
            f"{path} is stale: it was recorded with another {', '.join(stale)};"
            " give a new folder with --out, or delete this one"
        )
    return Profile.from_dict(record["profile"])


def _covers(recorded: object, kernels: dict[str, list[str]]) -> bool:
    """Whether the same units are recorded, each with every kernel that is asked for."""
    return (
        isinstance(recorded, dict)
        and recorded.keys() == kernels.keys()
        and all(set(names) <= set(recorded[unit]) for unit, names in kernels.items())
    )
