"""What is remembered of each series: a struct of arrays, a slot per series, grown by half at a time.

Letters: C slots, H lead times, Q quantile levels but the median, R cells of a ring, M members, D hidden units,
P = H(H+1)/2 outstanding forecasts.

There are two memories, and they do not look at each other. What arrivals write (the ring of values as they came, the
carries, the forecasts that wait for their actual value) follows each series alone. What learning writes (the ring of closed
values, the anchors, errors) follows the learning instants. Partitions may run ahead of an instant by more in one run than
in another; since learning never reads the first memory, it learns the same.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from models import covariates
from models.inputs import LAGS
from models.mixture import several

NEVER = -(1 << 60)  # the cell of what has not been
HIDDEN = 127  # steps of a kept hidden state between 0 and 1
MANY = 60_000  # counts that only tell young from old stop here, to fit into two bytes


Table = dict[str, tuple[Any, tuple[int, ...], Any]]  # arrays with a row per slot: name -> (dtype, shape of a row, fill)


class Column:
    """An array that grows without being copied: the system moves its pages, and gives those that are written first as zeros.

    Of a burst that brought 10,000 series, copying was half the work.
    """

    def __init__(self, kind: Any, row: tuple[int, ...]) -> None:
        self._row, self._kind = row, np.dtype(kind)
        self._each = math.prod(row)
        self._pages = self._mapped(0)
        self.rows = self._laid(0)

    def grow(self, rows: int) -> None:
        """Room for more rows, which are zeros."""
        before, self.rows = len(self.rows), np.empty(0)
        try:
            self._pages.resize(self._bytes(rows))
        except (BufferError, SystemError):  # somebody looks at the rows, to whom they stay as they are; or this system cannot move pages
            old = self._laid(before)
            self._pages = self._mapped(rows)
            self._laid(before)[...] = old
        self.rows = self._laid(rows)

    def _laid(self, rows: int) -> np.ndarray:
        # `frombuffer`, since pages cannot be moved while an array of its making, or a view of one, is held; another would not prevent it
        return np.frombuffer(self._pages, self._kind, rows * self._each).reshape(rows, *self._row)

    def _bytes(self, rows: int) -> int:
        return max(rows * self._each * int(self._kind.itemsize), mmap.PAGESIZE)

    def _mapped(self, rows: int) -> mmap.mmap:
        return mmap.mmap(-1, self._bytes(rows), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Memory:
    """Arrays with a row per slot, as a table says."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.capacity = 0
        self._columns = {name: Column(kind, row) for name, (kind, row, _) in table.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name].rows

    def grow(self, slots: int) -> None:
        """Room for at least this many; the new rows are empty."""
        if slots <= self.capacity:
            return
        self.capacity = max(slots, self.capacity + self.capacity // 2, 16)
        for name, (_, _, fill) in self._table.items():
            column = self._columns[name]
            before = len(column.rows)
            column.grow(self.capacity)
            if fill != 0:  # nothing is written, or in memory, where zeros are right
                column.rows[before:] = fill

    def clear(self, slots: np.ndarray) -> None:
        for name, (_, _, fill) in self._table.items():
            self[name][slots] = fill

    def bytes_each(self) -> int:
        """Bytes that a slot takes."""
        return sum(int(np.prod(row)) * np.dtype(kind).itemsize for kind, row, _ in self._table.values())

    @property
    def used(self) -> int:
        """Slots up to the last one that somebody holds; behind it all are empty."""
        return int(np.flatnonzero(self["live"])[-1]) + 1 if self["live"].any() else 0

    def state(self) -> dict[str, np.ndarray]:
        used = self.used
        return {name: column.rows[:used] for name, column in self._columns.items()}

    def load(self, columns: dict[str, np.ndarray]) -> None:
        """Take over what `state` gave; raises ValueError where a column does not fit."""
        for name, (kind, row, _) in self._table.items():
            found = columns[name]
            if found.dtype != kind or found.shape[1:] != row:
                raise ValueError(f"{name} is {found.dtype}{found.shape[1:]}, want {np.dtype(kind)}{row}")
            self._columns[name] = column = Column(kind, row)
            column.grow(len(found))
            column.rows[:] = found
        self.capacity = len(found)


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
            "carry_hidden": (np.int8, (LAGS, members, hidden), 0),  # what arrivals go on from, by cell % LAGS: see `kept`
            "carry_cell": (np.float16, (LAGS, members, hidden), 0),
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
            "anchor_hidden": (np.int8, (LAGS, members, hidden), 0),  # where learning starts from, `depth` dilated steps behind: see `kept`
            "anchor_cell": (np.float16, (LAGS, members, hidden), 0),
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


Kind = Literal["carry", "anchor"]  # what arrivals go on from, and where learning starts from
CELL = {"carry": "carried", "anchor": "anchored"}  # the cell after which it was


def kept(m: Mapping[str, np.ndarray] | Memory, kind: Kind, slot: np.ndarray, phase: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Carries (N, 2M, D) float16 of slots (N,) at phases (N,) of LAGS, and the cells (N,) after which they were.

    A byte is enough for hidden states, which are within +-1 in every cell.
    """
    hidden, cell = m[f"{kind}_hidden"][slot, phase], m[f"{kind}_cell"][slot, phase]
    both = np.stack([hidden.astype(np.float32) / HIDDEN, cell], 2).astype(np.float16)  # (N, M, 2, D)
    return both.reshape(len(both), 2 * both.shape[1], both.shape[3]), m[CELL[kind]][slot, phase]


def keep(m: Memory, kind: Kind, slot: np.ndarray, cell: np.ndarray, carry: np.ndarray) -> None:
    """Carries (N, 2M, D) after cells (N,), to be found by `kept` at their phases."""
    phase = cell % LAGS
    m[CELL[kind]][slot, phase] = cell
    m[f"{kind}_hidden"][slot, phase], m[f"{kind}_cell"][slot, phase] = parted(carry)


def parted(carry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Carries (..., 2M, D) as they are kept: hidden states (..., M, D) int8, cells (..., M, D).

    Where something is not finite all of it is 0, as before a first step.
    """
    lost = ~np.isfinite(carry.sum((-2, -1), dtype=np.float32))
    if lost.any():
        carry = np.where(lost[..., None, None], 0, carry)
    return np.rint(carry[..., 0::2, :].astype(np.float32) * HIDDEN).astype(np.int8), carry[..., 1::2, :]


def put(ring: np.ndarray, newest: np.ndarray, slot: np.ndarray, cell: np.ndarray, value: np.ndarray) -> None:
    """Write newer cells (each slot once) into a ring and empty the cells that were passed over. `newest` is not moved."""
    skip(ring, newest, slot, cell, empty=np.nan)
    ring[slot, cell % ring.shape[1]] = value


def skip(ring: np.ndarray, newest: np.ndarray, slot: np.ndarray, cell: np.ndarray, *, empty: float) -> None:
    """Empty the cells of a ring between the newest and newer ones (each slot once)."""
    length = ring.shape[1]
    first = newest[slot] + 1
    passed = np.minimum(cell - first, length)
    over = np.flatnonzero(passed)
    if over.size:
        behind = (np.arange(length) - first[over, None]) % length
        rows = ring[slot[over]]
        rows[behind < passed[over, None]] = empty
        ring[slot[over]] = rows


def amend(ring: np.ndarray, newest: np.ndarray, slot: np.ndarray, cell: np.ndarray, value: np.ndarray) -> None:
    """Write cells at or before the newest, where the ring still reaches back to them."""
    there = cell > newest[slot] - ring.shape[1]
    ring[slot[there], cell[there] % ring.shape[1]] = value[there]
