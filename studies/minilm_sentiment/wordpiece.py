"""The tokenizer of BERT without capitals, from the package's vocabulary (`vocab.txt`).

Cleaning, lower case, accents away, words and punctuation apart, then the longest piece that the
vocabulary has, again and again (Devlin et al. 2019, 1810.04805; its `tokenization.py`).
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from minilm import TOKENS, packaged_file

LONGEST = 100  # characters of a word; a longer one is unknown
CHINESE = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


@cache
def vocabulary() -> dict[str, int]:
    """Piece to its number; a piece that goes on a word begins with `##`."""
    lines = packaged_file("vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    return {piece: number for number, piece in enumerate(lines)}


def stands_alone(character: str) -> bool:
    """Whether a character is a word by itself: punctuation, or Chinese."""
    code = ord(character)
    if character.isascii():
        return not character.isalnum()
    return unicodedata.category(character).startswith("P") or any(
        low <= code <= high for low, high in CHINESE
    )


def words(text: str) -> list[str]:
    """A text in lower case without accents, cut into words and punctuation."""
    plain = []
    for character in unicodedata.normalize("NFD", text):
        category = unicodedata.category(character)
        if character.isspace() or category == "Zs":
            plain.append(" ")
        elif category != "Mn" and not category.startswith("C") and character != "\ufffd":
            lower = character.lower()
            plain.append(f" {lower} " if stands_alone(character) else lower)
    return "".join(plain).split()


def pieces(word: str) -> list[int]:
    """Numbers of a word's pieces; one unknown piece where the vocabulary does not do."""
    known = vocabulary()
    found: list[int] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            if (piece := prefix + word[start:end]) in known:
                found.append(known[piece])
                start = end
                break
        else:
            return [known["[UNK]"]]
    return found if len(word) <= LONGEST else [known["[UNK]"]]


def tokens(text: str) -> list[int]:
    """Numbers of a text's pieces between those of `[CLS]` and `[SEP]`, not cut."""
    known = vocabulary()
    inside = [number for word in words(text) for number in pieces(word)]
    return [known["[CLS]"], *inside, known["[SEP]"]]


def encode(texts: Sequence[str], length: int = TOKENS) -> tuple[Tensor, Tensor]:
    """Texts as `(n, length)` token numbers, and 1 where there is a token, 0 where padding.

    What is too long loses its end; `[SEP]` stays last.
    """
    ids = torch.full((len(texts), length), vocabulary()["[PAD]"])
    mask = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in enumerate(texts):
        numbers = tokens(text)
        if len(numbers) > length:
            numbers = [*numbers[: length - 1], numbers[-1]]
        ids[row, : len(numbers)] = torch.tensor(numbers)
        mask[row, : len(numbers)] = 1
    return ids, mask
