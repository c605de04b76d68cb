"""One series in detail: its newest steps, what was forecast of them, and how that went. Bounded: a ring of rows, whatever comes.

Letters: R rows (steps kept), H leads, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.page.messages import MOST_LEADS, Row, Run, Score, Whole, us

MOST_ROWS = 480  # ten days of half-hours; more than a screen shows
LEAST_ROWS = 64
CELLS = 100_000  # numbers of a ring (4 bytes each), unless LEAST_ROWS need more: 400 KB at the default of 24 leads and 7 levels
ROLLING = 96  # steps over which skill and coverage of one series are taken; half of it jumps about
LONGEST_STEP = 400 * 86_400 * 10**6  # us; a ring of them still fits 64 bits
NEVER = np.iinfo(np.int64).min


def numbers(x: np.ndarray) -> list[Any]:
    """Seven digits of each number, None where there is none; nested as the array is.

    >>> numbers(np.array([[1 / 3, np.nan]]))
    [[0.3333333, None]]
    """
    if x.ndim > 1:
        return [numbers(row) for row in x]
    return [float(f"{v:.7g}") if np.isfinite(v) else None for v in x.tolist()]


class Trace:
    """Rows by step: row (t // step) % R holds what was issued at t and what came at t."""

    def __init__(self, step: int, levels: Sequence[float], horizon: int) -> None:
        self.step = step  # us
        self.levels = tuple(levels)
        self.horizon = horizon  # leads that there is room for
        self.leads = 0  # leads that have been seen
        rows = max(LEAST_ROWS, min(MOST_ROWS, CELLS // (horizon * (len(levels) + 4))))
        self.issued = np.full(rows, NEVER)  # (R,) us
        self.at = np.full(rows, NEVER)  # (R,) us
        self.actual = np.full(rows, np.nan)  # (R,)
        self.point = np.full((rows, horizon), np.nan, np.float32)
        self.quantiles = np.full((rows, len(levels), horizon), np.nan, np.float32)
        self.scored = np.full((rows, 3, horizon), np.nan, np.float32)  # |error|, |baseline's error|, held by the widest band
        self.served: list[Run] = []
        self.cold = False
        self.anomalies: set[int] = set()  # us

    def _row(self, at: int) -> int:
        return (at // self.step) % len(self.at)

    def _open(self, at: int) -> int | None:
        """The row of forecasts issued at `at`, fresh if it was another one's; None if a newer one is there."""
        row = self._row(at)
        if self.issued[row] > at:
            return None
        if self.issued[row] < at:
            self.issued[row], self.point[row], self.quantiles[row] = at, np.nan, np.nan
        return row

    def whole(self, said: Whole) -> None:
        """Takes up a forecast of all leads."""
        at, h = us(said.issued_at), len(said.point)
        row = self._open(at)
        if row is None:
            return
        self.leads = max(self.leads, h)
        with np.errstate(over="ignore"):  # what single precision cannot hold is shown as nothing
            self.point[row, :h] = said.point
            self.quantiles[row, :, :h] = said.quantiles
        if at == self.issued.max():
            self.served, self.cold = said.served, said.cold

    def row(self, said: Row) -> None:
        """Takes up one lead of a forecast."""
        at, h = us(said.issued_at), said.lead - 1
        row = self._open(at)
        if row is None:
            return
        self.leads = max(self.leads, said.lead)
        with np.errstate(over="ignore"):
            self.point[row, h] = said.point
            self.quantiles[row, :, h] = said.quantiles
        if at == self.issued.max():
            others = [run for run in self.served if run.from_lead != said.lead] if said.lead > 1 else []
            self.served, self.cold = [*others, Run(said.lead, said.lead, said.by, said.reason)], said.cold

    def score(self, said: Score, band: float) -> None:
        """Takes up what came, and how the forecasts that met it did; `band`: the one whose holding counts."""
        at = us(said.at)
        row = self._row(at)
        if self.at[row] > at:
            return
        if self.at[row] != at:
            self.anomalies.discard(int(self.at[row]))
            self.at[row], self.scored[row] = at, np.nan
        self.actual[row] = said.actual
        if said.anomaly:
            self.anomalies.add(at)
        with np.errstate(over="ignore"):
            for one in said.scores:
                if one.lead <= self.horizon:
                    self.scored[row, :, one.lead - 1] = abs(one.error), abs(one.baseline_error), band in one.covered

    def shown(self, lead: int) -> dict[str, Any]:
        """All that the charts of a series need, by time (ms); `lead` is cut to what there is."""
        lead = min(max(lead, 1), max(self.leads, 1))
        newest = int(max(self.issued.max(), self.at.max()))
        times = newest + self.step * np.arange(1 - len(self.at), lead + 1)
        came, made = self._find(self.at, times), self._find(self.issued, times - lead * self.step)
        known = np.flatnonzero((came >= 0) | (made >= 0))
        if not known.size:
            return {"lead": lead, "times": []}
        times, came, made = times[known[0] :], came[known[0] :], made[known[0] :]
        took = np.where(came[:, None] >= 0, self.scored[came, :, lead - 1], np.nan)
        skill, coverage = rolled(took)
        actual = np.where(came >= 0, self.actual[came], np.nan)
        return {
            "lead": lead,
            "times": (times // 1_000).tolist(),
            "actual": numbers(actual),
            "point": numbers(np.where(made >= 0, self.point[made, lead - 1], np.nan)),
            "quantiles": numbers(np.where(made[:, None] >= 0, self.quantiles[made, :, lead - 1], np.nan).T),
            "skill": numbers(skill),
            "coverage": numbers(coverage),
            "anomalies": [at // 1_000 for at in sorted(self.anomalies)],
            "fan": self.fan(),
        }

    def _find(self, column: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The row of each time, -1 where it has none."""
        rows = (times // self.step) % len(column)
        return np.where(column[rows] == times, rows, -1)

    def fan(self) -> dict[str, Any] | None:
        """The newest forecast; None before the first."""
        row = int(self.issued.argmax())
        at = int(self.issued[row])
        if at == NEVER:
            return None
        times = at + self.step * np.arange(1, self.leads + 1)
        return {
            "issued_at": at // 1_000,
            "times": (times // 1_000).tolist(),
            "point": numbers(self.point[row, : self.leads]),
            "quantiles": numbers(self.quantiles[row, :, : self.leads]),
        }

    @property
    def size(self) -> int:
        """Bytes of its arrays."""
        return sum(a.nbytes for a in (self.issued, self.at, self.actual, self.point, self.quantiles, self.scored))


def rolled(took: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Skill and coverage over the last ROLLING steps at each step; `took` (N, 3): |error|, |baseline's|, held. NaN: not scored there.

    >>> skill, coverage = rolled(np.array([[1.0, 2.0, 1.0], [1.0, 2.0, 0.0], [np.nan] * 3]))
    >>> skill.tolist(), coverage.tolist()
    ([0.5, 0.5, nan], [1.0, 0.5, nan])
    """
    there = ~np.isnan(took[:, 0])
    sums = np.cumsum(np.vstack([np.zeros(4), np.column_stack([np.where(there[:, None], took, 0.0), there])]), axis=0)
    ends = np.arange(1, len(took) + 1)
    ours, theirs, held, count = (sums[ends] - sums[np.maximum(ends - ROLLING, 0)]).T
    with np.errstate(all="ignore"):
        skill = np.where(there & (theirs > 0), 1 - ours / theirs, np.nan)
        return skill, np.where(there, held / count, np.nan)


def step_of(said: Whole | Row) -> int:
    """The length of a step (us) that a forecast implies; 0 for one that implies none."""
    target, lead = (said.target, said.lead) if isinstance(said, Row) else (said.targets[0], 1)
    return max(us(target) - us(said.issued_at), 0) // lead


def sound(said: Whole | Row) -> bool:
    """Whether its parts fit each other."""
    if not 1 <= step_of(said) <= LONGEST_STEP or sorted(said.levels) != said.levels:
        return False
    if isinstance(said, Row):
        return len(said.quantiles) == len(said.levels)
    wide = {len(said.point), len(said.targets), *map(len, said.quantiles)}
    return len(wide) == 1 and len(said.quantiles) == len(said.levels)


def room(horizon: int) -> int:
    """Leads to make room for, so that rows that come lead by lead do not make a ring each.

    >>> [room(h) for h in (1, 24, 25, 1000)]
    [24, 24, 48, 1000]
    """
    wide = 24
    while wide < horizon:
        wide *= 2
    return min(wide, MOST_LEADS)
