"""Small models of many kinds, each trained for some seconds on data that needs no download."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.entry import Entry
from zoo.odd import ODD
from zoo.sequences import SEQUENCES
from zoo.vision import VISION

ZOO: Mapping[str, Entry] = {entry.name: entry for entry in (*VISION, *SEQUENCES, *ODD)}
