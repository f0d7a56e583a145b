"""A device known from its data sheet: a flat TOML of `objectives/devices/`, or the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from autocompress.errors import ConfigError
from autocompress.toml import Schema, load

FOLDER = "objectives/devices"


class DataSheet(Schema):
    """The keys of a device's file.

    Attributes:
        runtime: What would run the model there; said, not used.
        float32_gmacs: Peak in 10^9 multiply-adds a second with float32 activations.
        int8_gmacs: Likewise with int8 activations; 0 if there are no such kernels.
        bandwidth_gb_s: Memory bandwidth in 10^9 bytes a second.
        overhead_us: What every operator costs beside its work, in microseconds.
        threads: Cores that share the peak given; said, not used.
        batch_size: Rows of one forward pass; 0 takes that of the example inputs.
        format: What ships there by default: `archive` or `onnx`.
        channel_step: Counts of channels that are no multiple of it are not faster than the next.
        float32_mac_pj: Energy of a multiply-add in picojoules.
        int8_mac_pj: Likewise on integers.
        byte_pj: Energy of a byte that is moved.
        flash_kib: Where the shipped file must fit, in 1 024 bytes; 0 is no limit.
        ram_kib: Where the activations must fit, likewise.
    """

    runtime: str = Field(min_length=1)
    float32_gmacs: float = Field(gt=0, allow_inf_nan=False)
    int8_gmacs: float = Field(default=0, ge=0, allow_inf_nan=False)
    bandwidth_gb_s: float = Field(gt=0, allow_inf_nan=False)
    overhead_us: float = Field(default=0, ge=0, allow_inf_nan=False)
    threads: int = Field(default=1, ge=1)
    batch_size: int = Field(default=0, ge=0)
    format: Literal["archive", "onnx"] = "archive"
    channel_step: int = Field(default=1, ge=1)
    float32_mac_pj: float = Field(default=0, ge=0, allow_inf_nan=False)
    int8_mac_pj: float = Field(default=0, ge=0, allow_inf_nan=False)
    byte_pj: float = Field(default=0, ge=0, allow_inf_nan=False)
    flash_kib: int = Field(default=0, ge=0)
    ram_kib: int = Field(default=0, ge=0)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Activation types that have kernels."""
        return ("float32", "int8") if self.int8_gmacs else ("float32",)

    def check(self) -> None:
        """Refuses values that are well-formed but make no sense together.

        Raises:
            ConfigError: Naming the keys.
        """
        given = [self.float32_mac_pj > 0, self.byte_pj > 0]
        given += [self.int8_mac_pj > 0] if self.int8_gmacs else []
        if any(given) and not all(given):
            raise ConfigError(
                "keys 'float32_mac_pj', 'int8_mac_pj' (where there is int8) and 'byte_pj': give"
                " all of them or none"
            )


def load_sheet(name: str, relative_to: Path | None = None) -> tuple[DataSheet, str]:
    """A data sheet by preset name or path, and the file it came from.

    Raises:
        ConfigError: If there is none, or it is malformed; names file, key and what is allowed.
    """
    return load(FOLDER, name, relative_to, DataSheet, DataSheet.check)
