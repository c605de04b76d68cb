"""Old regimes: what was known of them once, and how much of it is lost since.

Whoever learns from what is new may lose what was: a season that comes back next year, a tariff, a holiday. A challenger sits an exam in
the regimes of its history (`models.exam`). A stream that never stops learning keeps chains of its replay pool at 1, 2, 4, 8 ... times
as many instants as the pool remembers, with what was lost on them then, and is asked about them each time that the pool has been renewed.

Letters: K regimes, M stretches of each, C chains of a stretch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from models.replay import Replay

REGIMES, STRETCHES, CHAINS = 4, 8, 8
TINY = 1e-3  # losses that small are none


class Exam(NamedTuple):
    """What has been kept of old regimes."""

    rise: np.ndarray  # (K,) part by which the loss of each regime rose; NaN: nothing is known of it
    error: np.ndarray  # (K,) standard error of it; infinite: of one stretch alone it cannot be told
    lost: np.ndarray  # (K,) bool: it rose by more than what is allowed, and that is no chance


def forgotten(before: np.ndarray, now: np.ndarray, *, share: float) -> Exam:
    """Mean losses (K, M) of two sets of weights on the same M stretches of each of K old regimes, NaN where there is none.

    `share` may be lost. The set does not change and is looked at once a set of weights, so a standard error of a ratio does (Cochran
    1977, eq. 2.46); stretches should be longer than the farthest lead. Lost is what rose by more than the share and two of them.
    """
    known = ~np.isnan(before + now)
    one, other = (np.where(known, loss, 0.0) for loss in (before, now))
    count, base = known.sum(1), one.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = other.sum(1) / np.where(count > 0, np.maximum(base, TINY * count), np.nan)
        left = np.where(known, other - ratio[:, None] * one, 0.0)
        error = np.sqrt(count / (count - 1.0) * (left * left).sum(1)) / np.maximum(base, TINY * count)
    error = np.where(count > 1, error, np.inf)
    return Exam(ratio - 1, error, ratio - 1 > share + 2 * error)


Loss = Callable[[dict[str, np.ndarray]], float]  # of the chains of a stretch, rows of the pool


class Regimes:
    """What a stream keeps of old regimes. Arrays only."""

    def __init__(self, table: dict[str, tuple[Any, tuple[int, ...]]], *, every: int) -> None:
        """`table` of the replay pool, which remembers `every` instants."""
        self.every = every
        self._rows = {name: np.zeros((REGIMES, STRETCHES * CHAINS, *row), kind) for name, (kind, row) in table.items()}
        self.clear()

    def clear(self) -> None:
        self.loss = np.full((REGIMES, STRETCHES), np.nan)  # when it was kept
        self.at = np.zeros(REGIMES, np.int64)  # instants that had been learnt by then; 0: nothing is kept
        self.lost = np.zeros(REGIMES, bool)

    def ask(self, loss: Loss, *, share: float) -> Exam | None:
        """What is lost now and had not been when it was asked last; None: nothing."""
        now = np.full_like(self.loss, np.nan)
        for k in np.flatnonzero(self.at).tolist():
            now[k] = self._losses(k, loss)
        exam = forgotten(self.loss, now, share=share)
        fresh = exam.lost & ~self.lost
        self.lost = exam.lost
        return exam._replace(lost=fresh) if fresh.any() else None

    def keep(self, pool: Replay, instants: int, loss: Loss, *, seed: int) -> None:
        """What the pool remembers now, if it is time: in the place of the oldest regime, if all are taken."""
        times = instants // self.every
        if times & (times - 1) or len(pool) < STRETCHES * CHAINS:
            return
        k = (times.bit_length() - 1) % REGIMES
        for name, column in pool.draw(STRETCHES * CHAINS, (seed, 3, instants)).items():
            self._rows[name][k] = column
        self.loss[k], self.at[k], self.lost[k] = self._losses(k, loss), instants, False

    def _losses(self, k: int, loss: Loss) -> list[float]:
        """(M,) of a regime's stretches."""
        parts = (slice(at, at + CHAINS) for at in range(0, STRETCHES * CHAINS, CHAINS))
        return [loss({name: rows[k, part] for name, rows in self._rows.items()}) for part in parts]

    def state(self) -> dict[str, np.ndarray]:
        return {"loss": self.loss, "at": self.at, "lost": self.lost, **{f"row {name}": rows for name, rows in self._rows.items()}}

    def load(self, columns: dict[str, np.ndarray]) -> None:
        """The inverse of `state`; raises KeyError or ValueError where it does not fit."""
        self.loss, self.at, self.lost = (columns[name].copy() for name in ("loss", "at", "lost"))
        for name, rows in self._rows.items():
            rows[:] = columns[f"row {name}"]
