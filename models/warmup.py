"""From a history to weights that are worth going online with: many passes over it, stopped early, by the learner's own features and loss.

A stream that starts from nothing needs none of this; a backtest's warm-up rows, or a kept history, are more than one pass can use.
The order: the learner sees the history once (`Learner.close`, `arrive`: scales, naive errors), then `warm`, then the stream goes on.

Letters: T rows of a history, N series, M pairs of a row and a series, B chains of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from models import lesson
from models.carry import Memory, memory
from models.descent import Descent
from models.generation import Generation
from models.inputs import LAGS
from models.learner import Learner
from models.network import Ensemble

DEPTH = 20  # dilated steps of a chain, from an empty carry: 10 lose 1 % where no storm drowns it (LOG 2026-11-26)
ROWS = 224  # chains a step
PASS = 20_000  # chains of one pass, at most
WATCHED = 2_500  # chains that are looked at after each pass
PASSES = 40
PATIENCE = 5  # passes in which no network gained, after which it stops
LEAST = 1e-4  # of the loss: less is no gain


class History(NamedTuple):
    """What has been, on the grid of the step."""

    first: int  # cell of the first row
    values: np.ndarray  # (T, N) float64, NaN: not observed
    slots: np.ndarray  # (N,) where the learner keeps these series
    outlooks: np.ndarray = np.zeros((0, 0, 0), np.float16)  # (T, N, W) what was known of covariates at each row


class Warmth(NamedTuple):
    """What `warm` came to."""

    passes: int
    steps: int
    loss: float  # of the watched rows, at its best
    rows: int  # chains of a pass


def warm(learner: Learner, history: History, *, until: int, told: Callable[[int, int, float], None] | None = None) -> Warmth:
    """Train on rows before `until`, stop by the rows behind it, and put the best weights of each network into service.

    The learner must have closed the rows before `until` and none behind. `told` (pass, passes at most, loss): for whoever waits.
    No label of a row at or behind `until` moves a weight; those behind it only say when to stop (and must be older than what is
    forecast afterwards and counted). Without rows behind, the last fifth of the history is kept for that.
    """
    rest = len(history.values) - until
    end = until if rest > 0 else until - until // 5
    shelf = _shelf(learner, history)
    of = partial(_lesson, learner, history, shelf)
    rng = np.random.default_rng(learner.config.seed)
    plan = learner.plan()
    descent = Descent(Ensemble(**plan["network"]).to(learner.device), **plan["descent"])
    best, kept, since, done = torch.full((learner.members,), float("inf")), descent.average.clone(), 0, 0
    form, newest = learner.form, shelf["closed_newest"]
    starts = _pairs(history, form.reach + LAGS, end - form.horizon)
    watched = _pairs(history, end - 1, len(history.values) - form.horizon)
    watched = watched[np.sort(rng.permutation(len(watched))[:WATCHED])]
    if not learner.taught or not len(starts) or not len(watched):
        return Warmth(0, 0, float("inf"), 0)
    for done in range(1, PASSES + 1):
        newest[history.slots] = history.first + end - 1
        for part in _parts(rng.permutation(starts)[:PASS], ROWS):
            descent.step(partial(lesson.loss, lesson=of(part), levels=learner.levels))
        newest[history.slots] = history.first + len(history.values) - 1
        network = descent.flat.read(descent.average)
        with torch.no_grad():
            each = [lesson.losses(network, of(part), learner.levels).cpu() * len(part) for part in _parts(watched, ROWS)]
        descent.flat.read(descent.weights)
        loss = torch.stack(each).sum(0) / len(watched)
        better = loss < best - LEAST  # a network that has learnt enough does not wait for the others: it is kept as it was
        best = torch.where(better, loss, best)
        for k in torch.nonzero(better).flatten().tolist():
            kept.view(len(best), -1)[k] = descent.average.view(len(best), -1)[k]
        since = 0 if bool(better.any()) else since + 1
        if told is not None:
            told(done, PASSES, float(loss.sum()))
        if since == PATIENCE:
            break
    learner.adopt(kept, descent)
    _recall(learner, history, shelf, until)
    return Warmth(done, descent.steps, float(best.sum()), min(len(starts), PASS))


def _shelf(learner: Learner, history: History) -> Memory:
    """A memory whose closed ring holds all of the history; beside it, only carries and anchors are used."""
    c = learner.config
    shelf = memory(
        horizon=1,
        tails=0,
        bands=0,
        members=learner.members,
        parts=0,
        lean=(0, 0),
        columns=0,
        hidden=c.hidden,
        ring=1,
        closed=len(history.values) + learner.form.reach + LAGS,
        known=learner.form.known,
        outlooks=len(history.values),
    )
    shelf.grow(int(history.slots.max()) + 1)
    ring = shelf["closed"]
    cells = history.first + np.arange(len(history.values))
    ring[history.slots[:, None], cells % ring.shape[1]] = history.values.T
    if learner.form.known.number:
        at = history.slots[:, None], cells % len(cells)
        shelf["outlook"][at], shelf["outlook_of"][at] = history.outlooks.transpose(1, 0, 2), cells
    return shelf


def _pairs(history: History, start: int, end: int) -> np.ndarray:
    """(M, 2) row and column of every observed value from row `start` to before `end`."""
    start = max(start, 0)
    return np.asarray(np.argwhere(~np.isnan(history.values[start : max(end, start)])) + np.array([start, 0]))


def _parts(pairs: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for at in range(0, len(pairs), size):
        yield pairs[at : at + size]


def _lesson(learner: Learner, history: History, shelf: Memory, pairs: np.ndarray) -> lesson.Lesson:
    """Chains that end at these rows (B, 2), from an empty carry."""
    slots = history.slots[pairs[:, 1]]
    of = learner.series(slots)
    return lesson.chains(shelf, of, history.first + pairs[:, 0], depth=DEPTH, origins=1, form=learner.form)[0]


def _recall(learner: Learner, history: History, shelf: Memory, until: int) -> None:
    """Carries, anchors and the pool anew, under the weights that now serve: from empty carries on, over the last rows."""
    m, slots, depth = learner.memory, history.slots, learner.config.truncation
    then = [*learner.generations.values()][-1]
    remembered = until - learner.config.replay
    for row in range(max(0, min(remembered, until) - LAGS * (DEPTH + depth)), until):
        _follow(learner, then, shelf, ("carry", "carried"), history, row)
        back = row - 1 - LAGS * depth
        if back < 0:
            continue
        _follow(learner, then, shelf, ("anchor", "anchored"), history, back)
        if row > remembered:
            of = learner.series(np.random.default_rng((learner.config.seed, row)).choice(slots, 1))
            end = np.full(len(of.slot), history.first + row - 1)
            shelf["closed_newest"][slots] = history.first + row
            now, origins = lesson.chains(shelf, of, end, depth=depth, origins=1, form=learner.form)
            learner.waiting.add(lesson.stored(now, origins, np.ones(len(origins.slot), bool), m["key"], depth))
    for name in ("carry", "carried", "anchor", "anchored"):
        m[name][slots] = shelf[name][slots]


def _follow(learner: Learner, then: Generation, shelf: Memory, names: tuple[str, str], history: History, row: int) -> None:
    seen = ~np.isnan(history.values[row])
    if seen.any():
        slot, value = history.slots[seen], history.values[row, seen]
        learner.follow(then, shelf, "closed", names, slot, np.full(len(slot), history.first + row), value)
