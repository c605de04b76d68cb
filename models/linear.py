"""Online least squares on changes: every lead's change from the newest value, from the last changes and the course of the last seasons.

Recursive with forgetting; the sums of a group of leads take a row as soon as the group's last label has come, so that short leads
learn at once (Plackett 1950; Haykin 2002, ch. 10: here by the normal equations, whose sums need no inverse to be kept in step and
cannot drift apart from it). *Own*: one regression for all series, each in units of its own one-step change. *Related*: one for each
column of a wide record, over all records, which also sees the other columns: their last changes, and how far each stands from its mean.

The large products are torch's, whose threads are ours to say: numpy's library takes all cores, and small steps then wait for each other.

Letters: N rows, F features, H lead times, G groups of leads, C columns (1: own).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from models.batch import ROWS
from models.inputs import WIDTH, Shape, behind, read

LAGS = 24  # changes that it sees, one by one
OTHERS = np.array([1, 2, 3, 6, 12, 24])  # steps back of the changes of related columns
GROUPS = (1, 6, 24)  # where groups of leads end
FORGET = 0.9998  # an instant
RIDGE = 1e-3  # of the mean square of the features
BOUND = 100.0  # one-step changes; a value farther off is cut
LEAST = 20  # rows a feature, below which nothing is said but the last value
LARGEST = 64_000_000  # bytes of sums: related columns beyond it are not looked at


class Related(NamedTuple):
    """Other columns of the records that rows belong to: where they are, and what is learnt of them."""

    slot: np.ndarray  # (N, C) -1: none
    size: np.ndarray  # (N, C) one-step changes
    mean: np.ndarray  # (N, C)
    newest: np.ndarray  # (N, C) the newest cell that may be read


class Sums:
    """Normal equations that forget, and the coefficients solved from them."""

    ARRAYS = ("gram", "cross", "rows", "solved")

    def __init__(self, form: Shape, gram: tuple[int, ...], cross: tuple[int, ...], rows: tuple[int, ...], solved: tuple[int, ...]) -> None:
        """Of these shapes; for leads in the groups that end at `GROUPS`."""
        self.form = form
        ends = [e for e in GROUPS if e < form.horizon] + [form.horizon]
        self.groups = list(zip([0, *ends[:-1]], ends, strict=True))
        self.gram, self.cross, self.rows = np.zeros(gram), np.zeros(cross), np.zeros(rows)
        self.solved = np.zeros(solved, np.float32)  # replaced, never changed in place: generations hold on to it
        self.gain = 1.0  # of a new row: instead of everything fading, what is new is louder
        self.turn = 0

    def solve(self) -> None:
        """The coefficients of those whose turn it is."""
        raise NotImplementedError

    def fade(self) -> None:
        """An instant has passed."""
        self.gain /= FORGET
        if self.gain > 1e6:  # noqa: PLR2004 - long before anything overflows
            self.gram, self.cross, self.rows = (sums / self.gain for sums in (self.gram, self.cross, self.rows))
            self.gain = 1.0

    def state(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in self.ARRAYS} | {"gain": np.array([self.gain]), "turn": np.array([self.turn])}

    def load(self, columns: dict[str, np.ndarray]) -> None:
        """The inverse of `state`."""
        for name in self.ARRAYS:
            setattr(self, name, columns[name].copy())
        self.gain, self.turn = float(columns["gain"][0]), int(columns["turn"][0])


class Linear(Sums):
    """A column's group of leads is solved an instant, in turn."""

    def __init__(self, form: Shape, *, columns: int = 0) -> None:
        """`columns` of a wide record; 0: every series by itself."""
        self.columns, self.features = columns, features(form, columns)
        h, f, count = form.horizon, self.features, max(columns, 1)
        groups = sum(e < h for e in GROUPS) + 1
        super().__init__(form, (count, groups, f, f), (count, f, h), (count, groups), (count, f, -(-h // WIDTH) * WIDTH))

    def see(
        self, ring: np.ndarray, slot: np.ndarray, cell: np.ndarray, level: np.ndarray, size: np.ndarray, related: Related | None
    ) -> np.ndarray:
        """Features (N, F) at cells, from values there and before; what was not observed is no change."""
        with np.errstate(over="ignore", invalid="ignore"):
            seen = np.concatenate(self._changes(ring, slot, cell, level), 1) / size[:, None]
            if related is not None:
                seen = np.concatenate([seen, self._others(ring, cell, related)], 1)
        x = np.zeros((len(slot), self.features))
        x[:, : seen.shape[1]] = np.where(np.isnan(seen), 0.0, np.clip(seen, -BOUND, BOUND))
        return x

    def _changes(self, ring: np.ndarray, slot: np.ndarray, cell: np.ndarray, level: np.ndarray) -> list[np.ndarray]:
        form = self.form
        seasonal = [] if form.season is None else [form.back, form.back + form.season]
        further = [back for season in form.further for back in (season.back, season.whole[:1])]
        backs = [np.arange(1, LAGS + 1), *seasonal, *further]
        seen = behind(ring, slot, cell, np.concatenate(backs), form) - level[:, None]
        parts = np.split(seen, np.cumsum([len(back) for back in backs])[:-1], 1)
        if form.season is not None:
            parts[2] = (parts[1] + parts[2]) / 2
        return parts

    def _others(self, ring: np.ndarray, cell: np.ndarray, related: Related) -> np.ndarray:
        """(N, C * (lags + 1) + 1) changes of the record's columns, how far they stand from their means, and a one."""
        at = cell[:, None, None] - np.concatenate([[0], OTHERS])
        values = ring[related.slot[..., None], at % ring.shape[1]]
        there = (related.slot >= 0)[..., None] & (at <= related.newest[..., None]) & (at > related.newest[..., None] - ring.shape[1])
        values = np.where(there, values, np.nan)
        now = values[..., :1]
        changes = (values[..., 1:] - now) / related.size[..., None]
        stands = (now[..., 0] - related.mean) / related.size
        count = len(cell)
        return np.concatenate([changes.reshape(count, -1), stands, np.ones((count, 1))], 1)

    def say(self, x: np.ndarray, column: np.ndarray, solved: np.ndarray) -> np.ndarray:
        """(N, H) changes from the level, in units of the series' one-step change; a row is the same whoever stands beside it."""
        out = np.zeros((len(x), self.form.horizon), np.float32)
        for c in range(len(solved)):
            mine = np.flatnonzero(column == c) if self.columns else np.arange(len(x))
            rows = np.zeros((-(-len(mine) // ROWS) * ROWS, self.features), np.float32)
            rows[: len(mine)] = x[mine]
            said = torch.from_numpy(rows) @ torch.from_numpy(solved[c])
            out[mine] = said[: len(mine), : self.form.horizon].numpy()
        return out

    def rows_of(self, ring: np.ndarray, slot: np.ndarray, cell: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """For each group of leads: which of the newest closed cells (N,) complete a row, its origin, its level and its targets."""
        out = []
        for first, end in self.groups:
            origin = cell - end
            level = read(ring, slot, origin[:, None])[:, 0]
            target = read(ring, slot, origin[:, None] + np.arange(first + 1, end + 1))
            fine = np.flatnonzero(~np.isnan(level) & ~np.isnan(target).any(1))
            out.append((fine, origin[fine], level[fine], target[fine]))
        return out

    def learn(self, group: int, x: np.ndarray, column: np.ndarray, change: np.ndarray) -> None:
        """Rows (N, F) of a group of leads, and the changes (N, leads) that came, in units of the series' one-step change."""
        first, end = self.groups[group]
        y = np.clip(change, -BOUND, BOUND)
        for c in range(len(self.gram)):
            mine = column == c if self.columns else np.ones(len(x), bool)
            rows, targets = torch.from_numpy(x[mine]), torch.from_numpy(y[mine])
            louder = rows.T * self.gain
            torch.from_numpy(self.gram[c, group]).addmm_(louder, rows)
            self.cross[c, :, first:end] += (louder @ targets).numpy()
            self.rows[c, group] += mine.sum() * self.gain

    def solve(self) -> None:
        """The coefficients of the column and group whose turn it is."""
        c, g = divmod(self.turn % (len(self.gram) * len(self.groups)), len(self.groups))
        self.turn += 1
        if self.rows[c, g] < LEAST * self.features * self.gain:
            return
        first, end = self.groups[g]
        gram = torch.from_numpy(self.gram[c, g].copy())
        gram.diagonal().add_(RIDGE * float(gram.trace()) / self.features + 1e-9)
        fresh = self.solved.copy()
        fresh[c, :, first:end] = torch.linalg.solve(gram, torch.from_numpy(self.cross[c, :, first:end].copy())).numpy()
        self.solved = fresh


def features(form: Shape, columns: int) -> int:
    """How many, padded (see models.inputs.WIDTH): zeros teach nothing, and the pull keeps their coefficients there."""
    own = LAGS + (0 if form.season is None else 2 * form.horizon) + len(form.further) * (form.horizon + 1)
    others = columns * (len(OTHERS) + 1) + 1 if columns else 0
    return -(-(own + others) // WIDTH) * WIDTH


def affordable(form: Shape, columns: int) -> bool:
    """Whether the sums of related columns stay within `LARGEST`."""
    return columns * (len(GROUPS) + 1) * features(form, columns) ** 2 * 8 <= LARGEST
