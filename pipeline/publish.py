"""Messages to Kafka, in one transaction per commit, or to files. The transaction is the commit point of the engine.

A commit holds the messages since the one before, the consumer's offsets, and the record that says how far we are: all or
nothing. Whoever reads `read_committed` sees every message once.
"""

from __future__ import annotations

import base64
import json
import sys
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

import apache_beam as beam
from kafka import KafkaConsumer, KafkaProducer, TopicPartition, errors
from kafka.partitioner.default import murmur2
from kafka.serializer import Serializer
from kafka.structs import OffsetAndMetadata

from pipeline.metrics import Latency, Metrics, stage
from pipeline.records import Message, Status, encode
from pipeline.topics import MISSING, TopicsError, anybody, offsets, plan, since, topic, wanted
from pipeline.wire import append, headers, written, written_headers

COMMIT_SECONDS = 20.0  # a broker answers in milliseconds; past this it is away, and nothing may block longer than 30 s
ABORT_SECONDS = 2.0  # at the end; who does not get it done leaves it to the next one, or to the transaction's own time-out
INIT_MS = 25_000
ASKING_MS = 3_000  # what is wrong, after something went wrong
SPLIT_SECONDS = 0.05  # a batch that is split is never answered, its parts are: look again for who is waited for
READ_SECONDS = 25.0  # for a topic's end to be settled, and without news while reading it
WINDOW = 1_000  # offsets read at first from a topic's end: the newest record of a live application is among them
LITTLE_BYTES = 64 << 10  # a record that some broker may find too large goes the client's own way, and has a future that says so
IN_FLIGHT_BYTES = 16 << 20  # sent and not acknowledged; the client itself has no limit
ALIVE_SECONDS = 5.0  # a live instance beats once a second

OPTIONS: Mapping[str, Any] = {
    "acks": "all",
    "enable_idempotence": True,
    "linger_ms": 50,  # a commit flushes; until then few and full requests cost the broker and our sender's thread half as much
    "batch_size": 256 << 10,  # one batch a partition and commit, mostly: fewer requests, better compression
    "compression_type": "lz4",  # half the bytes for a tenth more of CPU; zstd a third of them, for a third more
    "max_request_size": 8 << 20,
    "bootstrap_timeout_ms": INIT_MS,
    "max_block_ms": INIT_MS,
    "delivery_timeout_ms": 20_000,
    "request_timeout_ms": 10_000,
    "reconnect_backoff_max_ms": 1_000,
    "allow_auto_create_topics": False,
    "transaction_timeout_ms": 60_000,
    "metrics_enabled": False,
}

PLAIN = {name: value for name, value in OPTIONS.items() if name != "transaction_timeout_ms"}  # outside any transaction


class PublishError(Exception):
    """Nothing can be published; the message names the topic and what is missing."""


class Fenced(PublishError):  # noqa: N818 - reads as what happened
    """Another instance of this application has taken over."""


class StillAlive(PublishError):  # noqa: N818
    """Another instance of this application is running."""


class CommitLost(PublishError):  # noqa: N818
    """The commit did not happen, or the brokers are away: all since the last commit has to be done again."""


FENCING = (errors.ProducerFencedError, errors.InvalidProducerEpochError)
NOTHING = bytes(bytearray(b"no value"))  # by identity: the client takes no record that has neither key nor value, Kafka does


class OrNothing(Serializer):
    def serialize(self, _topic: str, _headers: Any, data: bytes | None) -> bytes | None:
        return None if data is NOTHING else data


class Publisher(Protocol):
    """Where messages go."""

    @property
    def muted(self) -> bool: ...  # what is sent is dropped
    def send(self, message: Message) -> None: ...


PUBLISHER: Publisher | None = None  # of the run in this process; a DoFn cannot carry a connection


class Publish(beam.DoFn):
    """Lists of messages in, nothing out."""

    def process(self, element: list[Message]) -> None:
        assert PUBLISHER is not None, "publish.PUBLISHER is set before the flow runs"
        with stage("publish", len(element)) as out:
            for message in element:
                PUBLISHER.send(message)
            out.append(0 if PUBLISHER.muted else len(element))


