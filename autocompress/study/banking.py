"""Fills the bank wherever an executor runs.

Statistics are collected here, for a few layers at a time, and handed over; workers see neither the
model nor the inputs.
"""

from __future__ import annotations

from autocompress.compression.bank import Bank
from autocompress.compression.making import Job, Supplies, make_all
from autocompress.errors import ExecutorError
from autocompress.search_space.space import Space
from autocompress.study.events import Listener
from autocompress.study.executors.executor import Executor, Lost
from autocompress.study.subject import Model


def fill_bank(
    bank: Bank, model: Model, space: Space, executor: Executor, listener: Listener
) -> None:
    """Makes the entries that are missing.

    Args:
        bank: Is filled.
        model: Whose layers are compressed.
        space: Under which options.
        executor: Where that is done.
        listener: Hears of the progress.

    Raises:
        StorageError: If an entry cannot be written; those before it are kept.
        ExecutorError: If making some ended its worker time and again; the others are kept.
    """
    menus = space.computed.units
    total = sum(len(menu) - 1 for menu in menus.values())

    def tell() -> None:
        listener.progress(bank.made + bank.reused, total)

    lost: list[str] = []
    for group in model.statistics.groups:
        jobs: list[Job] = []
        for name in group:
            layer = model.layer(name)
            missing = bank.missing(layer, menus.get(name, ()), tell)
            jobs += Job(layer, tuple(missing)).split()
        if not jobs:
            continue
        names = dict.fromkeys(job.layer.name for job in jobs)
        statistics = {name: model.statistics[name] for name in names}
        modules = {name: model.dense.get_submodule(name) for name in names}
        supplies = Supplies(modules, statistics, bank.channels)
        for index, made in executor.map_unordered(make_all, supplies, jobs, alike=False):
            if isinstance(made, Lost):
                lost.append(f"{jobs[index].layer.name!r}: {made.reason}")
                continue
            for option, treated, error in made:
                bank.add(jobs[index].layer, option, treated, error)
                tell()
        # Executors hold on to the latest source: not to what would lie beside the next group's.
        statistics.clear()
        model.statistics.release()
    if lost:
        raise ExecutorError(
            f"compressing layer {'; layer '.join(lost)}.  What was made is kept; the same command"
            " goes on, with --executor local in the run's own process"
        )
    if bank.reused:
        listener.note(f"bank: {bank.reused} of {total} entries reused from {bank.folder}")
