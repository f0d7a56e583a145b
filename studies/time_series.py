"""Time series that install with the package `aeon`, for the studies that work on them.

Only its files are read (format: www.timeseriesclassification.com); nothing of it is imported, nor
what it asks for (numba, and older versions of NumPy and pandas than are needed here).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from packaged import packaged
from torch import Tensor

# Without what the package depends on, which is not needed here.
COMMAND = "pip install --no-deps aeon==1.6.0"
ITALY = "datasets/data/ItalyPowerDemand/ItalyPowerDemand"
VOWELS = "datasets/data/JapaneseVowels/JapaneseVowels_eq"
SHA256 = {
    f"{ITALY}_TRAIN.ts": "341269cb7e6cef96846b30e774580beec79addb93848ba360145219115a74b7c",
    f"{ITALY}_TEST.ts": "26122451f87dd0387ef90b18bc8a86c041371b8a1c068004922b939971247144",
    f"{VOWELS}_TRAIN.ts": "8958279c6296b97c8e34038346407935222db171492b84dffa3b930d087bc2d6",
    f"{VOWELS}_TEST.ts": "bb83bb1aa6bfb17faae269f6829b7cac71de36fdd3264ee34137fe90270d5895",
}


@cache
def series(name: str, part: str) -> tuple[Tensor, Tensor]:
    """Series `(n, channels, time)` and classes `(n,)` from 0 of one file of `SHA256`.

    Args:
        name: `ITALY` or `VOWELS`.
        part: `TRAIN` or `TEST`.

    Raises:
        RuntimeError: If the file is missing or another one; the message says what to install.
    """
    file = f"{name}_{part}.ts"
    path = packaged("aeon", file, SHA256[file], COMMAND)
    _, _, data = path.read_text(encoding="utf-8").partition("@data\n")
    rows = [line.split(":") for line in data.splitlines() if line]
    values = [[channel.split(",") for channel in channels] for *channels, _ in rows]
    _, classes = np.unique([row[-1].strip() for row in rows], return_inverse=True)
    return torch.from_numpy(np.array(values, dtype=np.float32)), torch.from_numpy(classes)


def balanced(classes: Tensor, generator: np.random.Generator) -> np.ndarray:
    """Indices in a drawn order in which the classes take turns, as far as they go."""
    shuffled = generator.permutation(len(classes))
    kinds = classes.numpy()[shuffled]
    turn = np.empty(len(kinds), int)
    for kind in np.unique(kinds):
        rows = kinds == kind
        turn[rows] = np.arange(rows.sum())
    return shuffled[np.argsort(turn, kind="stable")]


def varied(x: Tensor, generator: torch.Generator, shortest: float, noise: float) -> Tensor:
    """`(n, channels, time)` series, each a part of itself drawn out to the same time, and noisy.

    Args:
        x: Series.
        generator: Of the draws.
        shortest: Share of the time that the shortest part has.
        noise: Standard deviation of what is added.
    """
    time = x.shape[2]
    share = shortest + (1 - shortest) * torch.rand(len(x), 1, generator=generator)
    start = (1 - share) * torch.rand(len(x), 1, generator=generator)
    places = (start + share * torch.linspace(0, 1, time)) * (time - 1)
    left = places.floor().clamp(0, time - 2).long()
    part = (places - left)[:, None]
    index = left[:, None].expand(-1, x.shape[1], -1)
    between = (1 - part) * x.gather(2, index) + part * x.gather(2, index + 1)
    return between + noise * torch.randn(x.shape, generator=generator)
