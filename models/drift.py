"""What has changed in the stream: Page-Hinkley tests (Page 1954) and a watch on coverage, by group of leads, over all series together.

They see what instants learn, never what arrives. Errors of lead h overlap for h cells and follow the season, so a test is fed means
over blocks as long as the farthest lead of its group and as a season, and of a day's hours at least: those are nearly independent.

Letters: N rows, H lead times, G groups of leads, K tracks (a signal of a group), W blocks that coverage is judged by.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from models.mixture import ENDS, groups

SIGNALS = ("loss", "level", "variance", "coverage")
LOSS, LEVEL, VARIANCE, COVERAGE = range(4)
BOUND = 5.0  # times what is usual: one sample counts for at most this
SHORTEST, LONGEST = 24, 96  # instants of a block
YOUNG = 8  # blocks from which a test learns what is usual before it says anything
DEAD = 8  # blocks after an alarm in which a signal says nothing, and nothing counts as usual
MEMORY = 0.05  # rate of forgetting of what is usual, a block
LEAST = 0.05  # deviation of a block's mean, at least: a smaller change is none, however sure it is
SLACK = 0.5  # deviations a block that a sum loses
ALARM = 8.0  # deviations that a sum comes to
SETTLED = 30  # changes that a series' scale is made of, at least
TINY = 1e-3  # of the scale: errors that small are none
STEP = 4.0  # of one block, at most: two are no drift
WINDOW = 20  # blocks; of 10, on a random walk alone, 26 alarms in 40,000 instants were false, of 20 three
TOLERANCE = 0.02  # of coverage around what is nominal
SURE = 4.0  # standard errors beyond it

CAUSES = {
    "loss": "errors are larger than they were",
    "level": "errors lie on one side",
    "variance": "changes from step to step are not as large as they were",
    "coverage": "the widest band does not hold what it promises",
}


class Found(NamedTuple):
    """A change: of which signal, at which leads (from, to), and by how much."""

    signal: str
    leads: tuple[int, int]
    numbers: dict[str, Any]

    @property
    def cause(self) -> str:
        return CAUSES[self.signal]


class Drift:
    """The tests' sums. Arrays only; `ARRAYS` is all that is remembered."""

    ARRAYS = ("total", "count", "instants", "blocks", "dead", "mean", "square", "up", "down", "held", "outside")

    def __init__(self, *, horizon: int, season: int | None, band: float | None) -> None:
        """`band`: the central band whose coverage is watched; None: there is none."""
        of = groups(horizon)
        ends = [min(end, horizon) for end in (*ENDS, horizon)][: of[-1] + 1]
        self.leads = [(1 if not k else ends[k - 1] + 1, end) for k, end in enumerate(ends)]
        self.nominal = band
        self._starts = np.array([first - 1 for first, _ in self.leads])
        count, length = len(ends), np.clip(np.maximum(ends, season or 1), SHORTEST, LONGEST)
        # Tracks: loss, level and coverage by group, variance at the first lead alone, as it is told by one step's change
        self.signal = np.concatenate([np.repeat([LOSS, LEVEL, COVERAGE], count), [VARIANCE]])
        self.group = np.concatenate([np.tile(np.arange(count), 3), [0]])
        self.length = np.concatenate([np.tile(length, 3), length[:1]])
        tracks = len(self.signal)
        self.total, self.count, self.mean, self.square, self.up, self.down = np.zeros((6, tracks))
        self.instants, self.blocks, self.dead = np.zeros((3, tracks), np.int64)
        self.held = np.full((count, WINDOW), np.nan)  # share of the band by block, newest last
        self.outside = np.zeros(count, bool)  # said already

    def score(self, off: np.ndarray, usual: np.ndarray, held: np.ndarray, known: np.ndarray) -> None:
        """Signed errors (N, H) beside the mean absolute ones so far, where `known`; whether the band held."""
        ratio = np.clip(off / np.maximum(usual, TINY), -BOUND, BOUND) * known
        sums = [np.add.reduceat(a.sum(0, dtype=np.float64), self._starts) for a in (np.abs(ratio), ratio, held & known, known)]
        self.total[:-1] += np.concatenate(sums[:3])
        self.count[:-1] += np.tile(sums[3], 3)

    def step(self, change: np.ndarray, scale: np.ndarray, changes: np.ndarray) -> None:
        """Absolute changes (N,) of one step beside the mean of them so far, of `changes` of them; NaN: none."""
        settled = (changes > SETTLED) & (scale > 0)
        with np.errstate(over="ignore"):
            self.total[-1] += np.minimum(change[settled] / scale[settled], BOUND).sum()
        self.count[-1] += settled.sum()

    def judge(self) -> list[Found]:
        """An instant has been taken in: what its blocks say, if it ends some."""
        self.instants += self.count > 0
        full = self.instants >= self.length
        if not full.any():
            return []
        value = self.total / np.maximum(self.count, 1)
        self.total[full], self.count[full], self.instants[full] = 0, 0, 0
        return [*self._test(value, full & (self.signal != COVERAGE)), *self._cover(value, full & (self.signal == COVERAGE))]

    def _test(self, value: np.ndarray, full: np.ndarray) -> Iterator[Found]:
        alive = full & (self.dead == 0)
        self.dead -= full & ~alive
        judged = alive & (self.blocks >= YOUNG)
        z = np.clip((value - self.mean) / np.maximum(np.sqrt(self.square), LEAST), -STEP, STEP)
        self.up = np.where(judged, np.maximum(self.up + z - SLACK, 0), self.up)
        self.down = np.where(judged & (self.signal != LOSS), np.maximum(self.down - z - SLACK, 0), self.down)  # a model may get better
        height = np.maximum(self.up, self.down)
        fired = np.flatnonzero(height > ALARM)
        # Errors that grew while steps are as they were, and to both sides, are the forecaster's own: it asks to be trained anew
        elsewhere = bool((((height > ALARM / 2) | (self.dead > 0)) & np.isin(self.signal, [LEVEL, VARIANCE])).any())
        for signal in np.unique(self.signal[fired]).tolist():
            which = fired[self.signal[fired] == signal]
            worst = which[np.argmax(height[which])]
            leads = self.leads[self.group[which[0]]][0], self.leads[self.group[which[-1]]][1]
            asked = {"retrain": not elsewhere} if signal == LOSS else {}
            yield Found(SIGNALS[signal], leads, numbers(SIGNALS[signal], value[worst], self.mean[worst]) | asked)
            mine = self.signal == signal
            self.up[mine], self.down[mine], self.dead[mine] = 0, 0, DEAD
        self._learn(value, alive & (self.dead == 0))

    def _learn(self, value: np.ndarray, which: np.ndarray) -> None:
        """What is usual: mean and variance of blocks' values."""
        self.blocks += which
        rate = np.maximum(1 / np.maximum(self.blocks, 1), MEMORY) * which
        off = value - self.mean
        self.mean += off * rate
        self.square = (self.square + off * off * rate) * (1 - rate)

    def _cover(self, value: np.ndarray, full: np.ndarray) -> Iterator[Found]:
        if self.nominal is None:
            return
        for track in np.flatnonzero(full).tolist():
            group = self.group[track]
            self.held[group] = np.append(self.held[group, 1:], value[track])
            share, error = self.held[group].mean(), self.held[group].std() / np.sqrt(WINDOW - 1)
            off = abs(share - self.nominal) - TOLERANCE
            if not self.outside[group] and off > SURE * error:
                self.outside[group] = True
                yield Found("coverage", self.leads[group], numbers("coverage", share, self.nominal))
            elif off < 0:
                self.outside[group] = False

    def state(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in self.ARRAYS}

    def load(self, columns: dict[str, np.ndarray]) -> None:
        """The inverse of `state`."""
        for name in self.ARRAYS:
            setattr(self, name, columns[name].copy())


def numbers(signal: str, now: float, usual: float) -> dict[str, Any]:
    """As a decision has them."""
    return {"signal": signal, "now": round(float(now), 6), "usual": round(float(usual), 6)}
