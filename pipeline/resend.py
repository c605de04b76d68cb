"""What could not be used, looked at, and sent again to where it came from: the same key, value and headers, once a run."""

from __future__ import annotations

import base64
import heapq
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kafka import KafkaConsumer, KafkaProducer, TopicPartition, errors

from pipeline.quantities import plain
from pipeline.records import rfc3339, stamp_us
from pipeline.rejected import ATTEMPT, OURS, untouched
from pipeline.topics import ANSWER_MS, anybody, offsets, since

SILENCE_SECONDS = 25.0  # without news while reading
TRANSACTION_RECORDS = 1_000  # those who read the input wait for the end of a transaction: some 300 ms
TRANSACTION_BYTES = 8 << 20  # the client itself has no limit
ANSWER_SECONDS = 20.0


class ResendError(Exception):
    """Rejected records cannot be read or sent; the message names the topic and what to do."""


class Kept(NamedTuple):
    """A rejected record as it lies in the rejected topic."""

    partition: int
    offset: int
    stamp: int  # ms of wall clock, when it was rejected
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]  # its own
    told: dict[str, str]  # ours, without their prefix


class Choice(NamedTuple):
    """Which ones."""

    reason: str | None = None
    topic: str | None = None  # that they were read from
    since: int = 0  # ms of wall clock, when they were rejected

    def takes(self, one: Kept) -> bool:
        return self.reason in (None, one.told.get("reason")) and self.topic in (None, one.told.get("topic"))


def kept(record: Any) -> Kept:
    told = {name.removeprefix(OURS): value.decode("utf-8", "replace") for name, value in record.headers if name.startswith(OURS)}
    own = untouched([(name, value or b"") for name, value in record.headers])
    return Kept(record.partition, record.offset, record.timestamp, record.key, record.value, tuple(own), told)


def origin(one: Kept) -> tuple[str, int, int] | None:
    """Topic, partition and offset that it came from; None: nobody says."""
    try:
        return one.told["topic"], int(one.told["partition"]), int(one.told["offset"])
    except (KeyError, ValueError):
        return None


def unfit(one: Kept) -> str | None:
    """Why it cannot be sent again as it was; None: it can."""
    told = one.told
    if "bytes" in told:
        return f"its value of {told['bytes']} bytes was too large to be kept"
    if "key_bytes" in told:
        return f"its key of {told['key_bytes']} bytes was too large to be kept"
    if "headers" in told:
        return f"its {told['headers']} headers were too large to be kept"
    if origin(one) is None:
        return "its headers do not say where it came from"
    if one.key is None and one.value is None:
        return "nothing of it was kept" if told.get("reason") == "corrupt" else "it has neither key nor value"
    return None


# Looking


def listing(options: Mapping[str, Any], topic: str, choice: Choice, *, limit: int) -> dict[str, Any]:
    """How many there are by topic and reason, and the newest of them, newest first. Raises ResendError."""
    counts: Counter[tuple[str, str]] = Counter()
    newest: list[tuple[int, int, int, Kept]] = []
    with reading(options) as consumer:
        for one in chosen(consumer, topic, choice):
            counts[one.told.get("topic", "?"), one.told.get("reason", "?")] += 1
            heapq.heappush(newest, (one.stamp, one.partition, one.offset, one))
            if len(newest) > limit:
                heapq.heappop(newest)
    return {
        "topic": topic,
        "matching": counts.total(),
        "counts": [{"topic": name, "reason": reason, "records": count} for (name, reason), count in sorted(counts.items())],
        "records": [shown(one) for *_, one in sorted(newest, reverse=True)],
    }


