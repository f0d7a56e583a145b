"""In which order the pieces of a channel group go, and what each number of them costs.

Removing input columns `R` of a weight costs `min tr(D H D^T)` over all changes `D` with
`D[:, R] = -W[:, R]`, the other columns making up for it.  Block by block this is the optimal brain
surgeon (Hassibi and Stork 1993; Frantar and Alistarh 2022, section 4, for blocks): with `P` the
inverse of the second moment of the columns that are left and `W` their weights,

    cost(b) = tr(W_b P_bb^-1 W_b^T),   W -= W_b P_bb^-1 P_b,   P -= P_b^T P_bb^-1 P_b,

and the costs of successive removals add up to that of them all.  The cheapest piece goes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autocompress.errors import ConfigError

DELAYED = 64  # columns removed before the large matrices are brought up to date


@dataclass(frozen=True)
class Reader:
    """One layer that reads a group's channels.

    Args:
        weight: `(out, d)`.
        moment: `(d, d)` float64 second moment of its input, damped so that it can be inverted.
        columns: `(pieces, k)` columns of the weight that each piece owns.
    """

    weight: Tensor
    moment: Tensor
    columns: Tensor


@dataclass(frozen=True)
class Elimination:
    """The pieces of a group in the order in which they go; kept sets are nested.

    Args:
        order: All pieces but the last one left, cheapest first.
        errors: `errors[n]` is what removing the first `n` costs: the output error of each reader
            relative to its output, `tr(D H D^T) / tr(W H W^T)`, summed over readers.
    """

    order: tuple[int, ...]
    errors: tuple[float, ...]

    def kept(self, count: int) -> tuple[int, ...]:
        """The best `count` pieces, ascending.

        Raises:
            ConfigError: If `count` is not in `1 ... pieces`.
        """
        return tuple(sorted(set(range(len(self.errors))) - set(self.order[: self._gone(count)])))

    def error(self, count: int) -> float:
        """What keeping `count` pieces costs.

        Raises:
            ConfigError: If `count` is not in `1 ... pieces`.
        """
        return self.errors[self._gone(count)]

    def _gone(self, count: int) -> int:
        if not 1 <= count <= len(self.errors):
            raise ConfigError(f"kept pieces: must be 1 to {len(self.errors)}, got {count}")
        return len(self.errors) - count


def eliminate(readers: Sequence[Reader]) -> Elimination:
    """Greedy backward elimination of a group's pieces.

    Layers differ in the scale of their outputs; the error of each is taken relative to its own.

    Args:
        readers: All layers that read the group; `columns` have the same number of rows in each.

    Raises:
        ConfigError: If there are no readers, or their numbers of pieces differ.
    """
    sizes = {len(reader.columns) for reader in readers}
    if len(sizes) != 1:
        raise ConfigError(
            f"eliminate(readers): must have one number of pieces, got {sorted(sizes)}"
        )
    states = [_State(reader) for reader in readers]
    left = torch.arange(sizes.pop())  # pieces in the matrices; those removed lately included
    gone = torch.zeros(len(left), dtype=torch.bool)
    delay = max(1, DELAYED // max(reader.columns.shape[1] for reader in readers))
    order: list[int] = []
    errors = [0.0]
    for count in range(len(left) - 1):
        costs = torch.stack([state.costs() for state in states]).sum(0)
        place = int(costs.masked_fill(gone, torch.inf).argmin())
        order.append(int(left[place]))
        errors.append(errors[-1] + max(0.0, float(costs[place])))
        gone[place] = True
        for state in states:
            state.remove(place)
        if (count + 1) % delay == 0:
            for state in states:
                state.settle(~gone)
            left, gone = left[~gone], gone[~gone]
    return Elimination(tuple(order), tuple(errors))


class _State:
    """Weight and inverse moment of one reader while pieces go.

    The large matrices are brought up to date now and then: until then
    `P = inverse - first @ first.T` and `W = weight - second @ first.T`.
    """

    def __init__(self, reader: Reader) -> None:
        pieces, self.width = reader.columns.shape
        d = len(reader.moment)
        owned = reader.columns.flatten()
        rest = torch.ones(d, dtype=torch.bool)
        rest[owned] = False
        order = torch.cat([owned, rest.nonzero()[:, 0]])
        weight, moment = reader.weight.double(), reader.moment
        self.whole = float(((weight @ moment) * weight).sum().clamp_min(1e-30))
        self.weight = weight[:, order]
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment[order][:, order]))
        self.first = torch.zeros(d, 0, dtype=torch.float64)
        self.second = torch.zeros(len(weight), 0, dtype=torch.float64)
        self.diagonal, self.gram = self._blocks(pieces)

    def costs(self) -> Tensor:
        """`(pieces,)` relative error that the removal of each would add."""
        if self.width == 1:
            return (self.gram / self.diagonal).flatten() / self.whole
        solved = torch.linalg.solve(self.diagonal, self.gram)
        costs: Tensor = solved.diagonal(dim1=1, dim2=2).sum(1) / self.whole
        return costs

    def remove(self, place: int) -> None:
        """Takes out the piece at a place; the others make up for it."""
        own = slice(place * self.width, (place + 1) * self.width)
        column = self.inverse[:, own] - self.first @ self.first[own].T
        values = self.weight[:, own] - self.second @ self.first[own].T
        root = torch.linalg.cholesky(self.diagonal[place])
        u = torch.linalg.solve_triangular(root.T, column, upper=True, left=False)
        v = torch.linalg.solve_triangular(root.T, values, upper=True, left=False)
        owned = self.width * len(self.gram)
        cross = (self.weight.T @ v - self.first @ (self.second.T @ v))[:owned]
        blocks = u[:owned].reshape(-1, self.width, self.width)
        change = cross.reshape(blocks.shape) @ blocks.mT
        self.gram += blocks @ (v.T @ v) @ blocks.mT - change - change.mT
        self.diagonal -= blocks @ blocks.mT
        # What is gone must stay solvable: it is looked at no more.
        self.diagonal[place] = torch.eye(self.width, dtype=torch.float64)
        self.first = torch.cat([self.first, u], 1)
        self.second = torch.cat([self.second, v], 1)

    def settle(self, stays: Tensor) -> None:
        """Brings the matrices up to date, without the pieces that are gone."""
        self.inverse -= self.first @ self.first.T
        self.weight -= self.second @ self.first.T
        keep = torch.ones(len(self.inverse), dtype=torch.bool)
        keep[: len(stays) * self.width] = stays.repeat_interleave(self.width)
        self.inverse, self.weight = self.inverse[keep][:, keep], self.weight[:, keep]
        self.first, self.second = self.first[keep][:, :0], self.second[:, :0]
        self.diagonal, self.gram = self._blocks(int(stays.sum()))

    def _blocks(self, pieces: int) -> tuple[Tensor, Tensor]:
        """`(pieces, k, k)`: what the inverse has on its diagonal, and products of the weights."""
        index = torch.arange(pieces * self.width).reshape(pieces, self.width)
        parts = self.weight[:, index].permute(1, 2, 0)
        return self.inverse[index[:, :, None], index[:, None, :]], parts @ parts.mT
