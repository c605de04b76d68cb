"""Where Beam meets the model: samples are scored and forecast as they come, closed windows are learnt.

A shard is one gather (event time) and one learner (everything learnt). Forecasts never wait for learning: what an
instant closes is queued, and learnt before the first sample that needs its generation, or when the stream is quiet.
While one instant's step of descent runs in a process beside, the samples that do not need it are scored, forecast and
published. None of this can show in any output: a generation is a function of event time.
"""

from __future__ import annotations

import logging
import math
import resource
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import msgspec
import numpy as np
import torch
import xxhash
from apache_beam import coders
from apache_beam.transforms import userstate

from models.apart import Apart
from models.batch import padding
from models.handover import Incoming
from models.learner import REASONS, Cells, Config, Exercise, Learner, Step
from models.learner import Decision as Learnt
from models.snapshot import Parts, SnapshotDamaged
from pipeline import compose, configure, events, metrics, succession, taught
from pipeline.beside import tells
from pipeline.compose import Told, Voice
from pipeline.events import Rules
from pipeline.gather import Gather
from pipeline.meter import Meter
from pipeline.metrics import Metrics
from pipeline.quantities import duration_text
from pipeline.records import Block, Message, Raw, Rejection, Source, Turn
from pipeline.rejected import rejection_message
from pipeline.succession import Change, Offer, Shadow, Succession


class Spec(NamedTuple):
    """All that a shard is made from: plain data, so that a DoFn can carry it."""

    application: str
    rules: Rules
    config: Config
    sources: tuple[Source, ...]
    layout: str
    publish_from: int  # us; forecasts issued earlier are learnt from and scored, not published
    rejected_max_bytes: int
    watched: tuple[str, ...]  # the few series that are looked at one by one
    version: str  # of the program, for rejected records
    columns: tuple[str, ...] = ()  # of wide records: their series end in these names, and may learn from each other
    apart: bool = False  # the step of descent in a process of its own; shows in no output
    close_at_end: bool = False  # bounded sources that have all ended close what their data has left open
    repeats: tuple[events.Decision, ...] = ()  # of an earlier run, and the end of every log: followed instead of any clock
    start_from: str | None = None  # file of a taught model, for a shard that has no state yet
    champion: taught.Published | None = None  # likewise, where there is no such file
    plans: tuple[events.Plan, ...] = ()  # of an earlier run, that are followed instead of any pointer and any judge
    succession: succession.Rules | None = None  # what is asked of other weights; None: nobody's are taken
    published: taught.Published | None = None  # where the versions are that plans name


LOG = logging.getLogger(__name__)

EARLIEST = events.START
# Without a sample for so long, queued learning delays nobody: what came is committed, and with a step of a second the next is not there.
QUIET_SECONDS = 0.25
TURN_SECONDS = 0.1  # the blocks of a turn are cut to what takes so long together: a commit that is due waits for it
# Descent in this process until one of its own is started: about what that costs in loading, and a stream of hours never needs it.
LOADING_SECONDS = 2.0
PACE = 0.2  # weight of the newest turn in what a record takes
LEAST_RECORDS = 20  # of a turn: what it costs beside its records is as much as many of them
STATUS_SECONDS = 0.5
# Skill and coverage of all series together are sums over every one of them: they may take this part of the time. With 10,000 series they
# are then a second old at most, with more of them older; the counts beside them are always those of now.
SUMMING = 0.02

STATUS: dict[str, Any] = {}  # the newest status of the shard in this process, for tables and summaries
OFFERS: deque[Offer] = deque()  # pointers to models that somebody has moved, for the shard in this process
# What state cells stand for, in an engine that keeps them by reference; a shard that has not been asked for yet is in `FROZEN`
LIVE: dict[bytes, Shard] = {}
FROZEN: dict[bytes, FrozenShard] = {}
BY_REFERENCE = False
TOKEN = b"live:"


def new_token() -> bytes:
    return TOKEN + uuid.uuid4().hex.encode()


