"""Event time, all of it: clocks, lateness, cells, generations, holding, idling, waking, admission, the ledger.

One pure class. Blocks go in; what the learner must do comes out, in order: admit a series, score and forecast a sample,
learn what an instant closes. No runner, no broker and no clock of its own: wall time comes with the blocks and only
decides who is idle, and that is put on record as decisions, so that a run can be repeated.

Times are microseconds. A cell is named by its start, on the step's grid; an instant lies on the learning grid.
Learning instant T closes the cells that end at or before T (those of sessions later: see `windows`). Cell t is advanced,
scored and forecast under the newest generation not after `floor(floor(t) - disorder - grid)`, and is held until that
instant has been passed.

With one sample a step that is done when the sample comes. With several it is done when the cell closes: when its own
partition's clock, less the disorder, comes to its end, after which every sample for it is late.
"""

from __future__ import annotations

import heapq
import math
import operator
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import xxhash

from pipeline.aggregates import AGGREGATES, Mark
from pipeline.events import (
    NEVER,
    START,
    Admit,
    Close,
    Decision,
    Event,
    Forget,
    Held,
    LedgerBroken,
    Partition,
    Refused,
    Rules,
    Sample,
    Tell,
    TooLate,
)
from pipeline.records import Block, Raw, Reason, Rejection, Source, Told, rfc3339
from pipeline.windows import windows_of

TOLD = 24  # tells of a series that are kept until its next sample; of more, the last

__all__ = ["START", "Admit", "Close", "Decision", "Event", "Forget", "Gather", "LedgerBroken", "Refused", "Rules", "Sample", "TooLate"]


