"""Event time, commits and recovery under a seeded scheduler: random logs, polls, pauses, snapshots and deaths.

    python -m tests.simulation [schedules] [first seed]

One process is played here: a gather, a learner whose carries and generations are chains of hashes (two runs agree
exactly when the rules hold), a disk with snapshots, and a broker that commits outputs, positions and the commit record
in one transaction. A *case* is plain data: rules, logs, and a list of steps that are taken as far as they make sense, so
that a failing case can be cut down by dropping steps and records while it still fails.

What must hold of every case:
1. after a death, an old snapshot and a muted replay come to the very state of the last commit;
2. the ledger is exact, and lateness and refusals are what each partition's own log says;
3. no forecast is committed twice, and none is missing;
4. the decisions on record repeat the run, byte for byte, under any other schedule;
5. other values from some moment on change nothing that was issued before it.
"""

from __future__ import annotations

import copy
import math
import random
import sys
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import xxhash

from pipeline import gather
from pipeline.events import NEVER
from pipeline.gather import START, Decision, Gather, Rules
from pipeline.records import Block, Source
from tests.cases import Case, Step, block, by_its_log, changed, make, shrink, text

Output = tuple[Any, ...]  # kind first; for forecasts (kind, series, cell, digest, woken)


def digest(*parts: Any) -> int:
    return xxhash.xxh3_64_intdigest(repr(parts).encode())


def sources(case: Case) -> list[Source]:
    return [Source("t", p) for p in range(len(case.logs))]


# The process


