"""Messages to Kafka, in one transaction per commit, or to files. The transaction is the commit point of the engine.

A commit holds the messages since the one before, the consumer's offsets, and the record that says how far we are: all or
nothing. Whoever reads `read_committed` sees every message once.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import apache_beam as beam
from kafka import KafkaConsumer, KafkaProducer, TopicPartition, errors
from kafka.structs import OffsetAndMetadata

from pipeline.metrics import Metrics
from pipeline.records import Message, rfc3339
from pipeline.topics import topic

COMMIT_SECONDS = 20.0  # a broker answers in milliseconds; past this it is away, and nothing may block longer than 30 s
INIT_MS = 25_000
IN_FLIGHT_BYTES = 16 << 20  # sent and not acknowledged; the client itself has no limit
ALIVE_SECONDS = 5.0  # a live instance beats once a second

OPTIONS: Mapping[str, Any] = {
    "acks": "all",
    "enable_idempotence": True,
    "linger_ms": 5,
    "batch_size": 256 << 10,  # one batch a partition and commit, mostly: fewer requests, better compression
    "max_request_size": 8 << 20,
    "max_block_ms": INIT_MS,
    "delivery_timeout_ms": 20_000,
    "request_timeout_ms": 10_000,
    "reconnect_backoff_max_ms": 1_000,
    "allow_auto_create_topics": False,
    "transaction_timeout_ms": 60_000,
    "metrics_enabled": False,
}


class PublishError(Exception):
    """Nothing can be published; the message names the topic and what is missing."""


class Fenced(PublishError):  # noqa: N818 - reads as what happened
    """Another instance of this application has taken over."""


class StillAlive(PublishError):  # noqa: N818
    """Another instance of this application is running."""


class CommitLost(PublishError):  # noqa: N818
    """The commit did not happen, or the brokers are away: everything since the last commit has to be done again."""


FENCING = (errors.ProducerFencedError, errors.InvalidProducerEpochError)


class Publisher(Protocol):
    """Where messages go."""

    def send(self, message: Message) -> None: ...


PUBLISHER: Publisher | None = None  # of the run in this process; a DoFn cannot carry a connection


class Publish(beam.DoFn):
    """Lists of messages in, nothing out."""

    def process(self, element: list[Message]) -> None:
        assert PUBLISHER is not None, "publish.PUBLISHER is set before the flow runs"
        for message in element:
            PUBLISHER.send(message)


def headers(message: Message, application: str) -> list[tuple[str, bytes]]:
    """CloudEvents 1.0 in binary mode on what is ours; a rejected record has only its own, and the reason."""
    if message.kind == "rejected":
        return list(message.headers)
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", message.id.encode()),
        ("ce_source", f"/tidecast/{application}".encode()),
        ("ce_type", f"io.tidecast.{SINGULAR[message.kind]}.v1".encode()),
        ("ce_time", rfc3339(message.at).encode()),
        ("content-type", b"application/json"),
        *message.headers,
    ]


SINGULAR = {"forecasts": "forecast", "scores": "score", "late": "late", "models": "model", "decisions": "decision", "status": "status"}


class Latency:
    """Milliseconds from append to readable: quantiles of all so far, from counts in classes 2 % wide.

    >>> latency = Latency()
    >>> for ms in range(1, 101): latency.add(ms / 1e3)
    >>> 49 < latency.ms()["p50"] < 52, 98 < latency.ms()["p99"] < 102
    (True, True)
    """

    def __init__(self) -> None:
        self._classes: dict[int, int] = {}
        self.count = 0

    def add(self, seconds: float) -> None:
        import math

        at = math.ceil(math.log(max(seconds, 1e-4)) / math.log(1.02))
        self._classes[at] = self._classes.get(at, 0) + 1
        self.count += 1

    def ms(self) -> dict[str, float | None]:
        return {"p50": self._quantile(0.5), "p99": self._quantile(0.99)}

    def _quantile(self, share: float) -> float | None:
        seen = 0
        classes = dict(self._classes)
        for at in sorted(classes):
            seen += classes[at]
            if seen >= share * self.count:
                return round(1e3 * 1.02**at, 1)
        return None


class KafkaPublisher:
    """The transactional producer of an application; the engine's Committer.

    Made by `KafkaPublisher.take`, which fences whoever held the application before.
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
        self.failed: Exception | None = None  # of a send, seen by its callback
        self._producer = self._begin()

    def _begin(self) -> KafkaProducer:
        """A producer that has fenced its predecessors, in a transaction. What they had open is aborted."""
        try:
            producer = KafkaProducer(**self._options, **OPTIONS, transactional_id=f"tidecast-{self._application}")
        except errors.KafkaError as error:
            raise CommitLost(f"no broker answers at {', '.join(self._options['bootstrap_servers'])}: {error}") from error
        try:
            producer.init_transactions()
            producer.begin_transaction()
        except FENCING as error:
            producer.close(timeout=0)
            raise Fenced(f"another instance of {self._application!r} has taken over") from error
        except errors.AuthorizationError as error:
            producer.close(timeout=0)
            why = f"transactional id tidecast-{self._application}: the user needs WRITE and DESCRIBE on it: {error}"
            raise PublishError(why) from error
        except errors.KafkaError as error:
            producer.close(timeout=0)
            raise CommitLost(f"no transaction can be begun: {error}") from error
        return producer

    # Committer

    def send(self, message: Message) -> None:
        """Into the open transaction; dropped while muted."""
        if self._muted:
            return
        self._put(topic(self._prefix, message.kind), message.key, message.value, headers(message, self._application))
        if message.kind == "forecasts":
            self._forecasts += 1
            if message.cause:
                self._causes.append(message.cause)

    def _put(self, name: str, key: bytes | None, value: bytes | None, told: list[tuple[str, bytes]]) -> None:
        size = len(key or b"") + len(value or b"")
        if self._in_flight + size > IN_FLIGHT_BYTES:
            self._flush()
        self._in_flight += size
        try:
            self._producer.send(name, key=key, value=value, headers=told).add_errback(self._refused, name)
        except errors.MessageSizeTooLargeError as error:
            raise PublishError(f"{name}: a record of {size:,} bytes is too large for the producer: {error}") from error
        except errors.KafkaError as error:
            raise self._named(error, name) from error

    def _refused(self, name: str, error: Exception) -> None:
        if self.failed is None:
            self.failed = self._named(error, name)

    def _named(self, error: Exception, name: str) -> Exception:
        if isinstance(error, FENCING):
            return Fenced(f"another instance of {self._application!r} has taken over")
        if isinstance(error, errors.AuthorizationError):
            return PublishError(f"{name}: the user needs WRITE on it: {error}")
        if isinstance(error, errors.UnknownTopicOrPartitionError | errors.KafkaTimeoutError) and self._gone(name):
            return PublishError(f"{name} does not exist: run `tidecast topics apply`")
        if isinstance(error, errors.MessageSizeTooLargeError):
            return PublishError(f"{name}: the broker takes no record so large; raise the topic's max.message.bytes: {error}")
        return CommitLost(f"{name}: {type(error).__name__}: {error}")

    def _gone(self, name: str) -> bool:
        try:
            return self._producer._metadata.partitions_for_topic(name) is None  # noqa: SLF001 - asking the producer would block
        except AttributeError:
            return False

    def _flush(self) -> None:
        try:
            self._producer.flush(timeout=COMMIT_SECONDS)
        except errors.KafkaError as error:
            raise self.failed or CommitLost(f"the brokers do not take what we send: {error}") from error
        self._in_flight = 0
        if self.failed is not None:
            raise self.failed

    def mute(self, muted: bool, /) -> None:  # noqa: FBT001 - one flag, named by the verb
        self._muted = muted

    def commit(self, record: dict[str, Any]) -> None:
        """All since the last commit, the positions and the record, in one transaction.

        Raises Fenced; PublishError; CommitLost when it is certain that nothing was committed.
        """
        began = time.monotonic()
        name = topic(self._prefix, "commits")
        self._put(name, self._application.encode(), json.dumps(record).encode(), [])
        self._flush()
        try:
            self._end(record)
        except FENCING as error:
            raise Fenced(f"another instance of {self._application!r} has taken over") from error
        except errors.AuthorizationError as error:
            raise PublishError(f"the commit is refused: the user needs READ on group {self._application}: {error}") from error
        except (errors.KafkaError, TimeoutError) as error:
            self._find_out(record, error)
        self.commits += 1
        self._told(time.monotonic() - began)

    def _end(self, record: dict[str, Any]) -> None:
        positions = record["account"].get("positions", [])
        manager = self._producer._transaction_manager  # noqa: SLF001 - the public calls wait for ever
        if positions:
            offsets = {TopicPartition(name, p): OffsetAndMetadata(position, "", -1) for name, p, position in positions}
            self._await(manager.send_offsets_to_transaction(offsets, self._application))
        self._await(manager.begin_commit())
        self._producer.begin_transaction()

    def _await(self, result: Any) -> None:
        self._producer._sender.wakeup()  # noqa: SLF001
        if not result.wait(timeout_ms=COMMIT_SECONDS * 1e3):
            raise TimeoutError(f"no answer within {COMMIT_SECONDS:.0f} s")

    def _find_out(self, record: dict[str, Any], error: Exception) -> None:
        """The answer to a commit was lost: take the transaction over from ourselves, and read what became of it."""
        if self._metrics is not None:
            self._metrics.commits.labels(outcome="indefinite").inc()
        self._producer.close(timeout=0)
        self._in_flight = 0
        self._producer = self._begin()
        last = self.last()
        if last is None or last["number"] < record["number"]:
            if self._metrics is not None:
                self._metrics.commits.labels(outcome="aborted").inc()
            raise CommitLost(f"commit {record['number']} did not happen: {error}") from error
        if last["snapshot"] != record["snapshot"] or last["account"] != json.loads(json.dumps(record["account"])):
            raise Fenced(f"commit {record['number']} of {self._application!r} is another instance's")

    def _told(self, seconds: float) -> None:
        now = time.time()
        for cause in self._causes:
            self.latency.add(now - cause / 1e6)
        if self._metrics is not None:
            m = self._metrics
            m.commits.labels(outcome="committed").inc()
            m.commit_duration_seconds.observe(seconds)
            m.forecasts_published.inc(self._forecasts)
            for cause in self._causes:
                m.forecast_latency_seconds.observe(max(now - cause / 1e6, 0.0))
        self._causes, self._forecasts = [], 0

    def last(self) -> dict[str, Any] | None:
        """The last committed record of this application; None if there has never been one."""
        found = None
        for key, value in whole(self._options, topic(self._prefix, "commits")):
            if key == self._application.encode() and value is not None:
                found = json.loads(value)
        return found

    def latency_ms(self) -> dict[str, float | None]:
        return self.latency.ms()

    def close(self) -> None:
        """Give the connection back; what is not committed is aborted by whoever comes next."""
        self._producer.close(timeout=1)


