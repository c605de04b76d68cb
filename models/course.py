"""A course of lessons over a history: lanes walked chunk by chunk, carries handed on, pass after pass until nothing more is gained.

The loss, the guard against what is not finite, the rule of descent and the weights that are served are those of learning online
(`models.lesson`, `models.descent`). What there is after each pass is bytes, and a course that goes on from them ends with the same
weights, bit for bit, as one that was never stopped: what a pass draws is a function of seed and pass.

Letters: M members of an ensemble, P weights of all, B lanes, D hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models import lesson, snapshot
from models.descent import Descent
from models.inputs import LAGS
from models.learner import Learner
from models.network import Ensemble
from models.past import CHUNKS, DEPTH, LANES, Carries, Chunk, Past, Scales, chunks, drawn
from models.snapshot import Parts

FEWEST, GROUPS, MOST = 4, 64, 1_000  # of lanes, in a pass
WATCHED = 256  # lanes, at most, that say after each pass how good it is
PASSES = 40
PATIENCE = 5  # passes in which no network gained, after which it stops
LEAST = 1e-4  # of the loss: less is no gain
WARM = 3  # halvings of the rate that weights which have learnt before begin with: half of the first rate


class Budget(NamedTuple):
    """What it may cost; None: until nothing more is gained."""

    steps: int | None = None
    seconds: float | None = None


class Begin(NamedTuple):
    """Weights to go on from, and their moments, if they are known."""

    weights: np.ndarray  # (P,) float32
    moments: np.ndarray | None  # (2, P) float32


@dataclass
class Progress:
    """How far it is; nothing else but the weights needs to be kept."""

    passes: int = 0
    since: int = 0  # passes without a gain
    seconds: float = 0.0
    start: float = float("nan")  # loss before the first step: where naive forecasts are, or the weights it began with
    stopped: str = ""  # why it has ended: patience, passes, steps or seconds

    @property
    def started(self) -> bool:
        """It has been looked at once."""
        return self.start == self.start

    @property
    def ended(self) -> bool:
        return bool(self.stopped)


class Trained(NamedTuple):
    """What came of it."""

    weights: np.ndarray  # (P,) float32; each network's best
    moments: np.ndarray  # (2, P) float32
    loss: float  # of the watched lanes, at its best
    steps: int
    progress: Progress


class Teacher:
    """Takes chunks, in order: to learn from (`teach`), and between `look` and `looked` to see how good it is (`watch`)."""

    def __init__(self, learner: Learner, begin: Begin | None, *, seen: Callable[[Teacher], None]) -> None:
        """`seen` hears of each look."""
        plan = learner.plan()
        self.members, self.levels = learner.members, learner.levels
        self.descent = Descent(Ensemble(**plan["network"]).to(learner.device), **plan["descent"])
        if begin is not None:
            moments = None if begin.moments is None else torch.from_numpy(begin.moments)
            self.descent.take_over(torch.from_numpy(begin.weights), moments)
            self.descent.steps = WARM * self.descent.halving
        self.first_step = self.descent.steps
        self.kept = self.descent.average.clone()
        self.best = torch.full((self.members,), float("inf"))
        self.loss = self.best.clone()  # (M,) at the last look
        self.progress = Progress()
        self._seen = seen
        self._carries = Carries(learner)
        self._losses: list[tuple[Tensor, int]] = []

    @property
    def steps(self) -> int:
        """Since it began, and not counted those of the weights that it began with."""
        return self.descent.steps - self.first_step

    def teach(self, chunk: Chunk) -> None:
        carry = self._carries.before(chunk)
        if not chunk.whole.known.any():
            with torch.no_grad():
                self._carries.after(chunk, lesson.carried(self.descent.flat.network, chunk.whole, self.levels, carry)[1])
            return

        def loss(network: Ensemble) -> Tensor:
            each, after = lesson.carried(network, chunk.whole, self.levels, carry)
            self._carries.after(chunk, after)
            return each.sum()

        self.descent.step(loss)

    def look(self) -> None:
        self._losses = []
        self.descent.flat.read(self.descent.average)

    def watch(self, chunk: Chunk) -> None:
        each, after = lesson.carried(self.descent.flat.network, chunk.whole, self.levels, self._carries.before(chunk))
        self._carries.after(chunk, after)
        self._losses.append((each.detach().cpu(), int(chunk.whole.known.sum())))

    def looked(self) -> None:
        self.descent.flat.read(self.descent.weights)
        known = sum(count for _, count in self._losses)
        self.loss = loss = torch.stack([each * count for each, count in self._losses]).sum(0) / max(known, 1)
        better = loss < self.best - LEAST  # a network that has learnt enough does not wait for the others: it is kept as it was
        self.best = torch.where(better, loss, self.best)
        for k in torch.nonzero(better).flatten().tolist():
            self.kept.view(self.members, -1)[k] = self.descent.average.view(self.members, -1)[k]
        if self.progress.started:
            self.progress.passes += 1
            self.progress.since = 0 if bool(better.any()) else self.progress.since + 1
        else:
            self.progress.start = float(loss.sum())
        self._seen(self)

    # What a process that dies leaves to the next

    def state(self) -> Parts:
        arrays = {name: t.cpu().numpy() for name, t in self.descent.tensors().items()}
        arrays |= {"kept": self.kept.cpu().numpy(), "best": self.best.numpy()}
        return snapshot.pack(arrays, {"descent": self.descent.counts(), "first_step": self.first_step, "progress": vars(self.progress)})

    def load(self, parts: Parts) -> None:
        """The inverse of `state`. Raises snapshot.SnapshotDamaged."""
        arrays, rest = snapshot.unpack(parts)
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        try:
            self.descent.load(tensors, rest["descent"])
            self.kept.copy_(tensors["kept"])
            self.best.copy_(tensors["best"])
            self.first_step, self.progress = rest["first_step"], Progress(**rest["progress"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise snapshot.SnapshotDamaged(f"the training does not fit these settings: {error}") from error


class Lanes:
    """Chunks of a history: of the cells before `until` to learn from, of those behind it to judge by; cut by time and nothing else."""

    def __init__(
        self, past: Past, of: Scales, learner: Learner, *, until: int, teacher: Teacher, most: int | None, goes_on: Callable[[], bool]
    ) -> None:
        """`most` steps in all; `goes_on` is asked before each chunk."""
        self._past, self._seed, self._until, self._teacher, self._most = past, learner.config.seed, until, teacher, most
        self.goes_on = goes_on
        self._first, self._end = int(past.first.min(initial=until)), int(past.last.max(initial=until)) + 1
        self._chunks = partial(chunks, past, of, form=learner.form)
        cells = int(np.clip(np.minimum(past.last + 1, until) - past.first, 0, None).sum())
        self._groups = int(np.clip(-(-cells // (LANES * DEPTH * CHUNKS)), FEWEST, GROUPS))
        self._watch = int(np.clip((self._end - until) * len(past.key) // (2 * DEPTH), LAGS, WATCHED))
        # carries that have read too little teach nothing; where there is little to read, a quarter of it has to do
        self._deaf = min(DEPTH // 2, (until - self._first) // (4 * LAGS))

    def taught(self) -> Iterator[Chunk]:
        """Of a pass, one at least, if `MOST` draws find any: a pass of none would never be looked at."""
        rng = np.random.default_rng((self._seed, 1 + self._teacher.progress.passes))
        left = None if self._most is None else self._most - self._teacher.steps
        given, begun = 0, False  # counted here: chunks are asked for before they are taken
        for group in range(MOST):
            if begun and group >= self._groups:
                return
            series, begin = drawn(self._past, rng, LANES, begin=self._first, until=self._until)
            for chunk in self._chunks(series, begin, count=CHUNKS, known=self._until, deaf=self._deaf):
                on = self.goes_on()
                if (begun and not on) or given == left:
                    return
                begun = True
                given += bool(chunk.whole.known.any())
                yield chunk

    def watched(self) -> Iterator[Chunk]:
        """The same lanes each time, from a chunk before `until` on: what is said before that has too little to go by and is not judged."""
        rng = np.random.default_rng((self._seed, 0))
        series, begin = drawn(self._past, rng, self._watch, begin=self._until, until=self._end)
        begin = begin - LAGS * DEPTH
        order = np.lexsort((begin, series))
        yield from self._chunks(series[order], begin[order], count=CHUNKS, known=self._end, since=self._until)


def walk(teacher: Teacher, lanes: Lanes) -> None:
    """Pass after pass until the teacher has enough."""
    if not teacher.progress.started:
        look(teacher, lanes)
    while not teacher.progress.ended:
        for chunk in lanes.taught():
            teacher.teach(chunk)
        look(teacher, lanes)


def look(teacher: Teacher, lanes: Lanes) -> None:
    teacher.look()
    with torch.no_grad():
        for chunk in lanes.watched():
            teacher.watch(chunk)
    teacher.looked()


def train(
    learner: Learner,
    past: Past,
    of: Scales,
    *,
    until: int,
    begin: Begin | None,
    budget: Budget,
    clock: Callable[[], float],
    resume: Parts | None,
    saved: Callable[[Teacher], None],
    told: Callable[[Teacher], None],
    go: Callable[[Teacher, Lanes], None] = walk,
) -> Trained | None:
    """Train for a learner's settings on the cells before `until`, stop by those behind it; None: there is nothing to learn from.

    `saved` is handed a teacher whose `state` is what `resume` takes, after each pass; `told` hears of each chunk and pass; either may
    raise to stop it. `go` does what `walk` does.
    """
    began, spent = clock(), 0.0

    def seen(teacher: Teacher) -> None:
        progress = teacher.progress
        progress.seconds = spent + clock() - began
        progress.stopped = why(teacher, budget)
        saved(teacher)
        told(teacher)

    def goes_on() -> bool:
        told(teacher)
        return budget.seconds is None or spent + clock() - began < budget.seconds

    teacher = Teacher(learner, begin, seen=seen)
    if resume is not None:
        teacher.load(resume)
        spent = teacher.progress.seconds
    lanes = Lanes(past, of, learner, until=until, teacher=teacher, most=budget.steps, goes_on=goes_on)
    if resume is None and not all(any(c.whole.known.any() for c in part) for part in (lanes.taught(), lanes.watched())):
        return None
    if not teacher.progress.ended:
        go(teacher, lanes)
    kept, moments = teacher.kept.cpu().numpy(), torch.stack(teacher.descent.moments).cpu().numpy()
    return Trained(kept, moments, float(teacher.best.sum()), teacher.steps, teacher.progress)


def why(teacher: Teacher, budget: Budget) -> str:
    """Why it ends after this pass; empty: it does not."""
    progress = teacher.progress
    if progress.since >= PATIENCE:
        return "patience"
    if budget.steps is not None and teacher.steps >= budget.steps:
        return "steps"
    if budget.seconds is not None and progress.seconds >= budget.seconds:
        return "seconds"
    return "passes" if progress.passes >= PASSES else ""
