"""What has been, series by series, and stretches of it as what a stream would have taught: the same inputs, masks, units.

Letters: N series, V values of all of them, B lanes, K cells, H lead times, D dilated steps of a chunk.
A *lane* is every LAGS-th cell of a series from some cell on, as one carry sees it; it is walked in chunks, each of which begins with the
carry that the one before it has left (`models.truncated` has why). Values may lie on disk: only what lanes touch is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from models import lesson
from models.carry import NEVER, Memory, keep, memory
from models.inputs import LAGS, Shape
from models.learner import START, Cells, Config, Learner

DEPTH = 20  # dilated steps of a chunk, through which gradients flow back: 10 lose 1 % (LOG 2026-11-26)
CHUNKS = 6  # of a lane: 120 dilated steps are 1,440 cells
LANES = 16  # walked side by side: of twice as many a pass costs more and says less (LOG 2026-11-26)
LOOK = 2_000  # cells before the end that scales are learnt from: four times what they remember
SIDE = 2_000  # series that are looked at together


class Past(NamedTuple):
    """Series one behind the other, each from its first value to its last, a value a cell."""

    key: np.ndarray  # (N,) uint64, as the stream has them
    first: np.ndarray  # (N,) int64, cell of the first value
    start: np.ndarray  # (N + 1,) int64, where its values begin
    values: np.ndarray  # (V,) float64, NaN: not observed
    outlooks: np.ndarray = np.zeros((0, 0), np.float16)  # (V, W) what was known of covariates at each; none: there are no covariates

    @property
    def last(self) -> np.ndarray:
        """(N,) cell of the last value."""
        return self.first + np.diff(self.start) - 1

    def read(self, series: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Values (B, K) of (B,) series at (B, K) cells; NaN before the first and behind the last."""
        at, there = self._place(series, cells)
        out = np.full(cells.shape, np.nan)
        out[there] = self.values[at]
        return out

    def outlook(self, series: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """What was known of covariates (B, K, W) there, likewise."""
        at, there = self._place(series, cells)
        out = np.full((*cells.shape, self.outlooks.shape[1]), np.nan, np.float16)
        out[there] = self.outlooks[at]
        return out

    def _place(self, series: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the values of (B, K) cells lie, of those that there are; and which these are."""
        place = cells - self.first[series][:, None]
        there = (place >= 0) & (place < np.diff(self.start)[series][:, None])
        return (self.start[series][:, None] + place)[there], there


class Scales(NamedTuple):
    """What chains are read with, as learning has it at a cell: see models.lesson.Series."""

    scale: np.ndarray  # (N,)
    naive: np.ndarray  # (N, 3, H) float32
    lasting: np.ndarray  # (N, H)


class Chunk(NamedTuple):
    """A stretch of lanes that is taught at once."""

    whole: lesson.Lesson  # its carries are 1 where a lane goes on and 0 where it begins anew
    lane: np.ndarray  # (chains,) of each chain
    lanes: int
    begins: bool  # the first chunk of its lanes


class Carries:
    """What lanes hand on from chunk to chunk."""

    def __init__(self, learner: Learner) -> None:
        self._shape, self._device = (2 * learner.members, learner.config.hidden), learner.device
        self._carry = torch.zeros(0)

    def before(self, chunk: Chunk) -> torch.Tensor:
        """(chains, 2M, D) before each chain's first step; zeros where it begins anew."""
        if chunk.begins:
            self._carry = torch.zeros(chunk.lanes, *self._shape, device=self._device)
        goes_on = torch.from_numpy(chunk.whole.carry[:, :1].astype(np.float32)).to(self._device)
        return self._carry[torch.from_numpy(chunk.lane).to(self._device)] * goes_on

    def after(self, chunk: Chunk, carry: torch.Tensor) -> None:
        """(chains, 2M, D) behind each chain's last step."""
        self._carry[torch.from_numpy(chunk.lane).to(self._device)] = carry


def scales(past: Past, config: Config, *, until: int, told: Callable[[float], None] | None = None) -> Scales:
    """What a stream's learner knows of every series once it has closed the cells before `until`, by that learner's own code.

    `told` hears which part of it is done, and may raise to stop it.
    """
    form, count = Learner(config).form, len(past.key)
    out = Scales(np.ones(count), np.ones((count, 3, form.horizon), np.float32), np.ones((count, form.horizon), np.float16))
    plain = replace(config, model="last_value", device="cpu", columns=0)  # scales ask no network
    begin = max(until - LOOK, int(past.first.min(initial=until)))
    for at in range(0, count, SIDE):
        group = np.arange(at, min(at + SIDE, count))
        learner = Learner(plain)
        for slot, key in enumerate(past.key[group].tolist()):
            learner.admit(slot, key)
        order, kept = np.lexsort((np.arange(len(group)), past.key[group])), [START]
        for cell in range(begin, until):
            if told is not None and cell % 100 == 0:
                told((at + len(group) * (cell - begin) / (until - begin)) / count)
            values = past.read(group, np.full((len(group), 1), cell))[:, 0]
            there = order[~np.isnan(values[order])]
            if there.size:
                drop, kept = kept, [cell + 1]
                closed = Cells(there, past.key[group][there], np.full(len(there), cell), values[there])
                learner.finish(learner.begin(closed, instant=cell + 1, drop=drop))
        known = learner.series(np.arange(len(group)))
        out.scale[group], out.naive[group], out.lasting[group] = known.scale, known.naive, known.lasting
    return out


def drawn(past: Past, rng: np.random.Generator, count: int, *, begin: int, until: int) -> tuple[np.ndarray, np.ndarray]:
    """Series (B,) and first cells (B,) of lanes between two cells, every value there as likely as any other."""
    low, high = np.maximum(past.first, begin), np.minimum(past.last + 1, until)
    ends = np.maximum(high - low, 0).cumsum()
    if not len(ends) or not ends[-1]:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    at = rng.integers(0, ends[-1], count)
    series = np.searchsorted(ends, at, side="right")
    cell = high[series] - (ends[series] - at)
    latest = np.maximum(high[series] - LAGS * DEPTH * CHUNKS, low[series] + (cell - low[series]) % LAGS)  # else most lanes would soon end
    return series, np.minimum(cell, latest)


def chunks(
    past: Past,
    of: Scales,
    series: np.ndarray,
    begin: np.ndarray,
    *,
    form: Shape,
    count: int,
    known: int,
    since: int | None = None,
    deaf: int = DEPTH // 2,
) -> Iterator[Chunk]:
    """Lanes (B,) of these series from these cells on, in at most `count` chunks: one without a step is none.

    No value at or behind the cell `known` is seen, or is a label. What is said at cells before `since` is not taught (None: in a lane's
    first `deaf` dilated steps, whose carries know too little).
    """
    shelf, lanes = _shelf(past, series, begin, form=form, count=count, known=known), np.arange(len(series))
    side = lesson.Series(lanes, of.scale[series], of.naive[series], of.lasting[series])
    begun = False
    for k in range(count):
        end = begin + LAGS * (DEPTH * (k + 1) - 1)
        whole, origins = lesson.chains(shelf, side, end, depth=DEPTH, origins=DEPTH, form=form)
        lane = np.zeros(len(whole.lengths), np.int64)
        lane[whole.row] = origins.asked
        first = begin[origins.slot] + LAGS * deaf if since is None else since
        if len(whole.lengths):
            yield Chunk(whole._replace(known=whole.known & (origins.cell >= first)[:, None]), lane, len(lanes), not begun)
            begun = True
        newest = np.full(len(lanes), NEVER)
        np.maximum.at(newest, origins.slot, origins.cell)  # every step of a chain is an origin
        went = np.flatnonzero(newest > NEVER)
        keep(shelf, "anchor", went, newest[went], np.ones((len(went), 2, 1)))


def _shelf(past: Past, series: np.ndarray, begin: np.ndarray, *, form: Shape, count: int, known: int) -> Memory:
    """A memory with a slot a lane: the ring of closed values holds all that its chunks read; where its carry stands."""
    behind, span = form.reach + LAGS, LAGS * DEPTH * count + form.horizon
    none = {"horizon": 1, "tails": 0, "bands": 0, "members": 1, "parts": 0, "lean": (0, 0), "columns": 0, "hidden": 1, "ring": 1}
    shelf = memory(**none, closed=behind + span, known=form.known, outlooks=behind + span)  # type: ignore[arg-type]
    shelf.grow(len(series))
    lanes = np.arange(len(series))
    cells = begin[:, None] + np.arange(-behind, span)
    shelf["closed"][lanes[:, None], cells % (behind + span)] = np.where(cells < known, past.read(series, cells), np.nan)
    if form.known.number:
        steps = cells[:, behind::LAGS]  # of the lanes: what was known is asked for nowhere else
        where = lanes[:, None], steps % (behind + span)
        shelf["outlook"][where], shelf["outlook_of"][where] = past.outlook(series, steps), np.where(steps < known, steps, NEVER)
    shelf["closed_newest"][lanes] = np.minimum(begin + span, known) - 1
    return shelf
