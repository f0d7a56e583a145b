"""Flat TOML files with a schema number: where presets are found, how they are read, what is
refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from autocompress.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same parser as a package
    import tomli as tomllib


class Schema(BaseModel):
    """Base of every TOML record: unknown keys are errors, values are not converted silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_: Literal[1] = 1
    description: str = ""


Record = TypeVar("Record", bound=Schema)


def folder_of(catalogue: str) -> Path:
    """Where presets of a catalogue lie: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "presets"
    return (inside if inside.is_dir() else package.parent) / catalogue


def presets(catalogue: str) -> dict[str, Path]:
    """Preset name to file, sorted; the listing of the folder is the vocabulary."""
    return {path.stem: path for path in sorted(folder_of(catalogue).glob("*.toml"))}


def find(catalogue: str, name: str, relative_to: Path | None = None) -> Path:
    """The file that a preset name or a path ending in `.toml` means; the path may start at
    `relative_to` or where the command was given.

    Raises:
        ConfigError: If there is none; the message lists the presets.
    """
    if name.endswith(".toml"):
        paths = [(relative_to or Path()) / name, Path(name)]
        for path in paths:
            if path.is_file():
                return path
        raise ConfigError(f"{paths[0]}: no such file")
    known = presets(catalogue)
    if name not in known:
        raise ConfigError(
            f"{catalogue}: no preset {name!r}; there are {', '.join(known)}"
            " (or give a path ending in .toml)"
        )
    return known[name]


def load(
    catalogue: str,
    name: str,
    relative_to: Path | None,
    record: type[Record],
    check: Callable[[Record], object],
) -> tuple[Record, str]:
    """A preset by name or path, and the file it came from.

    Args:
        catalogue: Folder of the presets.
        name: Preset, or a path ending in `.toml`.
        relative_to: Folder that relative paths start from.
        record: What the file must be.
        check: Raises `ConfigError` for values that are well-formed but not allowed.

    Raises:
        ConfigError: If there is none, or it is malformed; names the file.
    """
    path = find(catalogue, name, relative_to)
    preset = read(path, record)
    try:
        check(preset)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return preset, str(path)


def read(path: Path, record: type[Record]) -> Record:
    """Parses and checks one file.

    Raises:
        ConfigError: Naming the file, the key and what is allowed.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    if "schema" not in values:
        raise ConfigError(f"{path}: key 'schema' is missing; write `schema = 1`")
    values["schema_"] = values.pop("schema")
    return validate(values, record, str(path))


def validate(values: Mapping[str, Any], record: type[Record], where: str) -> Record:
    """The record with these values.

    Raises:
        ConfigError: Naming `where`, the key and what is allowed.
    """
    try:
        return record.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(error, record)}") from None


def _sentence(error: ValidationError, record: type[Schema]) -> str:
    """The first complaint of pydantic as a sentence with the key and what is allowed."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]).replace("schema_", "schema")
    if first["type"] == "extra_forbidden":
        allowed = [name.replace("schema_", "schema") for name in _fields(record, first["loc"])]
        return f"unknown key {key!r}; allowed are {', '.join(allowed)}"
    return f"key {key!r}: {first['msg']} (got {first.get('input')!r})"


def _fields(record: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Keys of the table that holds the unknown key."""
    for part in loc[:-1]:
        field = record.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            break
        record = field.annotation
    return list(record.model_fields)
