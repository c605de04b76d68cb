"""Recurrent cells: (x, lengths, carry) -> (output, carry).

Letters: B sequences, T steps of the longest, F features, D hidden units.
"""

from __future__ import annotations

from typing import NamedTuple

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
        hidden, cell = carry
        outputs = []
        for t in range(x.shape[1]):
            after = self.step(driven[:, t], Carry(hidden, cell))
            if lengths is None:
                hidden, cell = after
            else:
                own = (lengths > t)[:, None]
                hidden, cell = torch.where(own, after.hidden, hidden), torch.where(own, after.cell, cell)
            outputs.append(after.hidden)
        return torch.stack(outputs, 1), Carry(hidden, cell)

    def step(self, driven: Tensor, carry: Carry) -> Carry:
        """One step; `driven` (B, 4D) is W x + b."""
        gates = driven + linear(carry.hidden, self.again)
        i, f, _, o = torch.sigmoid(gates).chunk(4, 1)  # one call for all: half of a small step's time is in calling
        g = torch.tanh(gates[:, 2 * self.hidden : 3 * self.hidden])
        cell = f * carry.cell + i * g
        return Carry(o * torch.tanh(cell), cell)
