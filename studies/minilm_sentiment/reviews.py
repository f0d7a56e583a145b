"""Snippets of film reviews with what people thought of them, and the splits of this study.

Hutto and Gilbert (2014) had about 10 600 snippets from Rotten Tomatoes (Pang and Lee) rated by
people, -4 to 4; the file comes with the *source* package of `vaderSentiment` (MIT licence).  The
label is the sign of the mean rating.  A snippet is what there is of a review, so that a review is
in one split as a whole; which film it is about the file does not say.
"""

from __future__ import annotations

import hashlib
import html
import io
import os
import re
import sys
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from wordpiece import encode

CACHE = Path.home() / ".cache" / "vader-sentiment"
COMMAND = (
    f"pip download --no-deps --no-binary vaderSentiment --dest {CACHE} vaderSentiment==3.3.2, or "
    "set VADER_SENTIMENT to the path of vaderSentiment-3.3.2.tar.gz"
)
OUTER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
INNER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"  # of the text file
SPLITS = {
    "calibration": slice(0, 768),
    "selection": slice(768, 1768),
    "test": slice(1768, 3768),
    "train": slice(3768, None),
}


def archive_path() -> Path:
    """Where the source package is; RuntimeError says how to get it when it is nowhere."""
    path = Path(os.environ.get("VADER_SENTIMENT", CACHE / "vaderSentiment-3.3.2.tar.gz"))
    if not path.is_file():
        raise RuntimeError(f"film reviews: no {path}: {COMMAND}")
    return path


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """One file of an archive; KeyError when it has no such file."""
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is no file")
    return file.read()


def ratings() -> str:
    """The file of ratings, checked; RuntimeError when the archive is another one."""
    path = archive_path()
    try:
        with tarfile.open(path) as outer:
            packed = member(outer, OUTER)
        with tarfile.open(fileobj=io.BytesIO(packed)) as inner:
            content = member(inner, INNER)
    except (OSError, KeyError, tarfile.TarError) as error:
        raise RuntimeError(f"{path} holds no {INNER} ({error}): {COMMAND}") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise RuntimeError(f"{path}: {INNER} is not the one this study was made with: {COMMAND}")
    return content.decode("utf-8")


@cache
def reviews() -> tuple[tuple[str, int], ...]:
    """Snippets and labels (1: liked it), those left out that were rated 0 or came before."""
    found: dict[str, tuple[str, int]] = {}
    for line in ratings().split("\n"):
        if line.strip():
            _, rating, text = line.rstrip("\r").split("\t")
            same = re.sub("[^a-z0-9]", "", text.lower())
            if float(rating) and same not in found:
                found[same] = (html.unescape(text), int(float(rating) > 0))
    return tuple(found.values())


@cache
def split_texts(split: str) -> tuple[tuple[str, ...], Tensor]:
    """Texts and labels `(n,)` of one of `SPLITS`."""
    order = np.random.default_rng(0).permutation(len(reviews()))[SPLITS[split]]
    chosen = [reviews()[place] for place in order]
    return tuple(text for text, _ in chosen), torch.tensor([label for _, label in chosen])


@cache
def inputs(split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Token numbers and masks `(n, 64)`, and labels `(n,)`, of one of `SPLITS`."""
    texts, labels = split_texts(split)
    return *encode(texts), labels
