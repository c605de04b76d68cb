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


def pad(flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sequences (B,) of (M, F) that start at `starts` as (B, T, F).

    >>> pad(np.array([[1.0], [2.0], [3.0]]), np.array([0, 2, 2]), np.array([2, 0, 1]))[:, :, 0].tolist()
    [[1.0, 2.0], [0.0, 0.0], [3.0, 0.0]]
    """
    step = np.arange(int(lengths.max(initial=0)))
    own = step < lengths[:, None]
    out = np.zeros((*own.shape, flat.shape[1]), flat.dtype)
    out[own] = flat[(starts[:, None] + step)[own]]
    return out


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


def padding(lengths: np.ndarray) -> float:
    """The part of the padded batches of these sequences that is padding.

    >>> round(padding(np.array([4, 3, 4])), 4), padding(np.array([4, 1, 4, 1]))
    (0.0833, 0.0)
    """
    whole = sum(len(bucket) * int(lengths[bucket].max()) for bucket in buckets(lengths))
    return float(1 - lengths.sum() / whole) if whole else 0.0


def rows(x: np.ndarray, device: torch.device) -> Tensor:
    """(N, ...) as a float32 tensor of a multiple of `ROWS` rows, zeros behind."""
    out = np.zeros((-(-len(x) // ROWS) * ROWS, *x.shape[1:]), np.float32)
    out[: len(x)] = x
    return torch.from_numpy(out).to(device)
