"""One Kafka consumer in one thread for all partitions of a process, and what it has read and not handed on.

Positions only ever move by reading: the consumer is assigned, never subscribed, and an offset that does not exist is an error.
Buffers are bounded by reading no further, never by dropping.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from kafka import KafkaConsumer, errors
from kafka.structs import TopicPartition

from pipeline.records import Raw, RawBlock, Source, stamp_us
from pipeline.topics import offsets, since

LOG = logging.getLogger(__name__)

BLOCK_RECORDS = 1_000  # the cost of an element is spread over so many; more of them would only delay the first one's forecast
BLOCK_BYTES = 4 << 20  # of keys, values and headers; a single record may be larger
RECORD_BYTES = 200  # what a record costs in Python beside its bytes
BUFFER_BYTES = 64 << 20  # for all partitions together; a tenth of it stalls the flow between two answers of a broker
FETCH_RECORDS = 4_000  # decoded at a time: 30 ms during which the other thread shares the interpreter
POLL_SECONDS = 0.05  # how long a new partition, or one with room again, may wait for the consumer
ASK_SECONDS = 0.2  # between two questions for the last stable offset while there is nothing to read
ANSWER_SECONDS = 1.0  # after which a question counts as unanswered: no mark is stable then
SILENCE_SECONDS = 0.5  # after which a mark is given even without an answer: the flow's wall clock must not stop
LOOK_SECONDS = 5.0  # between two looks at the partitions that there are
MISSES = 3  # looks in a row that find no topic before it counts as gone: a broker that has just started may not know it yet

OPTIONS: Mapping[str, Any] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "fetch_max_wait_ms": 100,  # a question waits behind it: brokers answer a connection in order
    "fetch_max_bytes": 16 << 20,
    "max_poll_records": FETCH_RECORDS,
    "metadata_max_age_ms": 10_000,  # of what a look finds
    "reconnect_backoff_max_ms": 1_000,  # 30 s by default: far longer than a broker needs to come back
    "metrics_enabled": False,  # its sensors take a tenth of the time of reading
}


class InputError(Exception):
    """The input cannot be read on; the message says what to do."""

    _tagged_with_step = True  # Beam makes errors anew, with a longer message and whatever else in them lost; not this one


class InputTrimmed(InputError):  # noqa: N818  reads as what happened
    """Records that were still to be read are gone, or the position lies beyond the log's end."""

    def __init__(self, source: Source, *, position: int, earliest: int, end: int) -> None:
        self.source, self.position, self.earliest, self.end = source, position, earliest, end
        what = f"the log begins at {earliest} and ends at {end}"
        gone = f"{earliest - position} records are gone" if position < earliest else "the topic is not the one that was read before"
        super().__init__(f"{source.topic}/{source.partition}: we stand at {position}, {what}: {gone}")


class TopicMissing(InputError):  # noqa: N818
    """A topic that is to be read does not exist, or may not be seen."""


class NotAuthorised(InputError):  # noqa: N818
    """The broker refuses us: the message names what, and why."""


class PartitionsAdded(InputError):  # noqa: N818
    """A topic has more partitions than at the start: stop and start again to take them up."""


class InputUnreadable(InputError):  # noqa: N818
    """Bytes came that the client can neither read nor step over."""


