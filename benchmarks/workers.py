"""Runs the contestants in forked processes with one thread each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence

import torch
from contest import Contest, Entry, Outcome
from recorded import recorded

_contest: list[Contest] = []  # what a forked worker inherits


def outcomes(todo: Sequence[Entry], contest: Contest, workers: int) -> Iterator[Outcome]:
    """Runs all, in any order; with one worker in this process.

    What a run finds does not depend on the number of workers.
    """
    _contest[:] = [contest]
    if workers == 1:
        yield from map(_run, todo)
        return
    contest.memo.close()  # an open database must not cross a fork
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from pool.imap_unordered(_run, todo)


def _run(entry: Entry) -> Outcome:
    torch.set_num_threads(1)
    return recorded(entry, _contest[0])
