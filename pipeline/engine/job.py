"""The loop of a job: run what waits, move time forward, take up what was put off, commit at quiet moments.

One thread runs everything: bundles, timers, freezing, commits. Only the writing of a snapshot happens beside it.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from apache_beam.runners.runner import PipelineState

from pipeline.engine.bundles import TimerFamily
from pipeline.engine.durable import Ledger
from pipeline.engine.errors import EngineError
from pipeline.engine.graph import Graph
from pipeline.engine.protocols import Durability
from pipeline.engine.stages import MAX, Stage

LOG = logging.getLogger(__name__)

# How often triggers on processing time are asked; their delays are seconds and more.
CLOCK_TICK = 0.05
# How long to sleep when nothing is known to come: only a guard, every event wakes the job.
FOREVER = 3600.0

WAKENED: set[threading.Event] = set()  # of the jobs that run in this process


def wake() -> None:
    """Something has arrived: every job takes up what it put off, now. Any thread may call it, any number of times."""
    for event in tuple(WAKENED):
        event.set()


class Job:
    """A pipeline that runs in its own thread until it is done, stopped, or fails."""

    def __init__(self, graph: Graph, durability: Durability | None) -> None:
        self.state = PipelineState.RUNNING
        self.error: BaseException | None = None
        self.metrics: dict[str, list[Any]] = {}  # stage -> monitoring infos, when it has ended
        self._graph: Graph = graph
        self._durability = durability
        self._ledger: Ledger | None = None
        self._ending: str | None = None  # the state to end in, once asked for
        self._awake = threading.Event()
        self.thread = threading.Thread(target=self._main, name="engine", daemon=True)

    def end(self, state: str) -> None:
        """Ask the job to end after the bundle under way: DONE commits what is processed, CANCELLED does not."""
        self._ending = state
        self._awake.set()

    def _main(self) -> None:
        WAKENED.add(self._awake)
        for step in (self._run, self._close):
            try:
                step()
            except BaseException as error:  # noqa: BLE001 - kept for `wait_until_finish`, which raises it where it is seen
                if self.error is not None:
                    LOG.warning("after %r, ending failed too: %r", self.error, error)
                self.error = self.error or error
        WAKENED.discard(self._awake)
        self.state = self._ending if self.error is None and self._ending is not None else PipelineState.FAILED

    def _close(self) -> None:
        """Give everything back: whoever keeps the result of a job keeps only its state and metrics."""
        self.metrics = {stage.name: list(stage.worker.metrics()) for stage in self._graph.stages}
        if self._ledger is not None:
            self._ledger.close()
        self._graph.close()
        del self._graph, self._ledger

    def _run(self) -> None:
        self._start()
        while self._ending is None:
            worked = self._round()
            if not worked and self._over():
                self._ending = PipelineState.DONE
            elif not worked:
                self._quiet(idle=True)
                self._rest()
        if self._ending == PipelineState.DONE:
            self._settle()
            if self._ledger is not None and self._ledger.finish(wanted=self._waiting()):
                self._finalize()

    def _start(self) -> None:
        """Continue from the last commit, or begin."""
        if self._durability is not None:
            self._ledger = Ledger(self._durability, self._graph)
            if self._ledger.recover():
                return
        for stage, transform, element in self._graph.impulses():
            stage.deliver(transform, element)
        self._settle()
        if self._ledger is not None:
            self._ledger.begin()

    def _round(self) -> bool:
        """A bundle of each stage that put something off and may go on; True if there was any."""
        if self._awake.is_set():
            self._awake.clear()  # first: what arrives from here on wakes again
            for stage in self._graph.stages:
                stage.hurry()
        worked = self._settle()
        self._quiet()
        for stage in self._graph.stages:
            if self._ending is not None:
                break
            if self._graph.ready(stage) and (data := stage.take_due(time.monotonic())):
                self._bundle(stage, data, {})
                self._settle()
                self._quiet()
                worked = True
        return worked

    def _settle(self) -> bool:
        """Run bundles and timers until nothing is left to do but what was put off. True if there was anything."""
        did = False
        while self._drain() or self._advance() or self._graph.share():
            did = True
        return did

    def _drain(self) -> bool:
        """Run what waits, in the order of the graph."""
        did = False
        for stage in self._graph.stages:
            if stage.pending and self._graph.ready(stage):
                self._bundle(stage, stage.take_pending(), {})
                did = True
        return did

    def _advance(self) -> bool:
        """Move watermarks forward until a timer fires or a group lets something out. True if one did."""
        now = time.time()
        for stage in self._graph.stages:
            self._graph.advance(stage, now)
            if stage.pending and self._graph.ready(stage):
                return True
            if timers := stage.take_timers(int(now * 1e6)):
                self._bundle(stage, {}, timers)
                return True
            stage.pass_on()
        return False

    def _bundle(self, stage: Stage, data: dict[str, list[bytes]], timers: dict[TimerFamily, bytes]) -> None:
        started = time.monotonic()
        for buffer, chunks in stage.run(data, timers, started):
            for chunk in chunks:
                if chunk:
                    self._graph.write(buffer, chunk)
        if self._ledger is None:
            stage.worker.finalize()
        else:
            self._ledger.worked(time.monotonic() - started)

    def _quiet(self, *, idle: bool = False) -> None:
        """Nothing is under way: the moment for what has to be consistent."""
        if self._ledger is not None and self._ledger.quiet(wanted=self._waiting(), idle=idle):
            self._finalize()

    def _waiting(self) -> bool:
        """Bundle finalizers wait for a commit."""
        return any(stage.worker.waiting for stage in self._graph.stages)

    def _finalize(self) -> None:
        for stage in self._graph.stages:
            stage.worker.finalize()

    def _over(self) -> bool:
        """Nothing is put off, no timer is set, nothing waits: there will never be anything again."""
        stages = self._graph.stages
        if any(stage.residuals or any(stage.timers.values()) for stage in stages) or any(g.clocked for g in self._graph.groups.values()):
            return False
        stuck = [stage.name for stage in stages if stage.pending]
        if stuck:
            raise EngineError(f"stages wait for side inputs that never come: {stuck}")
        return True

    def _rest(self) -> None:
        """Sleep until something is due, or something wakes the job."""
        until = time.monotonic() + FOREVER
        for stage in self._graph.stages:
            until = min([until, *(residual.due for residual in stage.residuals)])
            until = min([until, *(self._clock(timers.earliest) for timers in stage.timers.values() if timers and not timers.event)])
        if any(group.clocked for group in self._graph.groups.values()):
            until = min(until, time.monotonic() + CLOCK_TICK)
        if self._ledger is not None:
            until = min(until, self._ledger.due())
        self._awake.wait(max(0.0, until - time.monotonic()))

    def _clock(self, instant: int) -> float:
        """A processing time (us since the epoch) on the monotonic clock (s)."""
        return time.monotonic() + instant / 1e6 - time.time() if instant <= MAX else time.monotonic() + FOREVER
