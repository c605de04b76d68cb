"""The experts' forecasts as one: per lead, stacked by discounted ridge regression, and the stack weighed among all of them.

Two levels. *Stacking* (Wolpert 1992; Breiman 1996) finds the linear combination that would have been best of late, shrunk towards
the prior weights; its labels come per lead. What it says enters, beside every expert and the prior combination, an *exponentially
weighted average* (Vovk 1990; Littlestone & Warmuth 1994) on discounted squared errors: never far from the best of them, whatever
stacking does. The average is over all series, and from there on a series' own, as far as its own errors say otherwise.
Every level is linear in the experts, so that what a forecast needs is one weight an expert and lead.

Letters: N rows, K experts, V = K + 2 voices (the experts, the stack, the prior combination), H lead times, G groups of leads.
Forecasts and actual values are relative to the level at issue, in naive errors of their lead; an expert that says the level
itself is a zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FORGET = 0.9998  # of what stacking and weighing remember, an instant
RIDGE = 0.01  # pull of the prior weights on stacking, in mean squares of the experts' forecasts
QUIET = 0.3  # squared naive errors: mean square that experts count with at least; in their first hours weights of 200 followed them
EAGER = 0.03  # rate of the weighing, an instant
SURE = 100.0  # times the relative difference in error that it comes to at most, at lead 1: the best alone is not as good as some together
OVERLAP = 1 / 3  # how sure anybody is falls with this power of lead: errors of long leads overlap, and a thousand of them say little
OWN_RATE = 0.002  # of forgetting in a series' own errors: 500 instants
OWN_EAGER = 0.1  # 50 times the relative difference at lead 1, once those are remembered
LEAST = -60.0  # of what a series' own errors may take from a voice: nothing is left of it
BOUND = 10.0  # naive errors: what is farther off counts as this
NETS = 0.95  # of the prior weight: what the networks have together
VOICES = (0.15, 0.1, 0.25, 0.5)  # prior weight of all experts one by one, of the level once more, of the stack, of the prior combination


ENDS = (1, 6, 24)  # where groups of leads end: a series' own evidence is gathered by group, it has little of each lead


def groups(horizon: int) -> np.ndarray:
    """(H,) the group of each lead.

    >>> groups(8).tolist()
    [0, 1, 1, 1, 1, 1, 2, 2]
    """
    return np.searchsorted(ENDS, np.arange(1, horizon + 1))


def several(horizon: int) -> int:
    """How many groups there are."""
    return int(groups(horizon)[-1]) + 1


class Weights(NamedTuple):
    """What a generation has learnt of the experts; nobody changes it."""

    voice: np.ndarray  # (H, V) logarithms, of all series together
    stacked: np.ndarray  # (H, K)

    def of(self, lean: np.ndarray, prior: np.ndarray) -> np.ndarray:
        """Weights (N, H, K) of series that lean (N, G, V) to some of the voices."""
        score = self.voice + lean[:, groups(len(self.voice))]
        voice = np.exp(score - score.max(-1, keepdims=True))
        voice /= voice.sum(-1, keepdims=True)
        return np.asarray(voice[..., :-2] + voice[..., -2:-1] * self.stacked + voice[..., -1:] * prior)


class Mixture:
    """Running sums, and the weights that follow from them. Arrays only; `ARRAYS` is all that is remembered."""

    ARRAYS = ("gram", "cross", "loss", "seen")

    def __init__(self, *, nets: int, others: int, allowed: np.ndarray, horizon: int) -> None:
        """`allowed` (K,) bool: experts that may have weight; the first `nets` are networks, the last one says the level."""
        count = nets + others
        self.allowed = allowed
        share = np.where(np.arange(count) < nets, NETS / max(nets, 1), (1 - NETS) / max(others, 1)) * allowed
        self.prior = share / share.sum()
        alone = self.prior * VOICES[0]
        alone[-1] += VOICES[1] * allowed[-1]
        with np.errstate(divide="ignore"):
            self._start = np.log(np.concatenate([alone, VOICES[2:]]))
        self.gram = np.zeros((horizon, count, count))
        self.cross = np.zeros((horizon, count))
        self.loss = np.zeros((horizon, count + 2))  # discounted squared errors of the voices
        self.seen = np.zeros(horizon)  # discounted instants
        self._group = groups(horizon)
        self.groups = several(horizon)
        self._sure = np.arange(1, horizon + 1) ** -OVERLAP
        self._own_sure = np.bincount(self._group, self._sure) / np.bincount(self._group)
        self.weigh()

    @property
    def voices(self) -> int:
        return len(self._start)

    def learn(self, said: np.ndarray, actual: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Forecasts (N, K, H) that met their actual values (N, H), where `known` (N, H); returns squared errors (N, V, H)."""
        said, actual = np.where(known[:, None], said, 0.0), np.where(known, actual, 0.0)
        each = np.maximum(known.sum(0), 1)
        here = known.any(0)
        by_lead = said.transpose(2, 1, 0)  # (H, K, N)
        keep = np.where(here, FORGET, 1.0)
        self.gram = self.gram * keep[:, None, None] + by_lead @ by_lead.transpose(0, 2, 1) / each[:, None, None]
        self.cross = self.cross * keep[:, None] + (by_lead @ actual.T[:, :, None])[..., 0] / each[:, None]
        both = np.stack([(said * self.stacked.T).sum(1), (said * self.prior[:, None]).sum(1)], 1)
        off = np.minimum(np.abs(np.concatenate([said, both], 1) - actual[:, None]), BOUND)
        off *= off
        self.loss = self.loss * keep[:, None] + off.sum(0).T / each[:, None]
        self.seen = self.seen * keep + here
        return np.asarray(off)

    def weigh(self) -> None:
        """Voices and stack of all series together anew, from all that has been learnt."""
        count = len(self.prior)
        heard = np.maximum(np.trace(self.gram, axis1=1, axis2=2) / count, QUIET * self.seen)
        pull = RIDGE * heard[:, None] + 1e-6
        shut = np.where(self.allowed, 0.0, 1e12)  # an expert that may not have weight is pulled to nothing
        normal = self.gram + (pull[..., None] + shut) * np.eye(count)
        self.stacked = np.linalg.solve(normal, (self.cross + pull * self.prior)[..., None])[..., 0]
        score = self._start - np.minimum(EAGER * self.seen, SURE * self._sure)[:, None] * self._behind(self.loss)
        self.voice = score - score.max(1, keepdims=True)

    @property
    def weights(self) -> Weights:
        """As they stand, for good."""
        return Weights(self.voice.astype(np.float32), self.stacked.astype(np.float32))

    def by_group(self, off: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Errors (N, V, H), where `known` (N, H), as means (N, V, G) over the leads of a group, and where there are some (N, G).

        Leads of a group met at one instant are one piece of evidence, not many: they know of each other.
        """
        of = (self._group == np.arange(self.groups)[:, None]).astype(np.float64)  # (G, H)
        leads = known @ of.T
        return np.where(known[:, None], off, 0.0) @ of.T / np.maximum(leads, 1)[:, None], leads > 0

    def lean(self, loss: np.ndarray, count: np.ndarray) -> np.ndarray:
        """(N, G, V) what series' own mean squared errors (N, V, G) over (N, G) scores add to the voices' logarithms."""
        heard = np.minimum(count, 1 / OWN_RATE)[..., None]
        eager = OWN_EAGER * self._own_sure[:, None]
        return np.asarray(np.maximum(-eager * heard * self._behind(loss.transpose(0, 2, 1)), LEAST))

    def _behind(self, loss: np.ndarray) -> np.ndarray:
        """(..., V) how much worse than the best of those who may speak, as a part."""
        least = np.where(np.isfinite(self._start), loss, np.inf).min(-1, keepdims=True)
        return np.asarray(loss / np.maximum(least, 1e-9) - 1)

    def state(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in self.ARRAYS}

    def load(self, columns: dict[str, np.ndarray]) -> None:
        """The inverse of `state`."""
        for name in self.ARRAYS:
            setattr(self, name, columns[name].copy())
        self.weigh()