@dataclass(slots=True)
class Feed:
    """What has been read of one partition and not been handed on. Pure: records in, blocks out."""

    source: Source
    position: int  # handed on so far: the next block begins here
    end: int  # read so far, control records and compacted gaps included
    size: int = 0  # bytes that wait here
    records: deque[Raw] = field(default_factory=deque)
    unreadable: deque[tuple[int, int]] = field(default_factory=deque)  # (offset, bytes)
    highwater: int = 0  # where the log ends, as far as we know
    lost: int = 0  # records that were gone, where it was allowed to go on
    asked: float = 0.0  # wall clock (s) of the newest question for the last stable offset
    stable: int | None = None  # its answer, until a mark has told it
    told: float = 0.0  # wall clock (s) of the newest block or mark

    @property
    def empty(self) -> bool:
        return not self.records and not self.unreadable and self.position == self.end

    def put(self, records: Iterable[Raw], end: int) -> None:
        """Records that have been read, and where reading goes on."""
        for record in records:
            self.records.append(record)
            self.size += cost(record)
        self.end = max(self.end, end)

    def take(self, limit: int | None, now: float) -> RawBlock | None:
        """The next block, no further than `limit`; None if nothing may be handed on.

        Between what is taken and the next record lies nothing: so the block reaches up to there.
        """
        records: list[Raw] = []
        size = 0
        stop = self.end if limit is None else min(limit, self.end)
        while self.records and self.records[0].offset < stop and len(records) < BLOCK_RECORDS and size < BLOCK_BYTES:
            size += cost(self.records[0])
            records.append(self.records.popleft())
        self.size -= size
        if self.records:
            stop = min(stop, self.records[0].offset)
        unreadable = []
        while self.unreadable and self.unreadable[0][0] < stop:
            unreadable.append(self.unreadable.popleft())
        if stop <= self.position:
            return None
        block = RawBlock(self.source, self.position, stop, now, records=records, unreadable=unreadable)
        self.position, self.told = stop, now
        return block

    def mark(self, now: float) -> RawBlock | None:
        """Word that there is nothing to read: at most one for each answer of the broker, dated when it was asked.

        So a stable mark is true of its `now`: everything that was stable then had been handed on. Without an answer, time
        passes all the same, slowly.
        """
        if self.empty and self.stable is not None and self.asked >= self.told:
            stable, self.stable, self.told = self.stable <= self.position, None, self.asked
            return RawBlock(self.source, self.position, self.position, self.asked, stable=stable)
        if now - self.told >= SILENCE_SECONDS:
            self.told = now
            return RawBlock(self.source, self.position, self.position, now)
        return None


def cost(record: Raw) -> int:
    """Bytes that a record takes while it waits.

    >>> cost(Raw(0, 0, None, b"12345")) - RECORD_BYTES
    5
    """
    size = RECORD_BYTES + len(record.value or b"") + len(record.key or b"")
    return size + sum(len(name) + len(value) for name, value in record.headers) if record.headers else size


def raw(record: Any) -> Raw:
    """A record of the client's as ours; a missing timestamp becomes 0, a header's null value is empty."""
    headers = [(name, value or b"") for name, value in record.headers] if record.headers else ()
    return Raw(record.offset, stamp_us(record.timestamp), record.key, record.value, headers)


