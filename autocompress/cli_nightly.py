from __future__ import annotations

NIGHTLY_CODES = "x"


def nightly() -> None:
    pass


def diff() -> None:
    pass
