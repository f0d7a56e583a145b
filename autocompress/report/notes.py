"""The notes of a run sorted: what everyone should know, and the long list of what was left out."""

from __future__ import annotations

from typing import NamedTuple

from autocompress.report.data import RunData

_PREFIX = "not offered: "


class Notes(NamedTuple):
    """Sentences: `telling` for the top of the report, `left_out` for whoever asks."""

    telling: tuple[str, ...]
    left_out: tuple[str, ...]


def sorted_notes(run: RunData) -> Notes:
    """Each note once; why the search ended is said with the search."""
    telling: dict[str, None] = {}
    left_out: dict[str, None] = {}
    for note in run.notes:
        if note.startswith(_PREFIX) or " not offered" in note:
            left_out[note.removeprefix(_PREFIX)] = None
        elif not run.stopped or note != f"search: {run.stopped}":
            telling[note] = None
    return Notes(tuple(telling), tuple(left_out))
