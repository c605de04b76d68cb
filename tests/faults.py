"""Kill `tidecast run`, and its broker, again and again, and ask a reader whether it shows: python -m tests.faults --kills 100.

The log is seeded and has late, repeated and unusable records in it; it grows while instances are killed at random moments and
at named points. The oracle is a replay of the same log: every forecast, score and decision once, byte for byte, the same ledger, the
same weights learnt up to the same instant. That it sees what it is there to see is tried with bugs: `tests/plants.py`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import random
import signal
import statistics
import struct
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place

from pipeline import topics
from pipeline.broker import Broker
from tests.instances import AT, HOUR, PATIENCE, Instance, Sample, committed, hanging, make_ours, samples, server, settings, until

SERIES, PARTITIONS = 5, 3
STEPS_A_LIFE = 6
PACE = 0.1  # s between steps, while a life has some left
POINTS = ("before_snapshot_rename", "after_snapshot_rename", "before_commit", "after_commit")
KINDS = ("forecasts", "scores", "decisions")
PATIENT = {**AT, "time__idle_after": "60s", "time__max_hold": "60s"}  # nobody is idle here: the producer's pauses are ours
TABLE = Path(__file__).parent / "benchmarks" / "faults.csv"


class Kill(NamedTuple):
    """When an instance dies: so long after its start, or after its first commit, or at the nth time it passes a point."""

    where: str
    when: float
    forecasts: int = 0  # that it must have made for a passage to count


class Ending(NamedTuple):
    """Of the first of two lives, in which half of the log is read: killed at a point, or else stopped with something left to learn."""

    kill: Kill | None = None
    damage: bool = False  # to the last snapshot of who was stopped


def kills(count: int, seed: int) -> list[Kill]:
    """Half of them at random times, half at named points; starting and recovering are hit as often as working."""
    draw = random.Random(seed)
    chosen = []
    for i in range(count):
        if i % 2:
            chosen.append(Kill(POINTS[i // 2 % len(POINTS)], draw.choice((1, 2, 3))))
        else:
            chosen.append(Kill(draw.choice(("start", "commit")), draw.uniform(0.1, 2.5)))
    return chosen


# In the child


def prepare(plant: Callable[[], None] | None, kill: Kill | None, *, by_script: bool = False) -> None:
    """Snapshots a hundred times as often as anybody needs, so that a short life has some; death at a point; a bug, if one is planted.

    `by_script`: a snapshot when it begins and one when it is stopped, whatever the time, and a quiet stream is no occasion to learn.
    """
    from pipeline import engine, learn

    passed = 0

    def passes(point: str) -> None:
        nonlocal passed
        if kill is None or point != kill.where or sum(shard.published["forecasts"] for shard in [*learn.LIVE.values()]) < kill.forecasts:
            return
        passed += 1
        if passed >= kill.when:
            os.kill(os.getpid(), signal.SIGKILL)

    engine.Durability.__init__.__kwdefaults__.update(snapshot_every_s=math.inf if by_script else 0.05, point=passes)
    if by_script:
        learn.QUIET_SECONDS = math.inf
    if plant is not None:
        plant()


def keep_account(path: Path) -> None:
    """What a commit would say at the end of a replay, which makes none, into a file."""
    from pipeline.learn import LiveShard

    close = LiveShard.close

    def closes(self: Any) -> None:
        path.write_text(json.dumps(self.account()))
        close(self)

    LiveShard.close = closes


# The log


Record = tuple[str, bytes]  # key, value


def log(steps: int, seed: int) -> list[Record]:
    """In order: every series at every step, and now and then a repeat, a late one, one that cannot be used."""
    draw = random.Random(seed)
    records = []
    for row in samples(SERIES, steps, seed, ragged=False):
        records.append((row.series, row.json()))
        chance = draw.random()
        if chance < 0.02:
            records.append((row.series, Sample(row.series, row.at, row.value + 1).json()))
        elif chance < 0.04:
            records.append((row.series, Sample(row.series, row.at - 9 * HOUR, row.value).json()))
        elif chance < 0.06:
            records.append((row.series, b'{"series": "%s"}' % row.series.encode()))
    return records


class Feeder:
    """Appends the log step by step, as far as it is allowed to, by a client that survives a broker's death."""

    def __init__(self, bootstrap: str, topic: str, records: Sequence[Record]) -> None:
        self._records, self._topic = records, topic
        self._allowed, self._sent, self._over = 0, 0, False
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "partitioner": "murmur2_random", "linger.ms": 5, "log_level": 0}
        )
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def allow(self, records: int) -> None:
        self._allowed += records

    def _feed(self) -> None:
        while not self._over:
            for key, value in self._records[self._sent : min(self._sent + SERIES, self._allowed)]:
                self._producer.produce(self._topic, key=key, value=value)
                self._sent += 1
            self._producer.poll(PACE)
            time.sleep(PACE)

    def put(self, records: int) -> None:
        """So many more, at once: when this returns, they are in the log."""
        for key, value in self._records[self._sent : self._sent + records]:
            self._producer.produce(self._topic, key=key, value=value)
            self._sent += 1
        assert self._producer.flush(60) == 0

    def finish(self) -> None:
        """The rest, at once."""
        self._over = True
        self._thread.join()
        self.put(len(self._records))


