"""Our topics into a `Fold`, by one consumer in a thread: committed records only, from a bounded way back, as long as the page is there."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple, Self

from kafka import KafkaConsumer, errors
from kafka.structs import TopicPartition

from pipeline.page.fold import Fold
from pipeline.records import stamp_us
from pipeline.topics import anybody, offsets, topic

LOG = logging.getLogger(__name__)

BACK = {"forecasts": 20_000, "scores": 20_000, "decisions": 1_000, "status": 900}  # records of each topic, all partitions together
LAST_KIND = "scores"  # read when the others have caught up: a score says little of a series whose forecasts are not known
LOOK_BACK = 20_000  # records of a partition that are looked through for the past of a series that somebody picks
CHUNK = 4_000  # of them at once, the newest first
LOOK_BACK_SECONDS = 5.0
BEHIND_SECONDS = 15.0  # that the page may be behind before it goes on at the end: what is now matters more than all of the past
BEHIND_RECORDS = 2_000
POLL_MS = 200
POLL_RECORDS = 100  # folded at a time, while the browser's questions wait: 5 ms
ASK_SECONDS = 1.0  # between two questions that only a broker that is there can answer
ANSWER_MS = 3_000
LOOK_SECONDS = 10.0  # between two looks for partitions that were added
AGAIN_SECONDS = 1.0

OPTIONS: Mapping[str, Any] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",  # of what was trimmed, or of a topic made anew
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "max_partition_fetch_bytes": 1 << 20,
    "fetch_max_bytes": 8 << 20,
    # Who draws once a second need not fetch each batch by itself: a third of the CPU here, half of the broker's, at 28 batches a second
    "fetch_min_bytes": 1 << 16,
    "fetch_max_wait_ms": 300,
    "metadata_max_age_ms": 10_000,
    "reconnect_backoff_max_ms": 1_000,
    "metrics_enabled": False,
}
AT_ONCE: Mapping[str, Any] = {"fetch_min_bytes": 1}  # who looks back reads what is there: waiting for more took 0.3 s a chunk


class Link(NamedTuple):
    """How we stand with the brokers."""

    state: Literal["connecting", "reading", "away", "missing", "refused"]
    since: float  # s of wall clock
    why: str = ""


class Reader:
    """Keeps `fold` up to date; whoever looks at it holds `lock`. `options` are kafka-python's for the connection."""

    def __init__(self, options: Mapping[str, Any], *, prefix: str, fold: Fold) -> None:
        self.fold = fold
        self.lock = threading.Lock()
        self.link = Link("connecting", time.time())
        self.behind = 0  # records that we have not read yet
        self.skipped = 0  # records that we never read, to keep up
        self._options = {**options, **OPTIONS}
        self._topics = {topic(prefix, kind): kind for kind in BACK}
        self._positions: dict[TopicPartition, int] = {}
        self._live_from: dict[TopicPartition, int] = {}  # where the log ended when we began
        self._caught_up = time.monotonic()
        self._wanted: queue.Queue[str] = queue.Queue(maxsize=8)
        self._past = threading.Event()  # read: where a series lies is known
        self._stop = threading.Event()
        self.error: Exception | None = None  # a bug: whoever serves the page ends with it, for a page that reads nothing tells lies
        self._threads = [threading.Thread(target=self._guarded, args=(run,), daemon=True) for run in (self._run, self._run_back)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def look_back(self, name: str) -> None:
        """Have the past of a series read; of many that ask at once, some do without."""
        with suppress(queue.Full):
            self._wanted.put_nowait(name)

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except Exception as error:  # noqa: BLE001  a thread's error is seen by nobody
            self.error = error

    # The thread that follows

    def _run(self) -> None:
        while not self._stop.is_set():
            consumer = self._connect()
            if consumer is not None:
                try:
                    self._follow(consumer)
                except (errors.AuthorizationError, errors.SaslAuthenticationFailedError) as error:
                    self._tell("refused", f"{type(error).__name__}: {error}")
                except errors.KafkaError as error:
                    self._tell("away", f"{type(error).__name__}: {error}")
                finally:
                    consumer.close(autocommit=False, timeout_ms=1_000)
            self._stop.wait(AGAIN_SECONDS)

    def _connect(self) -> KafkaConsumer | None:
        servers = self._options["bootstrap_servers"]
        if not anybody(servers):
            self._tell("away", f"nobody answers at {', '.join(servers)}")
            return None
        try:
            return KafkaConsumer(**self._options, bootstrap_timeout_ms=5_000)
        except errors.SaslAuthenticationFailedError as error:
            self._tell("refused", f"the broker does not accept who we are: {error}")
        except errors.KafkaError as error:
            self._tell("away", f"{type(error).__name__}: {error}")
        return None

    def _tell(self, state: Literal["connecting", "reading", "away", "missing", "refused"], why: str = "") -> None:
        if state != self.link.state:
            LOG.log(logging.INFO if state == "reading" else logging.WARNING, "brokers: %s %s", state, why)
            self.link = Link(state, time.time(), why)

    def _follow(self, consumer: KafkaConsumer) -> None:
        """Read until told to stop, or until an error that a new connection may mend."""
        asked = looked = 0.0
        there: list[TopicPartition] = []
        while not self._stop.is_set():
            now = time.monotonic()
            try:
                if now - looked >= (LOOK_SECONDS if there else AGAIN_SECONDS):
                    looked, there = now, self._look(consumer)
                if not there:
                    self._stop.wait(AGAIN_SECONDS)
                    continue
                self._take(consumer.poll(timeout_ms=POLL_MS, max_records=POLL_RECORDS))
                self._positions.update({p: consumer.position(p, timeout_ms=ANSWER_MS) for p in consumer.assignment()})
                if now - asked >= ASK_SECONDS:
                    asked = now
                    self._keep_up(consumer, there)
            except errors.OffsetOutOfRangeError as error:
                for partition in error.args[0]:
                    consumer.seek_to_beginning(partition)
            except errors.RetriableError as error:
                self._tell("away", f"{type(error).__name__}: {error}")

    def _look(self, consumer: KafkaConsumer) -> list[TopicPartition]:
        """All partitions of our topics; those that are new begin a bounded way back. None while a topic is missing."""
        there, missing = [], []
        for name in self._topics:
            found = consumer.partitions_for_topic(name)
            missing += [name] * (not found)
            there += [TopicPartition(name, p) for p in sorted(found or ())]
        if missing:
            if not self._positions:  # else a broker that has just started may not know them yet
                self._tell("missing", ", ".join(missing))
            return []
        new = [p for p in there if p not in self._positions]
        if new:
            first, ends = (offsets(ask, new, timeout_ms=10_000) for ask in (consumer.beginning_offsets, consumer.end_offsets))
            for p in new:
                each = BACK[self._topics[p.topic]] // sum(other.topic == p.topic for other in there)
                self._positions[p], self._live_from[p] = max(first[p], ends[p] - each), ends[p]
            self._caught_up = time.monotonic()
        self._assign(consumer, [p for p in there if self._topics[p.topic] != LAST_KIND])
        return there

    def _assign(self, consumer: KafkaConsumer, wanted: Sequence[TopicPartition]) -> None:
        before = consumer.assignment()
        if not set(wanted) - before:
            return
        consumer.assign([*before, *(p for p in wanted if p not in before)])
        for p in set(wanted) - before:
            consumer.seek(p, self._positions[p])

    def _keep_up(self, consumer: KafkaConsumer, there: Sequence[TopicPartition]) -> None:
        """Is there a broker, and how far behind are we? Too far for too long: go on at the end."""
        # the client forgets what it knew of topics that it is not assigned, and then cannot say where they end
        ends = {**self._live_from, **offsets(consumer.end_offsets, list(consumer.assignment()), timeout_ms=ANSWER_MS)}
        self._tell("reading")
        left = {p: max(ends[p] - self._positions[p], 0) for p in there}
        self.behind = sum(left.values())
        if all(self._positions[p] >= self._live_from[p] for p in there):
            self._past.set()
        now = time.monotonic()
        if self.behind < BEHIND_RECORDS:
            self._caught_up = now
        if now - self._caught_up > BEHIND_SECONDS:
            self._caught_up = now
            self.skipped += self.behind
            consumer.assign(list(there))
            for p in there:
                self._positions[p] = ends[p]
                consumer.seek(p, ends[p])
        elif not any(left[p] for p in consumer.assignment() if self._positions[p] < self._live_from[p]):
            self._assign(consumer, there)

    def _take(self, came: Mapping[TopicPartition, Iterable[Any]]) -> None:
        for p, records in came.items():
            kind, now = self._topics[p.topic], time.time_ns() // 1_000
            with self.lock:
                for record in records:
                    if record.value is None:
                        continue
                    if kind == "forecasts":
                        self.fold.forecast(record.value, p.partition)
                    elif kind == "scores":
                        self.fold.score(record.value, p.partition)
                    elif kind == "decisions":
                        self.fold.decision(record.value)
                    else:  # what we hear is of now; what was said before we came, of when it was written
                        at = stamp_us(record.timestamp)
                        self.fold.status(record.value, at, now if record.offset >= self._live_from[p] else at)

    # The thread that looks back

    def _run_back(self) -> None:
        while not self._stop.is_set():
            if not self._past.wait(0.2):
                continue
            try:
                name = self._wanted.get(timeout=0.2)
            except queue.Empty:
                continue
            if not self._looked_back(name):
                self.look_back(name)
                self._stop.wait(AGAIN_SECONDS)

    def _looked_back(self, name: str) -> bool:
        """False if the brokers would not have it, which the thread that follows says: to be tried again."""
        if not anybody(self._options["bootstrap_servers"]):
            return False
        try:
            consumer = KafkaConsumer(**{**self._options, **AT_ONCE}, bootstrap_timeout_ms=5_000)
        except errors.KafkaError:
            return False
        try:
            self._read_back(consumer, name)
        except errors.KafkaError as error:
            LOG.warning("the past of a series cannot be read: %s", error)
            return False
        finally:
            consumer.close(autocommit=False, timeout_ms=1_000)
        return True

    def _read_back(self, consumer: KafkaConsumer, name: str) -> None:
        """Look through a series' partitions for its older records, the newest chunk first."""
        with self.lock:
            places = self.fold.partitions[self.fold.index[name]].tolist()
        for (kind, text), number in zip(enumerate(("forecasts", "scores")), places, strict=True):
            [name_of] = [one for one, k in self._topics.items() if k == text]
            p = TopicPartition(name_of, number)
            if number < 0:
                continue
            consumer.assign([p])
            first, end = (offsets(ask, [p], timeout_ms=ANSWER_MS)[p] for ask in (consumer.beginning_offsets, consumer.end_offsets))
            deadline = time.monotonic() + LOOK_BACK_SECONDS / 2
            oldest = max(first, end - LOOK_BACK)
            while end > oldest and time.monotonic() < deadline and not self._stop.is_set():
                begin = max(oldest, end - CHUNK)
                self._read_chunk(consumer, p, begin, end, name, kind)
                end = begin

    def _read_chunk(self, consumer: KafkaConsumer, p: TopicPartition, begin: int, end: int, name: str, kind: int) -> None:
        consumer.seek(p, begin)
        key = name.encode()
        deadline = time.monotonic() + LOOK_BACK_SECONDS
        while consumer.position(p, timeout_ms=ANSWER_MS) < end and time.monotonic() < deadline and not self._stop.is_set():
            for records in consumer.poll(timeout_ms=POLL_MS, max_records=CHUNK).values():
                mine = [record.value for record in records if record.key == key and record.value is not None and record.offset < end]
                with self.lock:
                    for value in mine:
                        self.fold.look_back(name, value, kind=kind)
