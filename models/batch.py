"""Sequences of differing length, side by side: ragged <-> padded, and batches whose size does not show.

Letters: B sequences, T steps of the longest, M steps of all sequences together, F numbers a step.
A ragged batch is its steps one after the other, (M, F), and the lengths (B,); a padded one is (B, T, F), zeros behind each end.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# A matrix product's last bits depend on how many rows it has below this (1-3 rows differ from 4 and more); above, and in
# multiples of it, a row comes out the same whoever stands beside it.
ROWS = 16
# Padding is cheaper than more and smaller products until about this much of the work is on zeros.
WASTE = 0.25
BUCKETS = 4


def pad(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(M, F) and lengths (B,) as (B, T, F).

    >>> pad(np.array([[1.0], [2.0], [3.0]]), np.array([2, 0, 1]))[:, :, 0].tolist()
    [[1.0, 2.0], [0.0, 0.0], [3.0, 0.0]]
    """
    out = np.zeros((len(lengths), int(lengths.max(initial=0)), flat.shape[1]), flat.dtype)
    out[inside(lengths)] = flat
    return out


def unpad(padded: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The inverse of `pad`: (B, T, F) as (M, F)."""
    return np.asarray(padded[inside(lengths)])


def inside(lengths: np.ndarray) -> np.ndarray:
    """(B, T) bool: the steps that are a sequence's own."""
    return np.asarray(np.arange(int(lengths.max(initial=0))) < lengths[:, None])


def buckets(lengths: np.ndarray) -> list[np.ndarray]:
    """Rows to be padded together, shortest first; one bucket unless it would be `WASTE` zeros. Empty sequences are in none.

    >>> [b.tolist() for b in buckets(np.array([4, 1, 4, 1, 0]))], [b.tolist() for b in buckets(np.array([4, 3, 4]))]
    ([[1, 3], [0, 2]], [[0, 1, 2]])
    """
    rows = np.flatnonzero(lengths)
    if not rows.size:
        return []
    longest = int(lengths.max())
    if 1 - lengths[rows].mean() / longest <= WASTE:
        return [rows]
    ends = np.unique(np.ceil(longest * np.arange(1, BUCKETS + 1) / BUCKETS).astype(np.int64))
    which = np.searchsorted(ends, lengths[rows])
    return [rows[which == k] for k in range(len(ends)) if (which == k).any()]


def rows(x: np.ndarray, device: torch.device) -> Tensor:
    """(N, ...) as a float32 tensor of a multiple of `ROWS` rows, zeros behind."""
    out = np.zeros((-(-len(x) // ROWS) * ROWS, *x.shape[1:]), np.float32)
    out[: len(x)] = x
    return torch.from_numpy(out).to(device)
