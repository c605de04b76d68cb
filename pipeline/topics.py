"""The topics that we write: what they must be like, what is there, and making what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import AuthorizationError, KafkaError, TopicAlreadyExistsError

from pipeline.settings import KINDS

MISSING = "is missing"
COMPACTED = frozenset({"models", "status", "commits"})
ONE_PARTITION = frozenset({"models", "decisions", "status", "commits"})  # read whole, and in order
KEPT_LONG = str(10 * 365 * 86_400_000)  # ms; decisions are few, and a run is repeated from them


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
    return f"{prefix}.{kind}.v1"


def wanted(prefix: str, partitions: int) -> list[Wanted]:
    out = []
    for kind in KINDS:
        config = {"cleanup.policy": "compact" if kind in COMPACTED else "delete"}
        if kind == "decisions":
            config["retention.ms"] = KEPT_LONG
        out.append(Wanted(topic(prefix, kind), 1 if kind in ONE_PARTITION else partitions, config))
    return out


def plan(options: Mapping[str, Any], want: list[Wanted]) -> list[Difference]:
    """Every difference between the topics that there are and those that there must be."""
    with client(options) as admin:
        there = {t["name"]: t for t in admin.describe_topics([w.name for w in want]) if not t.get("error_code")}
        policy_of = policies(admin, [w.name for w in want if w.name in there])
    found = []
    for w in want:
        if w.name not in there:
            found.append(Difference(w.name, MISSING, fatal=True))
            continue
        policy = policy_of.get(w.name)
        if policy is not None and policy != w.config["cleanup.policy"]:
            found.append(Difference(w.name, f"has cleanup.policy {policy}, want {w.config['cleanup.policy']}", fatal=False))
        count = len(there[w.name]["partitions"])
        if w.partitions == 1 and count != 1:
            found.append(Difference(w.name, f"has {count} partitions, want 1", fatal=True))
    return found


def apply(options: Mapping[str, Any], want: list[Wanted], *, replication: int) -> list[str]:
    """Make the topics that are missing; returns their names. Raises TopicsError."""
    missing = {d.topic for d in plan(options, want) if d.what == MISSING}
    make = {
        w.name: {"num_partitions": w.partitions, "replication_factor": replication, "configs": dict(w.config)}
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


@contextmanager
def client(options: Mapping[str, Any]) -> Iterator[KafkaAdminClient]:
    try:
        admin = KafkaAdminClient(**options)
    except KafkaError as error:
        raise TopicsError(f"no broker answers at {', '.join(options['bootstrap_servers'])}: {error}; is kafka.bootstrap right?") from error
    try:
        yield admin
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