class Poller:
    """Reads partitions ahead, in a thread of its own, and hands them on block by block.

    `options` are kafka-python's for the connection; what concerns reading is ours. `wake` is called, from that thread, when
    there is something to take. With `accept_loss` a position whose records are gone moves to the first that is there.
    """

    def __init__(self, options: Mapping[str, Any], *, wake: Callable[[], None], accept_loss: bool = False) -> None:
        self._options = {**options, **OPTIONS}
        self._wake = wake
        self._accept_loss = accept_loss
        self._lock = threading.Condition()
        self._feeds: dict[TopicPartition, Feed] = {}
        self._moved: set[TopicPartition] = set()  # whose feed begins anew: the consumer has to go there
        self._full: set[TopicPartition] = set()  # read no further until half of it is taken
        self._error: Exception | None = None
        self._stopping = False
        self._troubled = False
        self._looked = 0.0
        self._partitions: dict[str, int] = {}  # how many a topic had when it was first looked at
        self._missing: dict[str, int] = {}  # looks in a row that did not find it
        self._thread = threading.Thread(target=self._run, name="tidecast-poller", daemon=True)
        self._thread.start()

    def take(self, source: Source, position: int, limit: int | None) -> RawBlock | None:
        """The block that begins at `position` and passes no `limit`, or a mark; None: nothing yet.

        Raises InputError, or whatever else ended the reading.
        """
        partition = TopicPartition(*source)
        with self._lock:
            if self._error is not None:
                raise self._error
            feed = self._feeds.get(partition)
            if feed is None or feed.position != position:
                self._feeds[partition] = Feed(source, position, position, told=time.time())
                self._moved.add(partition)
                return None
            now = time.time()
            block = feed.take(limit, now)
            if block is None:
                return feed.mark(now)
            if partition in self._full and feed.size < self._room() // 2:
                self._lock.notify()
            return block

    def wait(self, seconds: float) -> None:
        """Returns when something has come, or after so long; for runners that cannot be woken."""
        with self._lock:
            if self._error is None:
                self._lock.wait(seconds)

    def lag(self) -> dict[Source, int]:
        """Records, per partition, that are in the log and have not been handed on."""
        with self._lock:
            return {feed.source: max(feed.highwater - feed.position, 0) for feed in self._feeds.values()}

    def lost(self) -> dict[Source, int]:
        """Records, per partition, that were gone before they could be read."""
        with self._lock:
            return {feed.source: feed.lost for feed in self._feeds.values()}

    def close(self) -> None:
        """Ends the thread and its connections; what was not handed on is read again by the next poller."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        self._thread.join()

    def _room(self) -> int:
        return BUFFER_BYTES // max(len(self._feeds), 1)

    def _run(self) -> None:
        try:
            consumer = self._connect()
            if consumer is None:
                return
            try:
                while not self._stopping:
                    self._turn(consumer)
            finally:
                consumer.close(autocommit=False, timeout_ms=2000)
        except Exception as error:  # noqa: BLE001  it belongs to whoever takes: a thread's error is seen by nobody
            with self._lock:
                self._error = error
                self._lock.notify_all()
            self._wake()

    def _connect(self) -> KafkaConsumer | None:
        while not self._stopping:
            try:
                return KafkaConsumer(**self._options, bootstrap_timeout_ms=5000)
            except errors.RetriableError as error:
                self._trouble(error)
                self._pause_for(0.5)
            except errors.SaslAuthenticationFailedError as error:
                raise NotAuthorised(f"the broker does not accept who we are: {error}") from error
        return None

    def _trouble(self, error: Exception | None) -> None:
        """Say once that the brokers are away, and once that they are back."""
        if error is not None and not self._troubled:
            LOG.warning("the brokers do not answer as they should, trying on: %s: %s", type(error).__name__, error)
        if error is None and self._troubled:
            LOG.warning("the brokers answer again")
        self._troubled = error is not None

    def _pause_for(self, seconds: float) -> None:
        with self._lock:
            self._lock.wait_for(lambda: self._stopping, seconds)

    def _turn(self, consumer: KafkaConsumer) -> None:
        """Once around: go where we were told, read, ask."""
        self._follow(consumer)
        if not consumer.assignment():
            self._pause_for(POLL_SECONDS)
            return
        try:
            came = self._poll(consumer)
            self._look(consumer)
            self._ask(consumer, came)
        except errors.TopicAuthorizationFailedError as error:
            raise refused(error) from error
        except errors.SaslAuthenticationFailedError as error:
            raise NotAuthorised(f"the broker does not accept who we are: {error}") from error
        except errors.RetriableError as error:
            self._trouble(error)
            self._pause_for(0.2)
        else:
            self._trouble(None)

    def _follow(self, consumer: KafkaConsumer) -> None:
        """Read what has room, from where its reading goes on.

        What is full is unassigned, not paused: a paused partition whose fetch is half read may never be resumed (kafka-python
        3.0.12 parks it and looks for it only by chance), and an error that waits for the next call is forgotten.
        """
        with self._lock:
            moved, self._moved = self._moved, set()
            room = self._room()
            sizes = {partition: feed.size for partition, feed in self._feeds.items()}
            self._full = {p for p, size in sizes.items() if size >= room or (p in self._full and size >= room // 2)}
            ends = {partition: self._feeds[partition].end for partition in sizes.keys() - self._full}
        before = consumer.assignment()
        if ends and ends.keys() != before:
            consumer.assign(list(ends))
        for partition in ends.keys() & (ends.keys() - before | moved):
            consumer.seek(partition, ends[partition])

    def _poll(self, consumer: KafkaConsumer) -> set[TopicPartition]:
        """Read once; the partitions of which something came."""
        with self._lock:
            if len(self._full) == len(self._feeds):
                self._lock.wait(POLL_SECONDS)
                return set(self._feeds)
        try:
            came = consumer.poll(timeout_ms=int(POLL_SECONDS * 1000))
            ends = {partition: consumer.position(partition, timeout_ms=0) for partition in consumer.assignment()}
        except errors.OffsetOutOfRangeError as error:
            for partition, position in error.args[0].items():
                self._trimmed(consumer, partition, position)
            return set()
        except errors.LogTruncationError as error:
            partition = next(iter(error.divergent_offsets))
            raise self._out_of_range(consumer, partition, consumer.position(partition)) from error
        except errors.UnsupportedCodecError as error:
            raise InputUnreadable(f"{error}: install kafka-python[lz4,snappy,zstd]") from error
        except Exception as error:  # noqa: BLE001  a broken batch can fail in any way; all else is raised again
            return {self._step_over(consumer, error)}
        return self._keep(consumer, {partition: [raw(record) for record in records] for partition, records in came.items()}, ends)

    def _keep(
        self, consumer: KafkaConsumer, came: Mapping[TopicPartition, list[Raw]], ends: Mapping[TopicPartition, int]
    ) -> set[TopicPartition]:
        """Put what came where it waits; the partitions that got on."""
        fresh = set()
        with self._lock:
            for partition, end in ends.items():
                if partition in self._moved:
                    continue  # it begins anew, elsewhere: what came is not what will be taken
                feed = self._feeds[partition]
                if partition in came or end > feed.end:
                    fresh.add(partition)
                    feed.put(came.get(partition, ()), end)
                feed.highwater = max(feed.highwater, consumer.highwater(partition) or 0, end)
            if fresh:
                self._lock.notify_all()
        if fresh:
            self._wake()
        return fresh

    def _trimmed(self, consumer: KafkaConsumer, partition: TopicPartition, position: int) -> None:
        error = self._out_of_range(consumer, partition, position)
        if not self._accept_loss or error.position > error.earliest:
            raise error
        LOG.error("%s; going on there, as told", error)
        consumer.seek(partition, error.earliest)
        with self._lock:
            feed = self._feeds[partition]
            feed.lost += error.earliest - position
            feed.put((), error.earliest)

    def _out_of_range(self, consumer: KafkaConsumer, partition: TopicPartition, position: int) -> InputTrimmed:
        earliest, end = (
            offsets(ask, [partition], timeout_ms=10_000)[partition] for ask in (consumer.beginning_offsets, consumer.end_offsets)
        )
        return InputTrimmed(Source(*partition), position=position, earliest=earliest, end=end)

    def _step_over(self, consumer: KafkaConsumer, error: Exception) -> TopicPartition:
        """A batch that cannot be read is one unreadable thing, its size known; reading goes on behind it."""
        found = broken_batch(error)
        if found is None:
            raise error
        partition, batch = found
        position, behind = consumer.position(partition), batch.next_offset
        if not position < behind <= max(consumer.highwater(partition) or 0, position + 1):
            raise InputUnreadable(
                f"{partition.topic}/{partition.partition}: a batch at {position} is broken, and says it ends at {behind}"
            ) from error
        LOG.error("%s/%d: %d bytes at %d cannot be read: %s", *partition, batch.size_in_bytes, position, error)
        consumer.seek(partition, behind)
        with self._lock:
            feed = self._feeds[partition]
            feed.unreadable.append((position, batch.size_in_bytes))
            feed.put((), behind)
            self._lock.notify_all()
        self._wake()
        return partition

    def _ask(self, consumer: KafkaConsumer, came: set[TopicPartition]) -> None:
        """Where nothing came and nothing waits: up to where is the log stable?"""
        now = time.time()
        with self._lock:
            quiet = [p for p, feed in self._feeds.items() if p not in came | self._moved and feed.empty]
            if all(now - self._feeds[p].asked < ASK_SECONDS for p in quiet):
                return
            for partition in quiet:
                self._feeds[partition].asked, self._feeds[partition].stable = now, None
        ends = offsets(consumer.end_offsets, quiet, timeout_ms=int(ANSWER_SECONDS * 1000))  # read_committed: the last stable offset
        with self._lock:
            for partition in set(quiet) - self._moved:
                self._feeds[partition].stable = ends[partition]
            self._lock.notify_all()
        self._wake()

    def _look(self, consumer: KafkaConsumer) -> None:
        """Are the topics still what they were?"""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for topic in {partition.topic for partition in self._feeds.copy()}:
            now = len(consumer.partitions_for_topic(topic))
            self._missing[topic] = 0 if now else self._missing.get(topic, 0) + 1
            if self._missing[topic] >= MISSES:
                raise TopicMissing(f"topic {topic} is gone, or may no longer be seen")
            before = self._partitions.setdefault(topic, now) or now
            self._partitions[topic] = before
            if now > before:
                raise PartitionsAdded(f"topic {topic} had {before} partitions and has {now}: stop and start again to read them all")


def broken_batch(error: BaseException) -> tuple[TopicPartition, Any] | None:
    """The batch in which the client came to grief, and its partition; None if it was not in a batch.

    The error itself names neither the partition nor where the batch ends, but the frame in which it was raised knows both.
    """
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "_unpack_records" and trace.tb_frame.f_locals.get("batch") is not None:
            return trace.tb_frame.f_locals["tp"], trace.tb_frame.f_locals["batch"]
        trace = trace.tb_next
    return None


def refused(error: errors.TopicAuthorizationFailedError) -> NotAuthorised:
    """The client's error, which names one topic or several, as ours.

    >>> refused(errors.TopicAuthorizationFailedError({"load"}))
    NotAuthorised('we may not read load: the user needs DESCRIBE and READ on it')
    """
    topics = error.args[0] if error.args else "the input"
    named = topics if isinstance(topics, str) else ", ".join(sorted(topics))
    return NotAuthorised(f"we may not read {named}: the user needs DESCRIBE and READ on it")


def starts(options: Mapping[str, Any], topics: Sequence[str], start: str | int, *, own: str | None = None) -> dict[Source, int]:
    """Every partition of the topics, and the position where reading begins.

    A topic that begins with `^` is a regular expression, which never finds internal topics nor those that begin with `own`, our
    outputs. `start`: "earliest", "latest", or a time (us). Raises TopicMissing, naming all that are; NotAuthorised; and
    kafka.errors.KafkaError if no broker answers.
    """
    consumer = KafkaConsumer(**{**options, **OPTIONS, "bootstrap_timeout_ms": 10_000})
    try:
        partitions = [
            TopicPartition(name, p) for name in named(topics, consumer.topics(), own) for p in consumer.partitions_for_topic(name)
        ]
        partitions.sort()
        if start == "earliest":
            found = offsets(consumer.beginning_offsets, partitions, timeout_ms=30_000, wait=True)
        else:
            found = offsets(consumer.end_offsets, partitions, timeout_ms=30_000, wait=True)
        if isinstance(start, int):
            first = since(consumer, partitions, max(start, 0) // 1000, timeout_ms=30_000)
            found |= {partition: one.offset for partition, one in first.items() if one is not None}
    except errors.TopicAuthorizationFailedError as error:
        raise NotAuthorised(
            f"we may not read {', '.join(sorted(map(str, error.args[0])))}: the user needs DESCRIBE and READ on it"
        ) from error
    finally:
        consumer.close(autocommit=False)
    return {Source(*partition): found[partition] for partition in partitions}


def named(wanted: Sequence[str], there: Iterable[str], own: str | None) -> list[str]:
    """The topics that are meant, of those that there are.

    >>> named(["^load", "a"], ["load-1", "load-2", "a", "b", "__consumer_offsets"], None)
    ['a', 'load-1', 'load-2']
    """
    known = {topic for topic in there if not topic.startswith("__")}
    ours = {topic for topic in known if own is not None and topic.startswith(own)}
    found, missing = set(), []
    for name in wanted:
        fit = {t for t in known - ours if re.match(name, t)} if name.startswith("^") else {name} & known
        found |= fit
        if not fit:
            missing.append(f"nothing fits {name}" if name.startswith("^") else f"{name} does not exist, or may not be seen")
    if missing:
        raise TopicMissing(f"input.topics: {'; '.join(missing)}")
    return sorted(found)
