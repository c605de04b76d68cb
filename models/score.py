"""Forecasts that wait for their actual value, what came of them, and which expert has earned to be served.

Letters: N rows, H lead times, Q quantile levels, B central bands, P = H(H+1)/2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from models.heads import MIDDLE

BASELINES = ("seasonal_naive", "last_value")  # experts beside the network, in the order of their indices
NET, SEASONAL, LAST = range(3)
REASONS = (None, "cold_start", "no_skill", "not_finite", "stale_model")
NONE, COLD, NO_SKILL, NOT_FINITE = range(4)


def places(cell: np.ndarray, horizon: int) -> np.ndarray:
    """(N,) cells -> (N, H): where a forecast of lead h that is issued, or comes due, at a cell is kept.

    Of lead h, only h forecasts can wait at once, and one issued at o is due at o + h: the same place by cell % h, so that
    what comes due is read just before what is issued takes its place, and all fit into H(H+1)/2.

    >>> places(np.array([0, 1, 5]), 3).tolist()
    [[0, 1, 3], [0, 2, 4], [0, 2, 5]]
    """
    leads = np.arange(1, horizon + 1)
    return np.asarray(leads * (leads - 1) // 2 + cell[:, None] % leads)


class Bands(NamedTuple):
    """The central bands that a set of levels allows, narrowest first."""

    nominal: tuple[float, ...]
    low: np.ndarray  # (B,) index of the lower level
    high: np.ndarray  # (B,)


def bands(levels: Sequence[float]) -> Bands:
    """Pairs of levels around the median.

    >>> bands((0.05, 0.25, 0.5, 0.75, 0.95)).nominal
    (0.5, 0.9)
    """
    found = []
    for low, level in enumerate(levels):
        for high, other in enumerate(levels):
            if level < MIDDLE < other and math.isclose(level + other, 1):
                found.append((round(other - level, 9), low, high))
    found.sort()
    return Bands(tuple(f[0] for f in found), np.array([f[1] for f in found], np.int64), np.array([f[2] for f in found], np.int64))


def code(by: np.ndarray, reason: np.ndarray, better: np.ndarray) -> np.ndarray:
    """Who serves, why not the network, and which baseline is the better one (SEASONAL or LAST), in one int8."""
    return np.asarray(by + 4 * (better == SEASONAL) + 8 * reason, np.int8)


def decode(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inverse of `code`."""
    return codes & 3, codes >> 3, np.where(codes & 4, SEASONAL, LAST).astype(np.int8)


Kinds = dict[str, tuple[Any, tuple[int, ...]]]  # the arrays that a row has: name -> (dtype, shape of a row)


def scored(horizon: int, tails: int, experts: int) -> Kinds:
    """The arrays of a score."""
    return {
        "error": (np.float32, (3, horizon)),  # in units of the scale: model (signed), seasonal naive, last value (absolute); NaN: none
        "said": (np.float16, (experts, horizon)),  # by each expert, less the level at issue, in naive errors of the lead
        "actual": (np.float16, (horizon,)),  # likewise; NaN: no score
        "held": (np.bool_, (horizon,)),  # the widest band held the actual value
        "under": (np.int8, (tails, horizon)),  # 1: the actual value was at or under the quantile; 2 more: the model's; -1: no score
    }


class Pending:
    """What arrivals have made, until the instant that closes its cell learns from it. Rows in no order."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds: Kinds = {"slot": (np.int64, ()), "cell": (np.int64, ()), **kinds}
        self.count = 0
        self.columns = {name: np.zeros((0, *row), kind) for name, (kind, row) in self._kinds.items()}

    def append(self, **rows: np.ndarray) -> None:
        end = self.count + len(rows["slot"])
        if end > len(self.columns["slot"]):
            for name, (kind, row) in self._kinds.items():
                wider = np.zeros((max(64, 1 << (end - 1).bit_length()), *row), kind)
                wider[: self.count] = self.columns[name][: self.count]
                self.columns[name] = wider
        for name, values in rows.items():
            self.columns[name][self.count : end] = values
        self.count = end

    def find(self, slot: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """(N,) row of each (slot, cell), -1 where there is none."""
        if not self.count:
            return np.full(len(slot), -1)
        mine = joined(self.columns["slot"][: self.count], self.columns["cell"][: self.count])
        order = np.argsort(mine)
        wanted = joined(slot, cell)
        at = order[np.minimum(np.searchsorted(mine, wanted, sorter=order), self.count - 1)]
        return np.where(mine[at] == wanted, at, -1)

    def drop(self, rows: np.ndarray) -> None:
        keep = np.ones(self.count, bool)
        keep[rows] = False
        for name, column in self.columns.items():
            kept = column[: self.count][keep]
            self.columns[name][: len(kept)] = kept
        self.count = int(keep.sum())

    def forget(self, slots: np.ndarray) -> None:
        self.drop(np.flatnonzero(np.isin(self.columns["slot"][: self.count], slots)))

    def state(self) -> dict[str, np.ndarray]:
        return {name: column[: self.count].copy() for name, column in self.columns.items()}

    def load(self, columns: dict[str, np.ndarray]) -> None:
        self.columns = {name: columns[name].copy() for name in self._kinds}
        self.count = len(self.columns["slot"])


def joined(slot: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Slot and cell as one integer; cells of one series that differ by 2**40 steps do not wait at the same time."""
    return np.asarray((slot << 40) | (cell & ((1 << 40) - 1)))


