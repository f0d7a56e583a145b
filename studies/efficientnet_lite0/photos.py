"""Photographs that install with packages, cut into the views on which this study works.

    python studies/efficientnet_lite0/photos.py          lists them with their splits

A photograph belongs to one split, with all of its views, so that nothing is tested on a picture
that was calibrated or searched on.  Each view is a seeded random crop, as in training on ImageNet.
Where photographs of single things are installed (animals, fruit, tools: what ImageNet's classes
are), cut out along their outline, every other view has one of them before it.
"""

from __future__ import annotations

import importlib.util
import itertools
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
# Pictures of OpenCV's examples that are photographs in colour.
OPENCV = (
    *("aloeL.jpg", "apple.jpg", "baboon.jpg", "board.jpg", "building.jpg", "butterfly.jpg"),
    *("fruits.jpg", "home.jpg", "leuvenA.jpg", "messi5.jpg", "orange.jpg", "squirrel_cls.jpg"),
)
# Debian: mate-backgrounds, lomiri-wallpapers-16.04, lomiri-wallpapers-20.04; opencv-doc;
# tuxpaint-stamps-default
BACKGROUNDS = Path("/usr/share/backgrounds")
EXAMPLES = Path("/usr/share/doc/opencv-doc/examples/data")
STAMPS = Path("/usr/share/tuxpaint/stamps")
THINGS = ("animals", "clothes", "food", "hobbies", "household", "plants", "sports", "vehicles")
SMALLEST = 100  # pixels of a thing's long side


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
    found["OpenCV"] = [EXAMPLES / name for name in OPENCV]
    for name in ("backgrounds", "PHOTOS"):
        folder = BACKGROUNDS if name == "backgrounds" else Path(os.environ.get(name, "/nowhere"))
        if folder.is_dir():
            found[name] = sorted(path for path in folder.rglob("*.jpg") if path.is_file())
    return {
        # One picture may be there in several sizes, such as `Elephants_3840x2160.jpg`.
        name: [path for path in paths if path.is_file() and not SIZED.search(path.stem)]
        for name, paths in found.items()
    }


def shared(paths: list[Path]) -> dict[str, list[Path]]:
    """Split to its part of some pictures; the same on every machine."""
    order = sorted(paths, key=lambda path: zlib.crc32(path.name.encode()))
    ends = np.cumsum([round(share * len(order)) for share in SHARES.values()])
    bounds = itertools.pairwise([0, *ends[:-1], len(order)])
    return {name: order[start:end] for name, (start, end) in zip(SHARES, bounds, strict=True)}


@cache
def photographs() -> dict[str, tuple[Path, ...]]:
    """Split to its photographs; RuntimeError says what to install when there are too few."""
    parts = [shared(paths) for paths in places().values()]
    splits = {name: tuple(path for part in parts for path in part[name]) for name in SHARES}
    count = sum(map(len, splits.values()))
    if count < FEWEST:
        raise RuntimeError(
            f"{count} photographs found, at least {FEWEST} are needed: pip install foolbox "
            "scikit-image scikit-learn; more come from the Debian packages mate-backgrounds, "
            "lomiri-wallpapers-16.04, lomiri-wallpapers-20.04, opencv-doc and "
            "tuxpaint-stamps-default, or from the folder of .jpg files that the variable PHOTOS "
            "names"
        )
    return splits


@cache
def things() -> dict[str, tuple[Path, ...]]:
    """Split to its cut-out things; none where they are not installed."""
    found = [path for name in THINGS for path in sorted((STAMPS / name).rglob("*.png"))]
    large = []
    for path in found:
        with Image.open(path) as image:
            if max(image.size) >= SMALLEST and "cartoon" not in str(path):
                large.append(path)
    return {name: tuple(paths) for name, paths in shared(large).items()}


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


def put_before(view: Image.Image, path: Path, generator: np.random.Generator) -> Image.Image:
    """A view with a thing before it, whose long side is 60-95 % of the view's."""
    with Image.open(path) as file:
        thing = file.convert("RGBA")
    scale = SIZE * generator.uniform(0.6, 0.95) / max(thing.size)
    size = (max(1, round(scale * thing.width)), max(1, round(scale * thing.height)))
    thing = thing.resize(size, Image.Resampling.BICUBIC)
    if generator.random() < 0.5:
        thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left, top = (int(generator.integers(SIZE - side + 1)) for side in size)
    result = view.convert("RGBA")
    result.alpha_composite(thing, (left, top))
    return result.convert("RGB")


@cache
def views(split: str) -> Tensor:
    """`(n, 3, 224, 224)` views of a split's photographs, in an order that mixes them; those of the
    calibration split in two parts, so that candidates are not judged on photographs that options
    are fitted to."""
    made, order = made_views(split)
    return made[order]


@cache
def has_thing(split: str) -> Tensor:
    """`(n,)` whether a thing was put before each of the views."""
    _, order = made_views(split)
    return (order % 2 == 1) & bool(things()[split])


@cache
def made_views(split: str) -> tuple[Tensor, Tensor]:
    """The views, photograph after photograph, and a permutation that mixes them."""
    generator = np.random.default_rng([0, list(SHARES).index(split)])
    paths = photographs()[split]
    paths = tuple(paths[place] for place in generator.permutation(len(paths)))
    # One thing after another as well, so that the two parts of the calibration share none.
    before = generator.permutation(len(things()[split]))
    made: list[Tensor] = []
    for index, path in enumerate(paths):
        image = opened(path)
        share = VIEWS[split] // len(paths) + (index < VIEWS[split] % len(paths))
        for _ in range(share):
            view = crop(image, generator)
            if len(made) % 2 and things()[split]:
                thing = before[len(made) * len(before) // VIEWS[split]]
                view = put_before(view, things()[split][thing], generator)
            made.append(pixels(view))
    count = len(made)
    # The last quarter of the calibration inputs is what candidates are judged on (`search_share`).
    bounds = (0, 3 * count // 4, count) if split == "calibration" else (0, count)
    parts = [a + generator.permutation(b - a) for a, b in itertools.pairwise(bounds)]
    return torch.stack(made), torch.from_numpy(np.concatenate(parts))


if __name__ == "__main__":
    for split, paths in photographs().items():
        count = len(things()[split])
        print(f"{split}: {len(paths)} photographs, {count} cut-out things, {VIEWS[split]} views")
        print("  " + " ".join(path.name for path in paths))
