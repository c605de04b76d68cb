"""How good forecasts were: sums by series and lead, over time, and a few traces to look at. Memory does not grow with the rows.

Letters: N series, n of them that forecast at a row, H lead times, Q quantile levels, K experts, A of them that may serve, T rows,
B bins of time, L leads that are shown, P rows of a trace. Everything is in the series' own unit; `Result` divides.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

import numpy as np

from models.inputs import Shape
from models.learner import Step

BINS = 200  # of time: what a screen shows
TRACED = 2_000  # rows of a trace that are spread over all of the time
RECENT = 500  # and the newest ones, without a gap between them
ROOM = 6_000_000  # numbers in all traces together (24 MB): with thousands of series each has fewer
NAIVE = ("last_value", "seasonal_naive")


class Errors:
    """Absolute and squared errors, and how many, (N, H) each."""

    def __init__(self, series: int, horizon: int) -> None:
        self.absolute, self.square = np.zeros((2, series, horizon))
        self.count = np.zeros((series, horizon), np.int64)

    def add(self, at: np.ndarray, off: np.ndarray) -> None:
        """Errors (n, H) of the series `at` (n,); NaN: none."""
        known = ~np.isnan(off)
        with np.errstate(over="ignore"):
            self.absolute[at] += np.where(known, np.abs(off), 0)
            self.square[at] += np.where(known, off * off, 0)
        self.count[at] += known


def change(values: np.ndarray) -> np.ndarray:
    """(N,) mean absolute change from step to step of each series (T, N), over gaps per root of their length; NaN: less than two values."""
    out = np.full(values.shape[1], np.nan)
    for k, column in enumerate(values.T):
        at = np.flatnonzero(~np.isnan(column))
        if len(at) > 1:
            out[k] = np.mean(np.abs(np.diff(column[at])) / np.sqrt(np.diff(at)))
    return out


class Naive(NamedTuple):
    """The two naive forecasts of a row's series."""

    last: np.ndarray  # (n, 1)
    seasonal: np.ndarray  # (n, H); where the season before was not observed, the last value


def naive(values: np.ndarray, row: int, at: np.ndarray, form: Shape) -> Naive:
    """What last value and seasonal naive say at a row (of T) for series `at` (n,), which are observed there."""
    last = values[row, at][:, None]
    if form.season is None:
        return Naive(last, np.broadcast_to(last, (len(at), form.horizon)))
    rows = row - form.back
    same = np.where(rows >= 0, values[np.maximum(rows, 0)][:, at].T, np.nan)
    return Naive(last, np.where(np.isnan(same), last, same))


