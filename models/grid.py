"""Times as cells of a grid, and long tables as matrices of it.

A *cell* is a step's number: of fixed steps since 1970-01-01 (UTC), of business days or of calendar months since then. Consecutive
steps are consecutive cells, so that a weekend is no gap and a February no shorter than a March.

Letters: M rows of a long table, T cells from the first to the last, N series, K covariates. Times are in microseconds since the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SECOND = 1_000_000
DAY = 86_400 * SECOND
UNITS = {"us": 1, "ms": 1_000, "s": SECOND, "min": 60 * SECOND, "h": 3_600 * SECOND, "d": DAY, "w": 7 * DAY}
MONDAY = 3  # days from Monday 1969-12-29 to the epoch, a Thursday
LARGEST = 1 << 28  # values of a matrix (2 GiB): a wrong step makes more


class Grid(NamedTuple):
    """How times become cells: `every` microseconds, business days (`b`) or months (`mo`) a step."""

    every: int
    unit: str  # us, b or mo

    @property
    def step_us(self) -> int:
        """Microseconds a step: exact for fixed steps, nominal for business days (a day) and months (30 days)."""
        return self.every * {"us": 1, "b": DAY, "mo": 30 * DAY}[self.unit]

    def cells(self, us: np.ndarray) -> np.ndarray:
        """(M,) cells of (M,) times. A Saturday or Sunday belongs to its Friday.

        >>> grid("1mo").cells(np.array([0, 31 * DAY])).tolist(), grid("1b").cells(np.array([1, 2, 3, 4]) * DAY).tolist()
        ([0, 1], [4, 4, 4, 5])
        """
        if self.unit == "us":
            return np.asarray(us // self.every)
        if self.unit == "mo":
            return np.asarray(us.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64) // self.every)
        days = us // DAY + MONDAY
        return np.asarray((days // 7 * 5 + np.minimum(days % 7, 4)) // self.every)

    def times(self, cells: np.ndarray) -> np.ndarray:
        """The inverse: when (M,) cells begin.

        >>> (grid("1b").times(np.array([4, 5])) // DAY).tolist(), (grid("1mo").times(np.array([2])) // DAY).tolist()
        ([1, 4], [59])
        """
        at = cells * self.every
        if self.unit == "us":
            return np.asarray(at)
        if self.unit == "mo":
            return np.asarray(at.astype("datetime64[M]").astype("datetime64[us]").astype(np.int64))
        return np.asarray((at // 5 * 7 + at % 5 - MONDAY) * DAY)


def grid(step: str) -> Grid:
    """The grid of a step like 15min, 1h, 1d, 1b (business days) or 1mo (calendar months); ValueError for anything else.

    >>> grid("15min").step_us, grid("1mo")
    (900000000, Grid(every=1, unit='mo'))
    """
    found = re.fullmatch(r"([0-9]{1,12}) ?([a-z]+)", step.strip())
    if not found or found[2] not in {*UNITS, "b", "mo"} or int(found[1]) == 0:
        raise ValueError(f"step is {step!r}; allowed: a number and one of {', '.join(UNITS)}, b (business days), mo (months), like 1h")
    count, unit = int(found[1]), found[2]
    return Grid(count * UNITS[unit], "us") if unit in UNITS else Grid(count, unit)


class Matrix(NamedTuple):
    """Series side by side on a grid."""

    first: int  # cell of the first row
    values: np.ndarray  # (T, N) float64, NaN: not observed
    names: tuple[str, ...]  # (N,)
    columns: int = 0  # of wide records, whose series stand side by side, record by record; 0: each series by itself
    known: np.ndarray = np.zeros((0, 0, 0))  # (T, N, K) covariates; NaN: nothing is known


class Repeat(NamedTuple):
    """Rows of a long table that another one overrules."""

    total: int
    where: tuple[int, ...]  # row of the first few


def matrix(cells: np.ndarray, columns: np.ndarray, values: np.ndarray, names: Sequence[str]) -> tuple[Matrix, Repeat]:
    """A long table, (M,) each, as a matrix; of two rows for one cell the last counts. ValueError if there is nothing, or far too much.

    >>> m, repeat = matrix(np.array([5, 7, 5]), np.array([0, 0, 0]), np.array([1.0, 2.0, 3.0]), ["a"])
    >>> m.first, m.values.ravel().tolist(), repeat
    (5, [3.0, nan, 2.0], Repeat(total=1, where=(0,)))
    """
    if not len(cells):
        raise ValueError("no row with a time")
    first, last = int(cells.min()), int(cells.max())
    height, width = last - first + 1, len(names)
    if height * width > LARGEST:
        raise ValueError(f"{height:,} steps from the first to the last time for {width:,} series: more than fit; is the step right?")
    out = np.full((height, width), np.nan)
    out[cells - first, columns] = values
    place = (cells - first) * width + columns
    _, last_of = np.unique(place[::-1], return_index=True)
    overruled = np.ones(len(cells), bool)
    overruled[len(cells) - 1 - last_of] = False
    rows = np.flatnonzero(overruled)
    return Matrix(first, out, tuple(names)), Repeat(len(rows), tuple(rows[:5].tolist()))


def beside(found: Matrix, cells: np.ndarray, columns: np.ndarray, known: Sequence[np.ndarray]) -> Matrix:
    """The matrix with covariates (M,) each, from the rows of its own long table; of two for one cell the last counts that is known.

    >>> m, _ = matrix(np.array([5, 6, 6]), np.array([0, 0, 0]), np.array([1.0, 2.0, 3.0]), ["a"])
    >>> beside(m, np.array([5, 6, 6]), np.array([0, 0, 0]), [np.array([7.0, 8.0, np.nan])]).known.ravel().tolist()
    [7.0, 8.0]
    """
    if not known:
        return found
    out = np.full((*found.values.shape, len(known)), np.nan)
    for k, values in enumerate(known):
        there = ~np.isnan(values)
        out[cells[there] - found.first, columns[there], k] = values[there]
    return found._replace(known=out)
