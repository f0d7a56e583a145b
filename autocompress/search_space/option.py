"""One way to treat a unit: weight bits, unstructured sparsity, rank and activation type."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from autocompress.errors import ConfigError

BITS = (2, 3, 4, 6, 7, 8, 16, 32)
ACTIVATIONS = ("float32", "int8")
METHODS = ("obs", "nearest")
_SHARE = r"(\d+(?:\.\d+)?)"
_ID = re.compile(
    rf"w(\d+)(?:-s{_SHARE})?(?:-r{_SHARE})?(?:-i{_SHARE})?(?:-o{_SHARE})?(-a8)?(-nearest)?"
)


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
        inputs: Share of the input channels that are kept, in (0, 1].  Which ones is decided once
            for the layers that share them.
        outputs: Share of the output channels that are kept.  It changes nothing but costs: the
            layers that read them do without those that are gone.

    Raises:
        ConfigError: If a value is not allowed.
    """

    bits: int = 32
    sparsity: float = 0.0
    rank: float = 1.0
    activations: str = "float32"
    method: str = "obs"
    inputs: float = 1.0
    outputs: float = 1.0

    def __post_init__(self) -> None:
        # The id holds six decimals: what is read back from it must be equal.
        for name in ("sparsity", "rank", "inputs", "outputs"):
            object.__setattr__(self, name, round(getattr(self, name), 6))
        if self.bits not in BITS:
            raise ConfigError(f"Option(bits={self.bits}): allowed are {', '.join(map(str, BITS))}")
        if not 0 <= self.sparsity < 1:
            raise ConfigError(f"Option(sparsity={self.sparsity}): must lie in [0, 1)")
        for name in ("rank", "inputs", "outputs"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"Option({name}={getattr(self, name)}): must lie in (0, 1]")
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
        return self.bits == 32 and self.sparsity == 0 and self.rank == 1 and not self.is_narrow

    @property
    def is_narrow(self) -> bool:
        """Whether channels are gone."""
        return self.inputs < 1 or self.outputs < 1

    @property
    def computed(self) -> Option:
        """What it computes: the same with all output channels, of which readers use some."""
        return replace(self, outputs=1.0)

    @property
    def is_factored(self) -> bool:
        return self.rank < 1

    @property
    def id(self) -> str:
        """Stable short name such as `w4-s90-r25-i50-a8` (4 bits, 90 % zero, quarter rank, half of
        the input channels, int8)."""
        if self.is_identity:
            return "dense"
        parts = [f"w{self.bits}"]
        if self.sparsity:
            parts.append(f"s{100 * self.sparsity:g}")
        if self.is_factored:
            parts.append(f"r{100 * self.rank:g}")
        if self.inputs < 1:
            parts.append(f"i{100 * self.inputs:g}")
        if self.outputs < 1:
            parts.append(f"o{100 * self.outputs:g}")
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
        bits, sparsity, rank, inputs, outputs, int8, nearest = found.groups()
        return Option(
            bits=int(bits),
            sparsity=round(float(sparsity or 0) / 100, 6),
            rank=round(float(rank or 100) / 100, 6),
            inputs=round(float(inputs or 100) / 100, 6),
            outputs=round(float(outputs or 100) / 100, 6),
            activations="int8" if int8 else "float32",
            method="nearest" if nearest else "obs",
        )
