"""What would have been known of covariates: followed cell by cell, as a stream's learner does, and without one.

Letters: N series, W numbers of an outlook (see `models.covariates`).
"""

from __future__ import annotations

import numpy as np

from models import covariates
from models.carry import NEVER, Memory
from models.covariates import Plan, Tells


class Outlooks:
    """Of series in slots; for whoever has a history and no learner that meets it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._memory = Memory({"newest": (np.int64, (), NEVER), "value": (np.float64, (), np.nan), **covariates.columns(plan, 1)})

    def admit(self, slot: int) -> None:
        """A new series takes a slot."""
        self._memory.grow(slot + 1)
        self._memory.clear(np.array([slot]))

    def tell(self, tells: Tells) -> None:
        """What records say, before the values that came with them."""
        covariates.tell(self._memory, self.plan, tells)

    def look(self, slot: np.ndarray, cell: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of values (N,), each of another series: which of them are newer than all before, and outlooks (of these, W) at their cells."""
        m = self._memory
        new = np.flatnonzero(cell > m["newest"][slot])
        slot, cell, value = slot[new], cell[new], value[new]
        with np.errstate(over="ignore", invalid="ignore"):
            change = np.where(m["newest"][slot] == cell - 1, value - m["value"][slot], np.nan)
        m["newest"][slot], m["value"][slot] = cell, value
        return new, covariates.look(m, self.plan, slot, cell, change)
