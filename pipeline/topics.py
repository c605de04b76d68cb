"""The topics that we write: what they must be like, what is there, and making what is missing; and where any topic begins and ends."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import AuthorizationError, KafkaError, KafkaTimeoutError, TopicAlreadyExistsError, TopicAuthorizationFailedError
from kafka.structs import OffsetAndTimestamp, TopicPartition

from pipeline.settings import KINDS, VERSIONS

MISSING = "is missing"
UNSEEN = "is missing, or hidden from us: the user needs DESCRIBE on it, and CREATE to make it"
COMPACTED = frozenset({"models", "status", "commits"})
ONE_PARTITION = frozenset({"models", "decisions", "status", "commits"})  # read whole, and in order
KEPT_LONG = str(10 * 365 * 86_400_000)  # ms; decisions are few, and a run is repeated from them
# Twice a second, for ever, and only the newest counts: without these a broker would keep a week or a gigabyte of each,
# and of the markers of transactions another day.
OFTEN = {"segment.ms": "3600000", "min.cleanable.dirty.ratio": "0.1", "delete.retention.ms": "60000"}


class TopicsError(Exception):
    """A topic cannot be made or looked at; the message names it and what is missing."""


class Wanted(NamedTuple):
    name: str
    partitions: int
    config: Mapping[str, str]


class Difference(NamedTuple):
    """What is not as it must be; `fatal` where we cannot run with it."""

    topic: str
    what: str
    fatal: bool


def topic(prefix: str, kind: str) -> str:
    """The name of one of our topics.

    >>> topic("tidecast", "forecasts")
    'tidecast.forecasts.v1'
    """
    return f"{prefix}.{kind}.v{VERSIONS[kind]}"


def offsets(
    ask: Callable[..., dict[Any, int]], partitions: Sequence[Any], *, timeout_ms: int | None = None, wait: bool = False
) -> dict[Any, int]:
    """What a consumer's `beginning_offsets` or `end_offsets` says of partitions. Raises KafkaError.

    kafka-python 3.0.12 leaves a partition out that it knows no leader of at the moment, as it may on a machine that is busy, and then
    looks for it all the same: that is no answer in time, like any other. `wait`: each is asked for alone then, and of one alone it waits
    until it knows.
    """
    try:
        return ask(partitions, timeout_ms=timeout_ms)
    except KeyError as error:
        if not wait:
            raise KafkaTimeoutError(f"nobody says where {error} begins and ends") from error
    return {partition: ask([partition], timeout_ms=timeout_ms)[partition] for partition in partitions}


def since(
    consumer: KafkaConsumer, partitions: Iterable[TopicPartition], at: int, *, timeout_ms: int | None = None
) -> dict[TopicPartition, OffsetAndTimestamp | None]:
    """The first record of each partition that is not older than a time (ms); None: there is none. Raises KafkaError.

    Of several, those that kafka-python knows no leader of at the moment look as if nothing had come since: so these are asked for alone,
    when it waits until it knows.
    """
    found = dict(consumer.offsets_for_times(dict.fromkeys(partitions, at), timeout_ms=timeout_ms))
    if len(found) > 1:
        for partition in [partition for partition, first in found.items() if first is None]:
            found |= consumer.offsets_for_times({partition: at}, timeout_ms=timeout_ms)
    return found


SINGULAR = {"forecasts": "forecast", "scores": "score", "late": "late", "models": "model", "decisions": "decision"}


def event_type(kind: str) -> str:
    """`ce_type` of what is in one of our topics.

    >>> event_type("forecasts")
    'io.tidecast.forecast.v1'
    """
    return f"io.tidecast.{SINGULAR[kind]}.v{VERSIONS[kind]}"


def wanted(prefix: str, partitions: int) -> list[Wanted]:
    out = []
    for kind in KINDS:
        config = {"cleanup.policy": "compact" if kind in COMPACTED else "delete"}
        if kind == "decisions":
            config["retention.ms"] = KEPT_LONG
        if kind in ("status", "commits"):
            config |= OFTEN
        out.append(Wanted(topic(prefix, kind), 1 if kind in ONE_PARTITION else partitions, config))
    return out


def plan(options: Mapping[str, Any], want: list[Wanted]) -> list[Difference]:
    """Every difference between the topics that there are and those that there must be. Raises TopicsError."""
    with client(options) as admin:
        answers = {t["name"]: t for t in admin.describe_topics([w.name for w in want])}
        there = {name: t for name, t in answers.items() if not t["error_code"]}
        policy_of = policies(admin, list(there))
    found = []
    for w in want:
        if w.name in answers and answers[w.name]["error_code"] == TopicAuthorizationFailedError.errno:
            found.append(Difference(w.name, UNSEEN, fatal=True))
            continue
        if w.name not in there:
            found.append(Difference(w.name, MISSING, fatal=True))
            continue
        policy = policy_of.get(w.name)
        if policy is not None and policy != w.config["cleanup.policy"]:
            found.append(Difference(w.name, f"has cleanup.policy {policy}, want {w.config['cleanup.policy']}", fatal=True))
        count = len(there[w.name]["partitions"])
        if w.partitions == 1 and count != 1:
            found.append(Difference(w.name, f"has {count} partitions, want 1", fatal=True))
    return found


def apply(options: Mapping[str, Any], want: list[Wanted], *, replication: int) -> list[str]:
    """Make the topics that are missing; returns their names. Raises TopicsError."""
    missing = {d.topic for d in plan(options, want) if d.what in {MISSING, UNSEEN}}
    spare = replication > 2  # noqa: PLR2004 - then one may be away, and what was acknowledged is still in two places
    safe = {"min.insync.replicas": "2"} if spare else {}
    make = {
        w.name: {"num_partitions": w.partitions, "replication_factor": replication, "configs": {**w.config, **safe}}
        for w in want
        if w.name in missing
    }
    if not make:
        return []
    with client(options) as admin:
        try:
            admin.create_topics(make, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            pass  # somebody else was quicker
        except AuthorizationError as error:
            raise TopicsError(f"{', '.join(make)} cannot be made: {error}; the user needs CREATE on them, or on the cluster") from error
        except KafkaError as error:
            raise TopicsError(f"{', '.join(make)} cannot be made: {error}") from error
    return list(make)


ANSWER_MS = 10_000
CONNECT_SECONDS = 3.0


def anybody(servers: Sequence[str]) -> bool:
    """Whether one of the brokers (host:port) takes a connection.

    Asked before an admin client or a consumer is made: those that find nobody leave a thread behind that goes on trying.
    """
    for server in servers:
        host, _, port = server.rpartition(":")
        with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
            return True
    return False


@contextmanager
def client(options: Mapping[str, Any]) -> Iterator[KafkaAdminClient]:
    servers = options["bootstrap_servers"]
    if not anybody(servers):
        raise TopicsError(f"no broker answers at {', '.join(servers)}; is kafka.bootstrap right?")
    try:
        admin = KafkaAdminClient(**{"bootstrap_timeout_ms": ANSWER_MS, "request_timeout_ms": ANSWER_MS, **options})
    except KafkaError as error:
        raise TopicsError(f"no broker answers at {', '.join(servers)}: {error}; is kafka.bootstrap right?") from error
    try:
        yield admin
    except KafkaError as error:
        raise TopicsError(f"the brokers do not answer what we ask about topics: {type(error).__name__}: {error}") from error
    finally:
        admin.close()


def policies(admin: KafkaAdminClient, names: list[str]) -> dict[str, str]:
    """cleanup.policy by topic; empty where we may not ask."""
    if not names:
        return {}
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, {"cleanup.policy": None}) for name in names]
    try:
        answer = admin.describe_configs(asked, config_filter="all")
    except AuthorizationError:
        return {}
    said = answer[next(iter(answer))]
    return {name: keys["cleanup.policy"]["value"] for name, keys in said.items() if "cleanup.policy" in keys}
