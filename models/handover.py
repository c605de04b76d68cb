"""Other weights in the middle of a stream: the carries that go with them, made from what rings remember, and given to each series at its
own first cell under them.

Letters: N series, M members, D hidden units, P weights.

At a learning instant the new weights take the old ones' place. Carries that the old ones have left mean nothing to them, so each series'
values of late are read anew: for learning at once (anchors), for arrivals into a *staging*, since their cells belong to generations and one
that comes late may still ask for the old weights. A series takes its carries from there at its first cell whose generation has the new
weights, whatever partitions did meanwhile: all of it is a function of event time, as learning is.

Until somebody needs it, reading anew can wait: nothing that it reads changes before the next instant. So it is done in slices, between
samples, and a stream does not stand still for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models import lesson
from models.batch import rows as padded
from models.carry import NEVER, Memory, keep, kept
from models.inputs import LAGS, Shape
from models.network import Ensemble

SIDE = 64  # series whose values are read anew at once: some tens of milliseconds
DEPTH = 64  # dilated steps: more than any ring holds


class Incoming(NamedTuple):
    """What is to serve, and to go on learning, from an instant on."""

    version: str
    weights: Tensor  # (P,) float32
    moments: Tensor | None  # (2, P) of the rule of descent; None: those that there are go on


@dataclass
class Staging:
    """Carries under the weights that have come at `instant`, of series that have not come to a cell under them yet."""

    instant: int
    slot: np.ndarray  # (N,) ascending
    until: np.ndarray  # (N,) newest cell that was read
    carry: np.ndarray  # (N, LAGS, 2M, D) float16, by cell % LAGS
    carried: np.ndarray  # (N, LAGS) the cell after which that carry was; NEVER: none
    left: np.ndarray  # (N,) bool: not taken yet
    of: lesson.Series | None = None  # (N,) what is read with; None: all has been read

    def find(self, slot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of (K,) slots: which (indices) have something here, and where."""
        at = np.minimum(np.searchsorted(self.slot, slot), max(len(self.slot) - 1, 0))
        mine = np.flatnonzero((self.slot[at] == slot) & self.left[at]) if len(self.slot) else np.zeros(0, np.int64)
        return mine, at[mine]

    def forget(self, slots: np.ndarray) -> None:
        self.left[self.find(slots)[1]] = False

    def state(self) -> dict[str, np.ndarray]:
        left = self.left
        return {name: getattr(self, name)[left] for name in ("slot", "until", "carry", "carried")}

    @classmethod
    def load(cls, instant: int, columns: dict[str, np.ndarray]) -> Staging:
        """The inverse of `state`."""
        kept: dict[str, Any] = {name: columns[name].copy() for name in ("slot", "until", "carry", "carried")}
        return cls(instant, **kept, left=np.ones(len(kept["slot"]), bool), of=None)


def opened(memory: Memory, of: lesson.Series, *, instant: int) -> Staging:
    """Of series (N,; slots ascending), before any of their closed values has been read; they have no anchors until then."""
    m, slots = memory, of.slot
    m["anchor_hidden"][slots], m["anchor_cell"][slots], m["anchored"][slots] = 0, 0, NEVER
    until = m["closed_newest"][slots].copy()
    _, members, hidden = m["carry_cell"].shape[1:]
    carry = np.zeros((len(slots), LAGS, 2 * members, hidden), np.float16)
    return Staging(instant, slots, until, carry, m["anchored"][slots].copy(), np.ones(len(slots), bool), of)


def read_on(made: Staging, memory: Memory, ensemble: Ensemble, form: Shape, *, truncation: int) -> None:
    """A slice: carries of the next series from nothing over their closed values, and their anchors where learning wants them."""
    m, of = memory, made.of
    assert of is not None, "there is something left"
    at = len(made.slot) - len(of.slot)
    part, rest = (lesson.Series(*(column[rows] for column in of)) for rows in (slice(None, SIDE), slice(SIDE, None)))
    each = lesson.Series(*(column.repeat(LAGS, 0) for column in part))
    newest = (made.until[at : at + SIDE, None] - np.arange(LAGS)).ravel()
    chain, cell, after = walk(m, each, newest - 1 - LAGS * truncation, ensemble, form)
    keep(m, "anchor", each.slot[chain], cell, after)
    chain, cell, after = walk(m, each, newest, ensemble, form)  # goes on from the anchors
    made.carry[at + chain // LAGS, cell % LAGS], made.carried[at + chain // LAGS, cell % LAGS] = after, cell
    row, phase = np.nonzero(made.carried[at : at + SIDE] == NEVER)  # nothing has been observed since the anchor
    made.carry[at + row, phase], made.carried[at + row, phase] = kept(m, "anchor", part.slot[row], phase)
    made.of = rest if len(rest.slot) else None


def walk(memory: Memory, of: lesson.Series, end: np.ndarray, ensemble: Ensemble, form: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chains from their anchors to these cells (N,): which of them have a step, the last one's cell, the carry (2M, D) after it."""
    whole, origins = lesson.chains(memory, of, end, depth=DEPTH, origins=1, form=form)
    starts, device = whole.lengths.cumsum() - whole.lengths, next(ensemble.parameters()).device
    after = np.zeros(whole.carry.shape, np.float16)
    for length in np.unique(whole.lengths):
        rows = np.flatnonzero(whole.lengths == length)
        x = whole.x[starts[rows][:, None] + np.arange(length)]
        with torch.no_grad():
            _, carry = ensemble(padded(x, device), padded(whole.carry[rows], device))
        after[rows] = carry[: len(rows)].cpu().numpy()
    return origins.asked, origins.cell, after
