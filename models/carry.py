"""What is remembered of each series: a struct of arrays, a slot per series, grown by half at a time.

Letters: C slots, H lead times, Q quantile levels but the median, R cells of a ring, M members, D hidden units,
P = H(H+1)/2 outstanding forecasts.

There are two memories, and they do not look at each other. What arrivals write (the ring of values as they came, the
carries, the forecasts that wait for their actual value) follows each series alone. What learning writes (the ring of closed
values, the anchors, errors) follows the learning instants. Partitions may run ahead of an instant by more in one run than
in another; since learning never reads the first memory, it learns the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models import covariates
from models.inputs import LAGS
from models.mixture import several

NEVER = -(1 << 60)  # the cell of what has not been
MANY = 60_000  # counts that only tell young from old stop here, to fit into two bytes


Table = dict[str, tuple[Any, tuple[int, ...], Any]]  # arrays with a row per slot: name -> (dtype, shape of a row, fill)


class Memory:
    """Arrays with a row per slot, as a table says."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.capacity = 0
        self._columns: dict[str, np.ndarray] = {name: np.zeros((0, *row), kind) for name, (kind, row, _) in table.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name]

    def grow(self, slots: int) -> None:
        """Room for at least this many; the new rows are empty."""
        if slots <= self.capacity:
            return
        self.capacity = max(slots, self.capacity + self.capacity // 2, 16)
        for name, (kind, row, fill) in self._table.items():
            before = self._columns[name]
            wider = np.zeros((self.capacity, *row), kind)  # nothing is written, or in memory, where zeros are right
            wider[: len(before)] = before
            if fill != 0:
                wider[len(before) :] = fill
            self._columns[name] = wider

    def clear(self, slots: np.ndarray) -> None:
        for name, (_, _, fill) in self._table.items():
            self._columns[name][slots] = fill

    def bytes_each(self) -> int:
        """Bytes that a slot takes."""
        return sum(int(np.prod(row)) * np.dtype(kind).itemsize for kind, row, _ in self._table.values())

    @property
    def used(self) -> int:
        """Slots up to the last one that somebody holds; behind it all are empty."""
        return int(np.flatnonzero(self["live"])[-1]) + 1 if self["live"].any() else 0

    def state(self) -> dict[str, np.ndarray]:
        used = self.used
        return {name: column[:used] for name, column in self._columns.items()}

    def load(self, columns: dict[str, np.ndarray]) -> None:
        """Take over what `state` gave; raises ValueError where a column does not fit."""
        for name, (kind, row, _) in self._table.items():
            found = columns[name]
            if found.dtype != kind or found.shape[1:] != row:
                raise ValueError(f"{name} is {found.dtype}{found.shape[1:]}, want {np.dtype(kind)}{row}")
            self._columns[name] = found.copy()
        self.capacity = len(next(iter(self._columns.values())))


def memory(
    *,
    horizon: int,
    tails: int,
    bands: int,
    members: int,
    parts: int,
    lean: tuple[int, int],
    columns: int,
    hidden: int,
    ring: int,
    closed: int,
    known: covariates.Plan = covariates.NONE,
    outlooks: int = 0,
    more: Table | None = None,
) -> Memory:
    """All that is kept of a series, but for what is kept per generation (see `models.scale`)."""
    pairs = horizon * (horizon + 1) // 2
    return Memory(
        {
            "key": (np.uint64, (), 0),
            "live": (np.bool_, (), False),
            "column": (np.int16, (), -1),  # of a wide record that this series is; -1: of none
            "record": (np.uint64, (), 0),
            "related": (np.int64, (columns,), -1),  # slots of the record's columns
            # written by arrivals
            "seen": (np.int64, (), 0),  # observations so far
            "newest": (np.int64, (), NEVER),
            "level": (np.float64, (), np.nan),
            "ring": (np.float64, (ring,), np.nan),
            "carry": (np.float16, (LAGS, 2 * members, hidden), 0),  # by cell % LAGS
            "carried": (np.int64, (LAGS,), NEVER),  # the cell after which that carry was
            "issued": (np.bool_, (horizon,), False),  # forecasts to be scored were, at the newest cells, by cell % H
            "origin_level": (np.float64, (horizon,), 0),
            "origin_scale": (np.float64, (horizon,), 1),
            "said": (np.float32, (pairs,), 0),  # the model's point less the level, in units of the scale
            "parts": (np.float16, (pairs, parts), 0),  # those of the experts that it is made of, likewise
            "spread": (np.float16, (pairs, tails), 0),  # the served quantiles less the served point, likewise; not the median
            "served": (np.int8, (pairs,), 0),
            # written by learning
            "closed_newest": (np.int64, (), NEVER),
            "closed": (np.float64, (closed,), np.nan),
            "anchor": (np.float16, (LAGS, 2 * members, hidden), 0),  # where learning starts from, `depth` dilated steps behind
            "anchored": (np.int64, (LAGS,), NEVER),
            "changes": (np.int64, (), 0),  # one-step changes that the scale has seen
            "naive": (np.float32, (3, horizon), 0),  # mean absolute errors of the naive forecasts, in units of the scale
            "naive_count": (np.uint16, (3, horizon), 0),
            "long": (np.float64, (several(horizon),), 0),  # the least of them for long, in the series' own units, by group of leads
            "evidence": (np.float32, (6, horizon), 0),  # errors of model, seasonal naive, last value, in naive ones for long; and squared
            "evidence_count": (np.uint16, (horizon,), 0),
            "loss": (
                np.float32,
                lean[::-1],
                0,
            ),  # mean squared errors of the mixture's voices, by group of leads, in squares of naive errors
            "losses": (np.uint16, lean[:1], 0),
            # for people only
            "error": (np.float64, (2, horizon), 0),  # sums of absolute errors, served and baseline
            "scores": (np.int32, (horizon,), 0),
            "held": (np.int64, (bands,), 0),  # how often the central bands held what they were to hold, all leads together
            "by": (np.int32, (2, horizon), 0),  # how often the network, and the seasonal naive, served what was scored
            **covariates.columns(known, outlooks),
            **(more or {}),
        }
    )


def put(ring: np.ndarray, newest: np.ndarray, slot: np.ndarray, cell: np.ndarray, value: np.ndarray) -> None:
    """Write newer cells (each slot once) into a ring and empty the cells that were passed over. `newest` is not moved."""
    skip(ring, newest, slot, cell, empty=np.nan)
    ring[slot, cell % ring.shape[1]] = value


def skip(ring: np.ndarray, newest: np.ndarray, slot: np.ndarray, cell: np.ndarray, *, empty: float) -> None:
    """Empty the cells of a ring between the newest and newer ones (each slot once)."""
    length = ring.shape[1]
    first = newest[slot] + 1
    passed = np.minimum(cell - first, length)
    if passed.any():
        behind = (np.arange(length) - first[:, None]) % length
        rows = ring[slot]
        rows[behind < passed[:, None]] = empty
        ring[slot] = rows


def amend(ring: np.ndarray, newest: np.ndarray, slot: np.ndarray, cell: np.ndarray, value: np.ndarray) -> None:
    """Write cells at or before the newest, where the ring still reaches back to them."""
    there = cell > newest[slot] - ring.shape[1]
    ring[slot[there], cell[there] % ring.shape[1]] = value[there]
