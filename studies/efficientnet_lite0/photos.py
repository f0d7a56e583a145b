"""Photographs that install with packages, cut into the views on which this study works.

    python studies/efficientnet_lite0/photos.py          lists them with their splits

A photograph belongs to one split, with all of its views, so that nothing is tested on a picture
that was calibrated or searched on.  Each view is a seeded random crop, as in training on ImageNet.
"""

from __future__ import annotations

import importlib.util
import os
import re
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIZE = 224
MEAN, STD = 127.0, 128.0  # of pixels in 0-255, as EfficientNet-Lite was trained
VIEWS = {"calibration": 512, "selection": 300, "test": 500}
SHARES = {"calibration": 0.5, "selection": 0.2, "test": 0.3}  # of the photographs of a place
FEWEST = 24
SIZED = re.compile(r"_\d+x\d+$")
# Pictures of scikit-image that are photographs in colour.
SCIKIT_IMAGE = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
# Debian: mate-backgrounds, lomiri-wallpapers-16.04, lomiri-wallpapers-20.04
BACKGROUNDS = Path("/usr/share/backgrounds")


def package_folder(module: str) -> Path | None:
    """Where an installed package lies; it is not imported."""
    found = importlib.util.find_spec(module)
    return Path(found.origin).parent if found and found.origin else None


def places() -> dict[str, list[Path]]:
    """Name of a place to the photographs there."""
    found: dict[str, list[Path]] = {}
    if folder := package_folder("foolbox"):
        found["foolbox"] = sorted((folder / "data").glob("imagenet_*.jpg"))
    if folder := package_folder("skimage"):
        found["scikit-image"] = [folder / "data" / name for name in SCIKIT_IMAGE]
    if folder := package_folder("sklearn"):
        found["scikit-learn"] = sorted((folder / "datasets" / "images").glob("*.jpg"))
    for name in ("backgrounds", "PHOTOS"):
        folder = BACKGROUNDS if name == "backgrounds" else Path(os.environ.get(name, "/nowhere"))
        if folder.is_dir():
            found[name] = sorted(path for path in folder.rglob("*.jpg") if path.is_file())
    return {
        # One picture may be there in several sizes, such as `Elephants_3840x2160.jpg`.
        name: [path for path in paths if path.is_file() and not SIZED.search(path.stem)]
        for name, paths in found.items()
    }


@cache
def photographs() -> dict[str, tuple[Path, ...]]:
    """Split to its photographs; RuntimeError says what to install when there are too few."""
    splits: dict[str, list[Path]] = {name: [] for name in SHARES}
    for paths in places().values():
        # The order is that of a hash of the name: it is the same on every machine.
        order = sorted(paths, key=lambda path: zlib.crc32(path.name.encode()))
        ends = np.cumsum([round(share * len(order)) for share in SHARES.values()])
        for name, start, end in zip(
            splits, [0, *ends[:-1]], [*ends[:-1], len(order)], strict=True
        ):
            splits[name] += order[start:end]
    count = sum(map(len, splits.values()))
    if count < FEWEST:
        raise RuntimeError(
            f"{count} photographs found, at least {FEWEST} are needed: pip install foolbox "
            "scikit-image scikit-learn; more come from the Debian packages mate-backgrounds, "
            "lomiri-wallpapers-16.04 and lomiri-wallpapers-20.04, or from the folder of .jpg "
            "files that the variable PHOTOS names"
        )
    return {name: tuple(paths) for name, paths in splits.items()}


def crop(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A view: 25-100 % of the area, 3:4 to 4:3, mirrored or not."""
    width, height = image.size
    area = width * height * generator.uniform(0.25, 1.0)
    ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
    w = min(width, round((area * ratio) ** 0.5))
    h = min(height, round((area / ratio) ** 0.5))
    left, top = generator.integers(width - w + 1), generator.integers(height - h + 1)
    box = (int(left), int(top), int(left) + w, int(top) + h)
    view = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)
    mirrored = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return mirrored if generator.random() < 0.5 else view


def opened(path: Path) -> Image.Image:
    """A photograph in colour, its short side at most 512 pixels."""
    with Image.open(path) as file:
        file.draft("RGB", (1024, 1024))  # a large JPEG is read at a fraction of its size
        image = file.convert("RGB")
    scale = 512 / min(image.size)
    if scale < 1:
        size = (round(scale * image.width), round(scale * image.height))
        image = image.resize(size, Image.Resampling.BICUBIC)
    return image


def pixels(image: Image.Image) -> Tensor:
    """`(3, h, w)` floats as the net takes them."""
    values = torch.from_numpy(np.asarray(image, np.float32).copy()).permute(2, 0, 1)
    return (values - MEAN) / STD


@cache
def views(split: str) -> Tensor:
    """`(n, 3, 224, 224)` views of a split's photographs, in an order that mixes them."""
    generator = np.random.default_rng([0, list(SHARES).index(split)])
    paths = photographs()[split]
    made = []
    for index, path in enumerate(paths):
        image = opened(path)
        share = VIEWS[split] // len(paths) + (index < VIEWS[split] % len(paths))
        made += [pixels(crop(image, generator)) for _ in range(share)]
    return torch.stack(made)[torch.from_numpy(generator.permutation(len(made)))]


if __name__ == "__main__":
    for split, paths in photographs().items():
        print(f"{split}: {len(paths)} photographs, {VIEWS[split]} views")
        print("  " + " ".join(path.name for path in paths))
