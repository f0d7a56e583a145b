"""Full MNIST from one NumPy archive, for the studies that work on it.

The archive is the file that the environment variable MNIST_NPZ names, or else
`../shared/data/mnist.npz` relative to the repository, where that exists.  The `mnist.npz` that
Keras distributes holds the same arrays; their bytes must have the known checksum.  5 000 of the
60 000 training images, drawn with a fixed seed, are left out of training: 2 000 calibrate, 3 000
select candidates.  The 10 000 test images test the winner.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from augmentation import moved
from torch import Tensor

MEAN, STD = 0.1307, 0.3081
SPLITS = {"calibration": slice(0, 2000), "selection": slice(2000, 5000)}
SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "mnist.npz"
SHAPES = {
    "x_train": (60_000, 28, 28),
    "y_train": (60_000,),
    "x_test": (10_000, 28, 28),
    "y_test": (10_000,),
}
SHA256 = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"  # in this order
WANTED = (
    "set MNIST_NPZ to the path of a NumPy archive of full MNIST, such as the mnist.npz that Keras "
    "distributes: uint8 arrays "
    + ", ".join(f"{name} {shape}" for name, shape in SHAPES.items())
    + f", whose bytes in this order have the SHA-256 {SHA256}"
)


def archive_path() -> Path:
    """Where the archive is; RuntimeError says how to point to it when it is nowhere."""
    named = os.environ.get("MNIST_NPZ")
    path = Path(named) if named else SHARED
    if not path.is_file():
        missing = f"MNIST_NPZ names {path}, which is no file" if named else f"no {path}"
        raise RuntimeError(f"full MNIST: {missing}; {WANTED}")
    return path


@cache
def archive() -> dict[str, np.ndarray]:
    """The four arrays of `SHAPES`, checked.

    Raises:
        RuntimeError: If the archive is missing or unreadable, or holds anything else; the message
            names it, the array, and what is wanted.
    """
    path = archive_path()
    try:
        with np.load(path) as opened:  # never with pickled objects
            arrays = {name: opened[name] for name in SHAPES if name in opened}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise RuntimeError(f"{path} is no NumPy archive ({error}); {WANTED}") from error
    digest = hashlib.sha256()
    for name, shape in SHAPES.items():
        if name not in arrays:
            raise RuntimeError(f"{path} holds no array {name!r}; {WANTED}")
        array = arrays[name]
        if array.shape != shape or array.dtype != np.uint8:
            raise RuntimeError(f"{path}: {name} is {array.dtype} {array.shape}; {WANTED}")
        digest.update(array.tobytes())
    if digest.hexdigest() != SHA256:
        raise RuntimeError(f"{path}: the arrays are not MNIST's in its usual order; {WANTED}")
    return arrays


def normalise(images: np.ndarray) -> Tensor:
    """`(n, 28, 28)` pixels in 0-255 to `(n, 1, 28, 28)` floats as trained on."""
    pixels = torch.from_numpy(np.asarray(images, np.float32).reshape(-1, 1, 28, 28))
    return (pixels / 255 - MEAN) / STD


def held_out() -> np.ndarray:
    """Indices of the 5 000 training images that no training sees, in the splits' order."""
    return np.random.default_rng(0).permutation(60_000)[:5000]


def kept() -> np.ndarray:
    """Indices of the 55 000 training images to train on, ascending."""
    return np.setdiff1d(np.arange(60_000), held_out())


@cache
def images(split: str) -> tuple[Tensor, Tensor]:
    """Images `(n, 1, 28, 28)` and labels `(n,)` of one of `SPLITS`, or of `test`."""
    part = "test" if split == "test" else "train"
    x, y = archive()[f"x_{part}"], archive()[f"y_{part}"]
    if split != "test":
        chosen = held_out()[SPLITS[split]]
        x, y = x[chosen], y[chosen]
    return normalise(x), torch.from_numpy(y.astype(np.int64))


def moved_digits(x: Tensor, generator: torch.Generator) -> Tensor:
    """`(n, 1, 28, 28)` images, each moved by up to two pixels: a mirrored digit is none."""
    return moved(x, 2, generator)
