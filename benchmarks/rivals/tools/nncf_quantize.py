"""NNCF's post-training quantisation with its defaults.  It can be told no budget.

The model is first brought to opset 17: from opset 21, which the others read, NNCF 3.4.0 writes
nodes that onnxruntime refuses (`output_dtype INT8 does not match y_zero_point type UINT8`).

python nncf_quantize.py PROBLEM OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import nncf
import numpy as np
import onnx
from onnx.version_converter import convert_version

OPSET = 17


def main() -> None:
    problem, out = Path(sys.argv[1]), Path(sys.argv[2])
    arrays = np.load(problem / "calibration.npz")
    names = [name for name in arrays.files if not name.startswith("example/")]
    columns = {name: arrays[name] for name in names}
    count = len(columns[names[0]])
    rows = [{name: columns[name][i : i + 1] for name in names} for i in range(count)]
    # The number of samples is NNCF's own default, 300.
    model = convert_version(onnx.load(str(problem / "float.onnx")), OPSET)
    quantized = nncf.quantize(model, nncf.Dataset(rows))
    onnx.save(quantized, str(out / "model.onnx"))


main()
