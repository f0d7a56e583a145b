"""A weight matrix as it is stored: codes, and what the codes mean.

Five kinds, by their codes: floats; whole multiples of a step (the step of a row, of the whole
tensor, or of a run of columns in a row); signs (`bits = 1`); whole multiples beside a zero point;
entries of a codebook.  A code of 0 is exactly zero in all of them, so that zeros are cheap to
store and channels that are gone can be filled in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class StoredTensor:
    """A weight matrix `(rows, columns)` as it is stored.

    Args:
        bits: 1 (signs), 2-8 (integer codes, or bits of a codebook's index), 16 or 32 (floats).
        codes: int8 codes in `[-(2**(bits-1) - 1), 2**(bits-1) - 1]`; of 1 bit in -1, 0 and 1;
            with a zero point in `[-zero, 2**bits - 1 - zero]`; with a codebook uint8; or float16,
            or float32 values.
        scale: float16 steps of integer codes: `(rows,)`, `(1,)` for one that all share, or
            `(rows, runs)` where each run of `group` columns has its own; else None.
        group: Columns of a run, of which the last may be shorter; 0 where there are no runs.
        zero: uint8 zero points, one for each step, below `2**bits`: a device that holds unsigned
            codes of `bits` bits holds `codes + zero`.  None for symmetric codes.
        codebook: `(k,)` float16 values, `k` of 1 to 255, ascending: code `i` above 0 means
            `codebook[i - 1]`.  None for all others.
    """

    bits: int
    codes: Tensor
    scale: Tensor | None
    group: int = 0
    zero: Tensor | None = None
    codebook: Tensor | None = None

    @property
    def is_uniform(self) -> bool:
        """Whether codes are multiples of one step in each row, as integer kernels take them."""
        return self.scale is not None and not self.group

    def dense(self) -> Tensor:
        """The float32 matrix that the stored tensor stands for."""
        if self.codebook is not None:
            values = torch.cat([self.codebook.new_zeros(1), self.codebook]).float()
            return values[self.codes.long()]
        if self.scale is None:
            return self.codes.float()
        return self.codes.float() * self.steps()

    def steps(self) -> Tensor:
        """The step of every weight, `(rows, columns)` float32; a view where they repeat."""
        assert self.scale is not None, "floats and codebooks have no steps"
        return spread_steps(self.scale.float(), self.group, self.codes)

    def row_steps(self) -> Tensor:
        """The step of each row, `(rows,)` float32."""
        assert self.is_uniform, "integer kernels take one step a row"
        assert self.scale is not None
        return self.scale.float().expand(len(self.codes))

    def zeros(self) -> Tensor:
        """The zero point of every weight, `(rows, columns)` int16."""
        if self.zero is None:
            return torch.zeros((), dtype=torch.int16).expand(self.codes.shape)
        return spread_steps(self.zero.short(), self.group, self.codes)

    def rows(self, kept: Tensor) -> StoredTensor:
        """Some of the rows, `(n,)` their numbers."""
        scale, zero = self.scale, self.zero
        if scale is not None and (scale.dim() == 2 or len(scale) == len(self.codes)):
            scale = scale[kept]
            zero = None if zero is None else zero[kept]
        return replace(self, codes=self.codes[kept], scale=scale, zero=zero)

    def spread_rows(self, rows: Tensor, height: int) -> StoredTensor:
        """The same rows among `height`, the others being zero."""
        tall = self.codes.new_zeros(height, self.codes.shape[1])
        tall[rows] = self.codes
        scale, zero = self.scale, self.zero
        if scale is not None and (scale.dim() == 2 or len(scale) == len(self.codes)):
            # Of rows of zeros any step and zero point will do.
            scale = scale.new_ones(height, *scale.shape[1:])
            scale[rows] = self.scale  # type: ignore[assignment]
            if zero is not None:
                zero = zero.new_zeros(scale.shape)
                zero[rows] = self.zero  # type: ignore[assignment]
        return replace(self, codes=tall, scale=scale, zero=zero)

    def spread_columns(self, columns: Tensor, width: int) -> StoredTensor:
        """The same columns among `width`, the others being zero; runs of columns, which are torn
        apart, as float32 values."""
        source = StoredTensor(32, self.dense(), None) if self.group else self
        wide = source.codes.new_zeros(len(source.codes), width)
        wide[:, columns] = source.codes
        return replace(source, codes=wide)


def spread_steps(steps: Tensor, group: int, codes: Tensor) -> Tensor:
    """What belongs to rows, to runs of `group` columns or to all, for every code.

    Args:
        steps: `(rows,)`, `(1,)` or `(rows, runs)`, any type.
        group: Columns of a run; 0 where there are none.
        codes: `(rows, columns)`, for the shape.

    Returns:
        `(rows, columns)`.
    """
    if group:
        return steps.repeat_interleave(group, dim=1)[:, : codes.shape[1]]
    return steps[:, None].expand(codes.shape)
