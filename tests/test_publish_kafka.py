"""Publishing on a real broker, seen by a client that nobody here wrote: all of a commit or nothing, and only one publisher."""

from __future__ import annotations

import base64
import gc
import json
import random
import threading
import time

import pytest
from client import read
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from prometheus_client import CollectorRegistry
from proxy import Proxy

from pipeline import publish, wire
from pipeline.broker import Broker, free_port
from pipeline.metrics import Metrics
from pipeline.publish import CommitLost, Fenced, Heart, KafkaPublisher, PublishError, StillAlive, refuse_if_alive
from pipeline.records import Message
from pipeline.topics import Wanted, apply, topic, wanted

# What the client leaves to the garbage collector wherever it finds nobody
pytestmark = [pytest.mark.kafka, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


def options(bootstrap):
    return {"bootstrap_servers": [bootstrap]}


@pytest.fixture
def ours(kafka, name):
    """A prefix whose topics there are; an input topic `<prefix>.input` too."""
    make(kafka, name)
    return name


def make(bootstrap, prefix):
    apply(options(bootstrap), [*wanted(prefix, 3), Wanted(f"{prefix}.input", 2, {})], replication=-1)


@pytest.fixture
def publisher(kafka, ours):
    made = publisher_of(kafka, ours)
    yield made
    made.close()


def publisher_of(bootstrap, prefix, application="app", metrics=None):
    return KafkaPublisher(options(bootstrap), application=application, prefix=prefix, metrics=metrics)


def forecast(number, **changed):
    message = Message("forecasts", b"series-%d" % number, b'{"n":%d}' % number, f"id-{number}", number * 1_000_000)
    return message._replace(**changed)


def record(number, positions=(), **account):
    return {"application": "app", "number": number, "snapshot": "s", "before": "r", "account": {"positions": list(positions), **account}}


def values(bootstrap, name, isolation="read_committed"):
    return sorted(m.value() for m in read(bootstrap, name, isolation))


def flush(publisher):
    publisher._flush(time.monotonic() + 10)


def test_nothing_can_be_read_before_the_commit_and_all_of_it_afterwards(kafka, ours, publisher):
    for number in range(3):
        publisher.send(forecast(number))
    flush(publisher)
    name = topic(ours, "forecasts")
    assert len(values(kafka, name, "read_uncommitted")) == 3
    assert values(kafka, name) == []
    publisher.commit(record(1))
    assert values(kafka, name) == [b'{"n":0}', b'{"n":1}', b'{"n":2}']
    assert publisher.last() == record(1)


def test_commits_follow_each_other_and_each_holds_what_came_since_the_one_before(kafka, ours, publisher):
    for number in range(5):
        publisher.send(forecast(number))
        publisher.commit(record(number))
    assert values(kafka, topic(ours, "forecasts")) == [b'{"n":%d}' % n for n in range(5)]
    assert (publisher.commits, publisher.last()["number"]) == (5, 4)


def test_a_record_arrives_with_its_key_its_bytes_and_its_headers(kafka, ours, publisher):
    publisher.send(forecast(1, headers=[("traceparent", b"00-abc")]))
    publisher.send(Message("rejected", b"\xff", b"\x00raw", "x", 0, [("a", b"1"), ("a", b"\xfe")]))
    publisher.commit(record(1))
    (one,) = read(kafka, topic(ours, "forecasts"))
    assert (one.key(), one.value()) == (b"series-1", b'{"n":1}')
    assert one.headers() == wire.headers(forecast(1, headers=[("traceparent", b"00-abc")]), "app")
    (other,) = read(kafka, topic(ours, "rejected"))
    assert (other.key(), other.value(), other.headers()) == (b"\xff", b"\x00raw", [("a", b"1"), ("a", b"\xfe")])


def test_a_rejected_record_with_neither_key_nor_value_keeps_having_none(kafka, ours, publisher):
    publisher.send(Message("rejected", None, None, "x", 0, [("why", b"empty")]))
    publisher.commit(record(1))
    (one,) = read(kafka, topic(ours, "rejected"))
    assert (one.key(), one.value(), one.headers()) == (None, None, [("why", b"empty")])


def test_a_key_has_the_partition_that_every_client_gives_it(kafka, ours, publisher):
    keys = [b"", b"a", b"taxi", b"pump-7", "Zürich".encode(), b"x" * 511, *(b"series-%d" % n for n in range(50))]
    for key in keys:
        publisher.send(Message("forecasts", key, b"ours", "x", 0))
    publisher.commit(record(1))
    other = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2"})
    for key in keys:
        other.produce(topic(ours, "forecasts"), key=key, value=b"theirs")
    other.flush(10)
    placed = {(m.key(), m.value(), m.partition()) for m in read(kafka, topic(ours, "forecasts"))}
    assert {(key, p) for key, whose, p in placed if whose == b"ours"} == {(key, p) for key, whose, p in placed if whose == b"theirs"}
    assert len(placed) == 2 * len(keys)


def test_positions_are_the_groups_committed_offsets_once_committed(kafka, ours, publisher):
    place = [Place(f"{ours}.input", 0), Place(f"{ours}.input", 1)]
    application = "app-" + ours
    mine = publisher_of(kafka, ours, application=application)
    group = Consumer({"bootstrap.servers": kafka, "group.id": application})
    try:
        mine.commit(record(1, [[f"{ours}.input", 0, 41], [f"{ours}.input", 1, 7]]))
        assert [p.offset for p in group.committed(place, timeout=10)] == [41, 7]
        mine._add_positions([[f"{ours}.input", 0, 99]], time.monotonic() + 10)
    finally:
        mine.close()
    assert [p.offset for p in group.committed(place, timeout=10)] == [41, 7]
    group.close()


def test_what_was_open_is_aborted_by_the_next_instance_and_no_reader_waits_for_it(kafka, ours, publisher):
    publisher.send(forecast(1))
    publisher._put(topic(ours, "commits"), b"app", b'{"number":1}')
    flush(publisher)
    following = publisher_of(kafka, ours)
    assert following.last() is None
    following.send(forecast(2))
    following.commit(record(1))
    assert values(kafka, topic(ours, "forecasts")) == [b'{"n":2}']
    following.close()


def test_what_is_not_committed_is_aborted_at_the_end(kafka, ours):
    ended = publisher_of(kafka, ours)
    ended.send(forecast(1))
    flush(ended)
    ended.close()
    after = Producer({"bootstrap.servers": kafka})
    after.produce(topic(ours, "forecasts"), b"behind", partition=0)
    after.produce(topic(ours, "forecasts"), b"behind", partition=1)
    after.produce(topic(ours, "forecasts"), b"behind", partition=2)
    after.flush(10)
    assert values(kafka, topic(ours, "forecasts")) == [b"behind"] * 3


@pytest.mark.parametrize("does", ["commits what it sent before", "sends and commits", "only commits"])
def test_who_is_taken_over_is_told_and_does_not_fence_back(kafka, ours, publisher, does):
    if does == "commits what it sent before":
        publisher.send(forecast(1))
        flush(publisher)
    following = publisher_of(kafka, ours)
    following.send(forecast(2))

    def go_on():
        if does == "sends and commits":
            publisher.send(forecast(1))
        publisher.commit(record(1))

    with pytest.raises(Fenced, match="'app' has taken over"):
        go_on()
    following.commit(record(1))
    following.send(forecast(3))
    following.commit(record(2))
    assert values(kafka, topic(ours, "forecasts")) == [b'{"n":2}', b'{"n":3}']
    following.close()


def test_applications_that_share_topics_do_not_fence_or_hide_each_other(kafka, ours, publisher, monkeypatch):
    monkeypatch.setattr(publish, "WINDOW", 3)
    other = publisher_of(kafka, ours, application="other")
    assert publisher.last() is None
    publisher.commit(record(7))
    for number in range(20):
        other.send(forecast(number))
        other.commit(record(number))
    assert publisher.last() == record(7)
    assert other.last() == record(19)
    publisher.commit(record(8))
    assert publisher.last() == record(8)
    other.close()


def test_an_open_transaction_of_another_application_is_waited_for_never_read_past(kafka, ours, publisher, monkeypatch):
    monkeypatch.setattr(publish, "READ_SECONDS", 0.5)
    other = publisher_of(kafka, ours, application="other")
    other._put(topic(ours, "commits"), b"other", b"{}")
    flush(other)
    publisher.commit(record(1))
    with pytest.raises(CommitLost, match="open transaction"):
        publisher.last()
    other.close()
    assert publisher.last() == record(1)


def test_while_muted_nothing_is_sent(kafka, ours, publisher):
    publisher.mute(True)
    publisher.send(forecast(1))
    publisher.mute(False)
    publisher.send(forecast(2))
    publisher.commit(record(1))
    assert values(kafka, topic(ours, "forecasts")) == [b'{"n":2}']


def test_latency_ends_where_the_commit_ends_and_commits_are_counted(kafka, ours):
    registry = CollectorRegistry()
    mine = publisher_of(kafka, ours, metrics=Metrics(registry))
    began = time.time()
    mine.send(forecast(1, cause=int((began - 2) * 1e6)))
    mine.send(forecast(2))
    assert mine.latency_ms() == {"p50": None, "p99": None}
    time.sleep(0.3)
    mine.commit(record(1))
    took = time.time() - began
    mine.close()
    assert 2_300 <= mine.latency_ms()["p50"] <= (2 + took) * 1_010
    assert mine.latency.count == 1
    assert registry.get_sample_value("tidecast_forecasts_published_total") == 2.0
    assert registry.get_sample_value("tidecast_forecast_latency_seconds_count") == 1.0
    assert registry.get_sample_value("tidecast_commits_total", {"outcome": "committed"}) == 1.0


def test_more_than_may_be_in_flight_is_sent_without_a_commit(kafka, ours, publisher, monkeypatch):
    monkeypatch.setattr(publish, "IN_FLIGHT_BYTES", 100_000)
    for number in range(30):
        publisher.send(forecast(number, value=b"x" * 10_000))
    assert publisher._in_flight <= 100_000
    publisher.commit(record(1))
    assert len(values(kafka, topic(ours, "forecasts"))) == 30


def test_a_record_that_a_topic_does_not_take_is_named_with_its_topic_and_size(kafka, ours, publisher):
    publisher.send(forecast(1, value=random.Random(0).randbytes(2_000_000)))  # which no compression makes small
    with pytest.raises(PublishError, match=rf"{topic(ours, 'forecasts')} takes no record of 2,000,\d+ bytes: raise its max.message.bytes"):
        publisher.commit(record(1))
    following = publisher_of(kafka, ours)
    assert following.last() is None
    following.close()


def test_topics_that_there_are_not_are_named_with_what_to_do(kafka, name):
    mine = publisher_of(kafka, name)
    with pytest.raises(PublishError, match=rf"{topic(name, 'commits')} is missing: run `tidecast topics apply`"):
        mine.last()
    mine.close()


def test_a_topic_deleted_meanwhile_is_named_and_the_position_stays(kafka, ours, publisher, monkeypatch):
    monkeypatch.setattr(publish, "COMMIT_SECONDS", 3.0)
    publisher.send(forecast(1))
    publisher.commit(record(1))
    admin = KafkaAdminClient(**options(kafka))
    admin.delete_topics([topic(ours, "forecasts")])
    admin.close()
    publisher.send(forecast(2))
    with pytest.raises(PublishError, match=rf"{topic(ours, 'forecasts')} is missing: run `tidecast topics apply`"):
        publisher.commit(record(2))
    following = publisher_of(kafka, ours)
    assert following.last() == record(1)
    following.close()


# Who is alive


def test_nobody_has_been_here_so_nobody_is_waited_for(kafka, ours):
    began = time.monotonic()
    refuse_if_alive(options(kafka), application="app", prefix=ours)
    assert time.monotonic() - began < publish.ALIVE_SECONDS


def test_a_heart_that_beats_keeps_others_out_and_one_that_said_goodbye_does_not(kafka, ours):
    heart = Heart(options(kafka), application="app", prefix=ours, instance="i")
    stop = threading.Event()

    def beat():
        while not stop.wait(0.2):
            heart.beat({"lag": 3})

    heart.beat({"lag": 3})
    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(StillAlive, match="--take-over"):
            refuse_if_alive(options(kafka), application="app", prefix=ours)
        refuse_if_alive(options(kafka), application="other", prefix=ours)
    finally:
        stop.set()
        beating.join()
        heart.close({"lag": 0})
    began = time.monotonic()
    refuse_if_alive(options(kafka), application="app", prefix=ours)
    assert time.monotonic() - began < publish.ALIVE_SECONDS


def test_a_heart_that_stopped_without_a_word_is_waited_for_and_then_replaced(kafka, ours, monkeypatch):
    monkeypatch.setattr(publish, "ALIVE_SECONDS", 1.5)
    heart = Heart(options(kafka), application="app", prefix=ours, instance="i")
    heart.beat({})
    heart._producer.flush(5)
    began = time.monotonic()
    refuse_if_alive(options(kafka), application="app", prefix=ours)
    assert time.monotonic() - began >= 1.5
    heart.close({})


def test_a_beat_is_a_value_of_the_application_and_needs_no_commit(kafka, ours):
    heart = Heart(options(kafka), application="app", prefix=ours, instance="i-1")
    heart.beat({"lag": 3, "ledger": {"consumed": 5}})
    heart.close({"lag": 0})
    first, last = (json.loads(m.value()) for m in read(kafka, topic(ours, "status")))
    assert first == {"application": "app", "instance": "i-1", "beat": 1, "state": "running", "lag": 3, "ledger": {"consumed": 5}}
    assert (last["beat"], last["state"]) == (2, "stopped")


# Answers that are lost, brokers that are away, rights that are taken


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """A broker, and the proxy through which alone it is reached."""
    proxy, port = free_port(), free_port()
    through = Proxy(proxy, port)
    advertised = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxy}"}
    with Broker(tmp_path_factory.mktemp("kafka"), port=port, die_with_parent=True, properties=advertised) as broker:
        yield broker, through, f"127.0.0.1:{proxy}"
    through.close()


