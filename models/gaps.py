"""What stands for values that are missing between two that were observed: nothing, or the value before, or a line; or an end.

A policy fills what is *read* of a series' past, at most so many steps of a gap, and never what is taught, scored or forecast from:
a step that was not observed is no step of a sequence. What it reads at a cell lies at or before that cell.

Letters: N series, W steps of a past, oldest first; NaN: not observed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

MOST = 1_000  # steps; every series keeps up to twice as much more of its past


class Gaps(NamedTuple):
    """
    mask: nothing stands for what is missing.
    ffill: the value before, for at most so many steps.
    linear: a line between the values around a gap of at most so many steps, once the later one has come.
    split: a gap of more steps ends the sequence; a recurrent state begins anew after it.
    """

    kind: str = "mask"
    most: int = 0  # steps

    @property
    def fills(self) -> bool:
        return self.kind in ("ffill", "linear")

    @property
    def splits(self) -> bool:
        return self.kind == "split"


def gaps(text: str) -> Gaps:
    """The policy that a text names; ValueError for anything else.

    >>> gaps("mask"), gaps("ffill:3")
    (Gaps(kind='mask', most=0), Gaps(kind='ffill', most=3))
    """
    found = re.fullmatch(r"(ffill|linear|split):([0-9]{1,4})", text)
    if text == "mask":
        return Gaps()
    if not found or not 1 <= int(found[2]) <= MOST:
        raise ValueError(f"gaps is {text!r}, want mask, or ffill, linear or split with steps from 1 to {MOST}, like ffill:3")
    return Gaps(found[1], int(found[2]))


def filled(past: np.ndarray, policy: Gaps) -> np.ndarray:
    """(N, W) with gaps filled. A gap at the oldest end stays as it is.

    >>> past = np.array([[1.0, np.nan, np.nan, 4.0, np.nan]])
    >>> filled(past, Gaps("ffill", 1)).tolist(), filled(past, Gaps("linear", 2)).tolist()
    ([[1.0, 1.0, nan, 4.0, 4.0]], [[1.0, 2.0, 3.0, 4.0, nan]])
    """
    at, seen = np.arange(past.shape[1]), ~np.isnan(past)
    before = np.maximum.accumulate(np.where(seen, at, -1), 1)  # the newest observed at or before each
    left = np.take_along_axis(past, np.maximum(before, 0), 1)
    if policy.kind == "ffill":
        return np.where((before >= 0) & (at - before <= policy.most), left, np.nan)
    after = np.minimum.accumulate(np.where(seen, at, len(at))[:, ::-1], 1)[:, ::-1]
    right = np.take_along_axis(past, np.minimum(after, len(at) - 1), 1)
    share = (at - before) / np.maximum(after - before, 1)
    inside = (before >= 0) & (after < len(at)) & (after - before - 1 <= policy.most)
    return np.where(inside, left * (1 - share) + right * share, np.nan)


def begun(past: np.ndarray, policy: Gaps) -> np.ndarray:
    """(N,) how many steps before the newest the sequence of each began: the newest observed one behind a gap that splits.

    Where none is found, as far back as one could be: what a past does not show is not gone on from.

    >>> begun(np.array([[1.0, np.nan, np.nan, 4.0, 5.0], [1.0, np.nan, 3.0, 4.0, 5.0]]), Gaps("split", 1)).tolist()
    [1, 2]
    """
    at, seen = np.arange(past.shape[1]), ~np.isnan(past)
    before = np.maximum.accumulate(np.where(seen, at, -1), 1)
    before = np.concatenate([np.full((len(past), 1), -1), before[:, :-1]], 1)  # the newest observed before each
    first = np.where(seen & (at - before - 1 > policy.most), at, -1).max(1, initial=-1)
    return np.asarray(len(at) - 1 - np.maximum(first, min(policy.most + 1, len(at) - 1)))