class Trace:
    """Forecasts with their 90 % band at a few leads and rows, by the row of their target."""

    def __init__(self, rows: np.ndarray, leads: np.ndarray, series: int) -> None:
        self.rows, self.leads = rows, leads  # (P,), (L,)
        self.said = np.full((len(rows), len(leads), series, 3), np.nan, np.float32)  # point, low, high

    def add(self, row: int, at: np.ndarray, point: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Forecasts (n, H) of series `at` that were issued at a row."""
        for k, lead in enumerate(self.leads.tolist()):
            found = int(np.searchsorted(self.rows, row + lead))
            if found < len(self.rows) and self.rows[found] == row + lead:
                with np.errstate(over="ignore"):
                    self.said[found, k, at] = np.stack([x[:, lead - 1] for x in (point, low, high)], 1)


def thinned(start: int, end: int, series: int, leads: int, season: int | None) -> np.ndarray:
    """(P,) rows of a trace over [start, end): some of all, in steps that meet every phase of the season, and the newest.

    >>> len(thinned(0, 100, 1, 3, 24)), np.diff(thinned(0, 40_000, 1, 3, 24))[[0, -1]].tolist()
    (100, [23, 1])
    """
    room = max(50, ROOM // max(1, series * leads * 3))
    most, recent = min(TRACED, room), min(RECENT, room // 4)
    if end - start <= most + recent:
        return np.arange(start, end)
    stride = -(-(end - start) // most)
    while gcd(stride, season or 1) > 1:
        stride += 1
    return np.unique(np.concatenate([np.arange(start, end, stride), np.arange(end - recent, end)]))


class Tally:
    """Everything that is counted of a backtest. `origins`: the rows whose forecasts count."""

    def __init__(self, values: np.ndarray, origins: range, form: Shape, levels: tuple[float, ...], experts: tuple[str, ...]) -> None:
        count, horizon = values.shape[1], form.horizon
        self.values, self.origins, self.form, self.experts = values, origins, form, experts
        self.levels = np.array(levels)
        self.change = change(values)
        self.leads = np.unique([1, max(1, horizon // 2), horizon])
        self.ours = Errors(count, horizon)
        self.naive = {name: Errors(count, horizon) for name in NAIVE}
        self.pinball = np.zeros((len(levels), count, horizon))
        self.band = (levels.index(0.05), levels.index(0.95)) if {0.05, 0.95} <= set(levels) else None
        self.covered, self.width = np.zeros((count, horizon), np.int64), np.zeros((count, horizon))
        self.served = np.zeros((len(experts), count, horizon), np.int64)
        self.parts: dict[str, Errors] = {}
        self.bins = min(BINS, max(1, len(origins)))
        # (4, B, L): forecasts, and errors in units of the series' change: ours, last value, seasonal naive
        self.over_time = np.zeros((4, self.bins, len(self.leads)))
        self.covered_over_time = np.zeros((self.bins, len(self.leads)), np.int64)
        self.counted_over_time = np.zeros((self.bins, len(self.leads)), np.int64)
        rows = thinned(origins.start + 1, origins.stop + horizon, count, len(self.leads), form.season)
        self.trace = Trace(rows if origins else rows[:0], self.leads, count)
        self.scored = 0  # origins

    @property
    def best(self) -> np.ndarray:
        """(N, H) absolute errors of the naive forecast that was better in hindsight."""
        return np.minimum(*(errors.absolute for errors in self.naive.values()))

    def seasonal_width(self, end: int) -> np.ndarray:
        """(N, H) width that a band around the seasonal naive needed, its errors known, to hold as many values as the 90 % band has.

        By each series' own errors of origins before row `end`, as many beyond it on either side. NaN: nothing was scored.
        """
        rows = np.arange(self.origins.start, min(self.origins.stop, end))[:, None]
        held = self.covered / np.maximum(self.ours.count, 1)
        out = np.full(held.shape, np.nan)
        for lead, back in zip(self.form.leads, self.form.back, strict=True) if len(rows) else ():
            origin, before = self.values[rows[:, 0]], rows - back
            same = np.where(before >= 0, self.values[np.maximum(before[:, 0], 0)], np.nan)
            said = np.where(np.isnan(same), origin, same)
            errors = np.sort(np.where(np.isnan(origin), np.nan, less(self.values[rows[:, 0] + lead], said)), 0)
            tail = (1 - held[:, lead - 1]) / 2
            out[:, lead - 1] = less(ordered(errors, 1 - tail), ordered(errors, tail))
        return out

    def bin(self, row: int) -> int:
        return (row - self.origins.start) * self.bins // max(1, len(self.origins))

    def add(self, row: int, at: np.ndarray, step: Step, parts: dict[str, np.ndarray]) -> None:
        """What was issued at a row for the series `at` (n,); `parts`: every expert's points (n, H)."""
        if row not in self.origins:
            return
        self.scored += 1
        at, said = at[step.issued], np.flatnonzero(step.issued)
        if not at.size:
            return
        point, quantiles = step.point[said], step.quantiles[said]
        actual = self.values[row + self.form.leads][:, at].T
        off = less(point, actual)
        self.ours.add(at, off)
        last, seasonal = naive(self.values, row, at, self.form)
        naively = [less(last, actual), less(seasonal, actual)]
        for errors, error in zip(self.naive.values(), naively, strict=True):
            errors.add(at, error)
        for name, points in parts.items():
            self.parts.setdefault(name, Errors(*self.ours.count.shape)).add(at, less(points[said], actual))
        due = ~np.isnan(off)
        self._spread(at, actual, quantiles, due)
        for k in range(len(self.experts)):
            self.served[k][at] += due & (step.by[said] == k)
        self._over_time(self.bin(row), at, [off, *naively])
        if self.band is not None:
            low, high = (quantiles[:, k] for k in self.band)
            self._cover(self.bin(row), at, actual, low, high, due)
            self.trace.add(row, at, point, low, high)

    def _spread(self, at: np.ndarray, actual: np.ndarray, quantiles: np.ndarray, due: np.ndarray) -> None:
        """Pinball loss (Koenker & Bassett 1978) of every level."""
        over = less(actual[:, None], quantiles)
        levels = self.levels[:, None]
        self.pinball[:, at] += np.where(due[:, None], np.maximum(levels * over, (levels - 1) * over), 0).transpose(1, 0, 2)

    def _cover(self, k: int, at: np.ndarray, actual: np.ndarray, low: np.ndarray, high: np.ndarray, due: np.ndarray) -> None:
        inside = due & (low <= actual) & (actual <= high)
        self.covered[at] += inside
        with np.errstate(over="ignore"):
            self.width[at] += np.where(due, high - low, 0)
        shown = self.leads - 1
        self.covered_over_time[k] += inside[:, shown].sum(0)
        self.counted_over_time[k] += due[:, shown].sum(0)

    def _over_time(self, k: int, at: np.ndarray, errors: list[np.ndarray]) -> None:
        unit = self.change[at]
        known = np.flatnonzero(unit > 0)  # nor NaN
        shown = np.stack([e[known][:, self.leads - 1] for e in errors])  # (3, n, L)
        relative = np.abs(shown) / unit[known][None, :, None]
        self.over_time[0, k] += (~np.isnan(shown[0])).sum(0)
        self.over_time[1:, k] += np.nan_to_num(relative).sum(1)


def ordered(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(N,) quantiles of columns (T, N) that are ascending, NaN last; between two values as numpy has it. NaN: a column without values.

    >>> ordered(np.array([[0.0, 1.0], [1.0, 5.0], [2.0, np.nan]]), np.array([0.75, 0.25])).tolist()
    [1.5, 2.0]
    """
    place = shares * np.maximum((~np.isnan(values)).sum(0) - 1, 0)
    below = place.astype(np.int64)
    low, high = (np.take_along_axis(values, at[None], 0)[0] for at in (below, np.ceil(place).astype(np.int64)))
    return np.asarray(low + (high - low) * (place - below))


def less(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A - b, infinite where a float64 does not hold it."""
    with np.errstate(over="ignore"):
        return np.asarray(a - b)
