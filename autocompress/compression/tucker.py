"""Tucker-2: a convolution as 1x1 to fewer channels, a small core with the taps, and 1x1 back.

`W[o, i, t] = sum_ab last[o, b] core[b, a, t] first[a, i]` (Kim et al., 1511.06530, section 3).
The start is the higher-order SVD of the whitened weight, outputs first; then the first factor and
the other two, which have a closed form, take turns at least squares under the whole second moment
of the unfolded input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autocompress.compression.factorize import refit_second, whitened_svd
from autocompress.compression.moments import DAMPING, damped
from autocompress.compression.rounding import round_one
from autocompress.compression.stored import StoredTensor
from autocompress.search_space.option import Option

TURNS = 4  # of least squares; later ones gain less than a hundredth
DIRECTIONS = 6  # of conjugate gradients in a turn
RIDGE = 1e-9  # share of the mean diagonal that is added before a moment is inverted
ROUNDED_RIDGE = 1e-6  # of what rounded factors make, whose rows may be zero or the same


def tucker2(
    weight: Tensor, moment: Tensor, taps: int, reads: int, makes: int, turns: int = TURNS
) -> tuple[Tensor, Tensor, Tensor]:
    """The factors of about least output error `tr(D H D^T)`.

    Args:
        weight: `(out, in * taps)`, columns by channel, then by tap.
        moment: `(in * taps, in * taps)` float64, damped; the identity gives the plain factors.
        taps: Columns of a channel, `kh * kw`.
        reads: Input channels of the core, at most `in` and `makes * taps`.
        makes: Its output channels, at most `out` and `reads * taps`.
        turns: How often the first factor is fitted anew; 0 leaves the higher-order SVD, with the
            best core and last factor for its first.

    Returns:
        `(reads, in)` to apply first, the core `(makes, reads * taps)` and `(out, makes)`, float64.
        What lies between them is uncorrelated in the weight, and shared evenly.
    """
    weight = weight.double()
    channels = channel_moment(moment, taps)
    first = _start(weight, moment, channels, taps, reads, makes)
    least, best = float("inf"), first
    for turn in range(turns + 1):
        refitted, behind = _behind(weight, first, moment)
        core, last = whitened_svd(refitted, behind, makes)
        change = last @ _through(core, first) - weight
        error = float(((change @ moment) * change).sum())
        if error < least:
            least, best = error, first
        if turn < turns:
            first = _fit_first(weight, first, core, last, moment, channels)
    refitted, behind = _behind(weight, best, moment)
    core, _ = whitened_svd(refitted, behind, makes)
    best = _balanced(best, core, channels)
    refitted, behind = _behind(weight, best, moment)
    return best, *whitened_svd(refitted, behind, makes)


def store_around_core(
    weight: Tensor, first: Tensor, moment: Tensor, makes: int, way: Option
) -> tuple[StoredTensor, StoredTensor, StoredTensor]:
    """The three factors, each rounded with error feedback under the moment of its own input.

    Behind the first factor as it was stored, the layer is one of lower rank with fewer inputs:
    the core and the last factor are the best of that layer, the last one for the stored core.

    Args:
        weight: `(out, in * taps)` to stand in for.
        first: `(reads, in)`.
        moment: `(in * taps, in * taps)` float64, damped.
        makes: Output channels of the core.
        way: `Option.rounding` of the option.
    """
    taps = len(moment) // first.shape[1]
    stored = round_one(first, way, damped(channel_moment(moment, taps), DAMPING))
    refitted, behind = _behind(weight, stored.dense().double(), moment, ROUNDED_RIDGE)
    core, _ = whitened_svd(refitted, behind, makes)
    stored_core = round_one(core, way, behind)
    last, middle = refit_second(refitted, stored_core.dense().double(), behind)
    return stored, stored_core, round_one(last, way, middle)


def channel_moment(moment: Tensor, taps: int) -> Tensor:
    """`(in, in)` mean over taps of the moment `(in * taps, in * taps)` of the channels."""
    blocks = moment.reshape(len(moment) // taps, taps, -1, taps)
    return blocks.diagonal(dim1=1, dim2=3).mean(-1)


def _start(
    weight: Tensor, moment: Tensor, channels: Tensor, taps: int, reads: int, makes: int
) -> Tensor:
    """The first factor of the higher-order SVD: outputs are cut under their own moment, and what
    is left of the weight is whitened by the moments of channels and of taps."""
    _, vectors = torch.linalg.eigh(weight @ moment @ weight.T)
    cut = (vectors[:, -makes:].T @ weight).reshape(makes, -1, taps)
    blocks = moment.reshape(len(channels), taps, -1, taps)
    within = blocks.diagonal(dim1=0, dim2=2).mean(-1)
    roots = [torch.linalg.cholesky(_ridged(part)) for part in (channels, within)]
    white = torch.einsum("bit,ij,ts->jbs", cut, *roots).flatten(1)
    _, vectors = torch.linalg.eigh(white @ white.T)
    kept = vectors[:, -reads:].T
    first: Tensor = torch.linalg.solve_triangular(roots[0], kept, upper=False, left=False)
    return first


def _behind(
    weight: Tensor, first: Tensor, moment: Tensor, ridge: float = RIDGE
) -> tuple[Tensor, Tensor]:
    """What `refit_second` says of the first factor under every tap, which is not formed.

    Returns:
        `(out, reads * taps)` weight of the layer that reads the first factor's output, and the
        `(reads * taps, reads * taps)` moment of its input.
    """
    reads, width = first.shape
    taps = len(moment) // width
    half = torch.einsum("ai,itc->atc", first, moment.reshape(width, taps, -1))
    half = half.reshape(reads * taps, -1)
    middle = torch.einsum("ris,bi->rbs", half.reshape(reads * taps, width, taps), first)
    middle = _ridged(middle.reshape(reads * taps, -1), ridge)
    return torch.linalg.solve(middle, weight.double() @ half.T, left=False), middle


def _fit_first(
    weight: Tensor, first: Tensor, core: Tensor, last: Tensor, moment: Tensor, channels: Tensor
) -> Tensor:
    """A first factor of less error between the other two, by conjugate gradients from its own.

    Their metric is what the normal equations would be if channels and taps were independent.
    """
    reads, width = first.shape
    cube = core.reshape(len(core), reads, -1)
    # Within the outputs that the last factor spans, all errors count by its own lengths.
    lengths = last.T @ last
    wanted = torch.linalg.solve(lengths, last.T @ weight)

    def gradient(change: Tensor) -> Tensor:
        pushed = (lengths @ change @ moment).reshape(len(core), width, -1)
        return torch.einsum("bat,bit->ai", cube, pushed)

    sizes = torch.einsum("bat,bc,cst->as", cube, lengths, cube)
    left, right = (torch.linalg.cholesky(_ridged(part)) for part in (sizes, channels))

    def scaled(residual: Tensor) -> Tensor:
        rows = torch.cholesky_solve(residual, left)
        return torch.cholesky_solve(rows.T, right).T

    residual = gradient(wanted - _through(core, first))
    direction = improved = scaled(residual)
    length = (residual * improved).sum()
    for _ in range(DIRECTIONS):
        curved = gradient(_through(core, direction))
        along = (direction * curved).sum()
        if not along > 0:
            break
        step = length / along
        first, residual = first + step * direction, residual - step * curved
        improved = scaled(residual)
        before, length = length, (residual * improved).sum()
        direction = improved + length / before * direction
    return first


def _balanced(first: Tensor, core: Tensor, channels: Tensor) -> Tensor:
    """The first factor in the basis in which its outputs are uncorrelated, also in what the core
    makes of them; and as long as that is."""
    white = torch.linalg.cholesky(_ridged(first @ channels @ first.T))
    cube = core.reshape(len(core), len(first), -1)
    read = torch.einsum("bat,ac->bct", cube, white)
    values, turn = torch.linalg.eigh(torch.einsum("bat,bct->ac", read, read))
    lengths = values.flip(0).clamp_min(RIDGE * values[-1].clamp_min(1e-30)) ** 0.25
    basis = torch.linalg.solve_triangular(white, first, upper=False)
    balanced: Tensor = lengths[:, None] * (turn.flip(1).T @ basis)
    return balanced


def _through(core: Tensor, first: Tensor) -> Tensor:
    """`(makes, in * taps)`: a core behind a first factor."""
    cube = core.reshape(len(core), len(first), -1)
    return torch.einsum("bat,ai->bit", cube, first).flatten(1)


def _ridged(moment: Tensor, share: float = RIDGE) -> Tensor:
    ridge = share * moment.diagonal().mean().clamp_min(1e-12)
    return moment + ridge * torch.eye(len(moment), dtype=moment.dtype)