class PublishAtLeastOnce(beam.DoFn):
    """Lists of messages in, nothing out; for runners whose checkpoints know nothing of our transactions. A bundle waits for its answers."""

    def __init__(self, options: Mapping[str, Any], *, application: str, prefix: str) -> None:
        self._options, self._application, self._prefix = dict(options), application, prefix
        self._producer: KafkaProducer | None = None
        self._sent: list[Any] = []

    def setup(self) -> None:
        self._producer = KafkaProducer(**self._options, **PLAIN, value_serializer=OrNothing())

    def process(self, element: list[Message]) -> None:
        assert self._producer is not None, "Beam sets a function up before it is used"
        for message in element:
            value = NOTHING if message.value is None else message.value
            told = headers(message, self._application)
            self._sent.append(self._producer.send(topic(self._prefix, message.kind), key=message.key, value=value, headers=told))

    def finish_bundle(self) -> None:
        """Raises what a record was not taken for: the runner does the bundle again."""
        sent, self._sent = self._sent, []
        for one in sent:
            one.get(timeout=COMMIT_SECONDS)

    def teardown(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=ABORT_SECONDS)


class KafkaPublisher:
    """The transactional producer of an application; the engine's Committer.

    To make one fences whoever held the application before, and aborts what they had open.
    """

    def __init__(self, options: Mapping[str, Any], *, application: str, prefix: str, metrics: Metrics | None = None) -> None:
        self._options = dict(options)
        self._application = application
        self._prefix = prefix
        self._metrics = metrics
        self._muted = False
        self._in_flight = 0
        self._causes: list[int] = []  # stamps (us) of what the open transaction's forecasts waited for
        self._forecasts = 0
        self.commits = 0
        self.latency = Latency()
        self._partitions: dict[str, list[TopicPartition]] = {}  # of our topics, as the present producer found them
        self._refused: list[tuple[Exception, str, int]] = []  # by the present producer's callbacks: why, topic, bytes
        self._producer = self._begin()

    def _begin(self) -> KafkaProducer:
        """A producer that has fenced its predecessors, in a transaction."""
        try:
            producer = KafkaProducer(
                **self._options, **OPTIONS, transactional_id=f"tidecast-{self._application}", value_serializer=OrNothing()
            )
        except errors.KafkaError as error:
            raise nobody(self._options) from error
        # A producer whose epoch is refused would ask for a new one by itself, in the middle of our transaction
        producer._transaction_manager._api_version = (2, 4)  # noqa: SLF001 - before that was possible
        try:
            producer.init_transactions()
            producer.begin_transaction()
        except errors.KafkaError as error:
            drop(producer)
            if isinstance(error, FENCING):
                raise Fenced(f"another instance of {self._application!r} has taken over") from error
            if isinstance(error, errors.AuthorizationError):
                why = f"transactional id tidecast-{self._application}: the user needs WRITE and DESCRIBE on it: {error}"
                raise PublishError(why) from error
            raise CommitLost(f"no transaction can be begun: {error}") from error
        self._in_flight, self._refused, self._partitions = 0, [], {}
        watch_splits(producer._accumulator, self._refused)  # noqa: SLF001
        return producer

    def send(self, message: Message) -> None:
        """Into the open transaction; dropped while muted. Raises PublishError and its kinds."""
        if self._muted:
            return
        self._put(topic(self._prefix, message.kind), message.key, message.value, message)
        if message.kind == "forecasts":
            self._forecasts += 1
            if message.cause:
                self._causes.append(message.cause)

    def _put(self, name: str, key: bytes | None, value: bytes | None, message: Message | None = None) -> None:
        """`message`: the one whose headers it has; None: it has none."""
        told = written(()) if message is None else written_headers(message, self._application)
        size = len(key or b"") + len(value or b"") + len(told)
        if self._in_flight + size > IN_FLIGHT_BYTES:
            self._flush(time.monotonic() + COMMIT_SECONDS)
        self._in_flight += size
        where = self._where(name, key) if key is not None else None
        if where is not None and key is not None and value is not None and size <= LITTLE_BYTES and self._join(where, key, value, told):
            return
        partition = None if where is None else where.partition
        try:
            listed = [] if message is None else headers(message, self._application)
            sent = self._producer.send(name, key=key, value=NOTHING if value is None else value, headers=listed, partition=partition)
        except (errors.KafkaError, ValueError) as error:  # ValueError: the partition has gone, with the topic's former life
            raise self._named(error, name, size) from error
        sent.add_errback(refused, self._refused, name, size)

    def _where(self, name: str, key: bytes) -> TopicPartition | None:
        """The partition that every Kafka client would choose; None: ask the client, who has to look first."""
        there = self._partitions.get(name)
        if there is None:
            found = self._producer._metadata.partitions_for_topic(name)  # noqa: SLF001 - the public call waits for topics that are gone
            if not found:
                return None
            there = self._partitions[name] = [TopicPartition(name, p) for p in sorted(found)]
        return there[hashed(key) % len(there)]

    def _join(self, where: TopicPartition, key: bytes, value: bytes, told: bytes) -> bool:
        """Into the batch that is open for the partition, if there is one and it has room.

        The client's own way makes a future for every record and looks at its transaction three times: 98 us a message.
        What becomes of a batch is told by the future of its first record, which has gone the client's own way; what becomes of the
        parts of one that had to be split, by `watch_splits`.
        """
        to = self._producer._accumulator  # noqa: SLF001
        with to._tp_lock(where):  # noqa: SLF001
            open_ = to._batches[where]  # noqa: SLF001
            return bool(open_) and append(open_[-1], key, value, told)

    def _flush(self, deadline: float) -> None:
        accumulator = self._producer._accumulator  # noqa: SLF001 - the client's own `flush` fails where a batch is split meanwhile
        accumulator.begin_flush()
        self._producer._sender.wakeup()  # noqa: SLF001
        try:
            while waiting := accumulator._incomplete.all():  # noqa: SLF001
                if waiting[0].produce_future.wait(SPLIT_SECONDS):
                    time.sleep(0)  # answered, and about to be let go by the sender's thread
                if time.monotonic() > deadline:
                    raise self._named(TimeoutError("no answer in time"), "")
        finally:
            accumulator._flushes_in_progress.decrement()  # noqa: SLF001
        self._in_flight = 0
        if self._refused:
            raise self._named(*self._refused[0])

    def _named(self, error: Exception, name: str, size: int = 0) -> PublishError:
        """What is behind an error of the client, and what to do about it."""
        if self._refused:
            error, name, size = self._refused[0]  # all that came after follows from it
        cause = self._producer._transaction_manager.last_error or error  # noqa: SLF001 - its own error hides the cause
        if self._metrics is not None:
            self._metrics.publish_failures.inc()
        if isinstance(cause, FENCING):
            return Fenced(f"another instance of {self._application!r} has taken over")
        if isinstance(cause, errors.GroupAuthorizationFailedError):
            return PublishError(f"consumer group {self._application}: the user needs READ on it to commit positions: {cause}")
        if isinstance(cause, errors.TopicAuthorizationFailedError):
            which = ", ".join(sorted(map(str, cause.args[0]))) if cause.args and isinstance(cause.args[0], set | frozenset) else name
            return PublishError(f"{which}: the user needs WRITE on it: {cause}")
        if isinstance(cause, errors.AuthorizationError):
            return PublishError(f"the user needs WRITE on transactional id tidecast-{self._application} and on {name}: {cause}")
        if isinstance(cause, errors.MessageSizeTooLargeError):
            return PublishError(f"{name} takes no record of {size:,} bytes: raise its max.message.bytes: {cause}")
        gone = self._gone()
        if gone:
            return PublishError(f"{', '.join(gone)} is missing: run `tidecast topics apply`")
        return CommitLost(f"{name or 'the brokers'}: {type(cause).__name__}: {cause}")

    def _gone(self) -> list[str]:
        """Our topics that are not there any more; the client itself waits for ever for them to come back."""
        try:
            found = plan({**self._options, "bootstrap_timeout_ms": ASKING_MS}, wanted(self._prefix, 1))
        except TopicsError:
            return []  # nobody answers: the outage is the news, not the topics
        return [difference.topic for difference in found if difference.what == MISSING]

    @property
    def muted(self) -> bool:
        return self._muted

    def mute(self, muted: bool, /) -> None:  # noqa: FBT001 - one flag, named by the verb
        self._muted = muted

    def commit(self, record: dict[str, Any]) -> None:
        """All since the last commit, the positions and the record, in one transaction; returns when it is committed.

        Raises Fenced; PublishError; CommitLost when it is certain that nothing was committed, or nobody can say.
        """
        began = time.monotonic()
        deadline = began + COMMIT_SECONDS
        self._put(topic(self._prefix, "commits"), self._application.encode(), json.dumps(record).encode())
        self._flush(deadline)
        try:
            self._add_positions(record["account"].get("positions", ()), deadline)
            ending = self._producer._transaction_manager.begin_commit()  # noqa: SLF001 - the public call waits for ever
        except (errors.KafkaError, TimeoutError) as error:
            raise self._named(error, "") from error
        try:
            self._await(ending, deadline)
        except (errors.KafkaError, TimeoutError) as error:
            self._find_out(record, error)
        else:
            self._producer.begin_transaction()
        self._told(time.monotonic() - began)

    def _add_positions(self, positions: Sequence[tuple[str, int, int]], deadline: float) -> None:
        if positions:
            offsets = {TopicPartition(name, p): OffsetAndMetadata(position, "", -1) for name, p, position in positions}
            self._await(self._producer._transaction_manager.send_offsets_to_transaction(offsets, self._application), deadline)  # noqa: SLF001

    def _await(self, result: Any, deadline: float) -> None:
        self._producer._sender.wakeup()  # noqa: SLF001
        if not result.wait(timeout_ms=max(deadline - time.monotonic(), 0.1) * 1e3):
            raise TimeoutError("no answer in time")

    def _find_out(self, record: dict[str, Any], error: Exception) -> None:
        """The answer to a commit was lost: take the transaction over from ourselves, and read what became of it."""
        if isinstance(self._producer._transaction_manager.last_error, FENCING):  # noqa: SLF001
            raise self._named(error, "") from error  # who has taken over reads the truth; to fence them would be war
        self._outcome("indefinite")
        drop(self._producer)
        self._producer = self._begin()
        last = self.last()
        if last is None or last["number"] < record["number"]:
            self._outcome("aborted")
            raise CommitLost(f"commit {record['number']} did not happen: {error}") from error
        if last != json.loads(json.dumps(record)):
            raise Fenced(f"commit {record['number']} of {self._application!r} is another instance's")

    def _outcome(self, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.commits.labels(outcome=outcome).inc()

    def _told(self, seconds: float) -> None:
        self.commits += 1
        now = time.time()
        waited = [max(now - cause / 1e6, 0.0) for cause in self._causes]
        for one in waited:
            self.latency.add(one)
        self._outcome("committed")
        if self._metrics is not None:
            self._metrics.commit_duration_seconds.observe(seconds)
            self._metrics.forecasts_published.inc(self._forecasts)
            for one in waited:
                self._metrics.forecast_latency_seconds.observe(one)
        self._causes, self._forecasts = [], 0

    def last(self) -> dict[str, Any] | None:
        """The last committed record of this application; None if there has never been one."""
        found = newest(self._options, topic(self._prefix, "commits"), self._application.encode())
        return None if found is None else json.loads(found)

    def latency_ms(self) -> dict[str, float | None]:
        return self.latency.ms()

    def close(self) -> None:
        """Give the connection back. What is not committed is aborted, so that no reader has to wait for its time-out."""
        with suppress(errors.KafkaError, TimeoutError):
            self._await(self._producer._transaction_manager.begin_abort(), time.monotonic() + ABORT_SECONDS)  # noqa: SLF001
        drop(self._producer)


@lru_cache(maxsize=1 << 17)
def hashed(key: bytes) -> int:
    """As Kafka's own partitioner has it; 15 us in Python, and the same few series come again and again."""
    return int(murmur2(key)) & 0x7FFFFFFF


def refused(found: list[tuple[Exception, str, int]], name: str, size: int, error: Exception) -> None:
    """In the sender's thread: a record of `size` bytes was not taken by a topic."""
    found.append((error, name, size))


def watch_splits(accumulator: Any, found: list[tuple[Exception, str, int]]) -> None:
    """A batch that a broker finds too large is split by the client, which then tells only those records that have a future."""
    own = weakref.ref(accumulator)  # it holds what follows: a producer that is dropped goes at once, with its sockets

    def and_tell(batch: Any, now: float | None = None) -> int:
        to = own()
        assert to is not None, "whoever splits is alive"
        parts = int(type(to).split_and_reenqueue(to, batch, now=now))
        where = batch.topic_partition
        with to._tp_lock(where):  # noqa: SLF001
            for part in islice(to._batches[where], parts):  # noqa: SLF001
                part.produce_future.add_callback(refused_part, found, where.topic)
        return parts

    accumulator.split_and_reenqueue = and_tell


def refused_part(found: list[tuple[Exception, str, int]], name: str, result: tuple[int, int, Any]) -> None:
    """In the sender's thread: what became of a part; the third of `result` tells errors by record, None: it was taken."""
    if result[2] is not None:
        found.append((result[2](0), name, 0))


def drop(producer: KafkaProducer) -> None:
    """Close without sending what is left; the client's own `close` waits for that, and gives up half-way when it cannot."""
    producer._sender.force_close()  # noqa: SLF001
    with suppress(errors.KafkaError):
        producer.close(timeout=1)


def nobody(options: Mapping[str, Any]) -> CommitLost:
    return CommitLost(f"no broker answers at {', '.join(options['bootstrap_servers'])}; is kafka.bootstrap right?")


@contextmanager
def reader(options: Mapping[str, Any], partition: TopicPartition, isolation: str) -> Iterator[KafkaConsumer]:
    """A consumer of one partition, in no group. Raises PublishError, CommitLost."""
    if not anybody(options["bootstrap_servers"]):
        raise nobody(options)
    try:
        consumer = KafkaConsumer(
            **options, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", isolation_level=isolation,
            allow_auto_create_topics=False, metrics_enabled=False, bootstrap_timeout_ms=INIT_MS,
        )  # fmt: skip
    except errors.KafkaError as error:
        raise nobody(options) from error
    try:
        if not consumer.partitions_for_topic(partition.topic):
            raise PublishError(f"{partition.topic} is missing: run `tidecast topics apply`")
        consumer.assign([partition])
        yield consumer
    except errors.TopicAuthorizationFailedError as error:
        raise PublishError(f"{partition.topic}: the user needs READ on it") from error
    except errors.KafkaError as error:
        raise CommitLost(f"{partition.topic} cannot be read: {type(error).__name__}: {error}") from error
    finally:
        consumer.close(autocommit=False)


def newest(options: Mapping[str, Any], name: str, key: bytes) -> bytes | None:
    """The value of the newest committed record with `key` in a topic of one partition, as it is now; None: there is none.

    Read from the end in windows that widen, so that a topic not compacted for long costs nothing. Another application's
    open transaction may hide our own committed record; it is waited for, never guessed past.
    """
    partition = TopicPartition(name, 0)
    with reader(options, partition, "read_committed") as consumer:
        upper, begin = settled(options, consumer, partition), offsets(consumer.beginning_offsets, [partition])[partition]
        width = WINDOW
        while upper > begin:
            lower = max(begin, upper - width)
            found = [value for k, value in between(consumer, partition, lower, upper) if k == key]
            if found:
                return found[-1]
            upper, width = lower, width * 4
    return None


def oldest(options: Mapping[str, Any], name: str) -> float | None:
    """The timestamp (s) of the oldest record in a topic; None: it is empty. Raises CommitLost, PublishError."""
    with reader(options, TopicPartition(name, 0), "read_committed") as consumer:
        partitions = [TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name) or ())]
        return min((one.timestamp / 1e3 for one in since(consumer, partitions, 0).values() if one is not None), default=None)


