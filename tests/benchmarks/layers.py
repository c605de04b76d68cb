"""Do two layers earn their place? A stack under the cells' own contract, in the LSTM's stead, judged as `prequential.py` judges.

    python -m tests.benchmarks.layers stack taxi --steps 2500 --set hidden=128

"stack": two LSTMs of half the width, the second over what the first says, the network hearing both (Graves 2013), so that the
carry is as wide as one layer's; "deep": the network hears the second alone. "lstm": one layer, to compare with.
"""

import sys

import torch
from torch import nn

from models.cells import CELLS, LSTM, Carry
from tests.benchmarks.prequential import main

LAYERS = 2


class Stack(nn.Module):
    """Layers side by side in the carry: (B, L * D)."""

    hears = LAYERS  # of the layers, the last so many

    def __init__(self, *, features, hidden, generator):
        super().__init__()
        own = hidden // LAYERS
        sizes = [features, *[own] * (LAYERS - 1)]
        self.layers = nn.ModuleList(LSTM(features=size, hidden=own, generator=generator) for size in sizes)

    def forward(self, x, lengths, carry):
        said, after = [], []
        for layer, *before in zip(self.layers, *(part.chunk(LAYERS, 1) for part in carry), strict=True):
            x, carried = layer(x, lengths, Carry(*before))
            said.append(x)
            after.append(carried)
        for layer in range(LAYERS - self.hears):
            said[layer] = torch.zeros_like(said[layer])  # the head is as wide as the carry: what it must not hear is zero
        return torch.cat(said, -1), Carry(*(torch.cat(part, 1) for part in zip(*after, strict=True)))


class Deep(Stack):
    hears = 1


if __name__ == "__main__":
    kind = sys.argv.pop(1)
    if kind != "lstm":
        CELLS["lstm"] = {"stack": Stack, "deep": Deep}[kind]
    sys.argv += ["--set", "model=lstm"]
    main()
