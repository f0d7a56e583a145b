"""Fashion-MNIST, for the studies that work on it.

The data set is read from the Debian package `dataset-fashion-mnist`, or from the folder that the
environment variable FASHION_MNIST names, or else downloaded once; every file must have the known
checksum.  5 000 of the 60 000 training images, drawn with a fixed seed, are left out of training:
2 000 calibrate, 3 000 select candidates.  The 10 000 test images test the winner.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.request
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MEAN, STD = 0.2860, 0.3530
SPLITS = {"calibration": slice(0, 2000), "selection": slice(2000, 5000)}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SHA256 = {  # of the unpacked files: the packed ones differ between distributors
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def normalise(images: np.ndarray) -> Tensor:
    """`(n, 28, 28)` pixels in 0-255 to `(n, 1, 28, 28)` floats as trained on."""
    pixels = torch.from_numpy(np.asarray(images, np.float32).reshape(-1, 1, 28, 28))
    return (pixels / 255 - MEAN) / STD


def unpacked(name: str) -> bytes:
    """One file of the data set, wherever it is, checked; RuntimeError says what is missing."""
    cached = Path.home() / ".cache" / "fashion-mnist"
    folders = [Path(os.environ.get("FASHION_MNIST", DEBIAN)), DEBIAN, cached]
    path = next((f / f"{name}.gz" for f in folders if (f / f"{name}.gz").is_file()), None)
    if path is None:
        path = cached / f"{name}.gz"
        cached.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        try:
            urllib.request.urlretrieve(MIRROR + path.name, part)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise RuntimeError(
                f"Fashion-MNIST: no {path.name} in {', '.join(map(str, dict.fromkeys(folders)))} "
                f"and {MIRROR} does not answer ({error}); install the Debian package "
                "dataset-fashion-mnist or set FASHION_MNIST to a folder with the four .gz files"
            ) from error
        part.rename(path)
    content = gzip.decompress(path.read_bytes())
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise RuntimeError(f"{path} is not Fashion-MNIST's {name}: delete it and run again")
    return content


@cache
def raw(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `(n, 28, 28)` uint8 and labels `(n,)` of `train` (60 000) or `t10k` (10 000)."""
    pixels = np.frombuffer(unpacked(f"{part}-images-idx3-ubyte"), np.uint8, offset=16)
    labels = np.frombuffer(unpacked(f"{part}-labels-idx1-ubyte"), np.uint8, offset=8)
    return pixels.reshape(-1, 28, 28), labels


def held_out() -> np.ndarray:
    """Indices of the 5 000 training images that no training sees, in the splits' order."""
    return np.random.default_rng(0).permutation(60_000)[:5000]


@cache
def images(split: str) -> tuple[Tensor, Tensor]:
    """Images and labels of one of `SPLITS`, or of `test`."""
    x, y = raw("t10k") if split == "test" else raw("train")
    if split != "test":
        chosen = held_out()[SPLITS[split]]
        x, y = x[chosen], y[chosen]
    return normalise(x), torch.from_numpy(y.astype(np.int64))


def kept() -> np.ndarray:
    """Indices of the 55 000 training images to train on, ascending."""
    return np.setdiff1d(np.arange(60_000), held_out())
