"""What has been forgotten: two sets of weights on the same stretches of old regimes.

Whoever learns from what is new may lose what was: a season that comes back next year, a tariff, a holiday. The regimes are equal parts of
a history's time, and the stretches of each are drawn with the seed alone, so that everybody who trains on a history sits the same exam.

Letters: K regimes, M stretches of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from models import lesson
from models.learner import Learner
from models.network import Ensemble, Flat
from models.past import CHUNKS, Carries, Past, Scales, chunks, drawn

REGIMES, STRETCHES = 4, 8  # a stretch is a lane of `models.past`: 1,440 cells at most
TINY = 1e-3  # losses that small are none


def examined(learner: Learner, past: Past, of: Scales, weights: Sequence[np.ndarray], *, until: int) -> tuple[np.ndarray, np.ndarray]:
    """First cells (K + 1,) of the regimes before `until` and behind the last, and losses (W, K, M) of flat weights (P,); NaN: no value.

    A stretch's loss is that of learning, the mean over networks; what is said in its first half chunk has too little to go by.
    """
    ends = np.linspace(int(past.first.min()), until, REGIMES + 1).astype(np.int64)
    losses = np.full((len(weights), REGIMES, STRETCHES), np.nan)
    flat = Flat(Ensemble(**learner.plan()["network"]).to(learner.device))
    for w, given in enumerate(weights):
        flat.weights.copy_(torch.from_numpy(given))
        for k in range(REGIMES):
            rng = np.random.default_rng((learner.config.seed, 2, k))
            series, begin = drawn(past, rng, STRETCHES, begin=int(ends[k]), until=int(ends[k + 1]))
            for m in range(len(series)):
                losses[w, k, m] = _loss(learner, flat.network, past, of, series[m : m + 1], begin[m : m + 1], known=int(ends[k + 1]))
    return ends, losses


def _loss(learner: Learner, network: Ensemble, past: Past, of: Scales, series: np.ndarray, begin: np.ndarray, *, known: int) -> float:
    carries, total, count = Carries(learner), 0.0, 0
    with torch.no_grad():
        for chunk in chunks(past, of, series, begin, form=learner.form, count=CHUNKS, known=known):
            each, after = lesson.carried(network, chunk.whole, learner.levels, carries.before(chunk))
            carries.after(chunk, after)
            values = int(chunk.whole.known.sum())
            if values:
                total, count = total + float(each.mean()) * values, count + values
    return total / count if count else float("nan")


class Exam(NamedTuple):
    """What a challenger has kept of old regimes."""

    rise: np.ndarray  # (K,) part by which the loss of each regime rose; NaN: nothing is known of it
    error: np.ndarray  # (K,) standard error of it; infinite: of one stretch alone it cannot be told
    lost: np.ndarray  # (K,) bool: it rose by more than what is allowed, and that is no chance


def forgotten(champion: np.ndarray, challenger: np.ndarray, *, share: float) -> Exam:
    """Mean losses (K, M) of both on the same M stretches of each of K old regimes, NaN where there is none; `share` may be lost.

    The set does not change and is looked at once a challenger, so a standard error of a ratio does (Cochran 1977, eq. 2.46); stretches
    should be longer than the farthest lead. Lost is what rose by more than the share and two of them.
    """
    known = ~np.isnan(champion + challenger)
    before, after = (np.where(known, loss, 0.0) for loss in (champion, challenger))
    count, base = known.sum(1), before.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = after.sum(1) / np.where(count > 0, np.maximum(base, TINY * count), np.nan)
        left = np.where(known, after - ratio[:, None] * before, 0.0)
        error = np.sqrt(count / (count - 1.0) * (left * left).sum(1)) / np.maximum(base, TINY * count)
    error = np.where(count > 1, error, np.inf)
    return Exam(ratio - 1, error, ratio - 1 > share + 2 * error)
