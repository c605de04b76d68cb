"""A shared pool of past training rows, so that what is common now does not wash out what was learnt before.

Letters: C rows of the pool. Rows are copies: they live on when their series is forgotten.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FILLING = 8  # rows that an instant puts into a pool that is not full; then one, so that it remembers as many instants as it has rows


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
        return FILLING if self.put < self.capacity else 1

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
    """Rows whose labels have not all come, in the order they were put in; arrays as in `Replay`, "cell" and "slot" among them."""

    def __init__(self, table: dict[str, tuple[Any, tuple[int, ...]]]) -> None:
        self.columns = {name: np.zeros((0, *row), kind) for name, (kind, row) in table.items()}

    def add(self, rows: dict[str, np.ndarray]) -> None:
        self.columns = {name: np.concatenate([column, rows[name]]).astype(column.dtype) for name, column in self.columns.items()}

    def take(self, newest: np.ndarray, horizon: int) -> dict[str, np.ndarray]:
        """Out come the rows whose last label is there, by the newest closed cell of each slot, or will hardly come any more."""
        cell = self.columns["cell"]
        ripe = newest[self.columns["slot"]] >= cell + horizon
        if len(cell):
            ripe |= cell < cell.max() - 2 * horizon  # its series has fallen silent
        out = {name: column[ripe] for name, column in self.columns.items()}
        self.columns = {name: column[~ripe] for name, column in self.columns.items()}
        return out

    def clear(self) -> None:
        self.columns = {name: column[:0] for name, column in self.columns.items()}

    def load(self, columns: dict[str, np.ndarray]) -> None:
        self.columns = {name: columns[name].copy() for name in self.columns}


def mixed(key: np.ndarray, salt: int) -> np.ndarray:
    """Well-mixed 64 bits of keys and a salt (the finaliser of SplitMix64): for choices that are the same in every run.

    >>> mixed(np.array([1, 2], np.uint64), 7).tolist() == mixed(np.array([1, 2], np.uint64), 7).tolist()
    True
    """
    x = key + np.uint64(salt * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
