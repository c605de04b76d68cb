"""The naive forecasts: how wrong they have been, and how widely their errors spread.

Letters: N rows, H lead times, Q quantile levels. Order of the naive: last value, seasonal naive, seasonal drift (the last
value carried along the course of the last season).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from models.inputs import Shape, read

RATE = 0.02  # of the quantiles of errors: 50 batches to forget
PRIOR = 4.0  # scores that all series together are worth to one that has none


def errors(ring: np.ndarray, slot: np.ndarray, cell: np.ndarray, form: Shape) -> np.ndarray:
    """(N, 3, H) what the naive forecasts with targets at (N,) cells were off by; NaN where there was none."""
    at = cell[:, None]
    actual = read(ring, slot, at)
    origin = read(ring, slot, at - form.leads)
    out = np.full((len(slot), 3, form.horizon), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        out[:, 0] = actual - origin
        if form.season is not None:
            same = read(ring, slot, at - form.whole)
            out[:, 1] = actual - np.where(np.isnan(origin), np.nan, same)
            out[:, 2] = actual - (origin + same - read(ring, slot, at - form.leads - form.whole))
    return out


def prior(horizon: int) -> np.ndarray:
    """(3, H) naive errors to begin with: a random walk's, where a season says nothing more than any past value."""
    growth = np.sqrt(np.arange(1, horizon + 1))
    return np.stack([growth, np.full(horizon, 1.5 * growth[-1]), 1.5 * growth]).astype(np.float32)


def pooled(own: np.ndarray, count: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, 3, H) a series' own naive errors, with those of all series worth `PRIOR` scores."""
    return np.asarray((own * count + others * PRIOR) / (count + PRIOR))


def spread(levels: Sequence[float], horizon: int) -> np.ndarray:
    """(2, Q, H) quantiles of errors in units of the mean absolute one, to begin with: a normal's. Last value, seasonal naive."""
    marks = [1.2533 * NormalDist().inv_cdf(level) for level in levels]
    return np.tile(np.array(marks)[None, :, None], (2, 1, horizon))


def track(quantiles: np.ndarray, residual: np.ndarray, levels: np.ndarray, slower: np.ndarray | float = 1.0) -> None:
    """Move (E, Q, H) quantiles towards those of residuals (N, E, H), in place (Robbins & Monro 1951); NaN: no residual.

    `slower` (H,): part of the rate.
    """
    known = ~np.isnan(residual)
    count = known.sum(0)
    under = ((residual[:, :, None] <= quantiles) & known[:, :, None]).sum(0)
    share = under / np.maximum(count, 1)[:, None]
    quantiles += RATE * slower * np.where(count[:, None] > 0, levels[:, None] - share, 0) * 3
    quantiles.sort(1)
