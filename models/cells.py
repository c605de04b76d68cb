"""Recurrent cells: (x, lengths, carry) -> (output, carry).

Letters: B sequences, T steps of the longest, F features, D hidden units.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Carry(NamedTuple):
    """What a cell remembers of each sequence between calls."""

    hidden: Tensor  # (B, D)
    cell: Tensor  # (B, D)


class LSTM(nn.Module):
    """Long short-term memory with forget gates (Hochreiter & Schmidhuber 1997; Gers et al. 2000), gates in the order i, f, g, o:

    i, f, o = sigmoid(W x + U h + b), g = tanh(W x + U h + b), c' = f * c + i * g, h' = o * tanh(c').
    """

    def __init__(self, *, features: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden
        bound = hidden**-0.5
        self.into = nn.Parameter(torch.empty(4 * hidden, features).uniform_(-bound, bound, generator=generator))  # W
        self.again = nn.Parameter(torch.empty(4 * hidden, hidden).uniform_(-bound, bound, generator=generator))  # U
        self.bias = nn.Parameter(torch.zeros(4 * hidden))
        with torch.no_grad():
            self.bias[hidden : 2 * hidden] = 1.0  # remember first, learn to forget (Jozefowicz et al. 2015)

    def forward(self, x: Tensor, lengths: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """(B, T, F) -> outputs (B, T, D), and the carry after each sequence's own last step; `lengths` None: all are T long.

        Outputs behind a sequence's end are not meaningful.
        """
        driven = linear(x, self.into, self.bias)  # one large product instead of T small ones
        outputs, cells = Unroll.apply(driven, self.again, carry.hidden, carry.cell)
        if lengths is None:
            return outputs, Carry(outputs[:, -1], cells[:, -1])
        last = torch.arange(len(x), device=x.device), lengths - 1
        return outputs, Carry(outputs[last], cells[last])


class Unroll(torch.autograd.Function):
    """The recurrent part, with its gradient by hand: for a few hundred rows autograd spends more on its graph than on numbers."""

    @staticmethod
    def forward(ctx: Any, driven: Tensor, again: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Driven (B, T, 4D) is W x + b -> hidden and cell states (B, T, D)."""
        size = hidden.shape[1]
        before, gates, cells, outputs = [hidden], [], [cell], []
        for t in range(driven.shape[1]):
            raw = torch.addmm(driven[:, t], before[-1], again.t())
            gate = torch.sigmoid(raw)  # one call for all four: half of a small step's time is in calling
            torch.tanh(raw[:, 2 * size : 3 * size], out=gate[:, 2 * size : 3 * size])
            i, f, g, o = gate.chunk(4, 1)
            cell = f * cells[-1] + i * g
            hidden = o * torch.tanh(cell)
            gates.append(gate)
            cells.append(cell)
            before.append(hidden)
            outputs.append(hidden)
        ctx.save_for_backward(again, torch.stack(before), torch.stack(cells), torch.stack(gates))
        return torch.stack(outputs, 1), torch.stack(cells[1:], 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The transposed equations, last step first."""
        again, before, cells, gates = ctx.saved_tensors
        outputs, states = grads
        size = again.shape[1]
        slope = gates * (1 - gates)
        g = gates[..., 2 * size : 3 * size]
        torch.addcmul(torch.ones_like(g), g, g, value=-1, out=slope[..., 2 * size : 3 * size])
        raised = torch.tanh(cells[1:])
        opened = gates[..., 3 * size :] * (1 - raised * raised)
        d_hidden, d_cell = torch.zeros_like(before[0]), torch.zeros_like(before[0])
        for t in range(len(gates) - 1, -1, -1):
            i, f, g, _ = gates[t].chunk(4, 1)
            d_hidden = d_hidden + outputs[:, t]
            d_cell = torch.addcmul(d_cell + states[:, t], d_hidden, opened[t])
            slope[t] *= torch.cat([d_cell * g, d_cell * cells[t], d_cell * i, d_hidden * raised[t]], 1)
            d_hidden = slope[t] @ again
            d_cell = d_cell * f
        d_again = slope.flatten(0, 1).t() @ before[:-1].flatten(0, 1)
        return slope.transpose(0, 1), d_again, d_hidden, d_cell
