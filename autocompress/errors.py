"""Every error that a user can cause: the message says what is wrong and what is allowed."""

from __future__ import annotations


class AutocompressError(Exception):
    """Root of the family.  The command line prints the message and exits with `exit_code`."""

    exit_code = 2


class ConfigError(AutocompressError):
    """A study, preset or option is malformed; names file, key and what is allowed."""


class TaskError(AutocompressError):
    """The user's model, calibration inputs or `evaluate` do not behave as `task.py` must."""


class DataError(AutocompressError):
    """Inputs hold NaN or infinity, are empty, or have the wrong shape."""


class ArchiveError(AutocompressError):
    """An archive is truncated, damaged, of another version, or belongs to another model."""


class StudyMismatchError(AutocompressError):
    """A run directory was begun with another model, data or search space."""


class DeviceError(AutocompressError):
    """A device is unknown, its table is stale, or a cost that was asked for was never measured."""


class StorageError(AutocompressError):
    """A file of the run directory cannot be read or written (disk full, permissions, damage)."""


class InfeasibleError(AutocompressError):
    """No combination of options meets the limits under the prices.

    Args:
        message: Sentence for the user.
        binding: Name of the limit that cannot be met, such as `size`.
    """

    exit_code = 3

    def __init__(self, message: str, binding: str) -> None:
        super().__init__(message)
        self.binding = binding


class UndecidedError(InfeasibleError):
    """The solver gave up before it found a candidate or proved that there is none."""


class ExecutorError(AutocompressError):
    """Workers cannot be started or reached; what was evaluated before is kept."""