class Onlooker:
    """A read_committed reader from before the first fault to after the last; notes when forecasts come."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.seen: dict[str, list[bytes]] = {kind: [] for kind in KINDS}
        self.came: list[float] = []  # monotonic clock
        self._over = False
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap, "group.id": "onlooker", "isolation.level": "read_committed", "enable.auto.commit": False,
                "auto.offset.reset": "earliest", "fetch.wait.max.ms": 50, "log_level": 0,
            }
        )  # fmt: skip
        self._kinds = {topics.topic(prefix, kind): kind for kind in KINDS}
        self._consumer.assign([Place(t.name, p, 0) for t in topics.wanted(prefix, 2) if t.name in self._kinds for p in range(t.partitions)])
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over:
            for message in self._consumer.consume(500, 0.05):
                if message.error() is None:
                    kind = self._kinds[message.topic()]
                    self.seen[kind].append(message.value())
                    if kind == "forecasts":
                        self.came.append(time.monotonic())

    def since(self, moment: float) -> float | None:
        """When the first forecast after that moment came."""
        return next((t for t in self.came[-5_000:] if t > moment), None)

    def has(self, kind: str, count: int) -> None:
        until(lambda: len(self.seen[kind]) >= count, 10)

    def close(self) -> None:
        self._over = True
        self._thread.join()
        self._consumer.close()


# The oracle


class Verdict(NamedTuple):
    """What a run showed, against the replay of its log; all of it must be nothing."""

    lost: int
    doubled: int
    differing: int
    wrong: dict[str, tuple[Any, Any]]  # counter of the ledger, or what the last commit says: (is, should be)
    hanging: list[Any]

    @property
    def holds(self) -> bool:
        return not any(self)


def compare(expected: Iterable[bytes], seen: Sequence[bytes]) -> tuple[int, int, int]:
    """Ids that are missing, that came more than once, and those with other bytes or that nobody expected.

    >>> a, b = b'{"id": "a", "x": 1}', b'{"id": "b"}'
    >>> compare([a, b], [b, b, b'{"id": "a", "x": 2}', b'{"id": "c"}'])
    (0, 1, 2)
    """
    should = {json.loads(value)["id"]: value for value in expected}
    times = Counter(json.loads(value)["id"] for value in seen)
    different = {json.loads(value)["id"] for value in seen if should.get(json.loads(value)["id"]) != value}
    return len(should.keys() - times.keys()), sum(n > 1 for n in times.values()), len(different)


LEDGER = ("consumed", "used", "duplicate", "late", "rejected", "forecasts", "scored", "windows")
LEARNT = ("reached", "learnt", "weights")  # of the account: instants, and a digest of the weights after each of them


class Expected(NamedTuple):
    """What a replay of the log says."""

    records: dict[str, list[bytes]]  # by kind
    summary: dict[str, Any]
    account: dict[str, Any]  # as a commit at its end would have it


def replay(records: Iterable[Record], folder: Path, application: str) -> Expected:
    """What should come out of this log. Wants `instances.server`."""
    file, out, account = folder / "log.ndjson", folder / "replay", folder / "account.json"
    file.write_bytes(b"".join(value + b"\n" for _, value in records))
    given = settings("127.0.0.1:1", application, "any", folder, **PATIENT)
    instance = Instance(folder, "replay", str(file), "--as-is", "--json", "--out", str(out), *given, first=partial(keep_account, account))
    assert instance.ends(within=600) == 0, instance.said()
    said = {kind: (out / f"{kind}.ndjson").read_bytes().splitlines() for kind in KINDS}
    return Expected(said, instance.summary(), json.loads(account.read_text()))


class Outcome(NamedTuple):
    verdict: Verdict
    recoveries: list[float]  # s from the start of an instance, or from a broker's return, to the first new forecast
    seconds: float


class World:
    """A broker, a log that grows, an application that is killed. Wants `instances.server`."""

    def __init__(
        self, broker: Broker, folder: Path, records: Sequence[Record], *, application: str, plant: Callable[[], None] | None = None
    ) -> None:
        self.broker, self.folder, self.records, self.application, self.plant = broker, folder, records, application, plant
        self.prefix = f"{application}-{random.SystemRandom().randrange(1 << 32):08x}"
        self.topic = f"{self.prefix}.input"
        self.settings = settings(broker.bootstrap, application, self.topic, folder, **PATIENT, output__prefix=self.prefix)
        topics.apply({"bootstrap_servers": [broker.bootstrap]}, [topics.Wanted(self.topic, PARTITIONS, {})], replication=1)
        make_ours(broker.bootstrap, self.prefix)
        self.feeder = Feeder(broker.bootstrap, self.topic, records)
        self.onlooker = Onlooker(broker.bootstrap, self.prefix)
        self.recoveries: list[float] = []

    def start(self, kill: Kill | None = None, *, by_script: bool = False) -> Instance:
        first = partial(prepare, self.plant, kill, by_script=by_script)
        return Instance(self.folder, "run", "--json", "--take-over", *self.settings, first=first)

    def recovered(self, instance: Instance, moment: float, within: float) -> bool:
        """Whether a forecast that is new came, before the instance died."""
        until(lambda: self.onlooker.since(moment) or not instance.running(), within, instance.said)
        came = self.onlooker.since(moment)
        if came is not None:
            self.recoveries.append(came - moment)
        return came is not None

    def one_life(self, kill: Kill) -> None:
        """Start, be killed."""
        self.feeder.allow(STEPS_A_LIFE * SERIES)
        moment = time.monotonic()
        instance = self.start(kill if kill.where in POINTS else None)
        if kill.where != "start":
            self.recovered(instance, moment, 60)
        if kill.where in POINTS:
            instance.process.join(6)  # a point that is not passed any more, for want of input, is a kill at some time
        else:
            time.sleep(kill.when)
        if instance.running():
            instance.kill()
        assert instance.process.exitcode == -signal.SIGKILL, instance.said()

    def without_broker(self, count: int, draw: random.Random) -> None:
        """The broker is killed and comes back; the instance lives on."""
        instance = self.start()
        for _ in range(count):
            self.feeder.allow(STEPS_A_LIFE * SERIES)
            assert self.recovered(instance, time.monotonic(), 60), instance.said()
            self.broker.kill()
            time.sleep(draw.uniform(0.0, 3.0))
            self.broker.start()
            self.feeder.allow(STEPS_A_LIFE * SERIES)
            assert self.recovered(instance, time.monotonic(), 60), instance.said()
        assert instance.running(), instance.said()
        instance.kill()

    def first_life(self, ending: Ending) -> None:
        """Up to this ending, with so much of the log as there is."""
        instance = self.start(ending.kill, by_script=True)
        if ending.kill is not None:
            assert instance.ends() == -signal.SIGKILL, instance.said()
            return
        self.stop(instance, self.has_read_all)
        account = self.last_commit()["account"]
        assert account["learnt"] < account["reached"], "nothing is left to learn"
        if ending.damage:
            self.damage()

    def damage(self) -> None:
        """Turn over one bit of the snapshot that recovery begins with: of a value that is yet to be learnt."""
        commit = self.last_commit()
        assert commit["before"] is not None, "there is no snapshot to fall back to"
        path = self.folder / "state" / self.application / f"{commit['snapshot']}.snapshot"
        data = bytearray(path.read_bytes())
        newest = json.loads(self.records[HALF - 1][1])["value"]
        data[data.index(b"\xcb" + struct.pack(">d", newest)) + 2] ^= 0x08  # a float as MessagePack has it; the highest bit of its fraction
        path.write_bytes(data)

    def last_life(self, should: Expected) -> dict[str, Any]:
        """Undisturbed, to the end of the log and of what it teaches; its summary."""
        self.feeder.finish()
        learnt = should.account["learnt"]
        return self.stop(self.start(), lambda: self.has_read_all() and self.last_commit()["account"]["learnt"] == learnt, within=300)

    def stop(self, instance: Instance, once: Callable[[], bool], within: float = PATIENCE) -> dict[str, Any]:
        """Its summary."""
        until(lambda: once() or not instance.running(), within, instance.said)
        assert instance.running(), instance.said()
        code, summary = instance.stopped()
        assert code == 0, instance.said()
        return summary

    def has_read_all(self) -> bool:
        """The last commit stands at the end of the log."""
        commit = self.last_commit()
        positions = commit["account"].get("positions", []) if commit else []
        return {p: position for _, p, position in positions if position} == ends(self.broker.bootstrap, self.topic)

    def last_commit(self) -> dict[str, Any]:
        """Its record; {}: there is none."""
        commits = self.told("commits")
        return json.loads(commits[-1].value) if commits else {}

    def judge(self, summary: Mapping[str, Any], should: Expected) -> Verdict:
        found = Counter[str]()
        for kind in KINDS:
            fresh = [read.value for read in self.told(kind)]
            self.onlooker.has(kind, len(fresh))
            for seen in (fresh, self.onlooker.seen[kind]):
                for name, number in zip(("lost", "doubled", "differing"), compare(should.records[kind], seen), strict=True):
                    found[name] = max(found[name], number)
        for kind, counter in (("late", "late"), ("rejected", "rejected")):
            told = self.told(kind)
            count = len({dict(r.headers)["ce_id"] if kind == "late" else str(r.headers) for r in told})  # topic, partition and offset
            found["lost"] += max(0, should.summary[counter] - count)
            found["doubled"] += len(told) - count
        wrong = {name: (summary[name], should.summary[name]) for name in LEDGER if summary[name] != should.summary[name]}
        account = self.last_commit()["account"]
        wrong |= {name: (account[name], should.account[name]) for name in LEARNT if account[name] != should.account[name]}
        open_ones = hanging(self.broker.bootstrap, *(topics.topic(self.prefix, kind) for kind in (*KINDS, "late", "rejected")))
        return Verdict(found["lost"], found["doubled"], found["differing"], wrong, open_ones)

    def told(self, kind: str) -> list[Any]:
        return committed(self.broker.bootstrap, topics.topic(self.prefix, kind))


def ends(bootstrap: str, topic: str) -> dict[int, int]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "asks"})
    found = {p: consumer.get_watermark_offsets(Place(topic, p), timeout=10)[1] for p in range(PARTITIONS)}
    consumer.close()
    return {p: end for p, end in found.items() if end}


def suffer(broker: Broker, folder: Path, fatal: Sequence[Kill], *, broker_kills: int = 0, seed: int = 0) -> Outcome:
    """So many deaths, then the rest of the log in peace, then the verdict. Wants `instances.server`."""
    began = time.monotonic()
    records = log(STEPS_A_LIFE * (len(fatal) + 2 * broker_kills + 4), seed)
    world = World(broker, folder, records, application=f"faults-{seed}")
    for number, kill in enumerate(fatal):
        world.one_life(kill)
        if number % 10 == 9:
            print(f"{number + 1} kills, {time.monotonic() - began:.0f} s", flush=True)
    if broker_kills:
        world.without_broker(broker_kills, random.Random(seed))
    should = replay(records, folder, world.application)
    verdict = world.judge(world.last_life(should), should)
    world.onlooker.close()
    return Outcome(verdict, world.recoveries, time.monotonic() - began)


# Two lives, to try the oracle itself

SEED, STEPS = 3, 40
APPLICATION = "two-lives"
HALF = SERIES * STEPS // 2  # records that the first life finds; the last of them is an ordinary one, see `World.damage`
ENOUGH = SERIES * 8  # forecasts, after which a death has something to spoil


def two_lives(broker: Broker, folder: Path, ending: Ending, should: Expected, *, plant: Callable[[], None] | None = None) -> Verdict:
    """One life that ends so, one in peace, and the verdict; nothing in it is left to chance. `should`: of `log(STEPS, SEED)`."""
    world = World(broker, folder, log(STEPS, SEED), application=APPLICATION, plant=plant)
    world.feeder.put(HALF)
    world.first_life(ending)
    verdict = world.judge(world.last_life(should), should)
    world.onlooker.close()
    return verdict


@contextmanager
def own_world() -> Iterator[tuple[Broker, Path]]:
    with tempfile.TemporaryDirectory() as name, Broker(Path(name) / "kafka", die_with_parent=True) as broker, server():
        yield broker, Path(name)


def hardware() -> str:
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def row(outcome: Outcome, *, worker_kills: int, broker_kills: int, seed: int) -> dict[str, Any]:
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    verdict = outcome.verdict
    return {
        "date": datetime.now(UTC).date().isoformat(), "hardware": hardware(), "commit": git, "seed": seed, "kills": worker_kills,
        "broker_kills": broker_kills, "lost": verdict.lost, "doubled": verdict.doubled, "differing": verdict.differing,
        "wrong": len(verdict.wrong), "hanging": len(verdict.hanging),
        "first_new_forecast_p50_s": round(statistics.median(outcome.recoveries), 2),
        "first_new_forecast_max_s": round(max(outcome.recoveries), 2), "seconds": round(outcome.seconds),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--broker-kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with own_world() as (broker, folder):
        outcome = suffer(broker, folder, kills(given.kills, given.seed), broker_kills=given.broker_kills, seed=given.seed)
    told = row(outcome, worker_kills=given.kills, broker_kills=given.broker_kills, seed=given.seed)
    print(outcome.verdict)
    print("\n".join(f"{name:<26}{value}" for name, value in told.items()))
    fresh = not TABLE.exists()
    with TABLE.open("a", newline="") as file:
        table = csv.DictWriter(file, list(told), lineterminator="\n")
        if fresh:
            table.writeheader()
        table.writerow(told)
    raise SystemExit(0 if outcome.verdict.holds else 1)


if __name__ == "__main__":
    main()
