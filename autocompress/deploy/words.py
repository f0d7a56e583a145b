"""Option ids in a byte or two for each part: parts that are common have a byte of their own."""

from __future__ import annotations

import re

from autocompress.errors import ArchiveError

_SHARES = ("75", "50", "25", "12.5")
# Part of the format: new ones come last.
WORDS = (
    *(f"w{bits}" for bits in (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)),
    *(f"-s{share}" for share in (30, 40, 50, 60, 70, 75, 80, 85, 90, 92, 95, 97, 98, 99)),
    *(f"-{axis}{share}" for axis in "rio" for share in _SHARES),
    *(f"-{part}" for part in ("a8", "r15", "r10", "r5", "r35", "i37.5", "i62.5", "i87.5")),
    *(f"-{part}" for part in ("o37.5", "o62.5", "o87.5", "s", "r", "i", "o", "a", "n", "g", "k")),
    "dense",
    *(f"-t{share}" for share in _SHARES),
    "-d8",
)
_LONGEST_FIRST = re.compile("|".join(map(re.escape, sorted(WORDS, key=len, reverse=True))))
_FIRST = 128  # bytes below are ASCII


def pack_words(text: str) -> bytes:
    """ASCII text, each of `WORDS` as one byte.

    Raises:
        ValueError: If the text is not ASCII.
    """
    if not text.isascii():
        raise ValueError(f"option {text!r}: allowed are ASCII letters, digits and signs")
    packed, place = bytearray(), 0
    for found in _LONGEST_FIRST.finditer(text):
        packed += text[place : found.start()].encode()
        packed.append(_FIRST + WORDS.index(found[0]))
        place = found.end()
    return bytes(packed + text[place:].encode())


def read_words(data: bytes) -> str:
    """The text that `pack_words` was given.

    Raises:
        ArchiveError: If a byte stands for no word.
    """
    if data and max(data) >= _FIRST + len(WORDS):
        raise ArchiveError(f"damaged: option id with the byte {max(data)}")
    return "".join(WORDS[byte - _FIRST] if byte >= _FIRST else chr(byte) for byte in data)
