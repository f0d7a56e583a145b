"""Files that install with packages, for the studies that read them: found without an import."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path


def package_folder(module: str) -> Path | None:
    """Where an installed package lies, or None; what it needs itself need not be there."""
    found = importlib.util.find_spec(module)
    return Path(found.origin).parent if found and found.origin else None


@cache
def packaged(module: str, name: str, sha256: str, command: str) -> Path:
    """One file of an installed package, checked.

    Args:
        module: Name that the package is imported by.
        name: Path of the file from the package's folder.
        sha256: Of the file's bytes, in hexadecimal.
        command: What installs the version that has the file.

    Raises:
        RuntimeError: If it is not there or holds other bytes; the message says what to install.
    """
    folder = package_folder(module)
    if folder is None:
        raise RuntimeError(f"the package {module} is not installed: {command}")
    path = folder / name
    if not path.is_file():
        raise RuntimeError(f"no {name} in the installed package {module}: {command}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise RuntimeError(f"{path} is not the file this study was made with: {command}")
    return path
