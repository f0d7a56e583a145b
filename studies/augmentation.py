"""Training images of several studies, moved about, and mirrored where that makes sense."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

Augment = Callable[[Tensor, torch.Generator], Tensor]


def moved(x: Tensor, by: int, generator: torch.Generator) -> Tensor:
    """`(n, 1, 28, 28)` images, each moved by up to `by` pixels; background fills the edges."""
    n = len(x)
    padded = nn.functional.pad(x, [by] * 4, value=float(x.min()))
    top, left = torch.randint(0, 2 * by + 1, (2, n, 1, 1), generator=generator)
    rows, columns = top + torch.arange(28)[None, :, None], left + torch.arange(28)[None, None, :]
    return padded[torch.arange(n)[:, None, None], 0, rows, columns][:, None]


def mirrored_and_moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """`(n, 1, 28, 28)` images, half of them mirrored, each moved by up to two pixels."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return moved(torch.where(mirrored[:, None, None, None], x.flip(3), x), 2, generator)


class TrainingInputs:
    """Batches `(size, 1, 28, 28)` of training images without labels, as often as wanted.

    Every pass over them is shuffled and augmented anew; the first, second, ... pass over one
    object is the same in every process.  What does not fill a batch is left out of a pass.

    Args:
        pixels: `(n, 28, 28)` uint8.
        normalise: From pixels to `(n, 1, 28, 28)` floats.
        augment: From a batch and a generator to a batch.
        size: Images in a batch.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        normalise: Callable[[np.ndarray], Tensor],
        augment: Augment,
        size: int = 128,
    ) -> None:
        self._pixels, self._normalise, self._augment = pixels, normalise, augment
        self._size = size
        self._passes = 0

    def __len__(self) -> int:
        return len(self._pixels) // self._size

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self._passes)
        self._passes += 1
        order = torch.randperm(len(self._pixels), generator=generator).numpy()
        for part in np.split(order[: len(self) * self._size], len(self)):
            yield self._augment(self._normalise(self._pixels[part]), generator)
