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

    hidden: Tensor  # (B, D) what it last said
    cell: Tensor  # (B, D) of an LSTM; the others hand it on as it is


def uniform(rows: int, columns: int, generator: torch.Generator, *, bound: float) -> nn.Parameter:
    return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound, generator=generator))


def at_ends(outputs: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, T, D) -> (B, D): of each sequence what stands at its own last step; `lengths` None: all are T long."""
    return outputs[:, -1] if lengths is None else outputs[torch.arange(len(outputs), device=outputs.device), lengths - 1]


class Elman(nn.Module):
    """The simple recurrent network (Elman 1990): h' = tanh(W x + U h + b); it says h'."""

    def __init__(self, *, features: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.into = uniform(hidden, features, generator, bound=hidden**-0.5)  # W
        self.again = uniform(hidden, hidden, generator, bound=hidden**-0.5)  # U
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor, lengths: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """As `LSTM.forward`."""
        driven, hidden, outputs = linear(x, self.into, self.bias), carry.hidden, []
        for step in driven.unbind(1):
            hidden = torch.tanh(torch.addmm(step, hidden, self.again.t()))
            outputs.append(hidden)
        said = torch.stack(outputs, 1)
        return said, Carry(at_ends(said, lengths), carry.cell)


class Jordan(nn.Module):
    """The network that hears what it has said (Jordan 1986): h = tanh(W x + U y + b), y' = tanh(V h + c); it says y'.

    Only y lives on, across windows too: what h knew and y does not say is forgotten.
    """

    def __init__(self, *, features: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.into = uniform(hidden, features, generator, bound=hidden**-0.5)  # W
        self.again = uniform(hidden, hidden, generator, bound=hidden**-0.5)  # U
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.out = uniform(hidden, hidden, generator, bound=hidden**-0.5)  # V
        self.out_bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor, lengths: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """As `LSTM.forward`."""
        driven, said, outputs = linear(x, self.into, self.bias), carry.hidden, []
        for step in driven.unbind(1):
            said = torch.tanh(linear(torch.tanh(torch.addmm(step, said, self.again.t())), self.out, self.out_bias))
            outputs.append(said)
        whole = torch.stack(outputs, 1)
        return whole, Carry(at_ends(whole, lengths), carry.cell)


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014), the form of cuDNN and torch, gates in the order r, z, n:

    r, z = sigmoid(W x + U h + b), n = tanh(W x + b + r * (U h + d)), h' = (1 - z) * n + z * h.
    """

    def __init__(self, *, features: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden
        self.into = uniform(3 * hidden, features, generator, bound=hidden**-0.5)  # W
        self.again = uniform(3 * hidden, hidden, generator, bound=hidden**-0.5)  # U
        self.bias = nn.Parameter(torch.zeros(3 * hidden))
        self.inner = nn.Parameter(torch.zeros(hidden))  # d: of the n gate, inside the reset

    def forward(self, x: Tensor, lengths: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """As `LSTM.forward`."""
        driven, hidden, outputs, size = linear(x, self.into, self.bias), carry.hidden, [], 2 * self.hidden
        for step in driven.unbind(1):
            held = hidden @ self.again.t()
            r, z = torch.sigmoid(step[:, :size] + held[:, :size]).chunk(2, 1)
            n = torch.tanh(step[:, size:] + r * (held[:, size:] + self.inner))
            hidden = n + z * (hidden - n)
            outputs.append(hidden)
        said = torch.stack(outputs, 1)
        return said, Carry(at_ends(said, lengths), carry.cell)


class LSTM(nn.Module):
    """Long short-term memory with forget gates (Hochreiter & Schmidhuber 1997; Gers et al. 2000), gates in the order i, f, g, o:

    i, f, o = sigmoid(W x + U h + b), g = tanh(W x + U h + b), c' = f * c + i * g, h' = o * tanh(c').
    """

    def __init__(self, *, features: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden
        self.into = uniform(4 * hidden, features, generator, bound=hidden**-0.5)  # W
        self.again = uniform(4 * hidden, hidden, generator, bound=hidden**-0.5)  # U
        # The forget gate's 1 of Jozefowicz et al. (2015) cost 1 to 3 %: a dilated step is twelve observations (LOG 2026-11-26)
        self.bias = nn.Parameter(torch.zeros(4 * hidden))

    def forward(self, x: Tensor, lengths: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """(B, T, F) -> outputs (B, T, D), and the carry after each sequence's own last step; `lengths` None: all are T long.

        Outputs behind a sequence's end are not meaningful.
        """
        if x.is_cuda and lengths is None and x.shape[1] > 1:
            return self.at_once(x, carry)
        driven = linear(x, self.into, self.bias)  # one large product instead of T small ones
        if torch.is_grad_enabled():
            outputs, cells = Unroll.apply(driven, self.again, carry.hidden, carry.cell)
        else:
            before, states, _ = unrolled(driven, self.again, carry.hidden, carry.cell)
            outputs, cells = torch.stack(before[1:], 1), torch.stack(states[1:], 1)
        return outputs, Carry(at_ends(outputs, lengths), at_ends(cells, lengths))

    def at_once(self, x: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """The same by cuDNN, all steps in one call: step by step, a GPU waits for its kernels to be launched (LOG 2026-11-26)."""
        before = carry.hidden[None].contiguous(), carry.cell[None].contiguous()
        weights = [self.into, self.again, self.bias, torch.zeros_like(self.bias)]
        said, hidden, cell = torch.lstm(x, before, weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)  # noqa: FBT003
        return said, Carry(hidden[0], cell[0])


def unrolled(driven: Tensor, again: Tensor, hidden: Tensor, cell: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Hidden and cell states (B, D) before the first step and after each, and the gates (B, 4D) of each; driven (B, T, 4D) is W x + b."""
    size = hidden.shape[1]
    before, cells, gates = [hidden], [cell], []
    for t in range(driven.shape[1]):
        raw = torch.addmm(driven[:, t], before[-1], again.t())
        gate = torch.sigmoid(raw)  # one call for all four: half of a small step's time is in calling
        torch.tanh(raw[:, 2 * size : 3 * size], out=gate[:, 2 * size : 3 * size])
        i, f, g, o = gate.chunk(4, 1)
        cells.append(f * cells[-1] + i * g)
        before.append(o * torch.tanh(cells[-1]))
        gates.append(gate)
    return before, cells, gates


class Unroll(torch.autograd.Function):
    """The recurrent part, with its gradient by hand: for a few hundred rows autograd spends more on its graph than on numbers."""

    @staticmethod
    def forward(ctx: Any, driven: Tensor, again: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Driven (B, T, 4D) is W x + b -> hidden and cell states (B, T, D)."""
        before, cells, gates = unrolled(driven, again, hidden, cell)
        ctx.save_for_backward(again, torch.stack(before), torch.stack(cells), torch.stack(gates))
        return torch.stack(before[1:], 1), torch.stack(cells[1:], 1)

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
            for into, part in zip(slope[t].chunk(4, 1), (d_cell * g, d_cell * cells[t], d_cell * i, d_hidden * raised[t]), strict=True):
                into.mul_(part)
            d_hidden = slope[t] @ again
            d_cell = d_cell * f
        d_again = slope.flatten(0, 1).t() @ before[:-1].flatten(0, 1)
        return slope.transpose(0, 1), d_again, d_hidden, d_cell


CELLS: dict[str, type[LSTM | GRU | Elman | Jordan]] = {"lstm": LSTM, "gru": GRU, "elman": Elman, "jordan": Jordan}
