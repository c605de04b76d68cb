"""The simulation holds, and turns red for every bug that is planted here."""

import math
from collections import deque

import pytest

from pipeline.events import START
from pipeline.gather import Gather
from tests.cases import make, shrink
from tests.simulation import Chains, Disk, Process, check, failure, search


def test_two_thousand_schedules_hold():
    assert search(range(2000)) is None, "python -m tests.simulation prints the schedule, cut down"


def test_the_schedules_do_what_they_are_there_for():
    """Deaths, wakes, late and refused observations, forgotten series: each in a good part of the cases."""
    worlds = [check(make(seed)) for seed in range(150)]
    gathers = [w.process.gather for w in worlds]
    outputs = [w.disk.outputs for w in worlds]
    assert sum(w.deaths for w in worlds) > 300
    assert sum(any(o[0] == "wake" for o in out) for out in outputs) > 30
    assert sum(any(o[0] == "forecast" and o[4] for o in out) for out in outputs) > 30
    assert sum(any(o[0] == "late" for o in out) for out in outputs) > 60
    assert sum(any(o[0] == "refused" for o in out) for out in outputs) > 20
    assert sum(g.forgotten > 0 for g in gathers) > 15
    assert sum(w.disk.written > 1 for w in worlds) > 60
    assert sum(any(q.ledger["used"] for q in g.parts.values()) for g in gathers if g.aggregate is not None) > 40
    assert sum(len(g.generations) > 2 for g in gathers if g.rules.kind == "session") > 20


# Planted bugs: commits and recovery


class OutputBeforePosition(Process):
    def commit(self, disk):
        outputs, record = self.both(disk)
        return [outputs, record]

    def both(self, disk):
        super().commit(one := Disk())[0]()
        return (lambda: disk.outputs.extend(one.outputs)), (lambda: disk.commit([], one.record))


class PositionBeforeOutput(OutputBeforePosition):
    def commit(self, disk):
        return [*reversed(self.both(disk))]


class ReplayNotMuted(Process):
    def _put(self, output):
        goal, self.goal = self.goal, None
        super()._put(output)
        self.goal = goal


class FlagsForgotten(Process):
    def account(self):
        account = super().account()
        return {**account, "flags": {source: [False, False] for source in account["flags"]}}


class IdleForgotten(Process):
    def account(self):
        account = super().account()
        return {**account, "flags": {source: [False, rejoining] for source, (_, rejoining) in account["flags"].items()}}


class RejoiningForgotten(Process):
    def account(self):
        account = super().account()
        return {**account, "flags": {source: [idle, False] for source, (idle, _) in account["flags"].items()}}


class DecisionsForgotten(Process):
    def account(self):
        return {**super().account(), "decisions": [], "decisions_before": 0}


class DecisionsOnlySinceTheSnapshotNamed(Process):
    """Enough, until that snapshot turns out to be damaged."""

    def __init__(self, rules, order):
        super().__init__(rules, order)
        self.counts = deque(maxlen=1)


class EndsForgotten(Process):
    """The commit is no decision: what is read before its positions may come after its instant."""

    def repeat(self, account):
        last = [end._replace(instant=math.inf) for end in account["ends"]]
        super().repeat({**account, "ends": last})


class QueueForgotten(Process):
    """What had passed and was not learnt yet is missing from the snapshot."""

    def freeze(self):
        frozen = super().freeze()
        frozen[1].queue.clear()
        return frozen


class LearningPerPoll(Process):
    """One generation a block, whatever instants it passed."""

    def take(self, block, share=1.0):
        super().take(block, share)
        queue = self.learner.queue
        if len(queue) > 1:
            merged = queue[-1]._replace(cells=[cell for close in queue for cell in close.cells])
            self.learner.generations.update({close.instant: 0 for close in queue})
            queue.clear()
            queue.append(merged)


class CarryForgotten(Process):
    def freeze(self):
        frozen = super().freeze()
        frozen[1].carry.clear()
        return frozen


# Planted bugs: event time


def state_without(**changes):
    """A gather whose state lacks something."""

    class Forgetful(Gather):
        @classmethod
        def restore(cls, rules, data):
            self = super().restore(rules, data)
            for name, empty in changes.items():
                for owner in self.parts.values() if hasattr(next(iter(self.parts.values())), name) else [self]:
                    setattr(owner, name, empty())
            return self

    return Forgetful


class NewestGeneration(Gather):
    """The generation by arrival: whatever has been learnt by now."""

    def _sample(self, held):
        super()._sample(held)
        self.events[-1] = self.events[-1]._replace(generation=self.generations[-1])


class NobodyHeld(Gather):
    def _accept(self, part, *args):
        super()._accept(part, *args)
        while part.held:
            self._sample(part.held.popleft())


class WallClockMovesClocks(Gather):
    """A partition's clock follows the wall clock, as processing time would have it."""

    def _read(self, part, block):
        if math.isfinite(block.now):
            part.clock = max(part.clock, int(block.now))
        super()._read(part, block)


class StampIgnored(Gather):
    """One device with a fast clock makes its whole partition late."""

    def add(self, block):
        block.stamp = block.at
        return super().add(block)


class WakeUnrecorded(Gather):
    def _join(self, part):
        before = len(self.decisions)
        super()._join(part)
        del self.decisions[before:]
        self.events = [e for e in self.events if type(e).__name__ != "Decision"]