@pytest.fixture
def lossy(behind, name, monkeypatch):
    _, through, bootstrap = behind
    monkeypatch.setattr(publish, "COMMIT_SECONDS", 2.0)
    make(bootstrap, name)
    registry = CollectorRegistry()
    mine = publisher_of(bootstrap, name, metrics=Metrics(registry))
    mine.send(forecast(1))
    mine.commit(record(1))
    yield mine, through, bootstrap, registry
    through.lose = None
    mine.close()
    del mine
    gc.collect()


def outcomes(registry):
    kinds = ("committed", "aborted", "indefinite")
    return tuple(registry.get_sample_value("tidecast_commits_total", {"outcome": kind}) for kind in kinds)


def test_a_commit_whose_answer_is_lost_has_happened_and_is_found_to_have(lossy, name):
    mine, through, bootstrap, registry = lossy
    mine.send(forecast(2))
    through.lose = "answer"
    mine.commit(record(2))
    assert through.lost
    through.lose = None
    assert mine.last() == record(2)
    mine.send(forecast(3))
    mine.commit(record(3))
    assert values(bootstrap, topic(name, "forecasts")) == [b'{"n":1}', b'{"n":2}', b'{"n":3}']
    assert outcomes(registry) == (3.0, 0.0, 1.0)


def test_a_commit_that_never_reached_the_broker_is_found_not_to_have_happened(lossy, name):
    mine, through, bootstrap, registry = lossy
    mine.send(forecast(2))
    through.lose = "request"
    with pytest.raises(CommitLost, match="commit 2 did not happen"):
        mine.commit(record(2))
    through.lose = None
    assert values(bootstrap, topic(name, "forecasts")) == [b'{"n":1}']
    assert mine.last() == record(1)
    assert outcomes(registry) == (1.0, 1.0, 1.0)


