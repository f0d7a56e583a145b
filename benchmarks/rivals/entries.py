"""Who takes part, in which versions, and which of them can be told a budget."""

from __future__ import annotations

from dataclasses import dataclass, field

RUNTIME = ("onnx==1.23.2", "onnxruntime==1.32.0", "numpy==2.4.6")


@dataclass(frozen=True)
class Entry:
    """One tool under one setting.

    Args:
        name: In the tables.
        environment: Name of its environment; entries may share one.
        requirements: Pinned packages.
        script: File in `tools/`; empty for ours, which runs in this interpreter.
        limits: Which budgets it can be told; without one it runs once and is held to all.
        settings: Handed to the script.
        needs_task: Whether the script imports the study's `task.py`.
    """

    name: str
    environment: str
    requirements: tuple[str, ...]
    script: str
    limits: tuple[str, ...] = ()
    settings: dict[str, object] = field(default_factory=dict)
    needs_task: bool = False

    @property
    def packages(self) -> list[str]:
        return [text.split("==")[0] for text in self.requirements]


ENTRIES = (
    Entry("autocompress", "", (), "", ("size", "latency")),
    Entry("ort static int8", "onnxruntime", (*RUNTIME, "sympy==1.14.0"), "static_int8.py"),
    Entry(
        "ort static int8, 7 bits",
        "onnxruntime",
        (*RUNTIME, "sympy==1.14.0"),
        "static_int8.py",
        settings={"reduce_range": True},
    ),
    Entry("nncf", "nncf", (*RUNTIME, "nncf==3.4.0"), "nncf_quantize.py"),
    Entry(
        "torch-pruning",
        "torch-pruning",
        (
            *RUNTIME,
            "onnxscript==0.7.2",
            "torch==2.13.0",
            "torch-pruning==1.6.1",
            "safetensors==0.8.0",
        ),
        "prune_channels.py",
        ("size", "latency"),
        needs_task=True,
    ),
    Entry(
        "optuna tpe", "optuna", (*RUNTIME, "optuna==5.0.0"), "tpe_search.py", ("size", "latency")
    ),
)


def chosen(names: list[str] | None) -> list[Entry]:
    """The entries of these names, all by default.

    Raises:
        ValueError: If there is none of a name.
    """
    known = {entry.name: entry for entry in ENTRIES}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"tool {', '.join(unknown)}: known are {', '.join(known)}")
    return [known[name] for name in names] if names else list(ENTRIES)
