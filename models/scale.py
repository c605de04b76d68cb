"""What is learnt of each series, generation by generation: its scale, its naive errors, who serves it, how wide.

Letters: C slots, H lead times, G groups of leads, V voices.
A generation is what learning had come to at an instant. Samples are forecast under older
generations than the newest, so each keeps what it *changed*: the rows as they were before it.
"""

from __future__ import annotations

import numpy as np

from models.mixture import several

ROBUST = 10.0  # one change counts for at most this many scales: a single 1e300 may not hide all that follows
SETTLED = 10  # changes after which `ROBUST` holds
MEMORY = 0.002  # rate of forgetting, once 1 / count is smaller
LASTING = 1e-4  # the same of what lasts
WITHIN = 4.0  # what lasts counts as at most this many times today's, or this part of it
TINY = 1e-9  # of the level: smaller changes than this are rounding
LEAST = 1e-30
OFF = 0.8  # naive errors: how far off a model is taken to be before it has been scored
FINE = 14_000  # steps of a logarithm: a factor of 10 either way fits into two bytes
GOLDEN = (5**0.5 - 1) / 2  # its multiples are spread most evenly
UNDECIDED = -1  # who serves: as all series together


def learnt(horizon: int, lean: tuple[int, int]) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("scale", np.float64),  # mean one-step change; NaN: not known yet
            ("mean", np.float64),  # of values, slowly forgetting; NaN: not known yet
            ("naive", np.float16, (3, horizon)),  # errors of the naive forecasts in units of it; NaN: not known yet
            (
                "lasting",
                np.float16,
                (several(horizon),),
            ),  # what the least of them has been for long, as a multiple of it, by group of leads
            ("served", np.int8, (horizon,)),  # models.score.code, or UNDECIDED
            ("lean", np.float16, lean),  # to the voices of the mixture, beside all series together: see models.mixture
            ("off", np.float16, (several(horizon),)),  # mean absolute error of what the model said, in naive errors, by group of leads
            ("stretch", np.int16, (2, horizon)),  # factor on the distance of quantiles from the median, below and above: see `factor`
        ]
    )


def blank(count: int, horizon: int, lean: tuple[int, int]) -> np.ndarray:
    """Rows of series of which nothing is learnt."""
    rows = np.zeros(count, learnt(horizon, lean))
    rows["scale"], rows["mean"], rows["naive"], rows["served"] = np.nan, np.nan, np.nan, UNDECIDED
    rows["lasting"], rows["off"], rows["stretch"] = 1, OFF, 0
    return rows


def to_bytes(rows: np.ndarray) -> np.ndarray:
    """Rows as (C, bytes of a row) uint8."""
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), rows.dtype.itemsize)


def from_bytes(data: np.ndarray, horizon: int, lean: tuple[int, int]) -> np.ndarray:
    """The inverse of `to_bytes`."""
    return data.reshape(-1).copy().view(learnt(horizon, lean))


class Change:
    """What a generation replaced: slots, ascending (M,), and their rows as they were."""

    def __init__(self, slots: np.ndarray, rows: np.ndarray) -> None:
        self.slots, self.rows = slots, rows

    def undo(self, slot: np.ndarray, rows: np.ndarray) -> None:
        """Put the old rows into `rows`, those of (N,) `slot`."""
        if not len(self.slots):
            return
        at = np.minimum(np.searchsorted(self.slots, slot), len(self.slots) - 1)
        mine = self.slots[at] == slot
        rows[mine] = self.rows[at[mine]]

    def forget(self, slots: np.ndarray) -> None:
        """Whoever takes these slots begins with nothing, in every generation."""
        mine = np.isin(self.slots, slots)
        self.rows[mine] = blank(1, self.rows["served"].shape[1], self.rows["lean"].shape[1:])


def mean(before: np.ndarray, count: np.ndarray, new: np.ndarray, rate: float | np.ndarray) -> np.ndarray:
    """A running mean that forgets: weight 1 / count (`new` included), at least `rate`."""
    return np.asarray(before + (new - before) * np.maximum(1 / np.maximum(count, 1), rate))


def advance(scale: np.ndarray, changes: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Scales (N,) after one more absolute change each; `changes` counts it. NaN: no scale yet.

    >>> advance(np.array([np.nan, 2.0, 2.0]), np.array([1, 20, 20]), np.array([3.0, 2.0, 1e300])).tolist()
    [3.0, 2.0, 2.9]
    """
    known = ~np.isnan(scale)
    bound = np.where(known & (changes > SETTLED) & (scale > 0), ROBUST * scale, 1e300)
    change = np.minimum(change, bound)
    return np.where(known, mean(np.where(known, scale, 0), changes, change, MEMORY), change)


def usable(scale: np.ndarray, level: np.ndarray, relative: float) -> np.ndarray:
    """Scales (N,) to divide by: positive, finite. Not known yet: the part of the level that other series change by."""
    size = np.abs(level)
    guess = np.where(size > 0, size * relative, 1.0)
    return np.asarray(np.clip(np.where(np.isnan(scale), guess, scale), np.maximum(size * TINY, LEAST), 1e300))


def last(long: np.ndarray, changes: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What units (N, G) have been for long, after one more of each, in the series' own; and that as a multiple of today's.

    Networks measure in what lasts. Scales follow a storm within days, and so does how errors grow with the lead; networks that measured
    in both lost 1 to 2 % after each. But where a series is no longer what it was, today's are what there is: hence `WITHIN`.
    """
    long = mean(long, changes[:, None], unit, LASTING)
    return long, np.clip(long / unit, 1 / WITHIN, WITHIN)


def factor(steps: np.ndarray) -> np.ndarray:
    """Factors of logarithms in steps, float64.

    A float16 between 1 and 2 takes no step below 0.0005, and any up to there as twice that: bands that were to shrink by as much held
    87 or 92 % instead of 90, by their lead.
    """
    return np.asarray(np.exp(steps / FINE))


def in_steps(factors: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """The inverse of `factor`, (N, ...) at cells (N,): rounded up or down by turns, so that in the mean nothing is lost.

    >>> factor(in_steps(np.array([[0.1, 1.0, 10.0]]), np.array([7]))).round(3).tolist()
    [[0.1, 1.0, 10.0]]
    """
    turn = (cell * GOLDEN) % 1
    return np.asarray(np.floor(np.log(factors) * FINE + turn.reshape(-1, *[1] * (factors.ndim - 1))), np.int16)
