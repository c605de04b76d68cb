"""A shared pool of past training rows, so that what is common now does not wash out what was learnt before.

Letters: C rows of the pool. Rows are copies: they live on when their series is forgotten.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.carry import NEVER

EACH = 3  # rows of an instant in a pool that is full: of one each, long leads learn by heart what comes 32 times (LOG 2026-11-26)
FILLING = 8  # in one that is not


class Replay:
    """A ring of rows; which arrays a row has: a table of name -> (dtype, shape of a row)."""

    def __init__(self, table: dict[str, tuple[Any, tuple[int, ...]]], *, capacity: int) -> None:
        self.capacity = capacity
        self.columns = {name: np.zeros((capacity, *row), kind) for name, (kind, row) in table.items()}
        self.put = 0  # rows ever put in

    def __len__(self) -> int:
        return min(self.put, self.capacity)

    @property
    def wanted(self) -> int:
        """Rows of an instant that it has room for."""
        return FILLING if self.put < self.capacity else EACH

    def add(self, rows: dict[str, np.ndarray]) -> None:
        """Put rows in; the oldest make room."""
        count = len(next(iter(rows.values())))
        at = (self.put + np.arange(count)) % self.capacity
        for name, values in rows.items():
            self.columns[name][at] = values
        self.put += count

    def draw(self, count: int, seed: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Rows at random, by the seed alone; none from an empty pool."""
        here = len(self)
        at = np.random.default_rng(seed).integers(0, here, count) if here else np.zeros(0, np.int64)
        return {name: column[at] for name, column in self.columns.items()}

    def clear(self) -> None:
        self.put = 0

    def state(self) -> dict[str, np.ndarray]:
        return {name: column[: len(self)] for name, column in self.columns.items()}

    def load(self, columns: dict[str, np.ndarray], put: int) -> None:
        for name, column in self.columns.items():
            column[: len(columns[name])] = columns[name]
        self.put = put


class Waiting:
    """Rows whose labels have not all come, in the order they were put in; arrays as in `Replay`, "cell" and "slot" among them.

    What is taken leaves gaps, which are closed when there is no room behind: not all rows move at every instant.
    """

    def __init__(self, table: dict[str, tuple[Any, tuple[int, ...]]]) -> None:
        self._begin({name: np.zeros((0, *row), kind) for name, (kind, row) in table.items()}, room=0)

    def _begin(self, columns: dict[str, np.ndarray], *, room: int) -> None:
        """With these rows, and room for as many and `room` more."""
        self._end = len(columns["cell"])
        size = 2 * self._end + room
        self._rows = {name: np.zeros((size, *column.shape[1:]), column.dtype) for name, column in columns.items()}
        for name, column in columns.items():
            self._rows[name][: self._end] = column
        self._here = np.arange(size) < self._end

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The rows that wait."""
        here = self._here[: self._end]
        return {name: column[: self._end][here] for name, column in self._rows.items()}

    def add(self, rows: dict[str, np.ndarray]) -> None:
        count = len(rows["cell"])
        if self._end + count > len(self._here):
            self._begin(self.columns, room=count)
        new = slice(self._end, self._end + count)
        for name, column in self._rows.items():
            column[new] = rows[name]
        self._here[new] = True
        self._end += count

    def take(self, newest: np.ndarray, horizon: int) -> dict[str, np.ndarray]:
        """Out come the rows whose last label is there, by the newest closed cell of each slot, or will hardly come any more."""
        here, cell, slot = (column[: self._end] for column in (self._here, self._rows["cell"], self._rows["slot"]))
        ripe = newest[slot] >= cell + horizon
        ripe |= cell < cell.max(initial=NEVER, where=here) - 2 * horizon  # its series has fallen silent
        ripe &= here
        out = {name: column[: self._end][ripe] for name, column in self._rows.items()}
        here[ripe] = False
        return out

    def clear(self) -> None:
        self._begin({name: column[:0] for name, column in self._rows.items()}, room=0)

    def load(self, columns: dict[str, np.ndarray]) -> None:
        self._begin({name: columns[name] for name in self._rows}, room=0)


def mixed(key: np.ndarray, salt: int) -> np.ndarray:
    """Well-mixed 64 bits of keys and a salt (the finaliser of SplitMix64): for choices that are the same in every run.

    >>> mixed(np.array([1, 2], np.uint64), 7).tolist() == mixed(np.array([1, 2], np.uint64), 7).tolist()
    True
    """
    x = key + np.uint64(salt * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