class Shard:
    """One learner, its event time, and what it owes: `take` blocks, get the messages."""

    def __init__(self, spec: Spec, *, part: Gather | None = None, learner: Learner | None = None) -> None:
        self.spec = spec
        self.gather = part or Gather(spec.rules, spec.sources)
        if part is None and spec.repeats:
            self.gather.repeat(spec.repeats)
        self.ended: set[Source] = set()  # bounded sources that have nothing more
        self.taught: str | None = None  # SHA-256 of the model that it started from; None: from random weights
        self.learner = learner or Learner(spec.config)
        self.token = new_token()
        self.queue: deque[events.Close] = deque()  # passed, not learnt yet
        self.learnt = events.START  # the last instant learnt
        self.windows = 0
        self.published = dict.fromkeys(("forecasts", "scores", "late", "rejected"), 0)
        self.digest = 0  # a sum over what was published, so that the order of partitions does not show
        self.arrived = 0.0  # wall clock of the newest block with samples
        self.told = 0.0  # wall clock of the newest status
        self.summed: tuple[dict[str, Any], float] | None = None  # the newest sums over all series, and the wall clock until which they do
        self.changed = time.time()  # wall clock at which its weights last changed, for people
        self.pace = 0.0  # wall clock that a record takes, s
        self.abreast = max(len(self.gather.parts), 1)  # blocks with records in a turn, lately
        self.apart: Apart | None = None
        # Seconds of descent left until a process of its own is worth it
        self.alone = LOADING_SECONDS if spec.apart and self.learner.device.type == "cpu" else math.inf
        self.beside: tuple[Exercise, Apart | None, float] | None = None  # what is being learnt, where, and the seconds spent on it here
        self.taught_on: np.ndarray | None = None  # lengths of what the newest instant taught, until it is told
        self.began_at = 0  # observations consumed before a recovery
        self.newest: dict[int, tuple[float, float, tuple[float, float]]] = {}  # watched slot -> last value, next forecast, widest band
        self.owed: list[Message] = []  # released between blocks, by recovery
        self.snapshots: deque[tuple[int, int]] = deque(maxlen=3)  # decisions so far and the last instant learnt, at the newest ones
        self.refused = 0  # offers: what is told of them is committed at once, though nothing else has changed
        self.succession = Succession(spec.application, spec.succession, load=self._version)
        if part is None and spec.plans:
            self.succession.load([*spec.plans], self.learnt)
        config = spec.config
        self.meter = Meter(horizon=config.horizon, bands=self.learner.bands, experts=self.learner.experts, watched=spec.watched)
        self.voice = Voice(
            spec.application, spec.rules.step, config.horizon, tuple(config.levels), "default", self.learner.version,
            self.learner.experts, REASONS, self.learner.bands, spec.layout,
        )  # fmt: skip

    @classmethod
    def begin(cls, spec: Spec) -> Shard:
        """A shard without a past, or with what a backtest has taught. Raises taught.NotTaught."""
        model = None
        if spec.start_from is not None:
            model = taught.load(Path(spec.start_from), spec.config, columns=spec.columns)
        elif spec.champion is not None:
            model = taught.published(spec.champion, spec.config)
        if model is None:
            return cls(spec)
        self = cls(spec, learner=model.learner)
        self.gather.go_on(model.until, model.learner.slots())
        self.taught = model.sha256
        return self

    def take(self, *blocks: Block) -> list[Message]:
        """All that `turns` gives, as one list."""
        return [message for messages in self.turns(blocks) for message in messages]

    def turns(self, blocks: Sequence[Block]) -> Iterator[list[Message]]:
        """Score, forecast, and learn what may no longer wait; messages as they come, to be sent while the next are made.

        The blocks, of any partitions, are taken in this order, and their samples together: a step of the learner costs 3 ms before it
        has looked at a series. Between turns nothing runs beside: whoever asks then finds a state that is whole.
        """
        began, owed, self.owed = time.perf_counter(), self.owed, []
        owed += self._heed_offers()
        stood = {source: part.position for source, part in self.gather.parts.items() if part.position is not None}
        for block in blocks:
            if block.first >= stood.get(block.source, block.first):  # else it was read before, and told then
                owed += [self._rejected(r, block.records[r.record] if r.record >= 0 else None, block.source) for r in block.rejected]
            stood[block.source] = max(block.next, stood.get(block.source, block.next))
        told = self.gather.add(*blocks)
        yield self._sum_up(owed)
        yield from map(self._sum_up, self.follow(told))
        self._read_on()
        self.ended |= {block.source for block in blocks if block.ended}
        over = any(block.ended for block in blocks) and len(self.ended) == len(self.gather.parts)
        if over and self.spec.close_at_end:
            yield from map(self._sum_up, self.follow(self.gather.close_all()))
        read = [block.next - block.first for block in blocks if block.next > block.first]
        if read:
            self.pace += (min((time.perf_counter() - began) / sum(read), 1.0) - self.pace) * PACE
            self.abreast = max(len(read), self.abreast - 1)
        now = max(block.now for block in blocks)
        if any(len(block.at) for block in blocks):
            self.arrived = now
        elif self.queue and not self.gather.repeating and now - self.arrived >= QUIET_SECONDS:
            yield self._sum_up(self.learn_next())
        while over and self.queue:
            yield self._sum_up(self.learn_next())
        self._count(blocks, now)

    def follow(self, told: Iterable[events.Event]) -> Iterator[list[Message]]:
        """Do what event time says, many series at a time: each series in its order, each instant before what needs it."""
        waiting: list[events.Sample] = []
        for event in told:
            match event:
                case events.Sample():
                    while self.queue and self.queue[0].instant <= event.generation:
                        now, waiting = before(self.queue[0], waiting)
                        yield self._arrive(now)
                        yield self._begin()
                    waiting.append(event)
                case events.Close():
                    self.queue.append(event)
                case events.Admit(slot, name, key):
                    for learner in self._learners():
                        if not learner.holds(slot, key):  # else it was taught, and comes for the first time
                            learner.admit(slot, key, **self._column(name))
                case events.Forget(slot):
                    yield self._arrive(waiting)
                    waiting = []
                    while self.queue:  # they may name the slot, and come before its end
                        yield self.learn_next()
                    yield self._settle()
                    for learner in self._learners():
                        learner.forget(np.array([slot]))
                    if (shadow := self.succession.shadow) is not None:
                        shadow.versus.forget(np.array([slot]))
                case events.TooLate():
                    yield [compose.late(event.source, event.offset, event.series, event.at, event.value, event.late, self.voice)]
                case events.Refused():
                    yield [self._rejected(event.rejection, event.raw, event.source)]
                case events.Decision():
                    if self.spec.repeats or not self.gather.repeating:  # recovery follows its commit, too, which is no wake
                        yield [self._woke(event)]
        yield self._arrive(waiting)
        yield self._settle()

    def _learners(self) -> list[Learner]:
        """The one that serves, and the shadow's."""
        shadow = self.succession.shadow
        return [self.learner] if shadow is None else [self.learner, shadow.learner]

    def _column(self, name: str) -> dict[str, int]:
        """Which record, and which of its columns, a series is; nothing where records are not wide."""
        record, _, column = name.rpartition("/")
        if column not in self.spec.columns:
            return {}
        return {"record": xxhash.xxh3_64_intdigest(record.encode()) | 1, "column": self.spec.columns.index(column)}

    def _rejected(self, rejection: Rejection, raw: Raw | None, source: Source) -> Message:
        spec = self.spec
        return rejection_message(
            raw, rejection, source, application=spec.application, version=spec.version, max_bytes=spec.rejected_max_bytes
        )

    def _arrive(self, samples: list[events.Sample]) -> list[Message]:
        """Batches in which every series stands once; each series in its own order, and the columns of a record together."""
        out: list[Message] = []
        batches: dict[tuple[int, int, bool], list[events.Sample]] = {}
        turn: dict[int, tuple[int, int, int]] = {}  # of wide records, or of a series: the batches so far, offset and cell of the last
        for sample in samples:
            of = self._record(sample.slot)
            n, *last = turn.get(of, (-1, -1, -1))
            # A record that closes two cells is two turns; so are two that close one, in two partitions and by chance at one offset
            n += sample.inserted or last != [sample.offset, sample.cell]
            turn[of] = n, sample.offset, sample.cell
            batches.setdefault((n, sample.generation, math.isnan(sample.value)), []).append(sample)
        for (_, generation, silent), batch in sorted(
            batches.items()
        ):  # of one turn the older generations first: the newest may still be learnt
            if self.beside and generation >= self.beside[0].instant:
                out += self._settle()
            out += self._fill(batch) if silent else self._step(batch, generation)
        return out

    def _fill(self, batch: list[events.Sample]) -> list[Message]:
        """Forecasts of series that have been silent."""
        cells = np.array([s.cell // self.spec.rules.step for s in batch], np.int64)
        step = self.learner.fill(np.array([s.slot for s in batch], np.int64), cells)
        return self._issue(step, batch, self._told(batch), version=self.learner.version_at(batch[0].generation))

    def _record(self, slot: int) -> int:
        """What stands for all columns of a record, or for a series of its own."""
        if not self.spec.columns:
            return slot
        return max(map(int, self.learner.memory["related"][slot]), default=-1) if self.learner.memory["column"][slot] >= 0 else slot

    def _step(self, batch: list[events.Sample], generation: int) -> list[Message]:
        step_us = self.spec.rules.step
        cells = Cells(
            slot=np.array([s.slot for s in batch], np.int64),
            key=np.array([self.gather.series[s.slot][1] for s in batch], np.uint64),
            cell=np.array([s.cell // step_us for s in batch], np.int64),
            value=np.array([s.value for s in batch], np.float64),
        )
        if any(s.told for s in batch):
            for learner in self._learners():
                learner.tell(tells(batch, step_us, self.spec.config.covariates, self.spec.config.ahead))
        woken, began = np.array([s.woken for s in batch], bool), time.perf_counter()
        step = self.learner.arrive(cells, generation=generation, woken=woken)
        if (shadow := self.succession.shadow) is not None:
            shadow.arrive(cells, generation=generation, woken=woken, beside=time.perf_counter() - began)
        told = self._told(batch)
        met = [t for t in told if not t.woken]
        out = compose.scores(step, met, self.voice, since=self.spec.publish_from, of=self._versions(met))
        return out + self._issue(step, batch, told, version=self.learner.version_at(generation))

    def _versions(self, told: list[Told]) -> tuple[tuple[str, ...], np.ndarray] | None:
        """Names of versions, and which of them (N, H) forecast each lead of these cells; None: the one that serves now, all of them."""
        handed = self.learner.versions
        if len(handed) == 1 or not told:
            return None
        step, grid, lead = self.spec.rules.step, self.spec.rules.grid, self.gather.lead
        issued = np.array([t.cell for t in told])[:, None] - np.arange(1, self.spec.config.horizon + 1) * step
        want = issued - issued % grid - lead
        of = np.searchsorted([since for since, _ in handed], want - want % grid, side="right") - 1
        if of.min() == len(handed) - 1 and handed[-1][1] == self.voice.version:
            return None
        return tuple(version for _, version in handed), np.maximum(of, 0)

    def _told(self, batch: list[events.Sample]) -> list[Told]:
        return [Told(i, self.gather.series[s.slot][0], s.cell, s.value, s.woken, s.stamp, s.trace) for i, s in enumerate(batch)]

    def _issue(self, step: Step, batch: list[events.Sample], told: list[Told], *, version: str) -> list[Message]:
        """The forecasts of a step; of a cell that has been forecast without its sample, none."""
        issued = [t for t in told if step.issued[t.row] and not batch[t.row].inserted]
        if metrics.METRICS is not None:
            actual = np.array([t.value for t in told])
            self.meter.step(step, actual)
            if self.spec.watched:
                self.meter.watch(step, [t.series for t in told], actual)
        for t in issued:
            if t.series in self.spec.watched:
                slot, band = batch[t.row].slot, (float(step.quantiles[t.row, 0, 0]), float(step.quantiles[t.row, -1, 0]))
                last = self.newest[slot][0] if math.isnan(t.value) and slot in self.newest else t.value
                self.newest[slot] = (last, float(step.point[t.row, 0]), band)
        voice = self.voice if version == self.voice.version else self.voice._replace(version=version)
        return compose.forecasts(step, [t for t in issued if t.cell >= self.spec.publish_from], voice)

    def learn_next(self) -> list[Message]:
        """Learn the oldest instant of the queue, to its end."""
        return self._begin() + self._settle()

    def _begin(self) -> list[Message]:
        """Learn the oldest instant of the queue; its step of descent goes on beside, until `_settle`."""
        close = self.queue.popleft()
        step_us = self.spec.rules.step
        slots = [slot for slot, _, _ in close.cells]
        cells = Cells(
            slot=np.array(slots, np.int64),
            key=np.array([self.gather.series[s][1] if s in self.gather.series else 0 for s in slots], np.uint64),
            cell=np.array([cell // step_us for _, cell, _ in close.cells], np.int64),
            value=np.array([value for *_, value in close.cells], np.float64),
        )
        began = time.perf_counter()  # for a metric only: nothing learnt depends on it
        out, change = self._change(close.instant)
        self._compare(cells)
        exercise = self.learner.begin(cells, instant=close.instant, drop=close.drop, incoming=change.champion)
        out += self._settle()
        apart = self._at_hand() if exercise.wanted else None
        if apart is None:
            self._run(exercise)
        else:
            apart.start(exercise)
        if (shadow := self.succession.shadow) is not None:
            theirs = shadow.learner.begin(cells, instant=close.instant, drop=close.drop, incoming=change.shadow)
            theirs.run()
            shadow.learner.finish(theirs)
        self.learnt = close.instant
        self.windows += len(set(slots))
        if metrics.METRICS is not None:  # else nobody ever asks for what is kept
            self.meter.window(slots)
        self.beside = exercise, apart, time.perf_counter() - began
        return out

    # Who serves

    def _heed_offers(self) -> list[Message]:
        """Plan what pointers say; those that cannot be followed are told of. A repetition follows what is on record instead."""
        out: list[Message] = []
        if self.gather.repeating:
            return out
        again = self.succession.waiting(self.learnt)
        while again or OFFERS:
            offer = again.pop(0) if again else OFFERS.popleft()
            grid = self.spec.rules.grid
            why = self.succession.offer(offer, self.learner, learnt=self.learnt, first=self._first(), grid=grid)
            if why:
                known = Learnt("refuse", why, {"effective_from": offer.effective_from})
                at = max(offer.effective_from, self._first())  # whoever names no time means now, which is no time of 1970
                self.refused += 1
                out.append(self._told_of(known, at, str(offer.version), self.learner.version))
                if metrics.METRICS is not None:
                    metrics.METRICS.model_swaps.labels(outcome="refused").inc()
        return out

    def _first(self) -> int:
        """The first instant that the flow has not passed."""
        return self.gather.reached - self.gather.reached % self.spec.rules.grid + self.spec.rules.grid

    def _change(self, instant: int) -> tuple[list[Message], Change]:
        """What has been planned for an instant, before anything is learnt at it."""
        plan = self.succession.due(learnt=self.learnt, instant=instant)
        if plan is None:
            return [], succession.NOTHING
        out = self._settle()
        change = self.succession.carry_out(plan, self.learner, instant)
        out += [self._told_of(decision, instant, version, before) for decision, version, before in change.decisions]
        out += [compose.pointer(pointer, instant) for pointer in change.pointers]
        if metrics.METRICS is not None:
            for outcome in change.swaps:
                metrics.METRICS.model_swaps.labels(outcome=outcome).inc()
            for outcome in change.promotions:
                metrics.METRICS.promotions.labels(outcome=outcome).inc()
        return out, change

    def _told_of(self, d: Learnt, instant: int, version: str, before: str | None) -> Message:
        by = ("default", instant, version)
        return compose.decision(
            d.kind, instant, self.voice, cause=d.cause, numbers=d.numbers, version=version, from_version=before, identified_by=by
        )

    def _compare(self, cells: Cells) -> None:
        """What champion and shadow have said of the cells that are to be learnt."""
        shadow = self.succession.shadow
        if shadow is not None and shadow.compare(self.learner, cells, self.gather.wanted) and not self.gather.repeating:
            self.succession.judge(learnt=self.learnt, first=self._first())

    def _read_on(self) -> None:
        """After a hand-over, a little after each turn: what is read then can wait for the next instant, and no sample has to."""
        began = time.perf_counter()
        for learner in self._learners():
            while time.perf_counter() - began < TURN_SECONDS and learner.read_some():
                pass

    def _version(self, name: str) -> Incoming:
        """Raises taught.NotTaught."""
        if self.spec.published is None:
            raise taught.NotTaught(f"version {name} served when this was recorded, and no registry is known that has it: set registry.url")
        return taught.incoming(self.spec.published._replace(version=name), self.spec.config)

    def _at_hand(self) -> Apart | None:
        """The process that learns, once it is ready."""
        if self.apart is None or self.apart.ready():
            return self.apart
        if self.apart.failed:
            LOG.warning("a process of its own for learning did not start: it stays in this one and slows forecasts down")
            self.close()
        return None

    def _run(self, exercise: Exercise) -> None:
        """Here; what it takes adds up, until a process of its own has earned what its loading costs."""
        began = time.perf_counter()
        exercise.run()
        self.alone -= time.perf_counter() - began
        if self.alone < 0:
            self.apart, self.alone = beside(self.learner), math.inf

    def _settle(self) -> list[Message]:
        """Wait for what is being learnt, and take it over."""
        if self.beside is None:
            return []
        (exercise, apart, seconds), self.beside = self.beside, None
        began = time.perf_counter()
        if apart is not None:
            apart.wait(exercise)
        decisions = self.learner.finish(exercise)
        if exercise.incoming is not None:
            self.voice = self.voice._replace(version=self.learner.version)
        self._taught(exercise, seconds + time.perf_counter() - began)
        if metrics.METRICS is not None:
            for d in decisions:
                self.meter.decide(d.kind, d.cause, d.numbers)
        return [self._decided(d, exercise.instant) for d in decisions]

    def close(self) -> None:
        """Nothing of it runs any more."""
        if self.apart is not None:
            self.apart.close()
            self.apart = None

    def _decided(self, d: Learnt, instant: int) -> Message:
        by = ("default", instant, d.cause, *(d.leads or ()))
        version = self.voice.version
        return compose.decision(
            d.kind, instant, self.voice, cause=d.cause, numbers=d.numbers, version=version, leads=d.leads, identified_by=by
        )

    def _woke(self, d: events.Decision) -> Message:
        numbers = {"topic": d.source.topic, "partition": d.source.partition, "position": d.position, "instant": d.instant}
        cause = "a partition came back behind learning"
        by = tuple(numbers.values())
        return compose.decision("wake", d.instant, self.voice, cause=cause, numbers=numbers, version=None, identified_by=by)

    def limit(self, source: Source) -> int | None:
        """The position that a reader must not pass now; None: no limit."""
        limit, position = self.gather.limit(source), self.gather.parts[source].position
        if position is None or not self.pace:
            return limit
        paced = position + max(max(LEAST_RECORDS, int(TURN_SECONDS / self.pace)) // self.abreast, 1)
        return paced if limit is None else min(limit, paced)

    # What is counted

    def _count(self, blocks: Sequence[Block], now: float) -> None:
        if metrics.METRICS is not None:
            for block in blocks:
                self.meter.read(block)
        ended = any(block.ended for block in blocks)
        if now - self.told >= STATUS_SECONDS or ended:
            self.told = now
            STATUS.clear()
            STATUS.update(self.status(self._summed(now, anew=ended)))
            if metrics.METRICS is not None:
                self._measure(metrics.METRICS)

    def _sum_up(self, out: list[Message]) -> list[Message]:
        for message in out:
            if message.kind in self.published:
                self.published[message.kind] += 1
                self.digest = (self.digest + xxhash.xxh3_128_intdigest(message.value or b"", 0)) % (1 << 128)
        return out

    def _measure(self, m: Metrics) -> None:
        """Tell what has been counted since the last time; to find labels at every block was a part in thirty of its work."""
        self.meter.ledger(m, {**self.gather.totals(), "forgotten": self.gather.forgotten})
        self.meter.tell(m)
        self.meter.skill(m, STATUS["learner"]["skill"])
        self.meter.weights(m, STATUS["learner"]["weights"])
        m.state_bytes.set(sum(learner.state_bytes() for learner in self._learners()))
        self.meter.shadow(m, self.succession.difference())
        m.series_in_two_partitions.set(len(self.gather.elsewhere))
        if self.taught_on is not None:
            m.train_loss.set(self.learner.training["loss"])
            m.gradient_norm.set(self.learner.training["gradient_norm"])
            m.learning_rate.set(self.learner.descent.rate_now())
            m.padding_ratio.set(padding(self.taught_on))
            self.taught_on = None

    def _taught(self, exercise: Exercise, seconds: float) -> None:
        m = metrics.METRICS
        if m is None:
            return
        if exercise.outcome is not None and exercise.outcome.kind == "step":
            self.changed = time.time()
        m.train_steps.inc()
        m.train_step_seconds.observe(seconds)
        self.taught_on = exercise.whole.lengths

    def _summed(self, now: float, *, anew: bool) -> dict[str, Any]:
        """What the learner says of all series together, summed anew if it is time."""
        if self.summed is None or now >= self.summed[1] or anew:
            began = time.perf_counter()
            self.summed = self.learner.summary(), now + (time.perf_counter() - began) / SUMMING
        return self.summed[0]

    def status(self, summed: dict[str, Any] | None = None) -> dict[str, Any]:
        """What tables, pages and summaries show; see `tidecast.status.v1`. `summed`: of the learner, where it need not be of now."""
        g = self.gather
        clock = max((q.clock for q in g.parts.values()), default=events.START)
        return {
            "application": self.spec.application,
            "ledger": g.totals(),
            "filtered": sum(q.filtered for q in g.parts.values()),
            "windows": self.windows,
            "updates": self.learner.updates(self.learnt),
            "series": len(g.series),
            "held": sum(len(q.held) + len(q.aside) for q in g.parts.values()),
            "idle": sum(q.idle for q in g.parts.values()),
            "watermark": g.reached if g.reached > events.START else None,
            "clock": clock if clock > events.START else None,
            "published": dict(self.published),
            "learner": self.learner.summary() if summed is None else summed,
            "by_series": {name: self._series(g.names[name]) for name in self.spec.watched if name in g.names},
        }

    def _series(self, slot: int) -> dict[str, Any]:
        last, ahead, band = self.newest.get(slot, (None, None, None))
        return {**self.learner.summary(slot=slot), "last": last, "next": ahead, "band": band}

    # Commits, snapshots, recovery

    def account(self) -> dict[str, Any]:
        """What a commit says of this shard, and what recovery must come to again."""
        g = self.gather
        return {
            "positions": [[s.topic, s.partition, q.position] for s, q in g.parts.items() if q.position is not None],
            "reached": g.reached,
            "learnt": self.learnt,
            "flags": g.flags(),
            "ledger": g.totals(),
            "published": dict(self.published),
            "digest": f"{self.digest:032x}",
            "weights": " ".join(learner.digest() for learner in self._learners()),
            "plans": [[*plan] for plan in self.succession.plans],
            "refused": self.refused,
            "decisions": [[*d.source, d.position, d.instant] for d in g.decisions],
            "decisions_before": g.dropped_decisions,
            "publish_from": self.spec.publish_from,
            "quota": self.spec.rules.quota,
            "taught": self.taught,
        }

    def repeat(self, account: dict[str, Any]) -> None:
        """Read exactly to where the account stands, and no wall clock meanwhile."""
        g = self.gather
        total = g.dropped_decisions + len(g.decisions)
        later = [events.Decision(Source(t, p), position, instant) for t, p, position, instant in account["decisions"]]
        later = later[total - account["decisions_before"] :]
        ends = [events.Decision(Source(t, p), position, account["reached"]) for t, p, position in account["positions"]]
        self.succession.load([events.Plan(*plan) for plan in account["plans"]], self.learnt)
        self._owe(g.repeat([*later, *ends]))

    def resume(self, account: dict[str, Any]) -> bool:
        """Live on from the account; False when what was repeated is not, byte for byte, what was published."""
        g = self.gather
        while self.queue and self.queue[0].instant <= account["learnt"]:
            self._owe_messages(self.learn_next())
        self._sum_up(self.owed)  # released by the decisions alone, without another block
        weights = " ".join(learner.digest() for learner in self._learners())
        same = f"{self.digest:032x}" == account["digest"] and weights == account["weights"]
        self.owed = []  # repeated, and published long ago
        g.decisions = [events.Decision(Source(t, p), position, instant) for t, p, position, instant in account["decisions"]]
        g.dropped_decisions = account["decisions_before"]
        self._owe(g.resume(account["flags"]))
        return same

    def _owe(self, told: list[events.Event]) -> None:
        for messages in self.follow(told):
            self._owe_messages(messages)

    def _owe_messages(self, messages: list[Message]) -> None:
        self.owed += messages

    def snapshotted(self) -> None:
        """Decisions from before the snapshot before the one that commits name now are not needed again."""
        g = self.gather
        self.snapshots.append((g.dropped_decisions + len(g.decisions), self.learnt))
        if len(self.snapshots) < (self.snapshots.maxlen or 0):
            return
        count, learnt = self.snapshots[0]
        self.succession.drop(learnt)
        if count > g.dropped_decisions:
            g.decisions, g.dropped_decisions = g.decisions[count - g.dropped_decisions :], count

    def freeze(self) -> Parts:
        return self.frozen()()

    def frozen(self) -> Callable[[], Parts]:
        """The shard of now as what makes its parts, in any thread: only copying it, and writing down what is small, keeps the engine."""
        rest = {
            "shaped_by": shaping(self.spec),
            "queue": [[c.instant, c.cells, c.drop] for c in self.queue],
            "learnt": self.learnt,
            "windows": self.windows,
            "published": dict(self.published),
            "digest": f"{self.digest:032x}",
            "snapshots": list(self.snapshots),
            "publish_from": self.spec.publish_from,
            "quota": self.spec.rules.quota,
            "taught": self.taught,
            "plans": [[*plan] for plan in self.succession.plans],
            "refused": self.refused,
        }
        plain = {"gather": self.gather.state(), "rest": msgspec.msgpack.encode(rest)}
        learners = {"learner": self.learner.frozen()}
        if (shadow := self.succession.shadow) is not None:
            learners["shadow"], known = shadow.frozen()
            plain["judging"] = msgspec.msgpack.encode(known)
        return lambda: plain | {f"{who}/{name}": part for who, parts in learners.items() for name, part in parts().items()}

    @classmethod
    def thaw(cls, spec: Spec, parts: Parts) -> Shard:
        """The inverse of `freeze`; no part is needed afterwards. Raises OtherSettings and models.snapshot.SnapshotDamaged."""
        if not isinstance(parts, Mapping) or not {"gather", "rest"} <= parts.keys():
            raise SnapshotDamaged("what is kept of the shard was not written by this release: begin again under another application")
        rest = msgspec.msgpack.decode(parts["rest"])
        learner, shadow = ({n.removeprefix(who): part for n, part in parts.items() if n.startswith(who)} for who in ("learner/", "shadow/"))
        refuse_others(rest.get("shaped_by", {}), spec)
        spec = as_first_started(spec, rest)
        self = cls(spec, part=Gather.restore(spec.rules, parts["gather"], spec.sources), learner=Learner.restore(spec.config, learner))
        self.queue = deque(events.Close(instant, [(s, c, v) for s, c, v in cells], drop) for instant, cells, drop in rest["queue"])
        self.learnt, self.windows, self.published = rest["learnt"], rest["windows"], rest["published"]
        self.digest, self.taught = int(rest["digest"], 16), rest["taught"]
        self.snapshots.extend((count, learnt) for count, learnt in rest["snapshots"])
        self.refused = rest["refused"]
        self.succession.plans = [events.Plan(*plan) for plan in rest["plans"]]
        if shadow and spec.succession is not None:
            self.succession.shadow = Shadow.thaw(spec.config, spec.succession.judge, shadow, msgspec.msgpack.decode(parts["judging"]))
        return self


def before(close: events.Close, waiting: list[events.Sample]) -> tuple[list[events.Sample], list[events.Sample]]:
    """Samples that must be done before an instant is learnt, and those that need not; each series in its order.

    It learns from the scores of the cells that it closes, and may drop the generation that a sample asks for.
    """
    series: set[int] = set()
    now: list[events.Sample] = []
    later: list[events.Sample] = []
    for sample in reversed(waiting):
        if sample.cell < close.instant or sample.generation in close.drop or sample.slot in series:
            series.add(sample.slot)
            now.append(sample)
        else:
            later.append(sample)
    return now[::-1], later[::-1]


def beside(learner: Learner) -> Apart | None:
    """A process for its steps of descent; None: it cannot be had, and they are taken in this one."""
    try:
        return Apart(learner)
    except OSError as error:
        LOG.warning("learning stays in this process and slows forecasts down: %s", error)
        return None


def memory_of(device: torch.device) -> int:
    """Bytes: of tensors on a GPU; on a CPU, where they lie among all else, of this process."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES


PAGE_BYTES = resource.getpagesize()


def one_thread() -> None:
    """Small steps are 10-20 times slower with more; the number is the calling thread's own."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


class OtherSettings(ValueError):  # noqa: N818 - reads as what happened
    """The state was made with settings that shape it, and they are others now."""


class OtherModel(ValueError):  # noqa: N818 - reads as what happened
    """The state is still to be made anew from a taught model, and that is another one now."""


def shaping(spec: Spec) -> dict[str, Any]:
    """The settings that a shard's state is shaped by, as names and plain values."""
    rules, config = spec.rules, spec.config
    session = {"window.gap": duration_text(rules.gap), "window.max_span": duration_text(rules.max_span)}
    return {
        "series.step": duration_text(rules.step),
        "series.samples": "one" if rules.aggregate is None else "many",
        **({} if rules.aggregate is None else {"series.aggregate": rules.aggregate, "time.disorder": duration_text(rules.disorder)}),
        "window.kind": rules.kind,
        "window.span" if rules.kind == "fixed" else "window.every": duration_text(rules.grid),
        **(session if rules.kind == "session" else {}),
        **configure.shaping(config),
    }


def refuse_others(then: Mapping[str, Any], spec: Spec) -> None:
    """Raises OtherSettings naming every one that does not fit."""
    now, then = shaping(spec), {"input.covariates": [], "input.ahead": [], "series.silent": "skip", **then}
    wrong = [f"{name} was {then.get(name)} and is {now[name]}" for name in now if then.get(name) != now[name]]
    if wrong:
        raise OtherSettings(
            f"the state of application {spec.application!r} is shaped by settings that are others now: {'; '.join(wrong)}. "
            "Bring them back, or begin anew under another application"
        )


class FrozenShard(NamedTuple):
    """A shard as its parts, until the DoFn that knows its spec thaws it."""

    parts: Parts
    token: bytes = b""  # that stands for it in a cell


class ShardCoder(coders.Coder):
    """By reference where the engine keeps state in this process, by value anywhere else; reads both."""

    def encode(self, value: Shard | FrozenShard) -> bytes:
        if isinstance(value, FrozenShard):
            return value.token or msgspec.msgpack.encode(value.parts)
        if BY_REFERENCE:
            LIVE[value.token] = value
            return value.token
        return msgspec.msgpack.encode(value.freeze())

    def decode(self, encoded: bytes) -> Shard | FrozenShard:
        if not encoded.startswith(TOKEN):
            return FrozenShard(msgspec.msgpack.decode(encoded))
        return LIVE[encoded] if encoded in LIVE else FROZEN[encoded]

    def is_deterministic(self) -> bool:
        return True


CELL = userstate.ReadModifyWriteStateSpec("shard", ShardCoder())
LIVE_CELL = beam.DoFn.StateParam(CELL)


class Learn(beam.DoFn):
    """(shard, turn) in, lists of messages out."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def process(self, element: tuple[bytes, Turn], cell: Any = LIVE_CELL) -> Iterator[list[Message]]:
        one_thread()
        shard = cell.read()
        if not isinstance(shard, Shard):
            shard = wake(self.spec, shard)
        blocks = element[1].blocks
        count = sum(len(block.at) + len(block.rejected) for block in blocks)
        for messages in metrics.staged("learn", count, shard.turns(blocks)):
            if messages:
                yield messages
        cell.write(shard)


def as_first_started(spec: Spec, then: Mapping[str, Any]) -> Spec:
    """What is fixed at the first start, whatever the clock and the partitions say now."""
    return spec._replace(publish_from=then["publish_from"], rules=spec.rules._replace(quota=then["quota"]))


def wake(spec: Spec, frozen: FrozenShard | None) -> Shard:
    """The shard of a cell: from its snapshot, or new; on its way to the account that recovery is to come to."""
    if RECOVERY is not None:
        spec = as_first_started(spec, RECOVERY)
        if spec.champion is not None:  # whoever was champion then; a file's hash is longer than a version's name
            then = RECOVERY["taught"] or ""
            spec = spec._replace(champion=spec.champion._replace(version=then if len(then) <= taught.NAME else ""))
    shard = Shard.begin(spec) if frozen is None else Shard.thaw(spec, frozen.parts)
    if frozen is not None:
        FROZEN.pop(frozen.token, None)
    if RECOVERY is not None:
        if shard.taught != RECOVERY["taught"]:  # only before the first snapshot that holds a shard
            raise OtherModel(
                f"application {spec.application!r} has committed what it forecast from another taught model (SHA-256 {RECOVERY['taught']}) "
                f"than learn.start_from is now ({shard.taught}); bring the file back, or begin anew under another application"
            )
        shard.began_at = shard.gather.totals()["consumed"]
        shard.repeat(RECOVERY)
    return shard


RECOVERY: dict[str, Any] | None = None  # the account that a muted replay is to come to


@dataclass
class LiveShard:
    """The shard of this process, as the local engine wants it (engine.protocols.Live)."""

    complain: Any = None  # called with a text when what was repeated is not what was published

    def __post_init__(self) -> None:
        global BY_REFERENCE  # noqa: PLW0603 - one engine a process; the coder is made by unpickling and has no other way to know
        BY_REFERENCE = True
        LIVE.clear()
        FROZEN.clear()
        STATUS.clear()
        OFFERS.clear()

    def shard(self) -> Shard | None:
        return next(iter(LIVE.values()), None)

    def close(self) -> None:
        """No shard learns any more; what they say of themselves stays."""
        for shard in LIVE.values():
            shard.close()
        FROZEN.clear()

    def freeze(self, cell: bytes) -> Callable[[], Parts] | None:
        content = coders.BytesCoder().get_impl().decode_nested(cell)
        if not content.startswith(TOKEN):
            return None
        value = ShardCoder().decode(content)
        return (lambda: value.parts) if isinstance(value, FrozenShard) else value.frozen()

    def thaw(self, parts: Parts) -> bytes:
        frozen = FrozenShard(parts, new_token())
        FROZEN[frozen.token] = frozen
        return bytes(ShardCoder().get_impl().encode_nested(frozen))

    def account(self) -> dict[str, Any]:
        shard = self.shard()
        return shard.account() if shard is not None else {}

    def repeat(self, account: dict[str, Any]) -> None:
        global RECOVERY  # noqa: PLW0603 - see above
        RECOVERY = account or None

    def repeated(self) -> bool:
        shard = self.shard()
        return RECOVERY is None or (shard is not None and shard.gather.repeated())

    def resume(self, account: dict[str, Any]) -> None:
        global RECOVERY  # noqa: PLW0603 - see above
        RECOVERY = None
        shard = self.shard()
        if metrics.METRICS is not None and shard is not None:
            metrics.METRICS.recovery_replayed_observations.set(shard.gather.totals()["consumed"] - shard.began_at)
        if shard is not None and account and not shard.resume(account) and self.complain is not None:
            self.complain("what was repeated from the snapshot is not, byte for byte, what had been published")

    def snapshotted(self) -> None:
        shard = self.shard()
        if shard is not None:
            shard.snapshotted()

    def limit(self, source: Source) -> int | None:
        """How far a reader may go (consume.GATE); nothing is read before the shard knows what it repeats."""
        shard = self.shard()
        if shard is None:
            return None if RECOVERY is None else 0
        return shard.limit(source)