class Chains:
    """A learner that hides nothing: what it says of a cell is a hash of all that may be behind it, and of nothing else."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.carry: dict[int, int] = {}
        self.learnt_of: dict[int, int] = {}  # what replay draws from: every series alive at an instant shows in its generation
        self.generations = {START: digest("nothing")}
        self.newest = START
        self.queue: deque[gather.Close] = deque()  # passed, not learnt yet

    def learn(self) -> None:
        close = self.queue.popleft()
        cells = [(self.names[slot], cell, value) for slot, cell, value in close.cells]
        for slot, cell, value in close.cells:
            self.learnt_of[slot] = digest(self.learnt_of.get(slot), cell, value)
        pool = sum(self.learnt_of.values())
        self.generations[close.instant] = digest(self.generations[self.newest], sorted(cells), pool)
        self.newest = close.instant
        for instant in close.drop:
            del self.generations[instant]

    def sample(self, s: gather.Sample) -> Output | None:
        while self.queue and self.queue[0].instant <= s.generation:
            self.learn()
        name = self.names[s.slot]
        if math.isnan(s.value):  # silent: what was known is said again, and nothing changes
            return ("forecast", name, s.cell, digest("again", self.carry.get(s.slot)), s.woken)
        self.carry[s.slot] = digest(self.carry.get(s.slot), s.cell, s.value, s.inserted)
        return None if s.inserted else ("forecast", name, s.cell, digest(self.carry[s.slot], self.generations[s.generation]), s.woken)

    def copy(self) -> Chains:
        twin = type(self)()
        twin.__dict__ = {name: copy.copy(value) for name, value in vars(self).items()}
        return twin

    def forget(self, slot: int) -> None:
        while self.queue:  # they may name the slot, and another series may get it
            self.learn()
        del self.names[slot]
        self.carry.pop(slot, None)
        self.learnt_of.pop(slot, None)


class Process:
    """What one process holds in memory. Everything here is lost when it dies."""

    gather_type = Gather
    learner_type = Chains

    def __init__(self, rules: Rules, order: list[Source]) -> None:
        self.gather = self.gather_type(rules, order)
        self.learner = self.learner_type()
        self.outputs: list[Output] = []  # since the last commit
        self.samples = 0
        self.sum = 0
        self.goal: dict[str, Any] | None = None  # the account that recovery is to come to
        self.counts: deque[int] = deque(maxlen=3)  # how many decisions there were at the newest snapshots
        self.frozen: bytes | None = None  # a snapshot not written yet
        self.newest = 0  # the newest snapshot written
        self.named: tuple[int | None, int | None] = (None, None)  # those that the last commit named
        self.rested = True  # no commit since the last freeze

    def take(self, block: Block, share: float = 1.0) -> None:
        events = self.gather.add(block)
        self.follow(events[: math.ceil(len(events) * share)])

    def follow(self, events: list[gather.Event]) -> None:
        for event in events:
            self._put(self._do(event))

    def _do(self, event: gather.Event) -> Output | None:
        match event:
            case gather.Sample():
                if not math.isnan(event.value):
                    self.samples += int(event.value) if self.gather.rules.aggregate == "count" else 1
                return self.learner.sample(event)
            case gather.Close():
                self.learner.queue.append(event)
            case gather.Admit(slot, name, _):
                assert slot not in self.learner.names, f"slot {slot} is taken"
                self.learner.names[slot] = name
            case gather.Forget(slot):
                self.learner.forget(slot)
            case gather.TooLate():
                return ("late", event.source, event.offset, event.series, event.at, event.late)
            case gather.Refused():
                return ("refused", event.source, event.raw.offset, event.rejection.series, event.rejection.reason)
            case gather.Decision():
                return ("wake", event.source, event.position, event.instant)
        return None

    def _put(self, output: Output | None) -> None:
        if output is None:
            return
        if output[0] != "wake":
            self.sum = (self.sum + digest(output)) % (1 << 64)
        if self.goal is None:
            self.outputs.append(output)

    # Snapshots and commits

    def freeze(self) -> Any:
        frozen = (self.gather.state(), self.learner.copy(), self.samples, self.sum, tuple(self.counts))
        self.snapshotted()
        return frozen

    def snapshotted(self) -> None:
        """Decisions from before the snapshot before the one that commits name now are not needed again."""
        g = self.gather
        self.counts.append(g.dropped_decisions + len(g.decisions))
        drop = self.counts[0] - g.dropped_decisions if len(self.counts) == self.counts.maxlen else 0
        if drop > 0:
            g.decisions, g.dropped_decisions = g.decisions[drop:], self.counts[0]

    def thaw(self, frozen: Any) -> None:
        state, memory, self.samples, self.sum, counts = frozen
        self.gather = self.gather_type.restore(self.gather.rules, state)
        self.learner = memory.copy()
        self.counts = deque(counts, maxlen=self.counts.maxlen)

    def account(self) -> dict[str, Any]:
        g = self.gather
        return {
            "ends": g.ends(),
            "flags": g.flags(),
            "ledger": [dict(q.ledger) for q in g.parts.values()],
            "learnt": self.learner.newest,
            "digest": (self.sum, self.learner.generations[self.learner.newest]),
            "decisions": list(g.decisions),
            "decisions_before": g.dropped_decisions,
        }

    def repeat(self, account: dict[str, Any]) -> None:
        self.goal = account
        total = self.gather.dropped_decisions + len(self.gather.decisions)
        assert total >= account["decisions_before"], "the record does not reach back to this snapshot"
        later = account["decisions"][total - account["decisions_before"] :]
        self.follow(self.gather.repeat([*later, *account["ends"]]))

    def resume(self) -> None:
        goal = self.goal
        assert goal is not None
        while self.learner.queue and self.learner.queue[0].instant <= goal["learnt"]:
            self.learner.learn()
        self.goal = None
        self.gather.decisions, self.gather.dropped_decisions = list(goal["decisions"]), goal["decisions_before"]
        self.follow(self.gather.resume(goal["flags"]))
        mine = self.account()
        mine["ends"] = [end for end in mine["ends"] if end in goal["ends"]]  # a partition may have shown its start since
        for what in ("ledger", "digest", "ends", "flags", "learnt"):
            assert mine[what] == goal[what], f"recovery comes to another {what}: {mine[what]}, want {goal[what]}"

    def commit(self, disk: Disk) -> list[Callable[[], None]]:
        """The durable acts of a commit; a process may die between any two. There is one: the transaction."""
        outputs, self.outputs = self.outputs, []
        if self.newest != self.named[0]:
            self.named = (self.newest, self.named[0])
        self.rested = False
        record = {"snapshot": self.named[0], "before": self.named[1], "account": self.account(), "god": canonical(self)}
        return [lambda: disk.commit(outputs, record)]


@dataclass
class Disk:
    """What outlives the process: snapshots, and what the broker has committed."""

    snapshots: dict[int, Any] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    record: dict[str, Any] | None = None
    written: int = -1

    def write(self, frozen: Any) -> int:
        self.written += 1
        self.snapshots[self.written] = frozen
        return self.written

    def commit(self, outputs: list[Output], record: dict[str, Any]) -> None:
        self.outputs += outputs
        self.record = record
        oldest = record["snapshot"] if record["before"] is None else record["before"]
        self.snapshots = {n: s for n, s in self.snapshots.items() if n >= oldest}

    def damage(self) -> None:
        """The snapshot that the commit names is gone, if there is one before it."""
        if self.record is not None and self.snapshots.get(self.record["before"]) is not None:
            self.snapshots[self.record["snapshot"]] = None


def canonical(process: Process) -> Any:
    """The whole state, whatever numbers the slots have."""
    g, learner = process.gather, process.learner
    name = {slot: series for slot, (series, *_) in g.series.items()}
    parts = []
    for q in g.parts.values():
        held, aside = ([(*h[:3], name[h[3]], *h[4:]) for h in many] for many in (q.held, q.aside))
        seen = sorted((name[s], at) for s, at in q.seen.items())
        marks = sorted((name[s], mark) for s, mark in q.marks.items() if s not in g.gone)
        filling = sorted((cell, sorted((name[s], so_far) for s, so_far in group.items())) for cell, group in q.filling.items())
        plain = (q.clock, q.position or 0, q.idle, q.rejoining, q.consumed, q.filtered, dict(q.ledger))
        latest = sorted((name[s], cell) for s, cell in q.latest.items())
        held, aside = (repr(many) for many in (held, aside))  # NaN is not itself
        parts.append((*plain, seen, held, aside, copy.deepcopy(filling), marks, q.passed, latest))
    cells = sorted((name[s], c, v) for (s, c), v in g.open.items())
    newest, filled = (sorted((name[s], c) for s, c in by.items() if s not in g.gone) for by in (g.newest, g.filled))
    leaving = sorted((instant, name[s]) for instant, s in g.leaving)
    learnt = sorted(learner.generations.items()), sorted((learner.names[s], c) for s, c in learner.carry.items())
    return g.reached, [*g.generations], parts, cells, newest, filled, leaving, [*g.decisions], g.dropped_decisions, learnt


# The world around it


@dataclass
class World:
    """A case being played: the clock, the disk, and the process that is alive."""

    case: Case
    process_type: type[Process] = Process
    disk: Disk = field(default_factory=Disk)
    now: float = 0.0
    deaths: int = 0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A new process: from the last commit, or from nothing."""
        self.process = process = self.process_type(self.case.rules, sources(self.case))
        record = self.disk.record
        if record is None:
            process.newest = self.disk.write(process.freeze())
            return
        snapshot = record["snapshot"]
        if self.disk.snapshots[snapshot] is None:
            snapshot = record["before"]
        process.thaw(self.disk.snapshots[snapshot])
        process.newest = snapshot
        process.named = (snapshot, record["before"] if snapshot == record["snapshot"] else None)
        process.repeat(record["account"])
        self.recover()

    def recover(self) -> None:
        process = self.process
        if process.goal is not None and process.gather.repeated():
            process.resume()
            assert self.disk.record is not None
            got, want = canonical(process), self.disk.record["god"]
            assert got == want, "recovery comes to another state: " + "; ".join(
                f"{a}, want {b}" for a, b in zip(got, want, strict=True) if a != b
            )

    def die(self) -> None:
        self.deaths += 1
        self.start()

    def position(self, p: int) -> int:
        return self.process.gather.parts[Source("t", p)].position or 0

    def readable(self, p: int) -> int:
        """The last stable offset, now."""
        log = self.case.logs[p]
        return next((r.offset for r in log if r.wall > self.now), self.case.ends[p])

    def take(self, step: Step) -> None:
        getattr(self, "_" + step[0])(*step[1:])

    def _read(self, p: int, count: int, trailing: bool = True, torn: bool = False) -> None:
        position, process = self.position(p), self.process
        top = self.readable(p)
        if (limit := process.gather.limit(Source("t", p))) is not None:
            top = min(top, limit)
        if position >= top:
            return
        log = self.case.logs[p]
        first = bisect_left(log, position, key=lambda r: r.offset)
        records = [r for r in log[first : first + count] if r.offset < top]
        following = log[first + len(records)].offset if first + len(records) < len(log) else self.case.ends[p]
        end = min(top, following) if trailing or not records else records[-1].offset + 1
        process.take(block(p, position, records, end, self.now, stable=end == self.readable(p)), 0.5 if torn else 1.0)
        if torn:
            self.die()
        self.recover()

    def _mark(self, p: int) -> None:
        position = self.position(p)
        self.process.take(block(p, position, [], position, self.now, stable=position >= self.readable(p)))
        self.recover()

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def _learn(self, most: int) -> None:
        for _ in range(most if self.process.goal is None else 0):
            if self.process.learner.queue:
                self.process.learner.learn()

    def _freeze(self) -> None:
        process = self.process
        if process.goal is None and process.frozen is None and not process.rested:
            process.frozen = process.freeze()
            process.rested = True

    def _write(self) -> None:
        if self.process.frozen is not None:
            self.process.newest = self.disk.write(self.process.frozen)
            self.process.frozen = None

    def _commit(self, torn: bool = False) -> None:
        if self.process.goal is None:
            acts = self.process.commit(self.disk)
            for act in acts[: len(acts) // 2] if torn else acts:
                act()
        if torn:
            self.die()

    def _die(self, damaged: bool = False) -> None:
        if damaged:
            self.disk.damage()
        self.die()

    def finish(self) -> None:
        """Read the rest, let everybody fall silent, commit."""
        parts = range(len(self.case.logs))
        walls = sorted({r.wall for log in self.case.logs for r in log})
        for _ in range(1000):
            before = [self.position(p) for p in parts]
            for p in parts:
                self._read(p, 5)
                self._mark(p)
            if before == self.case.ends and self.process.goal is None:
                break
            if before == [self.position(p) for p in parts]:
                self.now = next((w for w in walls if w > self.now), self.now + 5.0)
        else:
            raise AssertionError(f"stuck at {before}, want {self.case.ends}")
        for p in [*parts, *parts]:
            self.now += 1000.0
            self._mark(p)
        self._commit()


# What must hold


def replay(case: Case, decisions: list[Decision], rng: random.Random, process_type: type[Process] = Process) -> list[Output]:
    """The outputs of a process that never dies and follows these decisions, in random polls."""
    world = World(case._replace(rules=case.rules._replace(idle_after=1.0, max_hold=1.0)), process_type, now=math.inf)
    process = world.process
    process.follow(process.gather.repeat(decisions))
    parts = list(range(len(case.logs)))
    for p in parts:
        world._mark(p)
    while not process.gather.repeated() and [world.position(p) for p in parts] != case.ends:
        before = [world.position(p) for p in parts]
        rng.shuffle(parts)
        for p in parts:
            world._read(p, rng.randint(1, 8), rng.random() < 0.5)
            if rng.random() < 0.2:
                world._mark(p)
                world._learn(rng.randint(0, 3))
        parts.sort()
        assert before != [world.position(p) for p in parts] or process.gather.repeated(), f"the record does not lead on from {before}"
    return sorted(o for o in process.outputs if o[0] != "wake")


def check(case: Case, process_type: type[Process] = Process) -> World:
    """Play the case and see that everything holds; AssertionError says what does not."""
    world = World(case, process_type)
    for step in case.schedule:
        world.take(step)
    world.finish()
    check_ledger(world)
    outputs = world.disk.outputs
    forecasts = [o[1:3] for o in outputs if o[0] == "forecast"]
    twice = [x for x, n in Counter(forecasts).items() if n > 1]
    assert not twice, f"forecast twice: {twice[:3]}"
    decisions = [Decision(*o[1:]) for o in outputs if o[0] == "wake"]
    assert len(set(decisions)) == len(decisions), "a decision is on record twice"
    published = sorted(o for o in outputs if o[0] != "wake")
    rng = random.Random(len(published))
    logs = [Decision(s, end, NEVER) for s, end in zip(sources(case), case.ends, strict=True)]
    record = [*decisions, *rng.choice([world.process.gather.ends(), logs])]  # a commit tells where all stood, a dump where logs end
    again = replay(case, record, rng, process_type)
    assert again == published, difference(again, published)
    moment = rng.randrange(60) // case.rules.step * case.rules.step
    other = replay(case._replace(logs=[[changed(r, moment) for r in log] for log in case.logs]), record, rng, process_type)
    before, after = ([o for o in x if o[0] == "forecast" and o[2] < moment and not o[4]] for x in (published, other))
    assert before == after, "the future shows: " + difference(after, before)
    return world


def check_ledger(world: World) -> None:
    process, rules = world.process, world.case.rules
    late = refused = null = 0
    futures = Counter(o[1] for o in world.disk.outputs if o[0] == "refused" and o[4] == "future")  # aside was full
    for log, q in zip(world.case.logs, process.gather.parts.values(), strict=True):
        told = by_its_log(log, rules)
        consumed = sum(max(len(r.observations), 0 if r.filtered else 1) for r in log)
        assert q.consumed == consumed == sum(q.ledger.values()), f"{q.source}: consumed {q.consumed}, want {consumed}, accounted {q.ledger}"
        assert q.filtered == sum(r.filtered for r in log), f"{q.source}: filtered {q.filtered}"
        woken = q.ledger["late"] - told["late"]
        assert woken >= 0, f"{q.source}: late {q.ledger}, its log says {told}"
        assert woken == 0 or process.gather.decisions or process.gather.dropped_decisions, (
            f"{q.source}: late {q.ledger}, its log says {told}"
        )
        taken = q.ledger["used"] + q.ledger["duplicate"] + woken + futures[q.source]
        assert taken == told["taken"] + told["null"], f"{q.source}: {q.ledger}, its log says {told}"
        assert q.ledger["rejected"] - futures[q.source] == told["rejected"], f"{q.source}: rejected {q.ledger}, its log says {told}"
        late, null = late + q.ledger["late"], null + told["null"]
        refused += q.ledger["rejected"] - sum(not r.observations and not r.filtered for r in log)
    waiting = still_to_come(process.gather, rules)
    used = process.gather.totals()["used"]
    if rules.aggregate in (None, "count"):  # others do not say how many samples are behind a value
        assert process.samples + waiting + null == used, f"{used} used, {null} null, {waiting} waiting, but {process.samples} released"
    kinds = Counter(o[0] for o in world.disk.outputs)
    assert (kinds["late"], kinds["refused"]) == (late, refused), f"told of {kinds}, but late {late}, refused {refused}"


def still_to_come(g: Gather, rules: Rules) -> int:
    """Observations that were used and are behind nothing released yet."""
    held = [h for q in g.parts.values() for h in (*q.held, *q.aside) if not math.isnan(h[4])]
    filling = [so_far[0] for q in g.parts.values() for group in q.filling.values() for so_far in group.values()]
    return sum(int(h[4]) for h in held) + sum(filling) if rules.aggregate == "count" else len(held)


def difference(got: list[Output], want: list[Output]) -> str:
    extra, missing = Counter(got) - Counter(want), Counter(want) - Counter(got)
    return f"{sum(extra.values())} only when repeated, {sum(missing.values())} only in the run: {[*extra][:2]} {[*missing][:2]}"


def failure(case: Case, process_type: type[Process] = Process) -> str | None:
    """What does not hold; None: everything does."""
    try:
        check(case, process_type)
    except (AssertionError, gather.LedgerBroken, KeyError, IndexError) as e:
        return f"{type(e).__name__}: {e}"
    return None


def search(seeds: Iterator[int] | range, process_type: type[Process] = Process) -> int | None:
    """The first seed that fails."""
    return next((seed for seed in seeds if failure(make(seed), process_type) is not None), None)


def main(count: int = 2000, first: int = 0) -> int:
    failed = search(range(first, first + count))
    if failed is None:
        print(count, "schedules hold")
        return 0
    case = shrink(make(failed), lambda cut: failure(cut) is not None)
    print(f"seed {failed}: {failure(make(failed))}\ncut down: {failure(case)}\n{text(case)}")
    return 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
