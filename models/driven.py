"""Online least squares on covariates: every lead's change, from what is known of that lead, the covariates' and the value's last changes.

As `models.linear`, but for one thing: what is known ahead differs from lead to lead, so each lead has sums of its own, over a few features.
One regression for all series, each in its own units.

Letters: N rows, F features, H lead times, L of them in a row, A covariates known ahead.
"""

from __future__ import annotations

import numpy as np
import torch

from models import covariates
from models.carry import Memory
from models.covariates import LAGS, NOW, STANDS, Outlook
from models.inputs import Shape, View, read
from models.linear import BOUND, RIDGE, Sums

OWN = 3  # of the value's last changes
BEFORE = 3  # leads up to a row's own, of which what is known ahead is seen: values follow causes late
LEAST = 5  # rows a feature, below which nothing is said but the last value


class Driven(Sums):
    """A group of leads is solved an instant, in turn."""

    def __init__(self, form: Shape) -> None:
        self.plan = form.known
        h = form.horizon
        self.features = OWN + len(backs(form)) + self.plan.number * (1 + LAGS) + len(self.plan.ahead) * (BEFORE + 1)
        f = self.features
        super().__init__(form, (h, f, f), (h, f), (h,), (1, h, f))

    def see(self, changes: list[np.ndarray], size: np.ndarray, own: Outlook, leads: np.ndarray) -> np.ndarray:
        """Features (N, L, F) at `leads`, (L,) or (N, 1); `changes` of the value, (N, L) or (N, 1) each, in the series' own units.

        `own.ahead` (N, A, L, BEFORE): what is known of each lead, and of those just before it.
        """
        shape = len(size), own.ahead.shape[2]
        with np.errstate(over="ignore", invalid="ignore"):
            parts = [np.broadcast_to(np.clip(np.nan_to_num(x / size[:, None]), -BOUND, BOUND), shape)[..., None] for x in changes]
        common = np.nan_to_num(np.concatenate([own.own[..., STANDS, None], own.lags[..., 1:]], 2)).reshape(len(size), 1, -1)
        parts.append(np.broadcast_to(common, (*shape, common.shape[2])))
        if self.plan.ahead:
            known = np.nan_to_num(own.ahead)
            reactions = covariates.reactions(self.plan, own.own, known[..., 0], np.broadcast_to(leads, shape)[:, None])
            each = np.concatenate([known, reactions[..., None]], 3)
            parts.append(each.transpose(0, 2, 1, 3).reshape(*shape, -1))
        return np.concatenate(parts, 2, dtype=np.float64)

    def arriving(self, v: View, size: np.ndarray, outlook: np.ndarray) -> np.ndarray:
        """Features (N, H, F) at cells that forecasts are made at."""
        found = covariates.opened(self.plan, outlook)
        padded = np.concatenate([np.zeros((*found.ahead.shape[:2], BEFORE - 1), np.float32), found.ahead], 2)
        known = np.stack([padded[..., BEFORE - 1 - k : padded.shape[2] - k] for k in range(BEFORE)], 3)
        first = [] if self.form.season is None else [v.last, v.offset]
        changes = [*(v.lags[:, [k]] for k in range(OWN)), *first, *v.further.transpose(1, 0, 2)]
        return self.see(changes, size, found._replace(ahead=known), self.form.leads)

    def say(self, x: np.ndarray, solved: np.ndarray) -> np.ndarray:
        """(N, H) changes from the level, in units of the series' one-step change; a row is the same whoever stands beside it."""
        return np.asarray((x * solved[0]).sum(2), np.float32)

    def take(self, m: Memory, slot: np.ndarray, cell: np.ndarray, size: np.ndarray) -> None:
        """What the newest closed cells (N,) teach: a row of each lead, from its origin as it was then."""
        form, ring, count = self.form, m["closed"], len(cell)
        of, leads = np.repeat(slot, form.horizon), np.tile(form.leads, count)
        at = np.repeat(cell, form.horizon) - leads
        values = read(ring, of, at[:, None] - np.arange(OWN + 1))
        level = values[:, :1]
        with np.errstate(over="ignore", invalid="ignore"):
            changes = [values[:, [k]] - level for k in range(1, OWN + 1)]
            changes += [read(ring, of, (at - back[leads - 1])[:, None]) - level for back in backs(form)]
            came = (np.repeat(read(ring, slot, cell[:, None]), form.horizon, 0) - level) / np.repeat(size, form.horizon)[:, None]
        x = self.see(changes, np.repeat(size, form.horizon), self._then(m, of, at, leads), leads[:, None])
        self.learn(x.reshape(count, form.horizon, -1), came.reshape(count, -1))

    def _then(self, m: Memory, slot: np.ndarray, cell: np.ndarray, leads: np.ndarray) -> Outlook:
        """What was known at cells (N,) of one lead each."""
        plan = self.plan
        end = plan.number * plan.each
        own = covariates.kept(m, plan, slot, cell, np.arange(end)).astype(np.float32).reshape(-1, plan.number, plan.each)
        before = leads[:, None] - 1 - np.arange(BEFORE)
        places = end + np.arange(len(plan.ahead))[:, None] * plan.horizon + np.maximum(before, 0)[:, None]  # (N, A, BEFORE)
        ahead = covariates.kept(m, plan, slot, cell, places.reshape(len(slot), -1)).astype(np.float32).reshape(places.shape)
        ahead = np.where(before[:, None] < 0, 0.0, ahead)
        return Outlook(own[..., :NOW], own[..., NOW:], ahead[:, :, None])

    def learn(self, x: np.ndarray, change: np.ndarray) -> None:
        """Rows (N, H, F), and the changes (N, H) that came, in units of the series' one-step change; NaN: no row."""
        there = ~np.isnan(change)
        x = np.where(there[..., None], x, 0.0)
        y = np.where(there, np.clip(change, -BOUND, BOUND), 0.0)
        rows = torch.from_numpy(np.ascontiguousarray(x.transpose(1, 0, 2)))  # (H, N, F)
        louder = rows.transpose(1, 2) * self.gain
        torch.from_numpy(self.gram).baddbmm_(louder, rows)
        self.cross += torch.bmm(louder, torch.from_numpy(np.ascontiguousarray(y.T))[..., None])[..., 0].numpy()
        self.rows += there.sum(0) * self.gain

    def solve(self) -> None:
        """The coefficients of the group of leads whose turn it is."""
        first, end = self.groups[self.turn % len(self.groups)]
        self.turn += 1
        enough = first + np.flatnonzero(self.rows[first:end] >= LEAST * self.features * self.gain)
        if not enough.size:
            return
        gram = torch.from_numpy(self.gram[enough])
        pull = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1) + 1e-9
        gram = gram + pull[:, None, None] * torch.eye(self.features, dtype=gram.dtype)
        fresh = self.solved.copy()
        fresh[0, enough] = torch.linalg.solve(gram, torch.from_numpy(self.cross[enough])).numpy()
        self.solved = fresh


def backs(form: Shape) -> list[np.ndarray]:
    """(H,) each: how far back the same phase of a lead's target, and of the cell itself, lies in each season."""
    return [*([] if form.season is None else [form.back, form.whole]), *form.beside]
