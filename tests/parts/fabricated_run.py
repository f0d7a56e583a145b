"""A run directory with made-up figures, and how its page is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from autocompress.report.html import write_report

NAMES = ["features.0", "features.3", "classifier.0", "embed"]
OPTIONS = ["w8-a8", "w3-s80", "w4-s90-r50", "dense"]


def result() -> dict[str, Any]:
    measured = {"quality": 0.9887, "size_bytes": 50890, "latency_ms": 0.651}
    predicted = {"loss": 0.0312, "size_bytes": 50871, "latency_ms": 0.633}
    return {
        "schema": 1,
        "study": "lenet5_mnist",
        "seed": 7,
        "versions": {"torch": "2.9.1"},
        "device": {"name": "onnxruntime-cpu", "runtime": "onnxruntime"},
        "budget": {
            "size": {"text": "3%", "limit": 51729, "unit": "B"},
            "latency": {"text": "70%", "limit": 0.6986, "unit": "ms"},
            "quality": {"text": "-0.5pt", "limit": 0.9862, "unit": "pt"},
        },
        "original": {"quality": 0.9912, "size_bytes": 1724320, "latency_ms": 0.998},
        "best": {"candidate": "c3f9", **measured, "predicted": predicted, "measured": measured},
        "budget_met": True,
        "binding": "size",
        "audit": {"proxy_spearman": -0.93, "proxy_regret": 0.0006, "latency_mape": 3.1},
        "seconds": {"trace": 0.4, "search": 61.0},
        "evaluations": 2,
        "files": {"onnx": "model.onnx"},
    }


def details(names: list[str]) -> dict[str, Any]:
    layers = [
        {
            "name": name,
            "kind": "Conv2d",
            "weight_shape": [20, 10, 5, 5],
            "parameters": 5020,
            "macs": 1_234_567,
            "treated": option != "dense",
            "reason": "" if option != "dense" else "an Embedding is not treated",
            "option": option,
            "bits": 8,
            "sparsity": 0.8,
            "rank": 0.5,
            "activations": "int8",
            "bytes_before": 20080,
            "bytes_after": 1234,
            "latency_before_ms": 0.4,
            "latency_after_ms": 0.3,
            "local_error": 0.02,
            "loss_alone": 0.00123,
        }
        for name, option in zip(names, OPTIONS, strict=True)
    ]
    finalist = {
        "candidate": "c3f9",
        "predicted": {"loss": 0.0312, "size_bytes": 50871, "latency_ms": 0.633},
        "measured": {
            "quality": 0.9891,
            "size_bytes": 50890,
            "latency_ms": 0.651,
            "latency_low_ms": 0.64,
            "latency_high_ms": 0.66,
        },
        "met": True,
        "chosen": True,
        "reason": "best quality within the limits",
    }
    evaluation = {"origin": "seed", "size_bytes": 50000, "latency_ms": 0.6, "seconds": 0.5}
    return {
        "layers": layers,
        "budget": [],
        "finalists": [finalist],
        "history": [
            {"evaluation": 1, "loss": 0.5, "feasible": False, "hypervolume": 0.1, **evaluation},
            {
                "evaluation": 2,
                "loss": 0.0312,
                "feasible": True,
                "best_loss": 0.0312,
                "hypervolume": 0.4,
                **evaluation,
            },
        ],
        "audit": {
            "proxy": [{"candidate": "c3f9", "loss": 0.0312, "quality": 0.9891}],
            "latency": {
                "points": [{"predicted_ms": 0.7, "measured_ms": 0.72, "held_out": True}],
                "mape_percent": 3.14,
                "spearman": 0.971,
                "noise_floor_percent": 1.9,
                "flops_spearman": 0.22,
            },
        },
        "notes": ["36 options were removed."],
        "provenance": {"metric": "accuracy", "machine": "x86_64"},
    }


def fabricate(folder: Path, names: list[str] = NAMES) -> Path:
    """Writes a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result()))
    (folder / "details.json").write_text(json.dumps(details(names)))
    (folder / "plan.json").write_text("{}")
    (folder / "trials.parquet").write_bytes(b"")
    quoted = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    rows = [
        f"candidate,loss,size_bytes,latency_ms,quality,{quoted}",
        f"0012,0.004,100400,0.75,,{','.join(OPTIONS)}",
        f"c3f9,0.0312,50871,0.633,0.9891,{','.join(OPTIONS)}",
    ]
    (folder / "front.csv").write_text("\n".join(rows) + "\n")
    return folder


def page(folder: Path) -> str:
    text = write_report(folder).read_text(encoding="utf-8")
    # The library is not ours to search.
    start = text.index("<script>")
    return text[:start] + text[text.index("</script>", start) :]


def figure(text: str, key: str) -> dict[str, Any]:
    """The plotly figure of a page."""
    found = re.search(rf'id="figure-{key}-data">(.*?)</script>', text, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))
