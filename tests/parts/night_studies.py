"""Studies that are run every night, and how their models are changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from autocompress.study.events import Silent
from autocompress.study.night_run import run_here
from autocompress.study.nightly import (
    Night,
    finish,
    nightly,
)

STUDY = """
schema = 1
space = "space.toml"
objective = "objective.toml"
device = "device.toml"
evaluations = 8
metric_unit = "%"
[budget]
size = "{size}"
latency = "80%"
quality = "-5pt"
"""
DEVICE = """
schema = 1
runtime = "nothing"
float32_gmacs = 1.0
int8_gmacs = {int8}
bandwidth_gb_s = 4.0
"""
SPACE = """
schema = 1
bits = [3, 4, 6, 8]
activations = ["float32", "int8"]
sparsity = [0, 0.5]
menu = 6
"""


def make_studies(trained: Path, folder: Path) -> Path:
    """A folder of one study, on a device known from its data sheet: no clock, so no noise."""
    study = folder / "studies" / "tiny"
    shutil.copytree(trained, study)
    (study / "space.toml").write_text(SPACE)
    (study / "device.toml").write_text(DEVICE.format(int8=4.0))
    (study / "study.toml").write_text(STUDY.format(size="25%"))
    return study.parent


def one_night(studies: Path, out: Path, **more: Any) -> Night:
    night = nightly(studies, out, more.pop("run", run_here), Silent(), **more)
    finish(night)
    return night
