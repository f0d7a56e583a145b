"""Recurrent layers whose weights are layers of their own: LSTM, GRU and RNN in canonical form.

Each pair of matrices, what is read and what is remembered, becomes two `GateLinear`.  They run one
after the other, step by step, while someone watches them, such as calibration; else their weights
are handed to the same fused operator that the original runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from autocompress.model.linear import linear_over


class GateLinear(nn.Linear):
    """One of a recurrent layer's two matrices, `(gates * hidden, in)` and `(gates * hidden,
    hidden)`."""


_Step = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


class Recurrent(nn.Module):
    """An LSTM, a GRU or an RNN with the weights in `GateLinear` modules.

    Args:
        dense: The original, without projections; its tensors are shared.
    """

    def __init__(self, dense: nn.RNNBase) -> None:
        super().__init__()
        self.mode = dense.mode
        self.hidden_size = dense.hidden_size
        self.num_layers = dense.num_layers
        self.bidirectional = dense.bidirectional
        self.batch_first = dense.batch_first
        self.dropout = dense.dropout
        self.bias = dense.bias
        self.reads, self.remembers = nn.ModuleList(), nn.ModuleList()
        for suffix in self._suffixes():
            for name, into in (("ih", self.reads), ("hh", self.remembers)):
                weight = getattr(dense, f"weight_{name}_{suffix}")
                bias = getattr(dense, f"bias_{name}_{suffix}") if dense.bias else None
                into.append(linear_over(weight, bias, GateLinear))
        self.train(dense.training)

    def _suffixes(self) -> list[str]:
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{end}" for layer in range(self.num_layers) for end in ends]

    def flatten_parameters(self) -> None:
        """Nothing to do: the original has the method, and models call it."""

    def forward(
        self, x: Tensor, state: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        """As the original: outputs `(n, steps, hidden)` in its order, and the last state."""
        if not isinstance(x, Tensor):
            raise TypeError("a recurrent layer in canonical form takes no packed sequence")
        batched = x.dim() == 3
        if not batched:
            x = x.unsqueeze(0 if self.batch_first else 1)
        states = self._states(x, state, batched)
        if self._is_watched():
            outputs, last = self._walk(x, states)
        else:
            outputs, last = self._fused(x, states)
        if not batched:
            outputs = outputs.squeeze(0 if self.batch_first else 1)
            last = tuple(part.squeeze(1) for part in last)
        return outputs, (last[0], last[1]) if len(last) == 2 else last[0]

    def _states(
        self, x: Tensor, state: Tensor | tuple[Tensor, Tensor] | None, batched: bool
    ) -> tuple[Tensor, ...]:
        """`(layers * directions, n, hidden)` each: hidden state, and cell state of an LSTM."""
        if state is None:
            count = x.shape[0 if self.batch_first else 1]
            zeros = x.new_zeros(len(self.reads), count, self.hidden_size)
            return (zeros, zeros) if self.mode == "LSTM" else (zeros,)
        parts = [state] if isinstance(state, Tensor) else [*state]
        return tuple(part if batched else part.unsqueeze(1) for part in parts)

    def _is_watched(self) -> bool:
        gates = (*self.reads, *self.remembers)
        return any(
            type(gate) is not GateLinear or gate._forward_hooks or gate._forward_pre_hooks
            for gate in gates
        )

    def _fused(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        weights: list[Tensor] = []
        for read, remember in zip(self.reads, self.remembers, strict=True):
            weights += [read.weight, remember.weight]  # type: ignore[list-item]
            weights += [read.bias, remember.bias] if self.bias else []  # type: ignore[list-item]
        settings = (
            self.bias,
            self.num_layers,
            float(self.dropout),
            self.training,
            self.bidirectional,
            self.batch_first,
        )
        with warnings.catch_warnings():
            # Weights in one piece of memory matter to cuDNN alone.
            warnings.simplefilter("ignore", UserWarning)
            if self.mode == "LSTM":
                outputs, hidden, cell = torch.lstm(x, states, weights, *settings)
                return outputs, (hidden, cell)
            run = {"GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}
            outputs, hidden = run[self.mode](x, states[0], weights, *settings)
        return outputs, (hidden,)

    def _walk(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The same, one step after the other (without dropout, which is off in evaluation)."""
        x = x.transpose(0, 1) if self.batch_first else x
        directions = 2 if self.bidirectional else 1
        last: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            ways = []
            for way in range(directions):
                place = layer * directions + way
                read, remember = self.reads[place], self.remembers[place]
                arriving = read(x)
                now = tuple(part[place] for part in states)
                steps = []
                for step in reversed(range(len(x))) if way else range(len(x)):
                    now = _STEPS[self.mode](arriving[step], remember(now[0]), now)
                    steps.append(now[0])
                ways.append(torch.stack(steps[::-1] if way else steps))
                last.append(now)
            x = torch.cat(ways, -1)
        outputs = x.transpose(0, 1) if self.batch_first else x
        return outputs, tuple(torch.stack(parts) for parts in zip(*last, strict=True))


def _lstm(read: Tensor, remembered: Tensor, now: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    into, forget, new, out = (read + remembered).chunk(4, -1)
    cell = forget.sigmoid() * now[1] + into.sigmoid() * new.tanh()
    return out.sigmoid() * cell.tanh(), cell


def _gru(read: Tensor, remembered: Tensor, now: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (reset, update, new), (r, u, n) = read.chunk(3, -1), remembered.chunk(3, -1)
    keep = (update + u).sigmoid()
    new = (new + (reset + r).sigmoid() * n).tanh()
    return ((1 - keep) * new + keep * now[0],)


def _tanh(read: Tensor, remembered: Tensor, now: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    del now
    return ((read + remembered).tanh(),)


def _relu(read: Tensor, remembered: Tensor, now: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    del now
    return ((read + remembered).relu(),)


_STEPS: dict[str, _Step] = {"LSTM": _lstm, "GRU": _gru, "RNN_TANH": _tanh, "RNN_RELU": _relu}