def test_a_broker_that_dies_loses_what_was_open_and_the_next_one_goes_on(lossy, behind, name):
    mine, _, bootstrap, _ = lossy
    broker = behind[0]
    mine.send(forecast(2))
    flush(mine)
    broker.kill()
    began = time.monotonic()
    with pytest.raises(CommitLost):
        mine.commit(record(2))
    assert time.monotonic() - began < 30
    mine.close()
    broker.start()
    following = publisher_of(bootstrap, name)
    assert following.last() == record(1)
    following.send(forecast(2))
    following.commit(record(2))
    following.close()
    assert values(bootstrap, topic(name, "forecasts")) == [b'{"n":1}', b'{"n":2}']


def test_nobody_there_is_told_with_the_address(monkeypatch):
    monkeypatch.setattr(publish, "OPTIONS", {**publish.OPTIONS, "bootstrap_timeout_ms": 1_000})
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(CommitLost, match=f"no broker answers at {nobody}"):
        publisher_of(nobody, "p")
    gc.collect()


RIGHTS = {
    "a topic": (ResourceType.TOPIC, "p.forecasts.v1", ACLOperation.WRITE, r"p\.forecasts\.v1: the user needs WRITE"),
    "the group": (ResourceType.GROUP, "app", ACLOperation.READ, "consumer group app: the user needs READ"),
    "the transaction": (ResourceType.TRANSACTIONAL_ID, "tidecast-app", ACLOperation.WRITE, "transactional id tidecast-app"),
    "reading commits": (ResourceType.TOPIC, "p.commits.v1", ACLOperation.READ, r"p\.commits\.v1: the user needs READ"),
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with Broker(tmp_path_factory.mktemp("kafka"), die_with_parent=True, properties=properties) as broker:
        make(broker.bootstrap, "p")
        yield broker.bootstrap


@pytest.mark.parametrize("lacks", RIGHTS)
def test_a_missing_right_is_named_with_what_it_is_needed_on(guarded, lacks):
    kind, resource, operation, said = RIGHTS[lacks]
    everything = ACL("User:ANONYMOUS", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, ResourcePattern(kind, resource))
    denied = ACL("User:ANONYMOUS", "*", operation, ACLPermissionType.DENY, ResourcePattern(kind, resource))
    admin = KafkaAdminClient(bootstrap_servers=guarded)
    admin.create_acls([everything, denied])
    try:
        with pytest.raises(PublishError, match=said):
            live_on(guarded)
    finally:
        admin.delete_acls([everything, denied])
        admin.close()


def live_on(bootstrap):
    for _ in range(20):  # a broker learns a rule a moment after it was made
        live(bootstrap)


def live(bootstrap):
    mine = publisher_of(bootstrap, "p")
    try:
        mine.last()
        mine.send(forecast(1))
        mine.commit(record(1, [["p.input", 0, 1]]))
    finally:
        mine.close()


@pytest.mark.parametrize("largest", [100_000, 20_000])
def test_batches_that_a_topic_finds_too_large_are_split_and_nothing_is_lost(kafka, name, largest):
    apply(options(kafka), [*(Wanted(w.name, 1, w.config | {"max.message.bytes": str(largest)}) for w in wanted(name, 1))], replication=-1)
    publisher = publisher_of(kafka, name)
    rng = random.Random(1)
    sent = [forecast(k, key=b"one", value=base64.b64encode(rng.randbytes(600))) for k in range(200)]
    for message in sent:
        publisher.send(message)
    publisher.commit(record(1))
    publisher.close()
    assert values(kafka, f"{name}.forecasts.v1") == sorted(m.value for m in sent)


def test_the_oldest_record_of_a_topic_has_its_time_whatever_its_partition(kafka, name):
    apply(options(kafka), [Wanted(name, 3, {})], replication=-1)
    assert publish.oldest(options(kafka), name) is None
    producer = Producer({"bootstrap.servers": kafka})
    for partition, ms in ((2, 1_700_000_000_000), (0, 1_600_000_000_000), (2, 1_500_000_000_000)):
        producer.produce(name, b"x", partition=partition, timestamp=ms)
    producer.flush(30)
    assert publish.oldest(options(kafka), name) == 1_600_000_000.0  # the third lies behind a newer one, with which it goes
