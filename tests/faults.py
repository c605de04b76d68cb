"""Kill `tidecast run`, and its broker, again and again, and ask a reader whether it shows: python -m tests.faults --kills 100.

The log is seeded and has late, repeated and unusable records in it; it grows while instances are killed at random moments and
at named points. The oracle is a replay of the same log: every forecast and score once, byte for byte, and the same ledger.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import signal
import statistics
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
from tests.instances import AT, HOUR, Instance, Sample, committed, hanging, make_ours, samples, server, settings, until

SERIES, PARTITIONS = 5, 3
STEPS_A_LIFE = 6
PACE = 0.1  # s between steps, while a life has some left
POINTS = ("before_snapshot_rename", "after_snapshot_rename", "before_commit", "after_commit")
KINDS = ("forecasts", "scores")
TABLE = Path(__file__).parent / "benchmarks" / "faults.csv"


class Kill(NamedTuple):
    """When an instance dies: so long after its start, or after its first commit, or at the nth time it passes a point."""

    where: str
    when: float


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


def prepare(plant: Callable[[], None] | None, point: str | None, nth: float) -> None:
    """Snapshots a hundred times as often as anybody needs, so that a short life has some; death at a point; a bug, if one is planted."""
    from pipeline import engine

    seen: Counter[str] = Counter()

    def passes(at: str) -> None:
        seen[at] += 1
        if at == point and seen[at] >= nth:
            os.kill(os.getpid(), signal.SIGKILL)

    engine.Durability.__init__.__kwdefaults__.update(snapshot_every_s=0.05, point=passes)
    if plant is not None:
        plant()


def position_before_output() -> None:
    """Positions are committed, and what was read up to them is sent in the next transaction. Dies once in between."""
    from pipeline.publish import KafkaPublisher

    send, commit = KafkaPublisher.send, KafkaPublisher.commit
    waiting: list[Any] = []

    def later(self: Any, message: Any) -> None:
        waiting.append(message)

    def first(self: Any, record: dict[str, Any]) -> None:
        commit(self, record)
        if waiting and record["number"] > 3 and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        for message in waiting:
            send(self, message)
        waiting.clear()

    KafkaPublisher.send, KafkaPublisher.commit = later, first


def snapshot_without_queue() -> None:
    """What has been closed and not learnt is forgotten by a snapshot."""
    from collections import deque

    from pipeline.learn import Shard

    freeze = Shard.freeze

    def forgets(self: Any) -> bytes:
        kept, self.queue = self.queue, deque()
        try:
            return freeze(self)
        finally:
            self.queue = kept

    Shard.freeze = forgets


# The log


def log(steps: int, seed: int) -> list[tuple[str, bytes]]:
    """(key, value) in order: every series at every step, and now and then a repeat, a late one, one that cannot be used."""
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

    def __init__(self, bootstrap: str, topic: str, records: Sequence[tuple[str, bytes]]) -> None:
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

    def finish(self) -> None:
        """The rest, at once."""
        self._over = True
        self._thread.join()
        for key, value in self._records[self._sent :]:
            self._producer.produce(self._topic, key=key, value=value)
        assert self._producer.flush(60) == 0


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
                    self.seen[self._kinds[message.topic()]].append(message.value())
                    self.came.append(time.monotonic())

    def since(self, moment: float) -> float | None:
        """When the first record after that moment came."""
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
    wrong_ledger: dict[str, tuple[int, int]]  # counter: (is, should be)
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


LEDGER = ("consumed", "used", "duplicate", "late", "rejected", "forecasts", "scored")
# not windows: the last one is learnt when the stream has been quiet for a second, and a stop may be quicker


class Outcome(NamedTuple):
    verdict: Verdict
    recoveries: list[float]  # s from the start of an instance, or from a broker's return, to the first new forecast
    seconds: float


class World:
    """A broker, a log that grows, an application that is killed."""

    def __init__(self, broker: Broker, folder: Path, *, steps: int, seed: int, plant: Callable[[], None] | None = None) -> None:
        self.broker, self.folder, self.plant = broker, folder, plant
        self.application = f"faults-{seed}-{random.SystemRandom().randrange(1 << 32):08x}"
        self.topic = f"{self.application}.input"
        self.records = log(steps, seed)
        self.settings = settings(
            broker.bootstrap, self.application, self.topic, folder, **AT, time__idle_after="60s", time__max_hold="60s"
        )  # nobody is idle here: the producer's pauses are ours
        topics.apply({"bootstrap_servers": [broker.bootstrap]}, [topics.Wanted(self.topic, PARTITIONS, {})], replication=1)
        make_ours(broker.bootstrap, self.application)
        self.feeder = Feeder(broker.bootstrap, self.topic, self.records)
        self.onlooker = Onlooker(broker.bootstrap, self.application)
        self.recoveries: list[float] = []

    def replay(self) -> tuple[dict[str, list[bytes]], dict[str, Any]]:
        """What should come out, and the summary."""
        file, out = self.folder / "log.ndjson", self.folder / "replay"
        file.write_bytes(b"".join(value + b"\n" for _, value in self.records))
        instance = Instance(self.folder, "replay", str(file), "--as-is", "--json", "--out", str(out), *self.settings)
        assert instance.ends(within=600) == 0, instance.said()
        return {kind: (out / f"{kind}.ndjson").read_bytes().splitlines() for kind in KINDS}, instance.summary()

    def start(self, point: str | None = None, nth: float = 1) -> Instance:
        first = partial(prepare, self.plant, point, nth)
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
        instance = self.start(kill.where if kill.where in POINTS else None, kill.when)
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

    def last_life(self) -> dict[str, Any]:
        """Undisturbed, to the end of the log; its summary."""
        self.feeder.finish()
        instance = self.start()
        ends = committed_ends(self.broker.bootstrap, self.topic)
        until(lambda: self.positions() == ends or not instance.running(), 300, instance.said)
        code, summary = instance.stopped()
        assert code == 0, instance.said()
        return summary

    def positions(self) -> dict[int, int]:
        """Where the last commit stands, by partition."""
        commits = committed(self.broker.bootstrap, f"{self.application}.commits.v1")
        account = json.loads(commits[-1].value)["account"] if commits else {}
        return {p: position for _, p, position in account.get("positions", []) if position}

    def judge(self, summary: Mapping[str, Any]) -> Verdict:
        expected, replayed = self.replay()
        found = Counter[str]()
        for kind in KINDS:
            fresh = [read.value for read in self.told(kind)]
            self.onlooker.has(kind, len(fresh))
            for seen in (fresh, self.onlooker.seen[kind]):
                for name, number in zip(("lost", "doubled", "differing"), compare(expected[kind], seen), strict=True):
                    found[name] = max(found[name], number)
        for kind, counter in (("late", "late"), ("rejected", "rejected")):
            told = self.told(kind)
            count = len({dict(r.headers)["ce_id"] if kind == "late" else str(r.headers) for r in told})  # topic, partition and offset
            found["lost"] += max(0, replayed[counter] - count)
            found["doubled"] += len(told) - count
        ledger = {name: (summary[name], replayed[name]) for name in LEDGER if summary[name] != replayed[name]}
        open_ones = [at for kind in (*KINDS, "late", "rejected") for at in hanging(self.broker.bootstrap, f"{self.application}.{kind}.v1")]
        return Verdict(found["lost"], found["doubled"], found["differing"], ledger, open_ones)

    def told(self, kind: str) -> list[Any]:
        return committed(self.broker.bootstrap, f"{self.application}.{kind}.v1")


def committed_ends(bootstrap: str, topic: str) -> dict[int, int]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "asks"})
    ends = {p: consumer.get_watermark_offsets(Place(topic, p), timeout=10)[1] for p in range(PARTITIONS)}
    consumer.close()
    return {p: end for p, end in ends.items() if end}


def suffer(
    broker: Broker, folder: Path, fatal: Sequence[Kill], *, broker_kills: int = 0, seed: int = 0, plant: Callable[[], None] | None = None
) -> Outcome:
    """So many deaths, then the rest of the log in peace, then the verdict. Wants `instances.server`."""
    began = time.monotonic()
    world = World(broker, folder, steps=STEPS_A_LIFE * (len(fatal) + 2 * broker_kills + 4), seed=seed, plant=plant)
    for number, kill in enumerate(fatal):
        world.one_life(kill)
        if number % 10 == 9:
            print(f"{number + 1} kills, {time.monotonic() - began:.0f} s", flush=True)
    if broker_kills:
        world.without_broker(broker_kills, random.Random(seed))
    summary = world.last_life()
    verdict = world.judge(summary)
    world.onlooker.close()
    return Outcome(verdict, world.recoveries, time.monotonic() - began)


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
        "wrong_ledger": len(verdict.wrong_ledger), "hanging": len(verdict.hanging),
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
