"""onnxruntime's static quantiser as its manual advises: pre-processed, uint8 activations, int8
weights per channel.  It can be told no budget.

    python static_int8.py PROBLEM OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):
    """Calibration inputs, fifty at a time."""

    def __init__(self, inputs: dict[str, np.ndarray]) -> None:
        count = len(next(iter(inputs.values())))
        self.parts = iter(
            {name: values[start : start + 50] for name, values in inputs.items()}
            for start in range(0, count, 50)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.parts, None)


def main() -> None:
    problem, out = Path(sys.argv[1]), Path(sys.argv[2])
    settings = json.loads((out / "request.json").read_text())["settings"]
    arrays = np.load(problem / "calibration.npz")
    inputs = {name: arrays[name] for name in arrays.files if not name.startswith("example/")}
    prepared = str(out / "prepared.onnx")
    quant_pre_process(str(problem / "float.onnx"), prepared)
    quantize_static(
        prepared,
        str(out / "model.onnx"),
        Reader(inputs),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=bool(settings.get("reduce_range", False)),
    )


main()
