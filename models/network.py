"""Embedding of inputs, cell, heads: one dilated recurrent step per observation, all lead times at once.

Letters: B rows, T steps, F input features, D hidden units, H lead times, Q quantile levels, P naive paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from models.cells import CELLS, Carry, uniform
from models.heads import Quantiles, Said

PATHS = 3  # see models.inputs: the last season, the one before it, the season's own offset


class Manner(NamedTuple):
    """How a network reads and speaks: variety among members is worth more than the best single one (LOG 2026-11-26)."""

    seasonal: bool  # it corrects a blend of naive forecasts that knows the season; else the last value
    whole: bool  # it sees the season; else only the series' own last changes
    week: bool  # it sees the day of the week, which learning online takes for more than it is where weeks are all alike
    direct: bool  # its head hears the inputs beside the cell: better at the first lead, worse at long ones where the stream storms
    pace: float  # how fast it learns on, of the least rate: who corrects a blend loses in storms by haste, the others find their way


MANNERS = (
    Manner(seasonal=True, whole=True, week=True, direct=True, pace=1.0),
    Manner(seasonal=False, whole=True, week=False, direct=False, pace=2.0),
    Manner(seasonal=False, whole=False, week=False, direct=False, pace=2.0),
)


def manners(members: int) -> list[Manner]:
    """Of each member; of more than there are manners, the first ones again."""
    return [MANNERS[k % len(MANNERS)] for k in range(members)]


class Network(nn.Module):
    """Weights shared by all series. What it says is a correction to a naive forecast, so that it starts where that is."""

    sees: Tensor  # (F,) bool

    def __init__(
        self,
        *,
        features: int,
        own: int,
        week: tuple[int, int],
        hidden: int,
        horizon: int,
        levels: Sequence[float],
        seed: int,
        cell: str,
        manner: Manner,
        more: int = 0,
    ) -> None:
        """`own`: the leading features that tell of the series' own last changes; `week`: the first, and behind the last, of the week's;
        `more`: paths beside the naive ones, of further seasons and of covariates.
        """
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.horizon, self.manner, self.paths = horizon, manner, PATHS + more
        self.quantiles = Quantiles(levels)
        self.embed = uniform(hidden, features, generator, bound=features**-0.5)
        self.embed_bias = nn.Parameter(torch.zeros(hidden))
        self.cell = CELLS[cell](features=hidden, hidden=hidden, generator=generator)
        parts = 1 + self.paths + self.quantiles.outputs
        # Zero at the start: the first forecasts are the naive ones with a normal's quantiles.
        self.head = nn.Parameter(torch.zeros(parts * horizon, hidden + features))
        bias = torch.zeros(parts, horizon)
        bias[1 + self.paths :] = self.quantiles.start()[:, None]
        self.head_bias = nn.Parameter(bias.reshape(-1))
        at = torch.arange(features)
        sees = at < (features if manner.whole else own)
        if not manner.week:
            sees &= (at < week[0]) | (at >= week[1])
        self.all = bool(sees.all())
        self.register_buffer("sees", sees, persistent=False)

    def forward(self, x: Tensor, lengths: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """Inputs (B, T, F) -> what the cell says (B, T, D), and the carry after each sequence's end."""
        output, after = self.cell(torch.relu(linear(self._seen(x), self.embed, self.embed_bias)), lengths, carry)
        return output, after

    def say(self, output: Tensor, x: Tensor, blend: Tensor, paths: Tensor) -> Said:
        """Cell output (B, D), inputs (B, F), the naive blend (B, H) and the paths (B, P, H), naive ones first -> forecasts."""
        if self.manner.direct:
            raw = linear(torch.cat([output, self._seen(x)], 1), self.head, self.head_bias)
        else:  # all members have as many weights, so that they lie in one vector side by side
            raw = linear(output, self.head[:, : output.shape[1]], self.head_bias)
        raw = raw.view(x.shape[0], -1, self.horizon)  # `len` is a plain number: a graph made of this would be for as many rows
        # one split, for its gradient is one tensor: of each slice it is as large as the whole
        alone, naive, more, spread = raw.split_with_sizes([1, PATHS, self.paths - PATHS, self.quantiles.outputs], 1)
        point = alone[:, 0]
        if self.manner.seasonal:
            point = blend + point + (naive * paths[:, :PATHS]).sum(1)
        if self.manner.whole and self.paths > PATHS:
            point = point + (more * paths[:, PATHS:]).sum(1)
        # The point is trained by its own loss; the quantiles stand around it and do not pull at it.
        median, quantiles = self.quantiles.assemble(spread, point.detach())
        return Said(point, median, quantiles)

    def _seen(self, x: Tensor) -> Tensor:
        return x if self.all else x * self.sees


class Ensemble(nn.Module):
    """Networks side by side, each with its own weights, manner and carries.

    Letters: M members. A carry of all is (B, 2M, D): hidden and cell of the first, of the second, and so on.
    """

    def __init__(
        self,
        *,
        members: int,
        features: int,
        own: int,
        week: tuple[int, int],
        hidden: int,
        horizon: int,
        levels: Sequence[float],
        seed: int,
        cell: str = "lstm",
        more: int = 0,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            Network(
                features=features, own=own, week=week, hidden=hidden, horizon=horizon, levels=levels, seed=seed + 1000 * k, cell=cell,
                manner=manner, more=more,
            )
            for k, manner in enumerate(manners(members))
        )  # fmt: skip

    def forward(self, x: Tensor, carry: Tensor) -> tuple[list[Tensor], Tensor]:
        """Inputs (B, T, F), carries (B, 2M, D) -> of each member what its cell says (B, T, D); the carries after the last step."""
        outputs, after = [], []
        for k, network in enumerate(self._each()):
            output, behind = network(x, None, Carry(carry[:, 2 * k], carry[:, 2 * k + 1]))
            outputs.append(output)
            after += [*behind]
        return outputs, torch.stack(after, 1)

    def say(self, outputs: Sequence[Tensor], x: Tensor, blend: Tensor, paths: Tensor) -> list[Said]:
        """Of each member its forecasts, from its cell's output (B, D); the rest as in `Network.say`."""
        return [network.say(output, x, blend, paths) for network, output in zip(self._each(), outputs, strict=True)]

    def _each(self) -> list[Network]:
        return cast("list[Network]", list(self.members))


class Flat:
    """An ensemble's parameters as one vector: copied, checked, hashed and stepped in one go."""

    def __init__(self, network: Ensemble) -> None:
        self.network = network
        self.weights = torch.cat([p.detach().reshape(-1) for p in network.parameters()])
        self.read(self.weights)

    def read(self, weights: Tensor) -> Ensemble:
        """The ensemble, its parameters views of `weights`."""
        self.weights = weights
        at = 0
        for p in self.network.parameters():
            p.data = weights[at : at + p.numel()].view(p.shape)
            at += p.numel()
        return self.network

    def learn(self) -> Tensor:
        """A zero gradient of the same shape, into which backward passes add."""
        gradient = torch.zeros_like(self.weights)
        at = 0
        for p in self.network.parameters():
            p.grad = gradient[at : at + p.numel()].view(p.shape)
            at += p.numel()
        return gradient
