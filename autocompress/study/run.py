"""A whole run: prepare, search, confirm, ship.  The same command goes on where a killed one
stopped.
"""

from __future__ import annotations

from pathlib import Path

from autocompress.errors import StorageError
from autocompress.study.choose import choose, reserves
from autocompress.study.config import Study
from autocompress.study.confirm import confirm, test
from autocompress.study.events import Listener, Log
from autocompress.study.front import front_of
from autocompress.study.lock import lock
from autocompress.study.prepare import prepare
from autocompress.study.searching import search_all
from autocompress.study.ship import Outcome, ship
from autocompress.study.status import JOURNAL, begin, finish
from autocompress.study.storage import StudyStorage
from autocompress.study.subject import look, made_from, menus_of


def run_study(study: Study, folder: Path, listener: Listener) -> Outcome:
    """Compresses the study's model into a run directory.

    Args:
        study: What is asked.
        folder: The run directory; one that was begun with the same study is continued.
        listener: Hears of the progress.

    Raises:
        AutocompressError: Any of the family.  What was evaluated before is kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made: {error.strerror or error}") from error
    with lock(folder / JOURNAL):
        log = Log(folder / "log.jsonl", listener)
        model, space = look(study, log, folder)
        # The user's metric fails at once, not after the search.
        study.task.evaluate(model.dense, "selection")
        fingerprint = made_from(study, model, space)
        begin(folder, study, fingerprint)
        prepared = prepare(study, model, space, folder, log)
        storage = StudyStorage(
            folder / JOURNAL,
            menus_of(prepared.space),
            {**fingerprint, "menu": str(menus_of(prepared.space))},
        )
        log.stage("search", f"{study.settings.evaluations} evaluations")
        history, problem = search_all(prepared, storage, log)
        records = storage.records()
        log.stage("confirm", "measuring the best few")
        chosen = choose(prepared, problem, records)
        more = reserves(prepared, problem, records, chosen)
        confirmation = confirm(prepared, chosen, front_of(records), log, more)
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
        outcome = ship(prepared, problem, history, records, confirmation, tested, folder, log)
        finish(folder)
        return outcome
