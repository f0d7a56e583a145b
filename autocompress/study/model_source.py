"""Where a new study's model comes from: a function, an exported program or a folder of weights."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.errors import ConfigError, TaskError
from autocompress.study.exported import exported_inputs, load_exported

ALLOWED = (
    "allowed are module:function, a file ending in .pt2, or a folder with config.json and"
    " *.safetensors"
)
_TEXT = {
    "input_ids": "int64 (n, tokens)",
    "attention_mask": "int64 (n, tokens), 1 where there is a token",
}


@dataclass(frozen=True)
class Source:
    """A model that was looked at.

    Args:
        loader: Which `scaffold_text.LOADERS` makes it.
        title: What it is, in words.
        inputs: Each input of its `forward`, in order, in words.
        imports: Lines that `task.py` needs for it.
        values: What is put into the loader's text.
        path: File or folder that `task.py` reads; None for a function.
    """

    loader: str
    title: str
    inputs: Mapping[str, str]
    imports: tuple[str, ...] = ()
    values: Mapping[str, str] | None = None
    path: Path | None = None


def find_source(text: str, study: Path) -> Source:
    """What a `--model` means.

    Args:
        text: `module:function`, the path of an exported program, or of a folder as
            `save_pretrained` of transformers writes it.
        study: Folder of the new study, from which a module is found again.

    Raises:
        ConfigError: If it is none of these; says what is allowed.
        TaskError: If the model cannot be made.
    """
    path = Path(text)
    if path.suffix == ".pt2":
        return _exported(path)
    if path.is_dir():
        return _folder(path)
    module, colon, function = text.partition(":")
    if colon and all(part.isidentifier() for part in [*module.split("."), function]):
        return _function(module, function, study)
    raise ConfigError(f"model {text!r}: {ALLOWED}")


def _exported(path: Path) -> Source:
    load_exported(path)  # refuses what could not be compressed
    return Source(
        "exported",
        f"the exported program {path.name}",
        exported_inputs(path),
        ("from autocompress import load_exported",),
        path=path,
    )


def _function(module: str, function: str, study: Path) -> Source:
    name = f"{module}:{function}"
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # the user's file may raise anything at import
        raise ConfigError(
            f"model {name!r}: {module} cannot be imported from {Path.cwd()}:"
            f" {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.pop(0)
    make = getattr(found, function, None)
    if not callable(make):
        known = [key for key, value in vars(found).items() if _is_maker(key, value, module)]
        raise ConfigError(
            f"model {name!r}: {module} has no function {function!r}; there are:"
            f" {', '.join(known) or 'none'}"
        )
    model = _made(make, name)
    root = os.path.relpath(Path.cwd(), study)
    values = {"MODULE": module, "FUNCTION": function, "ROOT": json.dumps(root, ensure_ascii=False)}
    return Source(
        "function",
        f"the model that {function}() of {module} returns",
        _forward_inputs(model),
        ("import sys",),
        values,
    )


def _is_maker(name: str, value: Any, module: str) -> bool:
    return not name.startswith("_") and inspect.isfunction(value) and value.__module__ == module


def _made(make: Callable[[], Any], name: str) -> nn.Module:
    try:
        model = make()
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        raise TaskError(f"model {name!r}: raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise TaskError(f"model {name!r}: must return an nn.Module, got {type(model).__name__}")
    return model


def _forward_inputs(model: nn.Module) -> dict[str, str]:
    """Inputs that `forward` must be given, in words."""
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return dict.fromkeys(needed or ["x"], "(n, ...) as forward() takes it")


def _folder(path: Path) -> Source:
    config = _config(path / "config.json")
    if not list(path.glob("*.safetensors")):
        raise ConfigError(
            f"{path}: holds no *.safetensors (pickled weights are never loaded; save_pretrained of"
            " transformers writes safe ones)"
        )
    kinds = config.get("architectures")
    kind = kinds[0] if isinstance(kinds, list) and kinds else ""
    if not isinstance(kind, str) or not kind.isidentifier():
        raise ConfigError(
            f"{path / 'config.json'}: key 'architectures' must name a class of transformers, got"
            f" {kinds!r}"
        )
    if not any(part in kind for part in ("For", "LMHead")):
        raise ConfigError(
            f"{path / 'config.json'}: {kind} returns hidden states; a model with a head is needed,"
            " such as BertForSequenceClassification"
        )
    return Source(
        "transformers",
        f"{kind} of the folder {path.resolve().name}",
        _folder_inputs(config, path / "config.json"),
        values={"ARCHITECTURE": kind},
        path=path,
    )


def _folder_inputs(config: Mapping[str, Any], path: Path) -> dict[str, str]:
    if "vocab_size" in config:
        return _TEXT
    if "num_channels" in config:
        size = config.get("image_size")
        sides = size if isinstance(size, list) else [size] * 2
        shape = ", ".join(map(str, sides)) if isinstance(sides[0], int) else "height, width"
        return {"pixel_values": f"float32 (n, {config['num_channels']}, {shape})"}
    raise ConfigError(
        f"{path}: neither 'vocab_size' nor 'num_channels' is there, so what the model takes is not"
        f" known; write a function that returns it and give module:function"
    )


def _config(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"model {str(path.parent)!r}: has no config.json; {ALLOWED}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: damaged or unreadable: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold a table, got {type(value).__name__}")
    return value
