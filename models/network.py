"""Embedding of inputs, cell, heads: one dilated recurrent step per observation, all lead times at once.

Letters: B rows, T steps, F input features, D hidden units, H lead times, Q quantile levels, P naive paths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from models.cells import CELLS, Carry, uniform
from models.heads import Quantiles, Said

PATHS = 3  # see models.inputs: the last season, the one before it, the season's own offset


class Network(nn.Module):
    """Weights shared by all series. What it says is a correction to a blend of naive forecasts, so that it starts where they are."""

    def __init__(self, *, features: int, hidden: int, horizon: int, levels: Sequence[float], seed: int, cell: str = "lstm") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.horizon = horizon
        self.quantiles = Quantiles(levels)
        self.embed = uniform(hidden, features, generator, bound=features**-0.5)
        self.embed_bias = nn.Parameter(torch.zeros(hidden))
        self.cell = CELLS[cell](features=hidden, hidden=hidden, generator=generator)
        parts = 1 + PATHS + self.quantiles.outputs
        # Zero at the start: the first forecasts are the naive blend with a normal's quantiles.
        self.head = nn.Parameter(torch.zeros(parts * horizon, hidden + features))
        bias = torch.zeros(parts, horizon)
        bias[1 + PATHS :] = self.quantiles.start()[:, None]
        self.head_bias = nn.Parameter(bias.reshape(-1))

    def forward(self, x: Tensor, lengths: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """Inputs (B, T, F) -> what the cell says (B, T, D), and the carry after each sequence's end."""
        output, after = self.cell(torch.relu(linear(x, self.embed, self.embed_bias)), lengths, carry)
        return output, after

    def say(self, output: Tensor, x: Tensor, blend: Tensor, paths: Tensor) -> Said:
        """Cell output (B, D), inputs (B, F), the naive blend (B, H) and the naive paths (B, P, H) -> forecasts."""
        raw = linear(torch.cat([output, x], 1), self.head, self.head_bias).view(len(x), -1, self.horizon)
        point = blend + raw[:, 0] + (raw[:, 1 : 1 + PATHS] * paths).sum(1)
        # The point is trained by its own loss; the quantiles stand around it and do not pull at it.
        median, quantiles = self.quantiles.assemble(raw[:, 1 + PATHS :], point.detach())
        return Said(point, median, quantiles)


class Flat:
    """A network's parameters as one vector: copied, checked, hashed and stepped in one go."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.weights = torch.cat([p.detach().reshape(-1) for p in network.parameters()])
        self.read(self.weights)

    def read(self, weights: Tensor) -> Network:
        """The network, its parameters views of `weights`."""
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
