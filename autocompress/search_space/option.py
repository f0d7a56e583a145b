"""One way to treat a unit: how weights are coded, which are zero, rank and activation type."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from autocompress.errors import ConfigError

BITS = (1, 2, 3, 4, 6, 7, 8, 16, 32)
ACTIVATIONS = ("float32", "int8", "dynamic")
DYNAMIC_RUNS = (16, 32, 64, 128, 256)  # columns that share a step in kernels of packed weights
METHODS = ("obs", "nearest")
LEVELS = (2, 256)  # least and most of a codebook
LONGEST_RUN = 65536  # columns that share a step
LONGEST_PATTERN = 32  # columns of one run of a pattern
_VALUES = {None: "float32", "-a8": "int8", "-d8": "dynamic"}
_SHARE = r"(\d+(?:\.\d+)?)"
_ID = re.compile(
    r"(?:w(?P<bits>\d+)|k(?P<codebook>[1-9]\d*))(?:-g(?P<scales>t|\d+))?(?P<affine>-z)?"
    r"(?:-l(?P<rate>\d+(?:\.\d+)?(?:e-\d+)?))?"
    rf"(?:-s(?P<sparsity>{_SHARE}))?(?:-n(?P<kept>\d+)m(?P<run>\d+))?(?:-r(?P<rank>{_SHARE}))?"
    rf"(?:-t(?P<tucker>{_SHARE}))?"
    rf"(?:-i(?P<inputs>{_SHARE}))?(?:-o(?P<outputs>{_SHARE}))?(?P<values>-a8|-d8)?(?P<nearest>-nearest)?"
)


@dataclass(frozen=True, order=True)
class Option:
    """How a unit is stored and run.  The default is the identity: dense float32.

    Args:
        bits: Bits of a stored weight: 1 signs, 2-8 integer codes, 16 half precision, 32
            untouched.  A codebook sets them itself.
        sparsity: Share of the weights that are zero, in [0, 1); six decimals count.
        rank: Share of the full rank `min(outputs, inputs)` that is kept, in (0, 1]; 1 is not
            factored.
        activations: `int8` runs the layer on integer kernels, which read and write integers on
            grids that calibration found; `dynamic` keeps the weights of a linear layer packed, in
            4 or 8 bits, and rounds its inputs to int8 at each call (both need `bits <= 8`).
        method: `obs` compensates pruning and rounding with second moments of the input;
            `nearest` is the baseline: magnitude pruning and rounding to nearest.
        inputs: Share of the input channels that are kept, in (0, 1].  Which ones is decided once
            for the layers that share them.
        outputs: Share of the output channels that are kept.  It changes nothing but costs: the
            layers that read them do without those that are gone.
        scales: What shares one step of the codes: a `channel` (row), the `tensor`, or, written as
            a number, a run of so many columns of a row.
        codebook: Values that a weight may have, 2 to 256, shared by the layer; zero is one of
            them where the option makes zeros, and of 256 always.  0 for none.
        affine: Whether codes have a zero point, so that the range need not be symmetric.
        pattern: `2:4` keeps two weights of each four successive inputs; empty for none.
        rate: What a bit is worth while weights are rounded: the share of the layer's output
            energy that one bit a weight may cost.  0 rounds for the least error.
        tucker: Share of the input and of the output channels that the core of a convolution
            keeps, between two 1x1 convolutions (Tucker-2), in (0, 1]; 1 is not factored.  Its
            zeros are those that training leaves: none are offered.

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
    scales: str = "channel"
    codebook: int = 0
    affine: bool = False
    pattern: str = ""
    rate: float = 0.0
    tucker: float = 1.0

    def __post_init__(self) -> None:
        # The id holds six decimals: what is read back from it must be equal.
        for name in ("sparsity", "rank", "inputs", "outputs", "tucker"):
            object.__setattr__(self, name, round(getattr(self, name), 6))
        object.__setattr__(self, "rate", float(f"{self.rate:.6g}"))
        if self.codebook:
            self._check_codebook()
        elif self.bits not in BITS:
            raise ConfigError(f"Option(bits={self.bits}): allowed are {', '.join(map(str, BITS))}")
        if not 0 <= self.sparsity < 1:
            raise ConfigError(f"Option(sparsity={self.sparsity}): must lie in [0, 1)")
        for name in ("rank", "inputs", "outputs", "tucker"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"Option({name}={getattr(self, name)}): must lie in (0, 1]")
        if self.activations not in ACTIVATIONS:
            raise ConfigError(
                f"Option(activations={self.activations!r}): allowed are {ACTIVATIONS}"
            )
        if self.method not in METHODS:
            raise ConfigError(f"Option(method={self.method!r}): allowed are {METHODS}")
        if self.activations != "float32" and self.bits > 8:
            raise ConfigError(
                f"Option(bits={self.bits}, activations={self.activations!r}):"
                f" {self.activations} needs bits <= 8"
            )
        self._check_codes()
        if self.pattern:
            self._check_pattern()
        if self.tucker < 1:
            self._check_tucker()

    def _check_codebook(self) -> None:
        if not LEVELS[0] <= self.codebook <= LEVELS[1]:
            raise ConfigError(
                f"Option(codebook={self.codebook}): 0, or {LEVELS[0]} to {LEVELS[1]} values"
            )
        width = (self.codebook - 1).bit_length()
        if self.bits not in (width, 32):
            raise ConfigError(
                f"Option(codebook={self.codebook}, bits={self.bits}): its index has {width} bits,"
                " leave bits out"
            )
        object.__setattr__(self, "bits", width)
        if self.affine or self.scales != "channel" or self.activations != "float32":
            raise ConfigError(
                f"Option(codebook={self.codebook}): a codebook holds values, which goes with no"
                " other scales, no zero point and no integer kernels"
            )

    def _check_codes(self) -> None:
        """What only integer codes can have."""
        runs = self.scales.isascii() and self.scales.isdigit()
        if not (self.scales in ("channel", "tensor") or runs) or (
            runs and (str(int(self.scales)) != self.scales or not 2 <= self.group <= LONGEST_RUN)
        ):
            raise ConfigError(
                f"Option(scales={self.scales!r}): allowed are 'channel', 'tensor', or a number of"
                f" columns from 2 to {LONGEST_RUN}"
            )
        if self.affine and not 2 <= self.bits <= 7:
            raise ConfigError(
                f"Option(bits={self.bits}, affine=True): a zero point needs 2 to 7 bits"
            )
        if not 0 <= self.rate <= 10:
            raise ConfigError(f"Option(rate={self.rate}): must lie in [0, 10]")
        further = self.scales != "channel" or self.rate > 0
        if further and self.bits > 8:
            raise ConfigError(
                f"Option(bits={self.bits}, scales={self.scales!r}, rate={self.rate:g}): floats"
                " have no scales and no rate, which need bits <= 8"
            )
        if self.group and self.activations == "int8":
            raise ConfigError(
                f"Option(scales={self.scales!r}, activations='int8'): int8 kernels take one scale"
                " a channel"
            )
        if self.group and self.activations == "dynamic" and self.group not in DYNAMIC_RUNS:
            raise ConfigError(
                f"Option(scales={self.scales!r}, activations='dynamic'): kernels of packed weights"
                f" take one scale a channel, or for {', '.join(map(str, DYNAMIC_RUNS))} columns"
            )
        if self.method == "nearest" and (further or self.codebook or self.affine or self.pattern):
            raise ConfigError(
                "Option(method='nearest'): the baseline has no codebook, zero point, pattern or"
                " rate, and one scale a channel"
            )

    def _check_pattern(self) -> None:
        found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", self.pattern, re.ASCII)
        if found is None or not int(found[1]) < int(found[2]) <= LONGEST_PATTERN:
            raise ConfigError(
                f"Option(pattern={self.pattern!r}): expected N:M such as '2:4', N below M, M at"
                f" most {LONGEST_PATTERN}"
            )
        if self.sparsity:
            raise ConfigError(
                f"Option(pattern={self.pattern!r}, sparsity={self.sparsity}): the pattern alone"
                " says how many weights are zero"
            )
        if self.inputs < 1:
            raise ConfigError(
                f"Option(pattern={self.pattern!r}, inputs={self.inputs}): a pattern counts along"
                " all inputs"
            )

    def _check_tucker(self) -> None:
        if self.rank < 1:
            raise ConfigError(
                f"Option(rank={self.rank}, tucker={self.tucker}): a weight is factored one way"
            )
        if self.pattern:
            raise ConfigError(
                f"Option(tucker={self.tucker}, pattern={self.pattern!r}): factors around a core"
                " take no pattern"
            )

    @property
    def group(self) -> int:
        """Columns that share a scale, where not the whole row does; else 0."""
        return int(self.scales) if self.scales.isdigit() else 0

    @property
    def kept_of(self) -> tuple[int, int]:
        """How many weights of how many successive inputs the pattern keeps; (1, 1) without."""
        if not self.pattern:
            return 1, 1
        kept, run = self.pattern.split(":")
        return int(kept), int(run)

    @property
    def zeros(self) -> float:
        """Share of the weights that are zero before they are rounded."""
        kept, run = self.kept_of
        return 1 - kept / run if self.pattern else self.sparsity

    @property
    def kernel_bits(self) -> int:
        """Bits of the codes that an integer kernel is given.  Signed ones have no zero point,
        which takes a bit; packed ones of up to 4 bits have 4."""
        if self.activations == "dynamic":
            return 4 if self.bits <= 4 else self.bits
        return self.bits + self.affine

    @property
    def rounding(self) -> Option:
        """How values are rounded, whichever they are: the same without zeros, rank, channels."""
        return Option(
            bits=32 if self.codebook else self.bits,
            scales=self.scales,
            codebook=self.codebook,
            affine=self.affine,
            rate=self.rate,
        )

    @property
    def is_plain(self) -> bool:
        """Whether values are floats, or symmetric codes of 2 bits and more, a step a channel,
        rounded for the least error."""
        further = self.scales != "channel" or self.codebook or self.affine or self.rate
        return self.bits > 1 and not further

    @property
    def is_identity(self) -> bool:
        has_all = self.sparsity == 0 and not self.pattern
        return self.bits == 32 and has_all and not self.is_factored and not self.is_narrow

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
        """Whether two matrices of low rank, or three around a core, stand for the weight."""
        return self.rank < 1 or self.tucker < 1

    @property
    def id(self) -> str:
        """Stable short name such as `w4-s90-r25-i50-a8` (4 bits, 90 % zero, quarter rank, half of
        the input channels, int8) or `k16-l0.01-n2m4` (16 values, rate 0.01, 2 of 4 kept)."""
        if self.is_identity:
            return "dense"
        parts = [f"k{self.codebook}" if self.codebook else f"w{self.bits}"]
        if self.scales != "channel":
            parts.append("gt" if self.scales == "tensor" else f"g{self.scales}")
        if self.affine:
            parts.append("z")
        if self.rate:
            parts.append(f"l{self.rate:g}")
        if self.sparsity:
            parts.append(f"s{100 * self.sparsity:g}")
        if self.pattern:
            parts.append("n{}m{}".format(*self.kept_of))
        if self.rank < 1:
            parts.append(f"r{100 * self.rank:g}")
        if self.tucker < 1:
            parts.append(f"t{100 * self.tucker:g}")
        if self.inputs < 1:
            parts.append(f"i{100 * self.inputs:g}")
        if self.outputs < 1:
            parts.append(f"o{100 * self.outputs:g}")
        if self.activations != "float32":
            parts.append("a8" if self.activations == "int8" else "d8")
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
        part = found.groupdict()
        scales = part["scales"] or "channel"
        return Option(
            bits=int(part["bits"] or 32),
            sparsity=round(float(part["sparsity"] or 0) / 100, 6),
            rank=round(float(part["rank"] or 100) / 100, 6),
            tucker=round(float(part["tucker"] or 100) / 100, 6),
            inputs=round(float(part["inputs"] or 100) / 100, 6),
            outputs=round(float(part["outputs"] or 100) / 100, 6),
            activations=_VALUES[part["values"]],
            method="nearest" if part["nearest"] else "obs",
            scales="tensor" if scales == "t" else scales,
            codebook=int(part["codebook"] or 0),
            affine=bool(part["affine"]),
            pattern=f"{part['kept']}:{part['run']}" if part["run"] else "",
            rate=float(part["rate"] or 0),
        )