class RejoiningUnrecorded(Gather):
    """Only the wake is on record, not the instants that pass before the partition has caught up."""

    def _reach(self, instant):
        rejoining = [q for q in self.parts.values() if q.rejoining]
        for q in rejoining:
            q.rejoining = False
        super()._reach(instant)
        for q in rejoining:
            q.rejoining = True


class WakeAfterItsRecord(Gather):
    """The decision names the position behind the record that woke the partition."""

    def _decide(self, part):
        part.position += 1
        super()._decide(part)
        part.position -= 1


class AsideHoldsAll(Gather):
    """What a stamp has capped waits in line, and everything behind it."""

    def _early(self, part, want):
        return False


class CellsClosedByPoll(Gather):
    """What a block leaves behind is closed at its end."""

    def _read(self, part, block):
        super()._read(part, block)
        if part.closing:
            part.clock += self.rules.step + self.rules.disorder
            self._close_cells(part, 0, 0, None)
            part.clock -= self.rules.step + self.rules.disorder


class OvertakenCellUnrecorded(Gather):
    """A cell that was begun before its partition fell idle closes at the wake, and learning may have passed it, or not."""

    def _overtaken(self, part):
        closing, part.closing = part.closing, []
        found = super()._overtaken(part)
        part.closing = closing
        return found


class HeldOvertakenBySessions(Gather):
    """The next session may end long after a held sample's cell: it is woken where others were read first."""

    def _stop_before(self, instant):
        return None


class SessionsByWhatIsRead(Gather):
    """A session ends with the first sample after its gap, whether or not earlier ones may come."""

    def _advance(self, now):
        if self.rules.kind == "session" and self.windows.runs:
            for slot, runs in self.windows.runs.items():
                for run in runs[:-1]:
                    self.windows.order.append((self.reached, slot))
                    run.last = min(run.last, self.reached - self.rules.step - self.rules.gap)
            self.windows.order.sort()
        super()._advance(now)


class ForgottenAtOnce(Gather):
    """The slot is free when the partition's clock has left its series, whatever is still held or to be learnt."""

    def _forget(self, part):
        super()._forget(part)
        for _, slot in self.leaving:
            self.events.append(self.forget_event(slot))
            self.gone.append(slot)
        self.leaving.clear()

    @staticmethod
    def forget_event(slot):
        from pipeline.gather import Forget

        return Forget(slot)


class OneGenerationTooFew(Gather):
    def _learn(self, instant):
        super()._learn(instant)
        self.generations = self.generations[-2:]


class DuplicatesKeepTheFirst(Gather):
    """Not wrong by itself, but then by polls: the first of a block, the last of two."""

    def _read(self, part, block):
        before = dict(self.open)
        super()._read(part, block)
        self.open.update({cell: value for cell, value in before.items() if cell in self.open})


class FutureInTheCell(Gather):
    """A sample is taken for the newest value of its cell, at release."""

    def _sample(self, held):
        newest = max((cell for slot, cell in self.open if slot == held[3]), default=held[1])
        value = self.open.get((held[3], newest), held[4])
        super()._sample((*held[:4], value, *held[5:]))


class LateUncounted(Gather):
    def _read(self, part, block):
        late = part.ledger["late"]
        super()._read(part, block)
        part.ledger["late"] = late


def process_of(gather_type):
    return type(gather_type.__name__, (Process,), {"gather_type": gather_type})


PLANTED = {
    plant.__name__: plant
    for plant in (
        OutputBeforePosition, PositionBeforeOutput, ReplayNotMuted, FlagsForgotten, IdleForgotten, RejoiningForgotten, DecisionsForgotten,
        DecisionsOnlySinceTheSnapshotNamed, EndsForgotten, QueueForgotten, LearningPerPoll, CarryForgotten,
    )
} | {
    plant.__name__: process_of(plant)
    for plant in (
        NewestGeneration, NobodyHeld, WallClockMovesClocks, StampIgnored, WakeUnrecorded, RejoiningUnrecorded, WakeAfterItsRecord,
        AsideHoldsAll, CellsClosedByPoll, OvertakenCellUnrecorded,
        HeldOvertakenBySessions, SessionsByWhatIsRead,
        ForgottenAtOnce, OneGenerationTooFew, DuplicatesKeepTheFirst, FutureInTheCell, LateUncounted,
    )
} | {
    f"{name} not in the state": process_of(state_without(**{name: empty}))
    for name, empty in (
        ("held", deque), ("aside", list), ("newest", dict), ("open", dict), ("expiry", list), ("closing", list), ("marks", dict),
        ("generations", lambda: [START]), ("clock", lambda: START),
    )
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_turns_it_red(bug):
    assert search(range(2000), PLANTED[bug]) is not None


def test_a_failing_case_is_cut_down_to_what_matters():
    def fails(case):
        return failure(case, PLANTED["IdleForgotten"]) is not None

    failed = make(search(range(2000), PLANTED["IdleForgotten"]))
    cut = shrink(failed, fails)
    assert fails(cut)
    assert len(cut.schedule) < 8
    assert sum(map(len, cut.logs)) < 8


def test_the_learner_of_the_simulation_hides_nothing():
    """Its copies share nothing, or a snapshot would change after it was taken."""
    one = Chains()
    two = one.copy()
    two.carry[0] = 1
    assert one.carry == {}
