"""An exam in the old regimes of a history: two sets of weights on the same stretches of them, each a lane of `models.past`.

The regimes are equal parts of a history's time, and the stretches of each are drawn with the seed alone, so that everybody who trains on
a history sits the same exam.

Letters: K regimes, M stretches of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from models import lesson
from models.learner import Learner
from models.network import Ensemble, Flat
from models.past import CHUNKS, Carries, Past, Scales, chunks, drawn
from models.regimes import REGIMES, STRETCHES


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
