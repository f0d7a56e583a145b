"""What every option of every layer costs alone, as the search had it: `prices.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from autocompress.report.units import number


class Alone(NamedTuple):
    """One option of a layer, with every other layer as in the original.

    Args:
        option: Its name, `dense` for the original.
        loss: Of the whole model, at least 0.
        size_bytes: Of the layer; None where it is not known.
    """

    option: str
    loss: float
    size_bytes: float | None


def read_prices(path: Path) -> dict[str, tuple[Alone, ...]]:
    """Layer to its options; empty where the file is not there or of another version.

    The table only decorates the report, so that no other content of it is an error.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        losses = record["losses"].get("swap") or record["losses"]["adjoint"]
        return {
            str(layer): tuple(_alone(menu, losses[layer], record["bytes"].get(layer, {})))
            for layer, menu in record["menus"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _alone(menu: list[str], losses: list[Any], sizes: Mapping[str, Any]) -> list[Alone]:
    found = []
    for option, loss in zip(menu, losses, strict=True):
        value = number(loss)
        if value is not None:
            found.append(Alone(str(option), max(0.0, value), number(sizes.get(option))))
    return found
