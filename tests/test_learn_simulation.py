"""The shard under the simulation: its accounts, snapshots, recovery and lazy learning, with a learner of hashes in its place."""

import math
from typing import NamedTuple

import msgspec
import pytest

from models.learner import Config
from pipeline import learn
from pipeline.events import Rules
from pipeline.learn import EARLIEST, Shard, Spec
from pipeline.records import Message, Source
from tests.cases import Case, Record, make, shrink, text
from tests.simulation import Chains, Process, digest, failure, search


class Exercise(NamedTuple):
    instant: int
    whole: tuple
    incoming: None = None

    @property
    def wanted(self):
        return True

    def run(self):
        """There is nothing to run."""


class HashLearner(Chains):
    """`Chains` behind the calls that a shard makes."""

    version, versions = "v", [(0, "v")]
    bands = ()
    experts = ("lstm", "seasonal_naive", "last_value")

    def __init__(self, config=None):
        super().__init__()
        self.samples = 0
        self.weights = self.generations[self.newest]

    def admit(self, slot, key):
        assert slot not in self.names, f"slot {slot} is taken"
        self.names[slot] = key

    def holds(self, slot, key):
        return self.names.get(slot) == key

    def forget(self, slots):
        for slot in slots.tolist():
            del self.names[slot]
            self.carry.pop(slot, None)
            self.learnt_of.pop(slot, None)

    def version_at(self, generation):
        return self.version

    def read_some(self):
        return False

    def begin(self, cells, *, instant, drop, incoming):
        assert incoming is None
        closed = zip(cells.slot.tolist(), cells.cell.tolist(), cells.value.tolist(), cells.key.tolist(), strict=True)
        for slot, cell, value, key in closed:
            assert self.names[slot] == key
            self.learnt_of[slot] = digest(self.learnt_of.get(slot), cell, value)
        named = sorted(zip(cells.key.tolist(), cells.cell.tolist(), cells.value.tolist(), strict=True))
        for old in drop:
            del self.generations[old]
        return Exercise(instant, (named, sum(self.learnt_of.values())))

    def finish(self, exercise):
        self.weights = digest(self.weights, *exercise.whole)
        self.generations[exercise.instant] = self.weights  # until here, nobody finds it
        self.newest = exercise.instant
        return []

    def digest(self):
        return f"{self.generations[self.newest]:x}"

    def updates(self, generation):
        return 0

    def summary(self, slot=None):
        return {}

    def snapshot(self):
        maps = [[*m.items()] for m in (self.names, self.carry, self.learnt_of, self.generations)]
        return {"all": msgspec.msgpack.encode([maps, self.newest, self.samples])}

    def frozen(self):
        made = self.snapshot()
        return lambda: made

    @classmethod
    def restore(cls, config, data):
        self = cls()
        maps, self.newest, self.samples = msgspec.msgpack.decode(data["all"])
        self.names, self.carry, self.learnt_of, self.generations = map(dict, maps)
        self.weights = self.generations[self.newest]
        return self


class HashShard(Shard):
    def _fill(self, batch):
        values = [[self.gather.series[s.slot][0], s.cell, digest("again", self.learner.carry.get(s.slot)), s.woken] for s in batch]
        return [Message("forecasts", value[0].encode(), msgspec.json.encode(value), "", 0) for value in values]

    def _step(self, batch, generation):
        out = []
        learner = self.learner
        for s in batch:
            assert not math.isnan(s.value)
            learner.samples += int(s.value) if self.spec.rules.aggregate == "count" else 1
            name, key, _ = self.gather.series[s.slot]
            assert learner.names[s.slot] == key
            learner.carry[s.slot] = digest(learner.carry.get(s.slot), s.cell, s.value, s.inserted)
            if not s.inserted:
                value = [name, s.cell, digest(learner.carry[s.slot], learner.generations[generation]), s.woken]
                out.append(Message("forecasts", name.encode(), msgspec.json.encode(value), "", 0))
        return out


def output(message):
    """A message as the simulation knows it; None: it does not look at such ones."""
    headers = dict(message.headers)
    said = msgspec.json.decode(message.value) if message.value else {}
    match message.kind:
        case "forecasts":
            return ("forecast", *said)
        case "late":
            return ("late", Source("t", said["partition"]), said["offset"], said["series"], said["at"], said["late_seconds"])
        case "rejected" if headers["__tidecast.errors.reason"] != b"not_json":
            source = Source("t", int(headers["__tidecast.errors.partition"]))
            return ("refused", source, int(headers["__tidecast.errors.offset"]), message.id, headers["__tidecast.errors.reason"].decode())
        case "decisions" if said["kind"] == "wake":
            told = said["numbers"]
            return ("wake", Source(told["topic"], told["partition"]), told["position"], told["instant"])
    return None


class Handle:
    """The learner's queue, which the shard keeps."""

    def __init__(self, shard):
        self.queue, self.learn = shard.queue, shard.learn_next
        self.names, self.carry, self.generations = shard.learner.names, shard.learner.carry, shard.learner.generations


class ShardProcess(Process):
    shard_type = HashShard

    def __init__(self, rules, order):
        config = Config(horizon=2, step_us=rules.step)
        self.spec = Spec("app", rules, config, tuple(order), "record", EARLIEST, 1000, (), "test")
        self.shard = self.shard_type(self.spec)
        self.outputs, self.goal, self.frozen = [], None, None
        self.newest, self.named, self.rested = 0, (None, None), True

    gather = property(lambda self: self.shard.gather)
    samples = property(lambda self: self.shard.learner.samples)
    learner = property(lambda self: Handle(self.shard))

    def take(self, block, share=1.0):
        self._publish(self.shard.take(block))

    def follow(self, events):
        self._publish(message for messages in self.shard.follow(events) for message in messages)

    def _publish(self, messages):
        if self.goal is None:
            self.outputs += [o for o in map(output, messages) if o is not None]

    def freeze(self):
        frozen = self.shard.freeze()
        self.shard.snapshotted()
        return frozen

    def thaw(self, frozen):
        self.shard = self.shard_type.thaw(self.spec, frozen)

    def account(self):
        return self.shard.account()

    def repeat(self, account):
        self.goal = account
        self.shard.repeat(account)

    def resume(self):
        goal, self.goal = self.goal, None
        assert self.shard.resume(goal), "what was repeated is not what was published"


@pytest.fixture(autouse=True)
def _hashes(monkeypatch):
    monkeypatch.setattr(learn, "Learner", HashLearner)


def test_the_shard_holds_under_three_hundred_schedules():
    failed = search(range(300), ShardProcess)
    if failed is not None:
        case = shrink(make(failed), lambda cut: failure(cut, ShardProcess) is not None)
        pytest.fail(f"seed {failed}: {failure(case, ShardProcess)}\n{text(case)}")


def test_what_the_decisions_alone_release_in_recovery_is_in_the_digest():
    """Partition 0 falls idle after the snapshot, which lets partition 1 go on: nothing is left to read when it is repeated."""
    rules = Rules(step=1, grid=1, disorder=1, idle_after=5.0)
    logs = [[Record(0, 0, 0.0, (("a", 0, 1.0),))], [Record(0, 0, 0.0, (("b", 0, 1.0),)), Record(1, 50, 0.0, (("b", 50, 1.0),))]]
    snapshot = [("commit",), ("freeze",), ("write",), ("commit",)]
    steps = [("pass", 1.0), ("read", 0, 9), ("read", 1, 9), *snapshot, ("pass", 50.0), ("mark", 0), ("commit",), ("die",)]
    assert failure(Case(rules, logs, [1, 2], steps), ShardProcess) is None
