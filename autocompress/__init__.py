"""Compresses trained PyTorch models to a measured size, latency and quality budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.api import Result as Result
    from autocompress.api import compress as compress
    from autocompress.deploy.onnx_file import load_onnx as load_onnx
    from autocompress.deploy.restore import load_archive as load_archive
    from autocompress.study.exported import load_exported as load_exported

__version__ = "0.1.0"
__all__ = ["Result", "compress", "load_archive", "load_exported", "load_onnx"]

_HOMES = {
    "Result": "autocompress.api",
    "compress": "autocompress.api",
    "load_archive": "autocompress.deploy.restore",
    "load_exported": "autocompress.study.exported",
    "load_onnx": "autocompress.deploy.onnx_file",
}


def __getattr__(name: str) -> Any:
    """Imports on first use: `import autocompress` alone loads neither torch nor onnxruntime."""
    if name not in _HOMES:
        raise AttributeError(f"module 'autocompress' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
