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
            states = unrolled(driven, self.again, carry.hidden, carry.cell)
            outputs, cells = (a[1:].transpose(0, 1) for a in (states.hidden, states.cell))
        return outputs, Carry(at_ends(outputs, lengths), at_ends(cells, lengths))

    def at_once(self, x: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """The same by cuDNN, all steps in one call: step by step, a GPU waits for its kernels to be launched (LOG 2026-11-26)."""
        before = carry.hidden[None].contiguous(), carry.cell[None].contiguous()
        parts = (self.into, self.again, self.bias, torch.zeros_like(self.bias))
        # In one piece, as cuDNN takes them: else it warns, and puts them together itself at every call
        whole = torch.cat([part.flatten() for part in parts]).split_with_sizes([part.numel() for part in parts])
        weights = [flat.view_as(part) for flat, part in zip(whole, parts, strict=True)]
        said, hidden, cell = torch.lstm(x, before, weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)  # noqa: FBT003
        return said, Carry(hidden[0], cell[0])


class States(NamedTuple):
    """What an LSTM went through: of each step, and before the first (B, D)."""

    hidden: Tensor  # (T + 1, B, D)
    cell: Tensor  # (T + 1, B, D)
    raised: Tensor  # (T, B, D) tanh(c')
    gates: Tensor  # (T, B, 4D)


def unrolled(driven: Tensor, again: Tensor, hidden: Tensor, cell: Tensor) -> States:
    """From driven (B, T, 4D), which is W x + b; written where it is kept: numbers are few, and moving them is half of the work."""
    (batch, steps), size = driven.shape[:2], hidden.shape[1]
    states = States(
        *(driven.new_empty(count, batch, width * size) for count, width in ((steps + 1, 1), (steps + 1, 1), (steps, 1), (steps, 4)))
    )
    states.hidden[0], states.cell[0] = hidden, cell
    raw = driven.new_empty(batch, 4 * size)
    for t in range(steps):
        torch.addmm(driven[:, t], states.hidden[t], again.t(), out=raw)
        gate = torch.sigmoid(raw, out=states.gates[t])  # one call for all four: half of a small step's time is in calling
        i, f, g, o = gate.chunk(4, 1)
        torch.tanh(raw[:, 2 * size : 3 * size], out=g)
        torch.mul(f, states.cell[t], out=states.cell[t + 1]).add_(i * g)
        torch.mul(o, torch.tanh(states.cell[t + 1], out=states.raised[t]), out=states.hidden[t + 1])
    return states


class Unroll(torch.autograd.Function):
    """The recurrent part, with its gradient by hand: for a few hundred rows autograd spends more on its graph than on numbers."""

    @staticmethod
    def forward(ctx: Any, driven: Tensor, again: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Driven (B, T, 4D) is W x + b -> hidden and cell states (B, T, D)."""
        states = unrolled(driven, again, hidden, cell)
        ctx.save_for_backward(again, *states)
        ctx.set_materialize_grads(False)
        return states.hidden[1:].transpose(0, 1), states.cell[1:].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The transposed equations, last step first."""
        again, before, cells, raised, gates = ctx.saved_tensors
        outputs, states = grads
        slope = torch.empty_like(gates)
        d_hidden, d_cell = torch.zeros_like(before[0]), torch.zeros_like(before[0])
        for t in range(len(gates) - 1, -1, -1):
            gate, into = gates[t], slope[t]
            i, f, g, o = gate.chunk(4, 1)
            d_i, d_f, d_g, d_o = into.chunk(4, 1)
            if outputs is not None:
                d_hidden += outputs[:, t]
            if states is not None:
                d_cell += states[:, t]
            d_cell.addcmul_(d_hidden, o * (1 - raised[t] * raised[t]))
            torch.mul(gate, 1 - gate, out=into)
            torch.addcmul(torch.ones_like(g), g, g, value=-1, out=d_g)
            for part, of in ((d_i, d_cell * g), (d_f, d_cell * cells[t]), (d_g, d_cell * i), (d_o, d_hidden * raised[t])):
                part.mul_(of)
            d_hidden = into @ again
            d_cell *= f
        d_again = slope.flatten(0, 1).t() @ before[:-1].flatten(0, 1)
        return slope.transpose(0, 1), d_again, d_hidden, d_cell


CELLS: dict[str, type[LSTM | GRU | Elman | Jordan]] = {"lstm": LSTM, "gru": GRU, "elman": Elman, "jordan": Jordan}
