"""Follow the models topic: what somebody points to is fetched for the stream, and what the stream's judge says moves the registry's names.

In a thread beside the engine. A pointer is somebody's word, and counts while the registry says the same: whoever moves a name there and
cannot tell the stream has told nobody, and an old pointer must not bring back what he put away. What the judge says is in the topic with
the commit that carried it out; the registry follows, and a crash in between is made good by the next start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from models.learner import Config
from pipeline import publish, taught, topics
from pipeline.quantities import instant, plain
from pipeline.records import Pointer, stamp_us
from pipeline.registry import Because, MovedFirst, Registry, RegistryError
from pipeline.store import StoreError
from pipeline.succession import BY, Offer
from pipeline.taught import NotTaught, Published

LOG = logging.getLogger(__name__)

AGAIN_SECONDS = 5.0  # after trouble
POLL_MS = 500


class Follower:
    """Of one application's pointers."""

    def __init__(self, options: Mapping[str, Any], *, prefix: str, source: Published, config: Config, offers: deque[Offer]) -> None:
        self._options, self._topic = options, topics.topic(prefix, "models")
        self._source, self._config, self._offers = source, config, offers
        self._refused: set[tuple[str | None, str]] = set()  # told once a process

    def run(self, over: threading.Event) -> None:
        """Until it is over; brokers and buckets that are away are waited for."""
        while not over.is_set():
            try:
                for newest in self._newest(over):
                    for role in ("champion", "challenger"):
                        if role in newest:
                            self._heed(*newest[role])
            except (publish.PublishError, KafkaError, StoreError, RegistryError) as error:
                LOG.warning("pointers to models are not followed for now: %s", error)
            over.wait(AGAIN_SECONDS)

    def _newest(self, over: threading.Event) -> Iterator[dict[str, tuple[Pointer, int]]]:
        """The newest pointer of each role, with the time (us) of its record: first of all that there are, then as they come."""
        with publish.reader(self._options, TopicPartition(self._topic, 0), "read_committed") as consumer:
            partitions = [TopicPartition(self._topic, p) for p in sorted(consumer.partitions_for_topic(self._topic) or ())]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends: dict[TopicPartition, int] = topics.offsets(consumer.end_offsets, partitions)
            found: dict[str, tuple[Pointer, int]] = {}
            while not over.is_set():
                for record in polled(consumer):
                    pointer = self._read(record.value)
                    if pointer is not None:
                        found[pointer.role] = pointer, stamp_us(record.timestamp)
                if found and all((consumer.position(p) or 0) >= end for p, end in ends.items()):
                    yield found
                    found = {}

    def _read(self, value: bytes | None) -> Pointer | None:
        if value is None:
            return None
        try:
            pointer = msgspec.json.decode(value, type=Pointer)
        except msgspec.DecodeError as error:
            LOG.warning("%s: a record that is no pointer is not followed: %s", self._topic, error)
            return None
        return pointer if pointer.application == self._source.application else None

    def _heed(self, pointer: Pointer, at: int) -> None:
        registry = taught.registry_of(self._source)
        if pointer.by == BY:
            move(registry, pointer, at)
            return
        now = registry.last().now
        if pointer.version is not None and pointer.version != getattr(now, pointer.role):
            LOG.info("%s: a pointer to %s %s is not followed, the registry names %s", self._topic, pointer.role, plain(pointer.version),
                     getattr(now, pointer.role) or "nobody")  # fmt: skip
            return
        if (pointer.version, pointer.effective_from) in self._refused:
            return
        offer = self._offer(pointer)
        if offer.refused:
            self._refused.add((pointer.version, pointer.effective_from))
        self._offers.append(offer)

    def _offer(self, pointer: Pointer) -> Offer:
        """Raises StoreError where the registry does not answer: that says nothing of the version."""
        empty = Offer(pointer.role, pointer.version, instant(pointer.effective_from), None)
        if pointer.version is None:
            return empty
        try:
            return empty._replace(incoming=taught.incoming(self._source._replace(version=pointer.version), self._config))
        except NotTaught as error:
            if isinstance(error.__cause__, StoreError):
                raise error.__cause__ from error
            return empty._replace(refused=str(error))


def polled(consumer: KafkaConsumer) -> Iterator[Any]:
    for records in consumer.poll(timeout_ms=POLL_MS).values():
        yield from records


def move(registry: Registry, pointer: Pointer, at: int) -> None:
    """The registry's names as the stream's judge has them, unless somebody has moved them since `at` (us). Raises StoreError."""
    seen = registry.last()
    if getattr(seen.now, pointer.role) == pointer.version or (seen.generation and instant(seen.at) > at):
        return
    because = Because(BY, time.time_ns() // 1_000, pointer.reason)
    try:
        if pointer.role == "challenger":
            registry.dismiss(seen, because)
        elif pointer.version == seen.now.previous:
            registry.rollback(seen, because)
        elif pointer.version is not None:
            registry.promote(pointer.version, seen, because)
    except MovedFirst:
        LOG.info("somebody moved a name of %s meanwhile; the judge's word is put aside", registry.place)
    except RegistryError as error:
        LOG.warning("%s serves as %s, and the registry cannot say so: %s", pointer.version, pointer.role, error)
