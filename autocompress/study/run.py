"""A whole run: prepare, search, confirm, ship.  The same command goes on where a killed one
stopped.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path

from autocompress.errors import StorageError
from autocompress.files import write_json
from autocompress.search.problem import Problem
from autocompress.study.book import reach
from autocompress.study.choose import choose, reserves
from autocompress.study.claim import claim
from autocompress.study.config import Study, parse_duration, with_evaluations
from autocompress.study.confirm import Confirmation, confirm, is_closer, test
from autocompress.study.correction import corrected, recorrected
from autocompress.study.events import Listener, Log
from autocompress.study.executors.catalogue import make_executor
from autocompress.study.executors.executor import Executor
from autocompress.study.front import front_of
from autocompress.study.lock import lock
from autocompress.study.loop import History
from autocompress.study.origins import NAME as ORIGINS
from autocompress.study.origins import origins_of
from autocompress.study.patience import Patience
from autocompress.study.prepare import Prepared, prepare
from autocompress.study.recovery import loosened, recover_best
from autocompress.study.searching import joined, search_all
from autocompress.study.ship import Outcome, ship
from autocompress.study.status import JOURNAL, begin, finish, place_for
from autocompress.study.storage import StudyStorage
from autocompress.study.subject import look, made_from, menus_of
from autocompress.study.trackers.run_tracking import (
    FILES,
    figures_of,
    make_tracking,
    settings_of,
    tags_of,
)
from autocompress.study.warm import Warm, begin_warm, share

AGAIN = 2  # more searches, where the clock says that the latency limit is missed by a little
EVALUATIONS = 16  # of each


def run_study(
    study: Study,
    folder: Path,
    listener: Listener,
    warm_start: Path | None = None,
    executor: Executor | None = None,
) -> Outcome:
    """Compresses the study's model into a run directory.

    Args:
        study: What is asked.
        folder: The run directory; one that was begun with the same study is continued.
        listener: Hears of the progress.
        executor: Where options are made and measured; by default the one that the study names.
            It is left open.
        warm_start: A finished run whose delivered candidate and front are measured first, and
            whose bank and device are taken where they are still valid.

    Raises:
        AutocompressError: Any of the family.  What was evaluated before is kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made: {error.strerror or error}") from error
    with lock(folder / JOURNAL), ExitStack() as stack:
        log = Log(folder / "log.jsonl", listener)
        warm = begin_warm(folder, warm_start, log)
        executor = executor or stack.enter_context(closing(make_executor(study)))
        tracking = stack.enter_context(make_tracking(study, folder, log.note))
        model, space = look(study, log, folder)
        # The user's metric fails at once, not after the search.
        study.task.evaluate(model.dense, "selection")
        fingerprint = made_from(study, model, space)
        place, must_exist = place_for(folder, study, fingerprint)
        patience = Patience(parse_duration(study.settings.storage_patience), log.note)
        claimed = stack.enter_context(claim(place, patience, log.note))
        patience(lambda: reach(place, must_exist), place)
        begin(folder, study, fingerprint, place)
        tracking.begin(settings_of(study), tags_of(folder, fingerprint))
        if warm.run:
            share(Path(warm.run), folder, study, model, space, fingerprint)
        prepared = loosened(prepare(study, model, space, folder, log, executor))
        write_json(folder / ORIGINS, origins_of(study, model))
        prepared = corrected(prepared, folder, log)
        storage = stack.enter_context(
            StudyStorage(
                place,
                menus_of(prepared.space),
                {**fingerprint, "menu": str(menus_of(prepared.space))},
                patience=patience,
                claimed=claimed,
                note=log.note,
                watch=tracking.candidate,
            )
        )
        tracking.go_on(storage.records(), storage.feasible)
        log.stage("search", f"{study.settings.evaluations} evaluations")
        prepared, problem, history, confirmation = _search(prepared, storage, log, warm)
        prepared = replace(prepared, study=study)
        confirmation, recoveries = recover_best(prepared, confirmation, folder, log)
        storage.close()
        records = storage.records()
        tested = None
        if confirmation.winner is not None:
            log.stage("test", "the test split, once")
            tested = test(prepared, confirmation.winner.finalist)
            if not study.task.has_splits:
                log.note(
                    "evaluate() takes no split: the test quality is that of the selection data"
                )
        log.stage("ship", "writing and reloading the artefacts")
        log.finish()
        outcome = ship(
            prepared,
            problem,
            history,
            records,
            confirmation,
            tested,
            [asdict(recovery) for recovery in recoveries],
            folder,
            log,
        )
        finish(folder)
        tracking.files([folder / name for name in FILES])
        tracking.finish(figures_of(outcome.result))
        return outcome


def _search(
    prepared: Prepared, storage: StudyStorage, log: Log, warm: Warm
) -> tuple[Prepared, Problem, History, Confirmation]:
    """Searches and measures the best few; again, where the clock says that the latency limit is
    missed by a little."""
    history, problem = search_all(prepared, storage, log, warm=warm)
    confirmation = _confirm(prepared, problem, storage, log)
    for _ in range(AGAIN):
        ranked, base = confirmation.verdicts, confirmation.original
        correction = recorrected(prepared, ranked, base, confirmation.targets)
        if correction is None:
            break
        nearer = replace(prepared, correction=correction)
        log.stage("search", "once more, under what the clock says")
        short = replace(nearer, study=with_evaluations(nearer.study, EVALUATIONS))
        more, tighter = search_all(short, storage, log, storage.records())
        history = joined(prepared, history, more)
        again = _confirm(nearer, tighter, storage, log)
        if not is_closer(again, confirmation):
            break
        prepared, problem, confirmation = nearer, tighter, again
    return prepared, problem, history, confirmation


def _confirm(
    prepared: Prepared, problem: Problem, storage: StudyStorage, log: Log
) -> Confirmation:
    log.stage("confirm", "measuring the best few")
    records = storage.records()
    chosen = choose(prepared, problem, records)
    # What a squeeze starts from need not be the best: training changes all of it.
    is_start = prepared.study.settings.recovery.method == "squeeze"
    more = [] if is_start else reserves(prepared, problem, records, chosen)
    return confirm(prepared, chosen, front_of(records), log, more)