def settled(options: Mapping[str, Any], consumer: KafkaConsumer, partition: TopicPartition) -> int:
    """The end of a partition, once everything that is there now is decided. Raises CommitLost where that takes too long."""
    with reader(options, partition, "read_uncommitted") as anyone:
        end: int = offsets(anyone.end_offsets, [partition])[partition]
    deadline = time.monotonic() + READ_SECONDS
    while (stable := offsets(consumer.end_offsets, [partition])[partition]) < end:
        if time.monotonic() > deadline:
            raise CommitLost(f"{partition.topic} has an open transaction at {stable:,}: its owner died; wait until it times out")
        time.sleep(0.1)
    return end


def between(consumer: KafkaConsumer, partition: TopicPartition, lower: int, upper: int) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Keys and values of the committed records in [lower, upper)."""
    consumer.seek(partition, lower)
    heard, position = time.monotonic(), lower
    while position < upper:
        for records in consumer.poll(timeout_ms=500).values():
            yield from ((r.key, r.value) for r in records if r.offset < upper)
        reached = consumer.position(partition, timeout_ms=5_000)
        if reached is not None and reached > position:
            heard, position = time.monotonic(), reached
        elif time.monotonic() > heard + READ_SECONDS:
            raise CommitLost(f"{partition.topic} cannot be read past {position:,}: the brokers do not answer")


def refuse_if_alive(options: Mapping[str, Any], *, application: str, prefix: str) -> None:
    """Raises StillAlive when the heartbeat of another instance moves within `ALIVE_SECONDS`.

    Nothing is waited for where there has never been a heartbeat, or where the last one said good-bye.
    """
    name, key = topic(prefix, "status"), application.encode()
    deadline = time.monotonic() + ALIVE_SECONDS
    first = newest(options, name, key)
    while True:
        last = newest(options, name, key)
        if last is None or json.loads(last)["state"] == "stopped":
            return
        if last != first:
            raise StillAlive(f"an instance of {application!r} is running (its heartbeat moves): stop it, or start with --take-over")
        if time.monotonic() > deadline:
            return  # nobody's: it died without a word
        time.sleep(0.5)


class Heart:
    """Writes the status once a second, outside any transaction: it must not stop where commits do."""

    def __init__(self, options: Mapping[str, Any], *, application: str, prefix: str, instance: str) -> None:
        self._topic = topic(prefix, "status")
        self._application = application
        self._instance = instance
        self._beats = 0
        try:
            self._producer = KafkaProducer(
                **options, acks=1, enable_idempotence=False, linger_ms=0, max_block_ms=1_000, bootstrap_timeout_ms=INIT_MS,
                allow_auto_create_topics=False, metrics_enabled=False,
                max_in_flight_requests_per_connection=1,  # a beat that is sent again must not come after the good-bye
            )  # fmt: skip
        except errors.KafkaError as error:
            raise nobody(options) from error

    def beat(self, status: Mapping[str, Any], *, state: str = "running") -> None:
        """Raises nothing: a status that cannot be written is one that is not seen."""
        self._beats += 1
        of = {"application": self._application, "instance": self._instance, "beat": self._beats, "state": state}
        value = encode(Status(**{**status, **of}))
        with suppress(errors.KafkaError):
            self._producer.send(self._topic, key=self._application.encode(), value=value)

    def close(self, status: Mapping[str, Any]) -> None:
        self.beat(status, state="stopped")
        with suppress(errors.KafkaError):
            self._producer.flush(timeout=2)
        drop(self._producer)


class FilePublisher:
    """`replay --out`: one NDJSON file per topic, or forecasts on stdout, or nowhere."""

    muted = False

    def __init__(self, out: str | None) -> None:
        self._folder = Path(out) if out not in (None, "-") else None
        self._stdout = out == "-"
        self._files: dict[str, IO[bytes]] = {}
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            for kind in ("forecasts", "scores", "late", "rejected", "decisions"):
                self._files[kind] = (self._folder / f"{kind}.ndjson").open("wb")

    def send(self, message: Message) -> None:
        line = as_json(message) if message.kind == "rejected" else message.value or b"null"
        if message.kind in self._files:
            self._files[message.kind].write(line + b"\n")
        elif self._stdout and message.kind == "forecasts":
            sys.stdout.buffer.write(line + b"\n")

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._stdout:
            sys.stdout.buffer.flush()


def as_json(message: Message) -> bytes:
    """A record of any bytes as one line of JSON."""

    def packed(data: bytes | None) -> str | None:
        return None if data is None else base64.b64encode(data).decode()

    told = {name: value.decode("utf-8", "replace") for name, value in message.headers}
    return json.dumps(
        {"id": message.id, "key_base64": packed(message.key), "value_base64": packed(message.value), "headers": told}
    ).encode()
