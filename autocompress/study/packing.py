"""Numbers as text, for what is kept in JSON and in the attributes of trials."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray


def packed(values: NDArray[np.float64]) -> str:
    """Numbers `(n,)` as text, in single precision."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def unpacked(text: str) -> NDArray[np.float64]:
    """The inverse of `packed`."""
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float64)
