"""The command in processes of its own: started, signalled, watched; and the input and output that such tests share.

Importing Beam and torch takes ten seconds of a core. They are imported once, in a server that forks; each process is new all the same.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from pipeline import topics
from tests import forking

PRELOAD = ["pipeline.__main__", "pipeline.operate", "pipeline.summary", "tests.instances"]
HOUR = 3_600
BEGIN = 1_767_225_600  # 2026-01-01
PATIENCE = 90.0  # s; a test waits so long on a machine that is busy with other things


@contextmanager
def server() -> Iterator[None]:
    """While it lasts, `Instance` forks instead of importing for ten seconds."""
    with forking.server(PRELOAD):
        yield


def live(arguments: list[str], environ: dict[str, str], out: str, err: str, first: Callable[[], None] | None) -> None:
    """In the child: become `tidecast ...`. `first` may spoil something before."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: with the server, which dies with the tests
    for number, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.update(environ)
    os.chdir(Path(out).parent)
    sys.argv = ["tidecast", *arguments]
    if first is not None:
        first()
    from pipeline.__main__ import main

    main()


class Instance:
    """`tidecast <arguments>` as a process."""

    number = 0

    def __init__(
        self, folder: Path, *arguments: str, environ: dict[str, str] | None = None, first: Callable[[], None] | None = None
    ) -> None:
        Instance.number += 1
        self.out = folder / f"{Instance.number}.out"
        self.err = folder / f"{Instance.number}.err"
        self.process: ForkServerProcess = forking.CONTEXT.Process(
            target=live, args=(list(arguments), environ or {}, str(self.out), str(self.err), first), daemon=True
        )
        self.process.start()

    def tell(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def running(self) -> bool:
        return self.process.exitcode is None

    def ends(self, within: float = PATIENCE) -> int:
        """Its exit code. Fails if it has not ended by then."""
        self.process.join(within)
        code = self.process.exitcode
        if code is None:
            self.kill()
            raise AssertionError(f"still running after {within} s:\n{self.said()}")
        return code

    def stopped(self, number: signal.Signals = signal.SIGTERM, within: float = PATIENCE) -> tuple[int, dict[str, Any]]:
        """Exit code and summary, after a signal."""
        self.tell(number)
        code = self.ends(within)
        return code, self.summary()

    def stopped_quietly(self, within: float = PATIENCE) -> int:
        """Exit code after SIGTERM, of what prints no summary."""
        self.tell(signal.SIGTERM)
        return self.ends(within)

    def summary(self) -> dict[str, Any]:
        text = self.out.read_text()
        assert text, self.said()
        summary: dict[str, Any] = json.loads(text)
        return summary

    def said(self) -> str:
        """What it wrote to stderr."""
        return self.err.read_text() if self.err.exists() else ""


def settings(bootstrap: str, application: str, topic: str, folder: Path, **more: str) -> list[str]:
    """Flags of a small, quick run; `more`: section__name=value."""
    chosen = {
        "application": application, "kafka.bootstrap": bootstrap, "input.topics": topic, "series.step": "1h", "series.season": "6",
        "forecast.horizon": "6", "forecast.publish_from": "earliest", "output.prefix": application, "commit.state": str(folder / "state"),
        "commit.interval": "100ms", "metrics.address": "127.0.0.1:0", "time.idle_after": "2s",
        **{name.replace("__", "."): value for name, value in more.items()},
    }  # fmt: skip
    return [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]


def make_ours(bootstrap: str, prefix: str) -> None:
    """What `tidecast topics apply` does."""
    topics.apply({"bootstrap_servers": [bootstrap]}, topics.wanted(prefix, 2), replication=1)


class Sample(NamedTuple):
    series: str
    at: int  # s
    value: float

    def json(self) -> bytes:
        return json.dumps({"series": self.series, "at": self.at * 1000, "value": self.value}).encode()


def samples(series: int, steps: int, seed: int = 0, *, ragged: bool = True) -> list[Sample]:
    """Seeded waves with noise, in order of time; `ragged`: every third series ends five steps before the others."""
    draw = random.Random(seed)
    names = [f"meter-{i}" for i in range(series)]
    return [
        Sample(name, BEGIN + t * HOUR, round(10 * (i + 1) + 3 * math.sin(2 * math.pi * (t + i) / 6) + draw.gauss(0, 0.5), 3))
        for t in range(steps)
        for i, name in enumerate(names)
        if not (ragged and i % 3 == 2 and t >= steps - 5)
    ]


AT = {"input__at_format": "ms"}  # of `Sample.json`


def write(path: Path, rows: list[Sample]) -> Path:
    path.write_bytes(b"".join(row.json() + b"\n" for row in rows))
    return path


def produce(bootstrap: str, topic: str, rows: list[Sample]) -> None:
    """By key, as every client does."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20)
    for row in rows:
        producer.send(topic, key=row.series.encode(), value=row.json())
    producer.flush(30)
    producer.close()


class Read(NamedTuple):
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


def committed(bootstrap: str, topic: str) -> list[Read]:
    """All that a fresh read_committed consumer sees of a topic now."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest", enable_auto_commit=False
    )
    try:
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        found: list[Read] = []
        while any(consumer.position(p) < ends[p] for p in partitions):
            for records in consumer.poll(timeout_ms=500).values():
                found += [Read(r.key, r.value, list(r.headers)) for r in records]
        return found
    finally:
        consumer.close()


def hanging(bootstrap: str, *names: str) -> list[tuple[str, int, int, int]]:
    """(topic, partition, last stable offset, end) of those partitions where a transaction is still open."""
    ends = {}
    for level in ("read_committed", "read_uncommitted"):
        consumer = KafkaConsumer(bootstrap_servers=bootstrap, isolation_level=level)
        partitions = [TopicPartition(name, p) for name in names for p in sorted(consumer.partitions_for_topic(name) or ())]
        ends[level] = consumer.end_offsets(partitions)
        consumer.close()
    stable, end = ends["read_committed"], ends["read_uncommitted"]
    return [(*p, stable[p], end[p]) for p in end if stable[p] < end[p]]


def until(true: Callable[[], Any], within: float = PATIENCE, told: Callable[[], str] = str) -> Any:
    """What `true` returns as soon as that is something. Fails if it is nothing for so long."""
    deadline = time.monotonic() + within
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {within} s: {told()}"
        time.sleep(0.1)
    return found


def ids(read: list[Read]) -> list[str]:
    return [json.loads(r.value)["id"] for r in read]
