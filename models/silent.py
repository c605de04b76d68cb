"""What is said of a series at a step that brought no sample of it: what was forecast when it last spoke, of the same times.

Beyond what that forecast reached it goes on with the season: the value of the same phase, a season or more before, or that of the longest
lead where a season is longer than the horizon; with the band of the longest lead. Only what has been said is said again: nothing is
changed by it, neither what is learnt nor any other forecast. (Networks that are shown a step without its value were worse at every
lead, and their bands held 68 % instead of 90: LOG 2026-11-26.)

Letters: N series, H lead times, Q quantile levels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.carry import NEVER, Memory, Table


def columns(horizon: int, levels: int) -> Table:
    """Arrays of a memory: the newest forecast of each series."""
    return {
        "said_at": (np.int64, (), NEVER),  # the cell that it was issued at
        "said_point": (np.float64, (horizon,), 0),
        "said_quantiles": (np.float64, (levels, horizon), 0),
        "said_by": (np.int8, (horizon,), 0),
        "said_reason": (np.int8, (horizon,), 0),
        "said_updates": (np.int64, (), 0),
    }


class Said(NamedTuple):
    """A forecast of each series."""

    point: np.ndarray  # (N, H)
    quantiles: np.ndarray  # (N, Q, H)
    by: np.ndarray  # (N, H)
    reason: np.ndarray  # (N, H)
    updates: np.ndarray  # (N,)


def keep(m: Memory, slot: np.ndarray, cell: np.ndarray, said: Said) -> None:
    """These series (N,) have been forecast at these cells."""
    m["said_at"][slot] = cell
    for name, column in said._asdict().items():
        m[f"said_{name}"][slot] = column


def again(m: Memory, slot: np.ndarray, cell: np.ndarray, season: int | None) -> Said:
    """What is to be said of series (N,) at cells (N,) behind those that they were last forecast at."""
    point, quantiles = m["said_point"][slot], m["said_quantiles"][slot]
    lead, band = stands_for(cell - m["said_at"][slot], point.shape[1], season)
    middle = np.take_along_axis(point, lead - 1, 1)
    around = np.take_along_axis(quantiles - point[:, None], band[:, None] - 1, 2)
    by, reason = (np.take_along_axis(m[name][slot], lead - 1, 1) for name in ("said_by", "said_reason"))
    return Said(middle, middle[:, None] + around, by, reason, m["said_updates"][slot])


def stands_for(since: np.ndarray, horizon: int, season: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(N, H) which lead of a forecast issued `since` (N,) steps ago stands for each lead of now, and which one's band.

    >>> [a.tolist() for a in stands_for(np.array([1, 3]), 4, 2)]
    [[[2, 3, 4, 3], [4, 3, 4, 3]], [[2, 3, 4, 4], [4, 4, 4, 4]]]
    """
    lead = since[:, None] + np.arange(1, horizon + 1)
    band = np.minimum(lead, horizon)
    beyond = np.maximum(lead - horizon, 0)
    back = beyond if season is None or season > horizon else -(-beyond // season) * season
    return lead - back, band
