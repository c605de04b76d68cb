"""Commits, snapshots and recovery of one job: what is durable, and when.

A snapshot is older than the commit that names it. Recovery therefore loads the snapshot, repeats what came between, with
outputs muted, and stands exactly where the commit was made. This is the only way a job ever starts.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pipeline.engine import image
from pipeline.engine.errors import SnapshotFailed, StateLost
from pipeline.engine.graph import Graph
from pipeline.engine.protocols import Durability, Parts
from pipeline.engine.snapshot import Damaged, Folder

LOG = logging.getLogger(__name__)

# Freezing stops the engine. A state so large that it takes 0.5 s is then frozen every 10 s: recovery takes longer, work does not.
FREEZING = 0.05
# Work is scarce when little comes in; once a minute all the same, so that the decisions that an account repeats stay few and
# the input that a recovery reads again is still there.
AT_LEAST_EVERY = 12  # times `snapshot_every_s`
# Copying the state and writing it takes processor time from what is at work: a snapshot that is due waits for a rest, no commit for so many
# intervals, but not for ever. In a burst of 10,000 series a minute it always fell into the burst, and forecasts waited for it.
REST = 2.0  # times `interval_s`
RESTLESS = 1.2  # what is due waits until it is this many times due
# When a commit is due and nothing has changed, look again after this part of the interval: a sample after silence waits
# no longer than that, and the account is not made for every mark of an idle source. No two commits are closer than that.
UNCHANGED = 0.1
# When there is nothing else to do, a commit need not wait for the interval: only so long, in times of what the last one took, that
# what arrives meanwhile finds the engine free four times out of five. The second half of a burst is then readable at once.
IDLE = 4.0


class Ledger:
    """Keeps a job durable. All methods are called by the engine's thread, at quiet moments."""

    def __init__(self, durability: Durability, graph: Graph) -> None:
        self._how = durability
        self._graph = graph
        try:
            self._folder = Folder(durability.folder, durability.point)
            self._folder.sweep()
        except OSError as error:
            raise SnapshotFailed(f"cannot use the state folder {durability.folder}: {error.strerror}") from error
        # Snapshots that may be removed in time: those found here, and our own. Never others: while this process was stopped,
        # another may have taken over, whose snapshots lie in the same folder.
        self._known = set(self._folder.ids())
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshot")
        self._writing: tuple[str, Future[None]] | None = None
        self._commits = 0  # number of the last one
        self._account: dict[str, Any] | None = None  # the last committed
        self._named: tuple[str | None, str | None] = (None, None)  # snapshots that the last commit named, newest first
        self._newest: str | None = None  # the newest on disk
        self._repeating: dict[str, Any] | None = None  # the account that a repetition runs to
        self._next_commit = 0.0  # monotonic clock, s
        self._idle_commit = 0.0  # the same for an engine that has nothing else to do
        self._committed_at = 0.0
        self._next_freeze = 0.0
        self._last_freeze = 0.0
        self._repeatable = 0.0  # s of work since the last snapshot was frozen
        self._frozen_at = -1  # commits made when it was
        self._rested = False  # no bundle since the last look at the account
        self._pressing = False  # a snapshot is wanted at the next quiet moment

    def recover(self) -> bool:
        """Bring the graph to the last commit's snapshot; False when there is no commit yet, and the job begins."""
        record = self._how.committer.last()
        if record is None:
            self._refuse_strangers()
            return False
        self._commits, self._account = record["number"], record["account"]
        self._named = (record["snapshot"], record["before"])
        name, loaded, live = self._load(record)
        self._newest = name
        if name != record["snapshot"]:
            self._named = (name, None)
            self._pressing = True  # the one at hand is the last: make another as soon as can be
        image.put(loaded, live, self._graph, thaw=self._how.live.thaw)
        self._repeating = record["account"]
        self._how.committer.mute(True)  # noqa: FBT003 - one flag, named by the verb
        self._how.live.repeat(record["account"])
        self._last_freeze = time.monotonic()
        return True

    def begin(self) -> None:
        """The first snapshot, of a job that has not read anything: on disk before the first commit."""
        name, frozen = self._freeze()
        self._write(name, frozen)
        self._written(name)

    @property
    def repeating(self) -> bool:
        return self._repeating is not None

    def worked(self, seconds: float) -> None:
        """A bundle took this long, and would again."""
        self._repeatable += seconds
        self._rested = False

    def due(self) -> float:
        """When to come back at the latest (monotonic clock, s), if no bundle runs before."""
        if self.repeating:
            return math.inf
        if not self._rested:
            return self._idle_commit
        return self._rests_at() if self._freeze_due(time.monotonic(), resting=True) else math.inf

    def quiet(self, *, wanted: bool, idle: bool = False) -> bool:
        """Everything read is processed or put off: do what is due. True if it committed.

        `idle`: there is nothing else to do.
        `wanted`: somebody waits to be told of a commit, so that one is made though the account is the same.
        """
        if self._repeating is not None:
            if not self._how.live.repeated():
                return False
            self._resume(self._repeating)
        self._collect()
        now = time.monotonic()
        if self._freeze_due(now, resting=idle and self._rested and now >= self._rests_at()):
            name, frozen = self._freeze()
            self._writing = name, self._writer.submit(self._write, name, frozen)
        if now < (self._idle_commit if idle else self._next_commit) or self._rested:
            return False
        self._rested = True
        committed = self._commit(wanted=wanted)
        done = time.monotonic()
        self._next_commit = now + self._how.interval_s * (1.0 if committed else UNCHANGED)
        self._idle_commit = min(self._next_commit, done + max(IDLE * (done - now), UNCHANGED * self._how.interval_s))
        return committed

    def finish(self, *, wanted: bool) -> bool:
        """The job ends: a last snapshot, named by a last commit, so that nothing has to be repeated. True if it committed."""
        if self.repeating:
            return False  # nothing is new since the commit that it starts from
        self._collect(wait=True)
        if self._how.live.account() != self._account or self._commits != self._frozen_at:
            name, frozen = self._freeze()
            self._write(name, frozen)
            self._written(name)
        return self._commit(wanted=wanted)

    def close(self) -> None:
        self._writer.shutdown(wait=True)

    def _resume(self, account: dict[str, Any]) -> None:
        self._how.live.resume(account)
        self._how.committer.mute(False)  # noqa: FBT003
        self._repeating = None

    def _commit(self, *, wanted: bool) -> bool:
        account = self._how.live.account()
        if account == self._account and self._newest == self._named[0] and not wanted:
            return False
        named = self._named if self._newest == self._named[0] else (self._newest, self._named[0])
        record: dict[str, Any] = {
            "application": self._how.application,
            "number": self._commits + 1,
            "snapshot": named[0],
            "before": named[1],
            "account": account,
        }
        self._how.point("before_commit")
        self._how.committer.commit(record)
        self._how.point("after_commit")
        self._committed_at = time.monotonic()
        self._commits, self._account, self._named = record["number"], account, named
        self._clean()
        return True

    def _written(self, name: str) -> None:
        self._known.add(name)
        self._newest = name
        self._clean()

    def _clean(self) -> None:
        """Remove the snapshots that no commit of ours names and none will."""
        for name in self._known - {*self._named, self._newest}:
            self._folder.remove(name)
            self._known.discard(name)

    def _rests_at(self) -> float:
        """From when on nothing that comes now belongs to what came last (monotonic clock, s)."""
        return self._committed_at + REST * self._how.interval_s

    def _freeze_due(self, now: float, *, resting: bool) -> bool:
        if self._writing is not None or now < self._next_freeze or self._commits == self._frozen_at:
            return False  # at work already, too early, or nothing new: without progress there are no commits
        every = self._how.snapshot_every_s * (1.0 if resting else RESTLESS)
        return self._pressing or self._repeatable >= every or now - self._last_freeze >= AT_LEAST_EVERY * every

    def _freeze(self) -> tuple[str, Callable[[], Iterable[bytes | memoryview]]]:
        """A name for a snapshot, and what gives its bytes."""
        started = time.monotonic()
        frozen = image.take(self._graph, freeze=self._how.live.freeze, commits=self._commits)
        self._how.live.snapshotted()
        self._last_freeze = time.monotonic()
        self._next_freeze = self._last_freeze + (self._last_freeze - started) / FREEZING
        self._repeatable, self._pressing, self._frozen_at = 0.0, False, self._commits
        # Names sort by age; the random end keeps apart those of a start that crashed and of the one that followed.
        return f"{self._commits:012d}-{time.time_ns():020d}-{secrets.token_hex(4)}", frozen

    def _write(self, name: str, frozen: Callable[[], Iterable[bytes | memoryview]]) -> None:
        try:
            self._folder.write(name, frozen())
        except OSError as error:
            raise SnapshotFailed(f"cannot write a snapshot to {self._folder.path}: {error.strerror}") from error

    def _collect(self, *, wait: bool = False) -> None:
        """Take notice of a snapshot that has been written, or raise why it could not be."""
        if self._writing is None or not (wait or self._writing[1].done()):
            return
        name, written = self._writing
        written.result()
        self._writing = None
        self._written(name)

    def _load(self, record: dict[str, Any]) -> tuple[str, image.Image, list[tuple[bytes, Parts]]]:
        """The snapshot that a commit names, or the one before if it is damaged; its name first."""
        faults = []
        for name in (record["snapshot"], record["before"]):
            if name is None:
                continue
            try:
                loaded, live = image.decode(self._folder.read(name))
            except Damaged as fault:
                LOG.warning("snapshot cannot be used: %s", fault)
                faults.append(str(fault))
                continue
            if loaded.pipeline != self._graph.pipeline:
                raise StateLost(
                    f"snapshot {name} in {self._folder.path} belongs to a pipeline of another shape; "
                    f"run the release that wrote it, or begin again under another application than {record['application']!r}"
                )
            return name, loaded, live
        raise StateLost(
            f"commit {record['number']} of {record['application']!r} exists, but none of its snapshots can be read: {'; '.join(faults)}. "
            "Bring the state folder back (a backup is good if it holds one of these), or begin again under another application"
        )

    def _refuse_strangers(self) -> None:
        """Without a commit, only what an interrupted first start left may lie in the folder."""
        for name in sorted(self._known):
            try:
                commits = image.decode(self._folder.read(name))[0].commits
            except Damaged as fault:
                raise StateLost(
                    f"no commit of {self._how.application!r} is to be found, but {fault}; move the folder away to begin"
                ) from fault
            if commits:
                raise StateLost(
                    f"{self._folder.path} holds the state of {commits} commits, but no commit of {self._how.application!r} is to be found: "
                    "is this the right broker, the right prefix? To begin again, move the folder away"
                )