# The part of the baseline's error that must be won before the network is believed, at lead 1 and more per root of lead: on a
# random walk its error is the last value's plus a little noise, and the mean over what `rates` remember wanders by about
# half of this. It is believed until a third of that part is left.
ENTER = 0.010
LEAVE = ENTER / 3
# A mixture has the naive forecasts among its experts, and where nothing else has skill comes down to them: to serve it costs little,
# and to take it away for what a few hundred scores say cost 1 % on ETTh2 at lead 1 (LOG 2026-11-26). What it must win is this part over
# the root of the scores that are remembered, and more by the fourth root of lead; it is believed until nothing of that is left.
# Of 0.07, mixtures served 20 % of the forecasts of random walks (mean of five); of 0.15, 4 %; ETTh2 is the same (LOG 2026-11-27).
SURE = 0.2
YOUNG = 3.0  # evidence counts newer scores more from the start: a model's first errors are not its later ones
# Naive errors that the season before must be nearer by than the last value, to be the better one, at lead 1, and more by the third root of
# lead, as fast as means over what `rates` remember of overlapping errors wander: where a series has stood still both have been right for
# long, and when it jumps the season before is wrong for a season.
VISIBLE = 0.03


def rates(horizon: int, *, mixed: bool) -> np.ndarray:
    """(H,) rates of forgetting in the evidence: 200 scores at lead 1, 580 at lead 24, whose errors overlap; a mixture's 5 times as many."""
    return np.asarray((0.001 if mixed else 0.005) * np.arange(1, horizon + 1) ** (-1 / 3))


def choose(evidence: np.ndarray, count: np.ndarray, before: np.ndarray, *, needed: int, mixed: bool) -> np.ndarray:
    """Codes of who is to serve (..., H), from errors (..., 6, H), absolute and squared, over (..., H) scores; `before`: until now.

    Errors are in naive ones of their lead as they have been for long: in units that follow the stream, those of calm hours and of storms
    weigh alike, and to be right where a series stands still counted as much as to be right when it jumps.

    A model has skill if the last value is worse in absolute or in squared error, and so is the season before where that is the better one
    of the two. What a model says is a mean: on most days it may be farther off than a naive forecast by a hair, to be much nearer in a
    storm. It gives way to one that is as good in both. Fewer than `needed` scores: whichever baseline is better so far, `cold_start`.
    """
    net, seasonal, last, *squared = (evidence[..., k, :] for k in range(6))
    leads = np.arange(1, net.shape[-1] + 1)
    better = np.where(seasonal < last - VISIBLE * leads ** (1 / 3), SEASONAL, LAST)
    serving = (before & 3) == NET
    if mixed:
        remembered = np.clip(count / YOUNG, 1, 1 / rates(len(leads), mixed=True))
        margin = np.where(serving, 0.0, SURE * leads**0.25 / np.sqrt(remembered))
    else:
        margin = np.sqrt(leads) * np.where(serving, LEAVE, ENTER)
    cold = count < needed
    on_season, on_last = (
        ((net < b * (1 - margin)) | (squared[0] < s * (1 - 2 * margin))) & ~cold for b, s in ((seasonal, squared[1]), (last, squared[2]))
    )
    skilled = on_last & (on_season | (better == LAST))
    by = np.where(skilled, NET, np.where(on_season, LAST, better))  # the one that is better, or that cannot be beaten
    reason = np.where(cold, COLD, np.where(skilled, NONE, NO_SKILL))
    return code(by, reason, better)
