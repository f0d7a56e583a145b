"""Warm start: a run begins with what an earlier one found, and shares what is still valid of it.

What is asked first is fixed in `warm.json` when the run begins, so that a run that goes on asks
the same, whatever has become of the earlier one.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autocompress.errors import ConfigError, StorageError
from autocompress.files import read_json, write_json
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.option import Option
from autocompress.search_space.space import Space
from autocompress.study.config import Study
from autocompress.study.events import Listener
from autocompress.study.profiling import is_valid
from autocompress.study.status import JOURNAL, RUN_FILE, read_run
from autocompress.study.subject import Model
from autocompress.study.traced import NAME as TRACE

NAME = "warm.json"
SCHEMA = 1
ORIGIN = "warm"
COLUMNS = ("candidate", "loss", "size_bytes", "latency_ms", "quality")  # of front.csv, then units
# Each says itself what it was made from, so that a stale one is made again.
FILES = ("channels.json", "prices.json", "products.safetensors")
# What a bank's entries depend on, by the names of `made_from`.
CONTENT = ("model or calibration data", "set of knobs", "version of the compression code")


@dataclass(frozen=True)
class Warm:
    """What a run asks first.

    Args:
        run: The earlier run, as it was given; empty for none.
        candidates: Unit to option id, the delivered candidate first, then the front.
    """

    run: str = ""
    candidates: tuple[Mapping[str, str], ...] = ()

    def options(self) -> dict[str, frozenset[Option]]:
        """Unit to the options that the candidates need, outputs aside: no menu may lose them."""
        found: dict[str, set[Option]] = {}
        for choices in self.candidates:
            for unit, option in Candidate.from_dict(choices).choices:
                found.setdefault(unit, set()).add(option.computed)
        return {unit: frozenset(options) for unit, options in found.items()}

    def within(self, space: Space, listener: Listener) -> list[tuple[int, ...]]:
        """Option numbers of the candidates that the space still has; the others are noted."""
        kept, lost = [], []
        for choices in self.candidates:
            candidate = Candidate.from_dict(choices)
            try:
                kept.append(space.indices(candidate))
            except ConfigError as error:
                lost.append(f"{candidate.id} ({error})")
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            listener.note(f"warm start: the space no longer has candidate {lost[0]}{more}")
        return kept


def begin_warm(folder: Path, earlier: Path | None, listener: Listener) -> Warm:
    """What the run in `folder` asks first, fixed when it begins; it gets the earlier trace, too.

    Args:
        folder: The run directory.
        earlier: A finished run to start from; None goes on as the run was begun.
        listener: Hears of it when the run was begun from another one.

    Raises:
        ConfigError: If the run was begun without a warm start and has trials already.
        StorageError: If the earlier run is not finished or cannot be read.
    """
    begun = read_warm(folder)
    if begun.run:
        if earlier is not None and str(earlier) != begun.run:
            listener.note(f"the run was begun from {begun.run}, and goes on with that")
        return begun
    if earlier is None:
        return Warm()
    if earlier.resolve() == folder.resolve():
        raise ConfigError(f"--warm-start {earlier}: is the run directory itself")
    known = read_run(folder) if (folder / RUN_FILE).is_file() else {}
    if (folder / JOURNAL).is_file() or known.get("storage", {}).get("url"):
        raise ConfigError(
            f"{folder}: was begun without --warm-start; go on without it, or give a new folder"
            " with --out"
        )
    warm = Warm(str(earlier), tuple(_candidates(earlier)))
    write_json(
        folder / NAME,
        {"schema": SCHEMA, "run": warm.run, "candidates": [dict(c) for c in warm.candidates]},
    )
    # Before the model is traced: it is read only where it is of the same weights and code.
    _link([earlier / TRACE], earlier, folder)
    return warm


def read_warm(folder: Path) -> Warm:
    """What the run in `folder` was begun with; nothing where it had no warm start.

    Raises:
        StorageError: If the record is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return Warm()
    try:
        value = read_json(path)
        candidates = tuple(dict(choices) for choices in value["candidates"])
        for choices in candidates:
            Candidate.from_dict(choices)
        return Warm(str(value["run"]), candidates)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise StorageError(f"{path}: not a record of a warm start ({error!r})") from None


def _candidates(run: Path) -> list[Mapping[str, str]]:
    """The delivered candidate of a finished run, then its front, smallest file first."""
    path = run / "front.csv"
    if not (read_run(run)["finished"] and path.is_file()):
        raise StorageError(f"{run}: has not finished; a warm start needs its front.csv")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        front = [{u: text for u, text in row.items() if u not in COLUMNS} for row in rows]
        plan = run / "plan.json"
        best = [dict(read_json(plan)["choices"])] if plan.is_file() else []
        found = {Candidate.from_dict(choices).id: choices for choices in [*best, *front]}
    except (OSError, csv.Error, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise StorageError(f"{path}: not the front of a run ({error})") from None
    return list(found.values())


def share(
    earlier: Path, folder: Path, study: Study, model: Model, space: Space, made: Mapping[str, str]
) -> int:
    """Gives a run what is still valid of an earlier one: its bank, its prices, its device.

    Files are linked, or copied where links do not work; nothing that is there is replaced.  Times
    of a device known from its data sheet are estimated anew: they cost nothing, and the sheet may
    have changed.

    Args:
        earlier: A run directory; one that is gone shares nothing.
        folder: The run directory that is beginning.
        study: What is asked.
        model: The traced model.
        space: All options.
        made: What `made_from` says of them.

    Returns:
        How many files of the bank are shared.
    """
    begun = read_json(earlier / "run.json") if (earlier / "run.json").is_file() else {}
    known = begun.get("fingerprint", {}) if isinstance(begun, dict) else {}
    if any(known.get(key) != made[key] for key in CONTENT):
        return 0
    bank = earlier / "bank"
    entries = [path for path in sorted(bank.rglob("*")) if path.is_file()]
    entries = [path for path in entries if not path.name.startswith(".")]
    _link(entries, bank, folder / "bank")
    _link([earlier / name for name in FILES], earlier, folder)
    device = earlier / "device.json"
    if study.device.sheet is None and is_valid(device, study, model, space):
        _link([device], earlier, folder)
    return len(entries)


def _link(files: Sequence[Path], source: Path, target: Path) -> None:
    """Links or copies files below `source` to the same places below `target`.

    Every file of a run is written beside its place and renamed into it, never in place, so that a
    link cannot change under its owner.
    """
    for file in files:
        place = target / file.relative_to(source)
        if not file.is_file() or place.exists():
            continue
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, place)
            except OSError:  # another file system, or one without links
                part = place.with_name(f".{place.name}.part")
                shutil.copyfile(file, part)
                os.replace(part, place)
        except OSError as error:
            raise StorageError(f"{place}: cannot be written: {error.strerror or error}") from error
