"""Executors by name."""

from __future__ import annotations

from autocompress.study.config import Study, parse_duration
from autocompress.study.executors.executor import Executor
from autocompress.study.executors.local import LocalExecutor


def make_executor(study: Study) -> Executor:
    """The executor that a study names; it starts with the first piece of work.

    Raises:
        ExecutorError: If it cannot be had, such as Ray where that is not installed.
    """
    settings = study.settings
    limit = parse_duration(settings.candidate_time) if settings.candidate_time else 0.0
    if settings.executor == "processes":
        from autocompress.study.executors.processes import ProcessExecutor

        return ProcessExecutor(study.workers, limit)
    if settings.executor == "ray":
        from autocompress.study.executors.ray_tune import RayExecutor

        return RayExecutor(settings.workers, settings.address, limit)
    return LocalExecutor(study.workers)