def whole(options: Mapping[str, Any], name: str) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Every committed record of a topic of one partition, as it is now. Raises PublishError when it does not exist."""
    consumer = KafkaConsumer(
        **options, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", isolation_level="read_committed",
        allow_auto_create_topics=False, metrics_enabled=False,
    )  # fmt: skip
    try:
        partition = TopicPartition(name, 0)
        if not consumer.partitions_for_topic(name):
            raise PublishError(f"{name} does not exist: run `tidecast topics apply`")
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        end = consumer.end_offsets([partition])[partition]
        while consumer.position(partition) < end:
            for records in consumer.poll(timeout_ms=500).values():
                yield from ((r.key, r.value) for r in records)
    except errors.TopicAuthorizationFailedError as error:
        raise PublishError(f"{name}: the user needs READ on it") from error
    except errors.KafkaError as error:
        raise CommitLost(f"{name} cannot be read: {type(error).__name__}: {error}") from error
    finally:
        consumer.close(autocommit=False)


def refuse_if_alive(options: Mapping[str, Any], *, application: str, prefix: str) -> None:
    """Raises StillAlive when the heartbeat of another instance moves within `ALIVE_SECONDS`.

    Nothing is waited for where there has never been a heartbeat, or where the last one said good-bye.
    """
    name, key = topic(prefix, "status"), application.encode()
    first = None
    deadline = time.monotonic() + ALIVE_SECONDS
    while True:
        beat = None
        for k, value in whole(options, name):
            if k == key and value is not None:
                beat = json.loads(value)
        if beat is None or beat.get("state") == "stopped":
            return
        first = first or beat
        if (beat["instance"], beat["beat"]) != (first["instance"], first["beat"]):
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
        self._producer = KafkaProducer(
            **options, acks=1, linger_ms=0, max_block_ms=1_000, allow_auto_create_topics=False, metrics_enabled=False
        )

    def beat(self, status: Mapping[str, Any], *, state: str = "running") -> None:
        """Raises nothing: a status that cannot be written is one that is not seen."""
        self._beats += 1
        value = {"application": self._application, "instance": self._instance, "beat": self._beats, "state": state, **status}
        try:
            self._producer.send(self._topic, key=self._application.encode(), value=json.dumps(value).encode())
        except errors.KafkaError:
            return

    def close(self, status: Mapping[str, Any]) -> None:
        self.beat(status, state="stopped")
        try:
            self._producer.flush(timeout=2)
        except errors.KafkaError:
            pass
        self._producer.close(timeout=1)


class FilePublisher:
    """`replay --out`: one NDJSON file per topic, or forecasts on stdout, or nowhere."""

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
