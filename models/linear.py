"""Online least squares on changes: every lead's change from the newest value, from the last changes and the course of the last seasons.

One regression for all series (each in units of its own one-step change), recursive with forgetting: the sums of a group of leads
take a row as soon as the group's last label has come, so that short leads learn at once (Plackett 1950; Haykin 2002, ch. 10: here
by the normal equations, whose sums need no inverse to be kept in step and cannot drift apart from it).

Letters: N rows, F features, H lead times, G groups of leads.
"""

from __future__ import annotations

import numpy as np

from models.batch import ROWS
from models.inputs import WIDTH, Shape, read

LAGS = 24  # changes that it sees, one by one
GROUPS = (1, 6, 24)  # where groups of leads end
FORGET = 0.9998  # an instant
RIDGE = 1e-3  # of the mean square of the features
BOUND = 100.0  # one-step changes; a value farther off is cut
LEAST = 20  # rows a feature, below which nothing is said but the last value


class Linear:
    """Sums, and the coefficients solved from them a group an instant, in turn."""

    def __init__(self, form: Shape) -> None:
        self.form = form
        h = form.horizon
        ends = [e for e in GROUPS if e < h] + [h]
        self.groups = list(zip([0, *ends[:-1]], ends, strict=True))
        # Padded: see models.inputs.WIDTH. Zeros teach nothing, and the pull keeps their coefficients there.
        self.features = -(-(LAGS + (0 if form.season is None else 2 * h)) // WIDTH) * WIDTH
        self.gram = np.zeros((len(self.groups), self.features, self.features))
        self.cross = np.zeros((self.features, h))
        self.rows = np.zeros(len(self.groups))
        self.solved = np.zeros((self.features, -(-h // WIDTH) * WIDTH), np.float32)  # coefficients; replaced, never changed in place
        self.turn = 0

    def see(self, ring: np.ndarray, slot: np.ndarray, cell: np.ndarray, level: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Features (N, F) at cells, from values there and before; what was not observed is no change."""
        with np.errstate(over="ignore", invalid="ignore"):
            seen = np.concatenate(self._changes(ring, slot, cell, level), 1) / size[:, None]
        x = np.zeros((len(slot), self.features))
        x[:, : seen.shape[1]] = np.where(np.isnan(seen), 0.0, np.clip(seen, -BOUND, BOUND))
        return x

    def _changes(self, ring: np.ndarray, slot: np.ndarray, cell: np.ndarray, level: np.ndarray) -> list[np.ndarray]:
        parts = [read(ring, slot, cell[:, None] - np.arange(1, LAGS + 1)) - level[:, None]]
        if self.form.season is not None:
            last = read(ring, slot, cell[:, None] - self.form.back) - level[:, None]
            before = read(ring, slot, cell[:, None] - self.form.back - self.form.season) - level[:, None]
            parts += [last, (last + before) / 2]
        return parts

    def say(self, x: np.ndarray, solved: np.ndarray) -> np.ndarray:
        """(N, H) changes from the level, in units of the series' one-step change; a row is the same whoever stands beside it."""
        rows = np.zeros((-(-len(x) // ROWS) * ROWS, self.features), np.float32)
        rows[: len(x)] = x
        return np.asarray((rows @ solved)[: len(x), : self.form.horizon])

    def learn(self, ring: np.ndarray, slot: np.ndarray, cell: np.ndarray, size: np.ndarray) -> None:
        """The newest closed cells (N,): the rows whose last label of a group they are."""
        for g, (first, end) in enumerate(self.groups):
            origin = cell - end
            level = read(ring, slot, origin[:, None])[:, 0]
            target = read(ring, slot, origin[:, None] + np.arange(first + 1, end + 1))
            fine = ~np.isnan(level) & ~np.isnan(target).any(1)
            self.gram[g] *= FORGET
            self.cross[:, first:end] *= FORGET
            self.rows[g] *= FORGET
            if not fine.any():
                continue
            s, o, unit = slot[fine], origin[fine], size[fine]
            x = self.see(ring, s, o, level[fine], unit)
            with np.errstate(over="ignore"):
                y = np.clip((target[fine] - level[fine, None]) / unit[:, None], -BOUND, BOUND)
            self.gram[g] += x.T @ x
            self.cross[:, first:end] += x.T @ y
            self.rows[g] += len(x)

    def solve(self) -> None:
        """The coefficients of the group whose turn it is."""
        g = self.turn % len(self.groups)
        self.turn += 1
        if self.rows[g] < LEAST * self.features:
            return
        first, end = self.groups[g]
        gram = self.gram[g]
        pull = RIDGE * np.trace(gram) / self.features + 1e-9
        fresh = self.solved.copy()
        fresh[:, first:end] = np.linalg.solve(gram + pull * np.eye(self.features), self.cross[:, first:end])
        self.solved = fresh

    ARRAYS = ("gram", "cross", "rows", "solved")

    def state(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in self.ARRAYS} | {"turn": np.array([self.turn])}

    def load(self, columns: dict[str, np.ndarray]) -> None:
        """The inverse of `state`."""
        for name in self.ARRAYS:
            setattr(self, name, columns[name].copy())
        self.turn = int(columns["turn"][0])
