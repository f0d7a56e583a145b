"""A study as a contest: its bank, menus, prices and proxy, and what they cost."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import statistics
import sys
import time
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from contest import SIZE, Contest
from house_format import study_folder
from memo import Memo
from ours import play

from autocompress.model.task import Inputs
from autocompress.objective.adjoint import adjoint_prices
from autocompress.objective.budget import parse_limit
from autocompress.search.problem import Candidate
from autocompress.study.config import load_study
from autocompress.study.prepare import Prepared, prepare
from autocompress.study.pricing import ADJOINT_EXAMPLES, FIRST_CUT
from autocompress.study.subject import Model, look

BUDGETS = {"resnet20_fashion": "10%,8%,6%,5%,4%"}
USUAL_BUDGETS = "5%,4%,3%,2.5%,2%"
_TIMED = 11  # passes timed for the price of one


class Lines:
    """Progress as plain lines on stderr."""

    def stage(self, name: str, detail: str = "") -> None:
        print(f"{name}: {detail}" if detail else name, file=sys.stderr, flush=True)

    def progress(self, done: int, total: int, detail: str = "") -> None:
        if total >= 100 and done % (total // 10) == 0:
            print(f"  {done} of {total} {detail}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Fewer(Model):
    """A model whose candidates are compared on the first few of the search inputs.

    Args:
        images: How many; 0 takes all.
    """

    images: int = 0

    @cached_property
    def search_inputs(self) -> Inputs:
        """The part on which candidates are compared."""
        inputs = tuple(tensor[self._cut :] for tensor in self.calibration)
        return tuple(tensor[: self.images or None] for tensor in inputs)


def open_contest(
    study: str, options: argparse.Namespace, lines: Lines
) -> tuple[Contest, Prepared]:
    """Makes or reuses bank and prices of a study.

    Args:
        study: Name or folder.
        options: `out`, `images` and `budgets` of the command line.
        lines: Hears of the stages.
    """
    asked = load_study(study_folder(study))
    root = options.out / asked.name
    # Tables and losses are of the inputs, the bank is not: one bank for all numbers of images.
    folder = root / f"{options.images or 'all'}_images"
    (root / "bank").mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    if not (folder / "bank").exists():
        (folder / "bank").symlink_to(Path("..") / "bank", target_is_directory=True)
    whole, space = look(asked, lines)
    parts = {field.name: getattr(whole, field.name) for field in fields(Model)}
    model = Fewer(**parts, images=options.images)
    prepared = prepare(asked, model, space, folder, lines)
    return contest_of(prepared, options, folder), prepared


def contest_of(prepared: Prepared, options: argparse.Namespace, folder: Path) -> Contest:
    """The contest of a prepared study; measures what a full pass takes."""
    space, prices = prepared.space, prepared.prices
    menus = tuple(tuple(option.id for option in menu) for menu in space.units.values())
    text = options.budgets or BUDGETS.get(prepared.study.name, USUAL_BUDGETS)
    original = prepared.model.size_bytes
    budgets = {part: parse_limit("size", part).bound(original) for part in text.split(",")}

    def measure(candidate: Candidate) -> tuple[float, float]:
        model = prepared.stitcher.stitch(dict(space.candidate(candidate).choices))
        begun = time.process_time()
        loss = prepared.proxy(model).value
        return loss, time.process_time() - begun

    # As pricing leaves it: every module is built, so that no run pays for that.
    for unit, menu in space.units.items():
        for option in menu:
            prepared.stitcher.module(unit, option)
    rng = np.random.default_rng(0)
    drawn = [tuple(int(rng.integers(len(menu))) for menu in menus) for _ in range(_TIMED)]
    return Contest(
        study=prepared.study.name,
        units=tuple(space.units),
        options=menus,
        losses=prices.losses,
        products={"swap": prices.products},
        resources={SIZE: prices.size, "latency_ms": prices.latency},
        labels=prices.labels,
        original_bytes=original,
        budgets=dict(sorted(budgets.items(), key=lambda item: -item[1])),
        pricing={"adjoint": adjoint_passes(prepared), "swap": float(prices.swap_passes)},
        measure=measure,
        memo=Memo(folder / "losses.sqlite", _content(prepared, menus)),
        full_pass_s=statistics.median(measure(candidate)[1] for candidate in drawn),
        play=partial(play, prepared=prepared),
    )


def _content(prepared: Prepared, menus: tuple[tuple[str, ...], ...]) -> str:
    """Hash of all that a loss depends on; the prices tell one measuring code from another."""
    prices = prepared.prices
    tables = {name: [list(values) for values in table] for name, table in prices.losses.items()}
    sizes = [values.tolist() for values in prices.size.units]
    inputs = hashlib.sha256()
    for tensor in prepared.model.search_inputs:
        inputs.update(tensor.contiguous().numpy().tobytes())
    parts = [prepared.model.key, inputs.hexdigest(), menus, tables, sizes]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def adjoint_passes(prepared: Prepared) -> float:
    """What the adjoint table cost in full proxy passes, as an upper bound.

    One forward pass, its backward passes (at two forward passes each) and one pass of each layer
    for each option that the first cut left.
    """
    probes = inspect.signature(adjoint_prices).parameters["probes"].default
    examples = min(ADJOINT_EXAMPLES, len(prepared.model.cost_inputs[0]))
    share = examples / len(prepared.model.search_inputs[0])
    return float(share * (1 + 2 * probes + FIRST_CUT * prepared.study.space.menu))
