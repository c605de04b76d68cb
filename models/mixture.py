"""The experts' forecasts as one: per lead, stacked by discounted ridge regression, and the stack weighed among all of them.

Two levels. *Stacking* (Wolpert 1992; Breiman 1996) finds the linear combination that would have been best of late, shrunk towards
the prior weights; its labels come per lead. What it says enters, beside every expert, an *exponentially weighted average*
(Vovk 1990; Littlestone & Warmuth 1994) on discounted squared errors: never far from the best of them, whatever stacking does.
Both levels are linear in the experts, so that what a forecast needs is one weight an expert and lead.

Letters: N rows, K experts, H lead times. Forecasts and actual values relative to the level at issue, in naive errors of their lead;
an expert that says the level itself is a zero.
"""

from __future__ import annotations

import numpy as np

FORGET = 0.9998  # of what stacking and weighing remember, an instant
RIDGE = 0.01  # pull of the prior weights on stacking, in mean squares of the experts' forecasts
EAGER = 0.03  # rate of the weighing: 150 times the relative difference in error, once 5,000 instants are remembered
BOUND = 10.0  # naive errors: what is farther off counts as this
NETS = 0.9  # of the prior weight: what the networks have together


class Mixture:
    """Running sums, and the weights that follow from them. Arrays only; `ARRAYS` is all that is remembered."""

    ARRAYS = ("gram", "cross", "loss", "seen", "total")

    def __init__(self, *, nets: int, others: int, allowed: np.ndarray, horizon: int) -> None:
        """`allowed` (K,) bool: experts that may have weight; the first `nets` are networks, the last one says the level."""
        count = nets + others
        self.allowed = allowed
        share = np.where(np.arange(count) < nets, NETS / max(nets, 1), (1 - NETS) / max(others, 1)) * allowed
        self.prior = share / share.sum()
        self.gram = np.zeros((horizon, count, count))
        self.cross = np.zeros((horizon, count))
        self.loss = np.zeros((horizon, count + 1))  # discounted squared errors; the stack's is the last
        self.seen = np.zeros(horizon)  # discounted instants
        self.total = np.zeros(horizon, np.int64)  # instants with a score
        self.stacked = np.tile(self.prior, (horizon, 1))
        self.weights = self.stacked.copy()  # (H, K) of a forecast

    def learn(self, said: np.ndarray, actual: np.ndarray, known: np.ndarray) -> None:
        """Forecasts (N, K, H) that met their actual values (N, H), where `known` (N, H)."""
        said, actual = np.where(known[:, None], said, 0.0), np.where(known, actual, 0.0)
        count = known.sum(0)
        here = count > 0
        each = np.maximum(count, 1)
        by_lead = said.transpose(2, 1, 0)  # (H, K, N)
        gram = by_lead @ by_lead.transpose(0, 2, 1) / each[:, None, None]
        cross = (by_lead @ actual.T[:, :, None])[..., 0] / each[:, None]
        stack = np.einsum("nkh,hk->nh", said, self.stacked)
        off = np.minimum(np.abs(np.concatenate([said, stack[:, None]], 1) - actual[:, None]), BOUND)
        loss = (off * off).sum(0).T / each[:, None]
        keep = np.where(here, FORGET, 1.0)
        self.gram = self.gram * keep[:, None, None] + gram
        self.cross = self.cross * keep[:, None] + cross
        self.loss = self.loss * keep[:, None] + loss
        self.seen = self.seen * keep + here
        self.total += here

    def weigh(self) -> None:
        """Weights anew, from all that has been learnt."""
        count = len(self.prior)
        eye = np.eye(count)
        pull = RIDGE * np.trace(self.gram, axis1=1, axis2=2)[:, None] / count + 1e-6
        shut = np.where(self.allowed, 0.0, 1e12)  # an expert that may not have weight is pulled to nothing
        normal = self.gram + (pull[..., None] + shut) * eye
        self.stacked = np.linalg.solve(normal, (self.cross + pull * self.prior)[..., None])[..., 0]
        prior = np.concatenate([self.prior, [0.0]])
        prior[-1] = 0.5  # the stack begins as the prior itself, so this is a second voice for it
        with np.errstate(divide="ignore"):
            start = np.log(prior)
        allowed = np.concatenate([self.allowed, [True]])
        least = np.where(allowed, self.loss, np.inf).min(1, keepdims=True)
        behind = self.loss / np.maximum(least, 1e-12) - 1
        score = np.where(allowed, start - EAGER * self.seen[:, None] * behind, -np.inf)
        score -= score.max(1, keepdims=True)
        voice = np.exp(score)
        voice /= voice.sum(1, keepdims=True)
        self.weights = voice[:, :-1] + voice[:, -1:] * self.stacked

    def state(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in self.ARRAYS}

    def load(self, columns: dict[str, np.ndarray]) -> None:
        """The inverse of `state`."""
        for name in self.ARRAYS:
            setattr(self, name, columns[name].copy())
        self.weigh()
