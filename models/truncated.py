"""Truncated back-propagation through time (Williams & Peng 1990): gradients over long sequences at a bounded cost.

Letters: B sequences, T steps, F features, D hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from models.cells import Carry

Recurrent = Callable[[Tensor, Tensor | None, Carry], tuple[Tensor, Carry]]  # a cell, or a network around one


class Stretch(NamedTuple):
    """The newest steps [`begin`, `end`) of sequences, ready for a loss."""

    begin: int
    end: int
    output: Tensor  # (B, end - begin, D)
    carry: Carry  # after step `end`, without a gradient: what to go on from when the sequence does


def truncated(cell: Recurrent, x: Tensor, carry: Carry, *, k1: int, k2: int) -> Iterator[Stretch]:
    """Inputs (B, T, F), all T long, as stretches of `k1` steps, the first perhaps shorter; gradients flow back over `k2` steps.

    BPTT(h; h') of Williams & Peng (1990) with h = k2, h' = k1: the errors of a stretch's steps reach the weights through
    its own steps and those before it, at most `k2` in all. Whoever takes a stretch may call backward on a loss of it, and may step
    the weights, before asking for the next.

    `carry` is where the gradient ends at the latest; with `k2` >= T and the same weights throughout, the stretches' gradients add
    up to those of the whole sequence. The steps before a stretch are run again, with the weights as they then are.
    """
    if not 0 < k1 <= k2:
        raise ValueError(f"k1 is {k1} and k2 is {k2}, want 0 < k1 <= k2: a step that no gradient flows through teaches nothing")
    carry, steps = rest(carry), x.shape[1]
    for end in range((steps - 1) % k1 + 1, steps + 1, k1):
        start, turn = max(0, end - k2), max(0, end - k2 + k1)  # turn: where the next run starts, and this one pauses for its carry
        outputs, after, following = [], carry, carry
        for one, other in ((start, turn), (turn, end)):
            if one < other:
                output, after = cell(x[:, one:other], None, after)
                outputs.append(output)
            if other == turn:
                following = rest(after)
        begin = max(0, end - k1)
        yield Stretch(begin, end, torch.cat(outputs, 1)[:, begin - end :], rest(after))
        carry = following


def rest(carry: Carry) -> Carry:
    """The same numbers, through which no gradient flows back."""
    return Carry(carry.hidden.detach(), carry.cell.detach())
