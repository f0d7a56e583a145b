"""One way to treat a unit: weight bits, unstructured sparsity, rank and activation type."""

from __future__ import annotations

import re
from dataclasses import dataclass

from autocompress.errors import ConfigError

BITS = (2, 3, 4, 6, 7, 8, 16, 32)
ACTIVATIONS = ("float32", "int8")
METHODS = ("obs", "nearest")
_ID = re.compile(r"w(\d+)(?:-s(\d+(?:\.\d+)?))?(?:-r(\d+(?:\.\d+)?))?(-a8)?(-nearest)?")


@dataclass(frozen=True, order=True)
class Option:
    """How a unit is stored and run.  The default is the identity: dense float32.

    Args:
        bits: Bits of a stored weight: 2-8 integer codes with one scale per output channel,
            16 half precision, 32 untouched.
        sparsity: Share of the weights that are zero, in [0, 1); six decimals count.
        rank: Share of the full rank `min(outputs, inputs)` that is kept, in (0, 1]; 1 is not
            factored.
        activations: `int8` runs the layer on integer kernels (needs `bits <= 8`).
        method: `obs` compensates pruning and rounding with second moments of the input;
            `nearest` is the baseline: magnitude pruning and rounding to nearest.

    Raises:
        ConfigError: If a value is not allowed.
    """

    bits: int = 32
    sparsity: float = 0.0
    rank: float = 1.0
    activations: str = "float32"
    method: str = "obs"

    def __post_init__(self) -> None:
        # The id holds six decimals: what is read back from it must be equal.
        object.__setattr__(self, "sparsity", round(self.sparsity, 6))
        object.__setattr__(self, "rank", round(self.rank, 6))
        if self.bits not in BITS:
            raise ConfigError(f"Option(bits={self.bits}): allowed are {', '.join(map(str, BITS))}")
        if not 0 <= self.sparsity < 1:
            raise ConfigError(f"Option(sparsity={self.sparsity}): must lie in [0, 1)")
        if not 0 < self.rank <= 1:
            raise ConfigError(f"Option(rank={self.rank}): must lie in (0, 1]")
        if self.activations not in ACTIVATIONS:
            raise ConfigError(
                f"Option(activations={self.activations!r}): allowed are {ACTIVATIONS}"
            )
        if self.method not in METHODS:
            raise ConfigError(f"Option(method={self.method!r}): allowed are {METHODS}")
        if self.activations == "int8" and self.bits > 8:
            raise ConfigError(
                f"Option(bits={self.bits}, activations='int8'): int8 needs bits <= 8"
            )

    @property
    def is_identity(self) -> bool:
        return self.bits == 32 and self.sparsity == 0 and self.rank == 1

    @property
    def is_factored(self) -> bool:
        return self.rank < 1

    @property
    def id(self) -> str:
        """Stable short name such as `w4-s90-r25-a8` (4 bits, 90 % zero, quarter rank, int8)."""
        if self.is_identity:
            return "dense"
        parts = [f"w{self.bits}"]
        if self.sparsity:
            parts.append(f"s{100 * self.sparsity:g}")
        if self.is_factored:
            parts.append(f"r{100 * self.rank:g}")
        if self.activations == "int8":
            parts.append("a8")
        if self.method != "obs":
            parts.append(self.method)
        return "-".join(parts)

    @staticmethod
    def parse(text: str) -> Option:
        """The option that `id` names.

        Raises:
            ConfigError: If `text` is no option id.
        """
        if text == "dense":
            return Option()
        found = _ID.fullmatch(text)
        if found is None:
            raise ConfigError(f"option {text!r}: expected 'dense' or an id such as w4-s90-r25-a8")
        bits, sparsity, rank, int8, nearest = found.groups()
        return Option(
            bits=int(bits),
            sparsity=round(float(sparsity or 0) / 100, 6),
            rank=round(float(rank or 100) / 100, 6),
            activations="int8" if int8 else "float32",
            method="nearest" if nearest else "obs",
        )
