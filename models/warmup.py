"""From a history to weights that are worth going online with: a course of lessons over it (`models.course`), stopped early.

A stream that starts from nothing needs none of this; a backtest's warm-up rows, or a kept history, are more than one pass can use.
The order: the learner sees the history once (`Learner.close`, `arrive`: scales, naive errors), then `warm`, then the stream goes on.

Letters: T rows of a history, N series.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from models import course, lesson
from models.carry import Kind, Memory, memory
from models.course import Budget, Teacher, Trained
from models.generation import Generation
from models.inputs import LAGS
from models.learner import Learner
from models.past import DEPTH, Past, Scales
from models.replay import EACH


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


def warm(learner: Learner, history: History, *, until: int, told: Callable[[int, int, float], None] | None = None) -> Warmth:
    """Train on rows before `until`, stop by the rows behind it, and put the best weights of each network into service.

    The learner must have closed the rows before `until` and none behind. `told` (pass, passes at most, loss): for whoever waits.
    No label of a row at or behind `until` moves a weight; those behind it only say when to stop (and must be older than what is
    forecast afterwards and counted). Without rows behind, the last fifth of the history is kept for that.
    """
    form, rest = learner.form, len(history.values) - until
    end = until if rest > 0 else until - until // 5
    least = form._replace(further=()).reach + LAGS + form.horizon  # what there is of further seasons is more
    if not learner.taught or end <= least or len(history.values) - end < form.horizon:
        return Warmth(0, 0, float("inf"))

    def seen(teacher: Teacher) -> None:
        if told is not None and teacher.progress.passes:
            told(teacher.progress.passes, course.PASSES, float(teacher.loss.sum()))

    of = learner.series(history.slots)
    trained = course.train(
        learner, past_of(learner, history), Scales(of.scale, of.naive, of.lasting), until=history.first + end, begin=None,
        budget=Budget(), clock=lambda: 0.0, resume=None, saved=seen, told=lambda _: None,
    )  # fmt: skip
    if trained is None:
        return Warmth(0, 0, float("inf"))
    serve(learner, history, trained, until=until)
    return Warmth(trained.progress.passes, trained.steps, trained.loss)


def serve(learner: Learner, history: History, trained: Trained, *, until: int) -> None:
    """Put weights into service for what comes behind rows before `until`, which the learner has closed."""
    learner.adopt(torch.from_numpy(trained.weights), torch.from_numpy(trained.moments), trained.steps)
    _recall(learner, history, _shelf(learner, history), until)


def past_of(learner: Learner, history: History) -> Past:
    """The history series by series, each from its first value to its last."""
    there = ~np.isnan(history.values)
    some = there.any(0)
    first = np.where(some, there.argmax(0), 0)
    end = np.where(some, len(there) - there[::-1].argmax(0), 0)
    of = [slice(a, b) for a, b in zip(first.tolist(), end.tolist(), strict=True)]
    values = np.concatenate([history.values[rows, k] for k, rows in enumerate(of)])
    outlooks = history.outlooks if history.outlooks.size else np.zeros((len(there), len(of), 0), np.float16)
    return Past(
        learner.memory["key"][history.slots],
        history.first + first,
        np.concatenate([[0], (end - first).cumsum()]),
        values,
        np.concatenate([outlooks[rows, k] for k, rows in enumerate(of)]),
    )


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


def _recall(learner: Learner, history: History, shelf: Memory, until: int) -> None:
    """Carries, anchors and the pool anew, under the weights that now serve: from empty carries on, over the last rows."""
    m, slots, depth = learner.memory, history.slots, learner.config.truncation
    then = [*learner.generations.values()][-1]
    remembered = until - learner.config.replay
    for row in range(max(0, min(remembered, until) - LAGS * (DEPTH + depth)), until):
        _follow(learner, then, shelf, "carry", history, row)
        back = row - 1 - LAGS * depth
        if back < 0:
            continue
        _follow(learner, then, shelf, "anchor", history, back)
        if row > remembered:
            of = learner.series(np.random.default_rng((learner.config.seed, row)).choice(slots, min(EACH, len(slots)), replace=False))
            end = np.full(len(of.slot), history.first + row - 1)
            shelf["closed_newest"][slots] = history.first + row
            now, origins = lesson.chains(shelf, of, end, depth=depth, origins=1, form=learner.form)
            learner.waiting.add(lesson.stored(now, origins, np.ones(len(origins.slot), bool), m["key"], depth))
    for name in ("carry_hidden", "carry_cell", "carried", "anchor_hidden", "anchor_cell", "anchored"):
        m[name][slots] = shelf[name][slots]


def _follow(learner: Learner, then: Generation, shelf: Memory, kind: Kind, history: History, row: int) -> None:
    seen = ~np.isnan(history.values[row])
    if seen.any():
        slot, value = history.slots[seen], history.values[row, seen]
        learner.follow(then, shelf, "closed", kind, slot, np.full(len(slot), history.first + row), value)