def shown(one: Kept) -> dict[str, Any]:
    """One record for programs: bytes as base64, whatever is in them."""
    return {
        "partition": one.partition,
        "offset": one.offset,
        "rejected_at": rfc3339(stamp_us(one.stamp)),
        **{name: one.told.get(name) for name in ("reason", "stage", "message", "attempt", "version")},
        "from": dict(zip(("topic", "partition", "offset"), origin(one) or (None,) * 3, strict=True)),
        "key_base64": packed(one.key),
        "value_base64": packed(one.value),
        "headers": {name: value.decode("utf-8", "replace") for name, value in one.headers},
        "cannot_be_sent": unfit(one),
    }


def packed(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def list_text(found: Mapping[str, Any]) -> str:
    """For people: two lines a record, safe for a terminal whatever is in it; then how many there are."""
    lines = [line for one in found["records"] for line in lines_of(one)]
    lines += [f"{one['records']:>9,} {plain(one['reason'])} from {plain(one['topic'])}" for one in found["counts"]]
    shown = f"; the newest {len(found['records']):,} are shown" if len(found["records"]) < found["matching"] else ""
    return "\n".join([*lines, f"{found['matching']:>9,} in {found['topic']}{shown}"]) + "\n"


def lines_of(one: Mapping[str, Any]) -> Iterator[str]:
    came, why = one["from"], f"{plain(one['reason'] or 'no reason')}: {plain(one['message'] or 'nobody says why')}"
    where = "from nobody knows where" if came["topic"] is None else f"{plain(came['topic'])}/{came['partition']}@{came['offset']}"
    yield f"{one['rejected_at']}  {where}  attempt {plain(one['attempt'] or '?')}  {why}"
    yield f"    key {as_text(one['key_base64'])}, value {one['cannot_be_sent'] or as_text(one['value_base64'])}"


def as_text(packed: str | None) -> str:
    """Bytes in base64 as a person reads them.

    >>> as_text("eyJhIjogMX0="), as_text(None)
    ('{"a": 1}', 'none')
    """
    return "none" if packed is None else plain(base64.b64decode(packed).decode("utf-8", "replace"))


# Sending again


@dataclass
class Sent:
    """What a run came to."""

    matching: int = 0
    sent: int = 0  # committed; of a dry run: would be
    repeats: int = 0  # of a record that had been sent in this run: several of its observations were rejected
    left: list[dict[str, Any]] = field(default_factory=list)


def resend(options: Mapping[str, Any], topic: str, choice: Choice, *, application: str, to: str | None, dry_run: bool, timed: bool) -> Sent:
    """What is chosen goes to where it came from, or to `to`; what cannot is left, and told. Raises ResendError.

    `timed`: with the Kafka timestamp that it had, for who reads event times from there. Anywhere else an old one would do harm: a broker
    deletes a segment whose records are all older than the topic's retention, read or not.

    Everything up to the end of the topic as it is at the start, each record once: what is rejected again meanwhile lies behind.
    """
    out, done = Sent(), set[tuple[str, int, int]]()
    with reading(options) as consumer, sending(options, application, dry_run=dry_run) as outbox:
        partitions = Partitions(consumer)
        if to is not None and not partitions.of(to):
            raise ResendError(f"{to} does not exist")
        for one in chosen(consumer, topic, choice):
            out.matching += 1
            came, why = origin(one), unfit(one)
            if why is None and not partitions.of(to or came[0]):  # type: ignore[index]  # it is fit: it says where it came from
                why = f"{plain(came[0])} does not exist: --to names another topic"  # type: ignore[index]
            if why is not None or came is None:
                out.left.append({"partition": one.partition, "offset": one.offset, "why": why})
            elif came in done:
                out.repeats += 1
            else:
                done.add(came)
                partition = came[1] if to in (None, came[0]) and came[1] in partitions.of(came[0]) else None
                outbox.put(one, to or came[0], partition, timed=timed)
        outbox.commit()
        out.sent = outbox.sent
    return out


class Partitions:
    """Of topics, asked once; empty where there is no such topic."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer
        self._known: dict[str, frozenset[int]] = {}

    def of(self, topic: str) -> frozenset[int]:
        if topic not in self._known:
            try:
                self._known[topic] = frozenset(self._consumer.partitions_for_topic(topic) or ())
            except errors.InvalidTopicError:  # a header may say anything
                self._known[topic] = frozenset()
        return self._known[topic]


class Outbox:
    """Records on their way, in transactions; without a producer they are counted."""

    def __init__(self, producer: KafkaProducer | None) -> None:
        self._producer = producer
        self._waiting: list[tuple[Any, str, int]] = []
        self._bytes = 0
        self._records = 0
        self.sent = 0

    def put(self, one: Kept, topic: str, partition: int | None, *, timed: bool) -> None:
        """Without a partition, to that of its key."""
        if self._producer is not None:
            if not self._records:
                self._producer.begin_transaction()
            headers = [*one.headers, (ATTEMPT, one.told.get("attempt", "1").encode())]
            stamp = int(one.told["timestamp"]) if timed and one.told.get("timestamp", "").isdecimal() else None
            sent = self._producer.send(topic, key=one.key, value=one.value, headers=headers, partition=partition, timestamp_ms=stamp)
            size = len(one.key or b"") + len(one.value or b"")
            self._waiting.append((sent, topic, size))
            self._bytes += size
        self._records += 1
        if self._records >= TRANSACTION_RECORDS or self._bytes >= TRANSACTION_BYTES:
            self.commit()

    def commit(self) -> None:
        """All that was put since the last time, or nothing of it. Raises KafkaError, ResendError."""
        if self._producer is not None and self._records:
            for sent, topic, size in self._waiting:  # the client's own `flush` fails where a batch has to be split
                try:
                    sent.get(timeout=ANSWER_SECONDS)
                except errors.MessageSizeTooLargeError as error:
                    raise ResendError(f"{topic} takes no record of {size:,} bytes: raise its max.message.bytes, or see --to") from error
            self._end(self._producer._transaction_manager.begin_commit())  # noqa: SLF001 - the public call waits for ever
        self.sent += self._records
        self._waiting, self._records, self._bytes = [], 0, 0

    def abort(self) -> None:
        """Nothing of what was put since the last time; who reads the input need not wait for a time-out."""
        if self._producer is not None and self._records:
            with suppress(errors.KafkaError, ResendError):
                self._end(self._producer._transaction_manager.begin_abort())  # noqa: SLF001

    def _end(self, ending: Any) -> None:
        assert self._producer is not None, "there is a transaction to end"
        self._producer._sender.wakeup()  # noqa: SLF001
        if not ending.wait(timeout_ms=ANSWER_SECONDS * 1e3):
            raise ResendError("the brokers do not say whether the last transaction has ended")


@contextmanager
def sending(options: Mapping[str, Any], application: str, *, dry_run: bool) -> Iterator[Outbox]:
    """An outbox. Where anything goes wrong its open transaction is aborted, and the error says how much had been committed before."""
    if dry_run:
        yield Outbox(None)
        return
    name = f"tidecast-{application}-rejected"
    try:
        producer = KafkaProducer(**options, **OPTIONS, transactional_id=name)
    except errors.KafkaError as error:
        raise nobody(options) from error
    outbox = Outbox(producer)
    try:
        producer.init_transactions()
        yield outbox
    except (errors.KafkaError, ResendError) as error:
        before = f"; {outbox.sent:,} records had been sent by then, and are committed" if outbox.sent else ""
        raise ResendError(f"{said(error, name)}{before}") from error
    finally:
        outbox.abort()
        producer._sender.force_close()  # noqa: SLF001 - what is not committed must not be waited for
        with suppress(errors.KafkaError):
            producer.close(timeout=1)


OPTIONS: Mapping[str, Any] = {
    "acks": "all",
    "enable_idempotence": True,
    "linger_ms": 20,
    "compression_type": "lz4",
    "max_request_size": 8 << 20,
    "bootstrap_timeout_ms": ANSWER_MS,
    "max_block_ms": ANSWER_MS,
    "delivery_timeout_ms": 15_000,
    "request_timeout_ms": 10_000,
    "transaction_timeout_ms": 30_000,  # of one whose process was killed; until then who reads the input waits for it
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
}


def said(error: Exception, name: str) -> str:
    """What went wrong with a transaction of that name, and what to do."""
    if isinstance(error, errors.ProducerFencedError | errors.InvalidProducerEpochError):
        return "another `rejected replay` of this application has begun"
    if isinstance(error, errors.AuthorizationError):
        return f"the user needs WRITE on the topics that are written, and on transactional id {name}: {type(error).__name__}: {error}"
    return str(error) if isinstance(error, ResendError) else f"{type(error).__name__}: {error}"


# Reading


def nobody(options: Mapping[str, Any]) -> ResendError:
    return ResendError(f"no broker answers at {', '.join(options['bootstrap_servers'])}; is kafka.bootstrap right?")


@contextmanager
def reading(options: Mapping[str, Any]) -> Iterator[KafkaConsumer]:
    """A consumer in no group, of what is committed. Raises ResendError."""
    if not anybody(options["bootstrap_servers"]):
        raise nobody(options)
    try:
        consumer = KafkaConsumer(
            **options, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", isolation_level="read_committed",
            allow_auto_create_topics=False, metrics_enabled=False, bootstrap_timeout_ms=ANSWER_MS,
        )  # fmt: skip
    except errors.KafkaError as error:
        raise nobody(options) from error
    try:
        yield consumer
    finally:
        consumer.close(autocommit=False)


def chosen(consumer: KafkaConsumer, topic: str, choice: Choice) -> Iterator[Kept]:
    """What is chosen of all that is committed now, each partition in its order. Raises ResendError."""
    try:
        for record in committed(consumer, topic, choice.since):
            one = kept(record)
            if choice.takes(one):
                yield one
    except errors.TopicAuthorizationFailedError as error:
        raise ResendError(f"{topic}: the user needs READ on it: {error}") from error
    except errors.KafkaError as error:
        raise ResendError(f"{topic} cannot be read: {type(error).__name__}: {error}") from error


def committed(consumer: KafkaConsumer, topic: str, at: int) -> Iterator[Any]:
    """Every record that is committed now, from a time (ms) on; what comes meanwhile lies behind."""
    partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
    if not partitions:
        raise ResendError(f"{topic} is missing: run `tidecast topics apply`")
    consumer.assign(partitions)
    ends, begins = (offsets(ask, partitions, wait=True) for ask in (consumer.end_offsets, consumer.beginning_offsets))
    if at:
        begins = {p: ends[p] if one is None else one.offset for p, one in since(consumer, partitions, at).items()}
    for partition, begin in begins.items():
        consumer.seek(partition, begin)
    heard = time.monotonic()
    unread = [p for p in partitions if begins[p] < ends[p]]
    while unread:
        for partition, records in consumer.poll(timeout_ms=500).items():
            yield from (record for record in records if record.offset < ends[partition] and record.timestamp >= at)
            heard = time.monotonic()  # whoever takes them may be slow
        unread = [p for p in unread if (consumer.position(p, timeout_ms=5_000) or 0) < ends[p]]
        if unread and time.monotonic() > heard + SILENCE_SECONDS:
            raise ResendError(f"{topic} cannot be read to its end: the brokers do not answer")


def sent_text(found: Sent, topic: str, *, dry_run: bool) -> str:
    """For people: what was left, and why; then the sum."""
    lines = [f"left {topic}/{one['partition']}@{one['offset']}: {one['why']}" for one in found.left]
    repeats = f", {found.repeats:,} say what else is wrong with one of these" if found.repeats else ""
    lines.append(f"{found.sent:,} {'would be' if dry_run else 'were'} sent again{repeats}, {len(found.left):,} left")
    return "\n".join(lines) + "\n"