class Gather:
    """The state of event time. `add` is the only way in; `state` and `restore` are bytes."""

    def __init__(self, rules: Rules, sources: Sequence[Source]) -> None:
        self.rules = rules
        self.lead = rules.disorder + (rules.grid if rules.learn_ahead else 0)
        # A series that comes back must not be able to meet a cell of its former life.
        self.keep = max(rules.forget_after, rules.disorder + rules.step + rules.gap)
        self.aggregate = None if rules.aggregate is None else AGGREGATES[rules.aggregate]
        self.parts = {s: Partition(s) for s in sorted(sources)}
        self.reached = START  # the last learning instant passed
        self.generations = [START]  # instants at which something was learnt, and kept
        self.open: dict[tuple[int, int], float] = {}  # (slot, cell) -> value, to be learnt
        self.windows = windows_of(rules)  # of the keys of `open`
        self.names: dict[str, int] = {}
        self.series: dict[int, tuple[str, int, Source]] = {}  # slot -> name, key, partition that admitted it
        self.leaving: list[tuple[int, int]] = []  # heap: (instant with which it is forgotten, slot)
        self.gone: list[int] = []  # forgotten in the last call: the slots are named in its events
        self.free: list[int] = []
        self.begin = START  # what is before has been learnt elsewhere
        self.reserved: dict[int, int] = {}  # key -> slot of series that were learnt there and have not come yet
        self.newest: dict[int, int] = {}  # slot -> its newest cell released
        self.filled: dict[int, int] = {}  # slot -> its newest cell released without a sample
        self.told: dict[int, list[Tell]] = {}  # slot -> what records have said of covariates since its last sample
        self.decisions: list[Decision] = []
        self.dropped_decisions = 0  # how many came before `decisions[0]`
        self.elsewhere: set[int] = set()  # slots seen in a second partition
        self.forgotten = 0
        self.known: dict[Source, deque[Decision]] = {s: deque() for s in self.parts}
        self.repeating = False
        self.slowest: Partition | None = None  # the only one whose clock can move the watermark on; None: look
        self.gate = START  # the clock at which it does
        self.events: list[Event] = []

    def go_on(self, begin: int, slots: Mapping[int, int]) -> None:
        """Before anything is read: these series (key -> slot, from 0 on) have been learnt up to `begin`, and older samples are late."""
        self.begin, self.reserved = begin, dict(slots)

    # Reading

    def add(self, *blocks: Block) -> list[Event]:
        """What the blocks let happen, one after the other, in order; `series` names every slot in it until the next call.

        A repeat of what was read is dropped; raises LedgerBroken when a block does not join.
        """
        self._free_slots()
        self.events = []
        for block in blocks:
            self._add(block)
        events, self.events = self.events, []
        return events

    def _add(self, block: Block) -> None:
        part = self.parts.get(block.source)
        if part is None:
            raise LedgerBroken(f"{block.source} is not a partition that this run started with: stop and start again to take it up")
        if part.position is None:
            part.position = block.first
        if block.next <= part.position and block.first < part.position:
            return
        if block.first != part.position:
            raise LedgerBroken(f"{block.source}: stands at {part.position}, the next block starts at {block.first}")
        if not part.moved:
            part.moved = block.now
        part.filtered += block.filtered
        part.consumed += len(block.at) + len(block.rejected)
        part.ledger["rejected"] += len(block.rejected)
        if len(block.at):
            self._read(part, block)
        part.position = block.next
        self._advance(block.now)
        self._tick(part, block)
        self._check(part)
        if self.repeating:
            self._check_record()

    def limit(self, source: Source) -> int | None:
        """The position that a reader must not pass now; None: no limit."""
        part, known = self.parts[source], self.known[source]
        if self.repeating:
            return known[0].position if known else part.position or 0
        if len(part.held) >= self.rules.max_held:
            return part.position
        others = [q.clock for q in self.parts.values() if not self._excluded(q)]
        if others and part.clock - min(others) > self.rules.max_skew:
            return part.position
        return None

    def _read(self, part: Partition, block: Block) -> None:
        disorder, begin, now, fill = self.rules.disorder, self.begin, block.now, self.rules.fill
        records, names, seen = block.records, block.names, part.seen
        columns = zip(
            block.series.tolist(), block.at.tolist(), block.value.tolist(), block.stamp.tolist(), block.record.tolist(), strict=True
        )
        last = -1
        for code, at, value, stamp, record in columns:
            if record != last:
                if last >= 0:
                    self._settle(part, records[last], now)
                last = record
            if at < part.clock - disorder or at < begin:
                part.ledger["late"] += 1
                late = max(part.clock - disorder, begin) - at
                self.events.append(TooLate(part.source, names[code], at, value, late, records[record].offset))
                continue
            slot = self.names.get(names[code])
            if slot is None or slot not in seen:
                slot = self._admit(part, names[code], at)
                if slot is None:
                    remedy = "raise series.max_series and learn.state_budget, or shorten series.forget_after"
                    why = f"this partition has its {self.rules.quota} series; {remedy}"
                    self._refuse(part, names[code], record, records[record], "too_many_series", why)
                    continue
            elif at > seen[slot]:
                seen[slot] = at
            clock = min(stamp, at)
            if clock > part.clock:
                part.clock, part.moved = clock, now
                if part.expiry[0][0] < clock - self.keep:
                    self._forget(part)
            if part.idle or part.rejoining or part.aside:
                part.position = records[record - 1].offset + 1 if record else block.first
                self._join(part)
            due = part.passed if fill else part.closing[0] if part.closing else NEVER
            if due + self.rules.step <= part.clock - disorder:
                raw = records[record]
                self._close_cells(part, raw.offset, stamp, trace(raw) if raw.headers else None)
            self._accept(part, slot, at, value, stamp, record, records[record], block.told[record] if block.told else None)
        if last >= 0:
            self._settle(part, records[last], now)

    def _settle(self, part: Partition, raw: Raw, now: float) -> None:
        """A record is done: an instant may pass."""
        behind = raw.offset + 1
        due = part is self.slowest and part.clock >= self.gate
        if self.slowest is None or due or (self.repeating and self._decided(part.source, behind)):
            part.position = behind
            self._advance(now)

    def _join(self, part: Partition) -> None:
        """The record may end the partition's idleness; its clock decides who holds whom, and what may be taken up from aside."""
        behind = part.clock - self.rules.disorder < self.reached
        if part.idle:
            if (behind or self._overtaken(part)) and not self.repeating:
                self._decide(part)
            part.idle, part.rejoining = False, True
            self.slowest = None
        if part.rejoining:
            part.rejoining = behind
            self.slowest = None
        while part.aside and not self._early(part, part.aside[0][0]):
            self._put(part, part.aside.pop(0))
        self._release_from(part)

    def _overtaken(self, part: Partition) -> bool:
        """Learning has passed cells that it has begun and not released, or at which its series were silent."""
        silent = [part.passed] if part.latest else []
        oldest = min([held[1] for held in part.aside[:1]] + part.closing[:1] + silent, default=self.reached)
        return oldest + self.rules.step <= self.reached

    def _accept(
        self, part: Partition, slot: int, at: int, value: float, stamp: int, record: int, raw: Raw, told: Told | None = None
    ) -> None:
        tell = None if told is None else self._by_cell(at, told)
        if value != value:  # noqa: PLR0124 - NaN, an explicit null, says that the series lives, not what it is
            part.ledger["used"] += 1
            self._tell(slot, tell)
            return
        step = self.rules.step
        cell = at - at % step
        if self.aggregate is not None:
            self._fill(part, slot, cell, at, value, record, raw)
            return
        key = slot, cell
        if key in self.open:
            part.ledger["duplicate"] += 1
            self.open[key] = value
            self._tell(slot, tell)
            return
        if cell + step <= self.reached and cell <= self.newest.get(slot, START):
            part.ledger["late"] += 1  # woken, and its series has gone on without it
            self.events.append(TooLate(part.source, self.series[slot][0], at, value, self.reached - cell, raw.offset))
            return
        want = self.wanted(cell)
        early = self._early(part, want)
        if early and len(part.aside) >= self.rules.max_held:  # only this partition's own log could make room
            self._refuse_ahead(part, slot, at, record, raw, len(part.aside))
            return
        part.ledger["used"] += 1
        self.windows.add(key)
        self.open[key] = value
        own = () if tell is None else (tell,)
        heard = own if early else self._heard(slot, cell, tell)  # what was told before one set aside is for those that come before it
        held = (want, cell, raw.offset, slot, value, stamp, trace(raw) if raw.headers else None, heard)
        if early:
            insort(part.aside, held, key=_time_and_offset)
        else:
            self._hold(part, held)

    def _hold(self, part: Partition, held: Held) -> None:
        """Release it, unless its generation or one before it is still to come."""
        if part.held or held[0] > self.reached:
            self._put(part, held)
        else:
            self._heed(part, held)
            self._sample(held)

    def _put(self, part: Partition, held: Held) -> None:
        self._heed(part, held)
        part.held.append(held)

    def _heed(self, part: Partition, held: Held) -> None:
        """The series has spoken at this cell, or is forecast as one that has not; one that was forgotten meanwhile is not waited for."""
        _, cell, _, slot, *_ = held
        if self.rules.fill and slot in part.seen and cell > part.latest.get(slot, START):
            part.latest[slot] = cell

    def _fill(self, part: Partition, slot: int, cell: int, at: int, value: float, record: int, raw: Raw) -> None:
        """A sample of a cell that holds several; one that is not late finds its cell open."""
        assert self.aggregate is not None
        group = part.filling.get(cell)
        if group is None or slot not in group:
            if self._early(part, self.wanted(cell)):
                while part.ahead and not self._early(part, self.wanted(part.ahead[0])):
                    heapq.heappop(part.ahead)
                if len(part.ahead) >= self.rules.max_held:  # they take memory, and only this partition's own log could close them
                    self._refuse_ahead(part, slot, at, record, raw, len(part.ahead))
                    return
                heapq.heappush(part.ahead, cell)
            if group is None:
                group = part.filling[cell] = {}
                heapq.heappush(part.closing, cell)
            group[slot] = []
        part.ledger["used"] += 1
        self.aggregate.add(group[slot], at, raw.offset, value, settled=part.clock - self.rules.disorder)

    def _close_cells(self, part: Partition, offset: int, stamp: int, parent: str | None) -> None:
        """The partition's clock has passed the ends of cells, one after the other."""
        end = part.clock - self.rules.disorder
        end -= end % self.rules.step
        for cell in self._silent(part, end):
            self._close_aggregates(part, cell + self.rules.step, offset, stamp, parent)
            for slot, latest in part.latest.items():
                if latest < cell:
                    self._hold(part, (self.wanted(cell), cell, offset, slot, math.nan, stamp, parent, ()))
        self._close_aggregates(part, end, offset, stamp, parent)

    def _silent(self, part: Partition, end: int) -> range:
        """Cells that have closed, and at which some series may be silent: of very many at once the last, they take memory."""
        step = self.rules.step
        most = max(1, self.rules.max_held // max(1, len(part.latest)))
        cells = range(max(part.passed, end - most * step), end, step) if part.latest else range(0)
        if self.rules.fill:
            part.passed = end
        return cells

    def _close_aggregates(self, part: Partition, end: int, offset: int, stamp: int, parent: str | None) -> None:
        """What came of each cell with several samples that ends by `end` is its value, to be forecast from and learnt."""
        step = self.rules.step
        while part.closing and part.closing[0] + step <= end:
            assert self.aggregate is not None
            cell = heapq.heappop(part.closing)
            want = self.wanted(cell)
            for slot, so_far in part.filling.pop(cell).items():
                before = part.marks.get(slot)
                value, mark = self.aggregate.close(so_far, before if before is not None and before.at >= cell - step else None)
                if mark is not None:
                    part.marks[slot] = mark
                if value is not None:
                    if (slot, cell) not in self.open:  # else another partition has it, too
                        self.windows.add((slot, cell))
                    self.open[slot, cell] = value
                    self._hold(part, (want, cell, offset, slot, value, stamp, parent, ()))

    # Covariates

    def _by_cell(self, at: int, told: Told) -> Tell:
        step = self.rules.step
        cell = at - at % step
        ahead = tuple((later - later % step, values) for later, values in told.ahead)
        return Tell(cell, told.values, tuple(one for one in ahead if one[0] > cell))

    def _tell(self, slot: int, tell: Tell | None) -> None:
        """What a record says is known from its series' next sample on that is not older than the record."""
        if tell is not None:
            waiting = self.told.setdefault(slot, [])
            waiting.append(tell)
            del waiting[:-TOLD]

    def _heard(self, slot: int, cell: int, tell: Tell | None) -> tuple[Tell, ...]:
        """All that has been told by the sample of a cell, in the order of the log."""
        self._tell(slot, tell)
        waiting = self.told.get(slot)
        if not waiting:
            return ()
        later = [one for one in waiting if one.cell > cell]
        if later:
            self.told[slot] = later
        else:
            del self.told[slot]
        return tuple(one for one in waiting if one.cell <= cell)

    # When

    def wanted(self, cell: int) -> int:
        """The instant whose generation a cell is advanced, scored and forecast under.

        >>> Gather(Rules(step=1, grid=1, disorder=1), []).wanted(10)
        8
        """
        grid = self.rules.grid
        want = cell - cell % grid - self.lead
        return want - want % grid

    def _early(self, part: Partition, want: int) -> bool:
        """Its generation lies ahead of its own partition's clock: only possible where the stamp has capped the clock."""
        return want > part.clock - self.rules.disorder

    def _refuse_ahead(self, part: Partition, slot: int, at: int, record: int, raw: Raw, many: int) -> None:
        why = f"{at - part.clock} us ahead of its partition, as are the last {many}: look at the producer's clock"
        self._refuse(part, self.series[slot][0], record, raw, "future", why)

    # Who is a series

    def _admit(self, part: Partition, name: str, at: int) -> int | None:
        """The slot of a series that is new to the partition; None: no room."""
        slot = self.names.get(name)
        if slot is not None:
            if self.series[slot][2] != part.source:
                self.elsewhere.add(slot)
        elif len(part.seen) >= self.rules.quota:
            return None
        else:
            key = xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))
            slot = self.reserved.pop(key, None)
            if slot is None:
                slot = self.free.pop() if self.free else len(self.series) + len(self.reserved)
            self.names[name] = slot
            self.series[slot] = (name, key, part.source)
            self.events.append(Admit(slot, name, key))
        part.seen[slot] = at
        heapq.heappush(part.expiry, (at, slot))
        return slot

    def _refuse(self, part: Partition, name: str, record: int, raw: Raw, reason: Reason, why: str) -> None:
        part.ledger["rejected"] += 1
        self.events.append(Refused(part.source, Rejection(record, raw.offset, reason, why, name), raw))

    def _forget(self, part: Partition) -> None:
        """Series that the partition's clock has left behind give up their places.

        The learner forgets them with the first instant that is behind nobody's back: later than all that is held or to
        be learnt of them, and not passed yet whichever way partitions interleave.
        """
        bound = part.clock - self.keep
        while part.expiry and part.expiry[0][0] < bound:
            _, slot = heapq.heappop(part.expiry)
            at = part.seen[slot]
            if at >= bound:
                heapq.heappush(part.expiry, (at, slot))
                continue
            del part.seen[slot]
            part.latest.pop(slot, None)
            name, key, owner = self.series[slot]
            other = next((q for q in self.parts.values() if slot in q.seen), None)
            if other is not None:  # whoever sees it last forgets it
                other.seen[slot] = max(other.seen[slot], at)
                self.series[slot] = (name, key, other.source if owner == part.source else owner)
                continue
            del self.names[name]
            self.elsewhere.discard(slot)
            self.forgotten += 1
            heapq.heappush(self.leaving, (part.clock - part.clock % self.rules.grid + self.rules.grid, slot))

    def _free_slots(self) -> None:
        for slot in self.gone:
            del self.series[slot]
            self.newest.pop(slot, None)
            self.filled.pop(slot, None)
            for part in self.parts.values():
                part.marks.pop(slot, None)
            self.told.pop(slot, None)
            self.free.append(slot)
        self.gone.clear()

    # The watermark

    def _waiting(self, part: Partition) -> bool:
        """Repeating: it stands where the record of an earlier run says that an instant passed first."""
        return self._decided(part.source, part.position)

    def _decided(self, source: Source, position: int | None) -> bool:
        known = self.known[source]
        return bool(known) and position == known[0].position

    def _excluded(self, part: Partition) -> bool:
        return part.idle or part.rejoining or (self.repeating and self._waiting(part))

    def watermark(self) -> int:
        """Below it everything has come: the smallest clock of the partitions that hold, less the disorder allowed."""
        slowest = min((q for q in self.parts.values() if not self._excluded(q)), key=_clock, default=None)
        mark = (max(map(_clock, self.parts.values()), default=START) if slowest is None else slowest.clock) - self.rules.disorder
        self.slowest = slowest
        if self.repeating:
            for q in self.parts.values():
                if q.rejoining and not self._waiting(q):
                    mark = min(mark, self.reached)  # what passed meanwhile is on record: see the next decision
                elif self.known[q.source]:
                    mark = min(mark, self.known[q.source][0].instant)
        return mark

    # Learning instants, and what they release

    def _advance(self, now: float) -> None:
        while True:
            while (mark := self.watermark()) >= (due := self._next_due()):
                self._reach(int(due) - self.rules.grid)
                self._learn(int(due))
            self._reach(mark - mark % self.rules.grid)
            if not (self.repeating and self._drop_repeated()):
                break
        self.gate = self.reached + self.rules.grid + self.rules.disorder
        for q in self.parts.values():
            q.blocked = (now if q.blocked is None else q.blocked) if q.held else None

    def _next_due(self) -> float:
        """The next instant at which there is something to learn; what woke too late is learnt at the next one."""
        return max(self.windows.due(), self.reached + self.rules.grid)

    def _reach(self, instant: int) -> None:
        """Pass instants at which there is nothing to learn, and release what has waited for them."""
        while (self.rules.kind == "session" or self.rules.fill) and (stop := self._stop_before(instant)) is not None:
            # A session may end long after its cells, and no instant learns a cell without a sample: what they have waited for must not
            # overtake them
            self._pass(stop)
        self._pass(instant)

    def _stop_before(self, instant: int) -> int | None:
        waited_for = (q.held[0][0] for q in self.parts.values() if q.held)
        return min((want for want in waited_for if self.reached < want < instant), default=None)

    def _pass(self, instant: int) -> None:
        if instant > self.reached:
            self.reached = instant
            if not self.repeating:
                for q in self.parts.values():
                    if q.rejoining:
                        self._decide(q)
        for q in self.parts.values():
            self._release_from(q)

    def _learn(self, instant: int) -> None:
        closed = self.windows.close(instant)
        done = sorted((self.series[slot][1], cell, slot, self.open.pop((slot, cell))) for slot, cell in closed)
        self.generations.append(instant)
        horizon = instant - self.rules.disorder - 3 * self.rules.grid
        older = [g for g in self.generations if g <= horizon]
        self.generations = self.generations[max(0, len(older) - 1) :]
        self.events.append(Close(instant, [(slot, cell, value) for _, cell, slot, value in done], older[:-1]))
        self._reach(instant)
        while self.leaving and self.leaving[0][0] <= instant:
            slot = heapq.heappop(self.leaving)[1]
            self.gone.append(slot)
            self.events.append(Forget(slot))

    def _release_from(self, part: Partition) -> None:
        while part.held and part.held[0][0] <= self.reached:
            self._sample(part.held.popleft())

    def _sample(self, held: Held) -> None:
        want, cell, offset, slot, value, stamp, parent, told = held
        silent = value != value  # noqa: PLR0124 - NaN: nothing came
        inserted = cell <= self.newest.get(slot, START) or cell <= self.filled.get(slot, START)
        if silent and inserted:
            return  # another partition has it, and has said so
        if silent:
            self.filled[slot] = cell
        elif cell > self.newest.get(slot, START):
            self.newest[slot] = cell
        kept = bisect_right(self.generations, want)
        woken = cell + self.rules.step <= self.reached or not kept
        generation = self.generations[kept - 1 if kept else 0]
        self.events.append(Sample(slot, cell, value, generation, woken, inserted, stamp, parent, offset, told))

    # Wall clock

    def _tick(self, part: Partition, block: Block) -> None:
        """Nothing has come for a while, and nothing is there: nobody waits for this partition any longer."""
        if block.ended and not part.idle:
            return  # a bounded source closes nothing that its data has not closed
        if not block.stable or self._excluded(part) or self.repeating:
            return
        mark = self.watermark()
        slowest = part.clock - self.rules.disorder <= mark
        others = (o for o in self.parts.values() if o is not part and o.held and o.blocked is not None)
        blocks = any(block.now - (o.blocked or 0.0) >= self.rules.max_hold for o in others)
        if part.clock == START or block.now - part.moved >= self.rules.idle_after or (slowest and blocks):
            part.idle = True
            self._advance(block.now)

    def close_all(self) -> list[Event]:
        """The data has ended for good (`replay --close`): every partition's clock passes the last open cell."""
        self._free_slots()
        self.events = []
        cells = [*(cell for _, cell in self.open), *(cell for part in self.parts.values() for cell in part.closing)]
        end = max(map(self.windows.latest, cells), default=START)
        for part in self.parts.values() if cells else ():
            stamp, part.clock = part.clock, max(part.clock, end + self.rules.disorder)
            for held in part.aside:
                self._put(part, held)
            part.aside.clear()
            if part.closing or self.rules.fill:
                self._close_cells(part, part.position or 0, stamp, None)
        if cells:
            self._advance(0.0)
        events, self.events = self.events, []
        return events

    # Decisions, commits and recovery

    def _decide(self, part: Partition) -> None:
        assert part.position is not None
        self.decisions.append(Decision(part.source, part.position, self.reached))
        self.events.append(self.decisions[-1])

    def _drop_repeated(self) -> bool:
        """Drop the decisions that have been repeated, and tell them again; True when there were some."""
        found = False
        for q in self.parts.values():
            known = self.known[q.source]
            while self._waiting(q) and self.reached >= known[0].instant - known[0].instant % self.rules.grid:
                self.events.append(known.popleft())
                q.rejoining = found = True
        return found

    def _check(self, part: Partition) -> None:
        if sum(part.ledger.values()) != part.consumed:
            raise LedgerBroken(f"{part.source}: consumed {part.consumed}, accounted for {part.ledger}")

    def _check_record(self) -> None:
        """Repeating: the record must lead on. Where all wait for instants that no clock reaches, nothing would ever come again."""
        if all(map(self._waiting, self.parts.values())):
            due = min((known[0] for known in self.known.values()), key=operator.attrgetter("instant"))
            if due.instant < NEVER:
                raise LedgerBroken(
                    f"{due.source.topic}/{due.source.partition}: a decision says that learning passed {rfc3339(due.instant)} while this "
                    f"partition stood at {due.position}; all that may come before has been read, and it does not reach so far: "
                    "the decisions are of another log, or were made under other settings"
                )

    def repeat(self, decisions: Iterable[Decision]) -> list[Event]:
        """Follow these decisions instead of any clock, and read no further than the last of them; () ends repeating.

        Raises LedgerBroken when a partition stands behind a decision that is yet to be followed.
        """
        known = sorted(decisions, key=lambda d: (d.position, d.instant))
        self.known = {s: deque(d for d in known if d.source == s) for s in self.parts}
        self.repeating = bool(known)
        for q in self.parts.values():
            q.idle = q.idle and not self.known[q.source]  # what is on record decides, and a silent wake needs no record
        self._free_slots()
        self.events = []
        self._advance(0.0)
        for s, q in self.parts.items():
            if self.known[s] and (q.position or 0) > self.known[s][0].position:
                raise LedgerBroken(
                    f"{s}: stands at {q.position}, behind {self.known[s][0]}: these decisions are not those since its snapshot"
                )
        events, self.events = self.events, []
        return events

    def repeated(self) -> bool:
        """Every decision has been followed: it stands where the record ends."""
        return not any(self.known.values())

    def ends(self) -> list[Decision]:
        """A commit said of every partition: where it stood when learning had reached the last instant."""
        return [Decision(s, q.position, self.reached) for s, q in self.parts.items() if q.position is not None]

    def flags(self) -> dict[str, list[Any]]:
        return {f"{s.topic}/{s.partition}": [q.idle, q.rejoining] for s, q in self.parts.items()}

    def resume(self, flags: dict[str, list[Any]]) -> list[Event]:
        """Recovery is over: take the flags on record and live on."""
        for s, q in self.parts.items():
            q.idle, q.rejoining = flags.get(f"{s.topic}/{s.partition}", (q.idle, q.rejoining))
            q.moved, q.blocked = 0.0, None
        return self.repeat(())

    def totals(self) -> dict[str, int]:
        total = {name: sum(q.ledger[name] for q in self.parts.values()) for name in ("used", "duplicate", "late", "rejected")}
        return {"consumed": sum(q.consumed for q in self.parts.values()), **total}

    def state(self) -> bytes:
        """Everything that recovery must bring back. (Slots are numbered as series come, so equal states may differ in them.)"""
        parts = []
        for s, q in self.parts.items():
            plain = [q.clock, q.position, q.idle, q.rejoining, q.consumed, q.filtered, q.ledger]
            filling = [[cell, [*group.items()]] for cell, group in q.filling.items()]
            latest = [q.passed, [*q.latest.items()]]
            parts.append([list(s), plain, [*q.held], q.aside, [*q.seen.items()], filling, sorted(q.marks.items()), latest])
        cells = sorted((slot, cell, value) for (slot, cell), value in self.open.items())
        series = [[slot, name, key, list(owner)] for slot, (name, key, owner) in sorted(self.series.items())]
        told = sorted(self.told.items())
        rest = [sorted(self.newest.items()), sorted(self.elsewhere), sorted(self.leaving), self.gone, self.free, self.forgotten, told]
        rest += [self.begin, sorted(self.reserved.items()), sorted(self.filled.items())]
        decisions = [self.dropped_decisions, [[list(d.source), d.position, d.instant] for d in self.decisions]]
        return msgspec.msgpack.encode([self.reached, self.generations, parts, cells, series, rest, decisions])

    @classmethod
    def restore(cls, rules: Rules, data: bytes | memoryview, sources: Sequence[Source] = ()) -> Gather:
        """The inverse of `state`. Partitions that were not there are taken up as idle ones: nobody has waited for them."""
        reached, generations, parts, cells, series, rest, decisions = msgspec.msgpack.decode(data)
        self = cls(rules, [*{*(Source(*p[0]) for p in parts), *sources}])
        for part in self.parts.values():
            part.idle = True
        self.reached, self.generations = reached, generations
        for source, plain, held, aside, seen, filling, marks, (passed, latest) in parts:
            q = self.parts[Source(*source)]
            q.clock, q.position, q.idle, q.rejoining, q.consumed, q.filtered, q.ledger = plain
            q.held, q.aside = deque(_held(h) for h in held), [_held(h) for h in aside]
            q.seen, q.passed, q.latest = dict(seen), passed, dict(latest)
            q.expiry = sorted((at, slot) for slot, at in seen)
            q.filling, q.closing = {cell: dict(group) for cell, group in filling}, sorted(cell for cell, _ in filling)
            q.ahead = [cell for cell in q.closing if self._early(q, self.wanted(cell)) for _ in q.filling[cell]]
            q.marks = {slot: Mark(*mark) for slot, mark in marks}
        self.open = {(slot, cell): value for slot, cell, value in cells}
        for key in self.open:
            self.windows.add(key)
        self.series = {slot: (name, key, Source(*owner)) for slot, name, key, owner in series}
        newest, elsewhere, leaving, self.gone, self.free, self.forgotten, told, self.begin, reserved, filled = rest
        self.reserved, self.filled = dict(reserved), dict(filled)
        self.told = {slot: [*_tells(waiting)] for slot, waiting in told}
        self.leaving = [(instant, slot) for instant, slot in leaving]
        left = {*self.gone, *(slot for _, slot in self.leaving)}
        self.names = {name: slot for slot, (name, _, _) in self.series.items() if slot not in left}
        self.newest, self.elsewhere = dict(newest), set(elsewhere)
        self.dropped_decisions = decisions[0]
        self.decisions = [Decision(Source(*s), position, instant) for s, position, instant in decisions[1]]
        return self


def _held(row: list[Any]) -> Held:
    want, cell, position, slot, value, stamp, parent, told = row
    return (want, cell, position, slot, value, stamp, parent, _tells(told))


def _tells(rows: list[Any]) -> tuple[Tell, ...]:
    return tuple(Tell(cell, tuple(values), tuple((later, tuple(said)) for later, said in ahead)) for cell, values, ahead in rows)


def _time_and_offset(held: Held) -> tuple[int, int, int]:
    return held[:3]


_clock = operator.attrgetter("clock")


def trace(raw: Raw) -> str | None:
    """The record's `traceparent`, when it has one."""
    for name, value in raw.headers:
        if name == "traceparent":
            return value.decode("ascii", "replace")
    return None
