import threading
import time
import zlib
from contextlib import closing, contextmanager

import pytest
from confluent_kafka import Producer
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.admin import ACL, ACLOperation, ACLPermissionType, NewPartitions, ResourcePattern, ResourceType
from kafka.cluster import ClusterMetadata
from kafka.structs import TopicPartition

from pipeline import poller
from pipeline.broker import Broker
from pipeline.poller import InputTrimmed, NotAuthorised, PartitionsAdded, Poller, TopicMissing, starts
from pipeline.records import Source
from pipeline.topics import since

pytestmark = pytest.mark.kafka


@contextmanager
def producer(bootstrap, **configs):
    made = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "log_level": 0} | {k.replace("_", "."): v for k, v in configs.items()})
    yield made
    assert made.flush(20) == 0


def send(bootstrap, topic, values, partition=0, **configs):
    with producer(bootstrap, **configs) as made:
        for value in values:
            made.produce(topic, value, partition=partition)


def numbers(count, first=0):
    return [b"%d" % i for i in range(first, first + count)]


class Reader:
    """Takes as a runner would: one block at a time, at the position after the last one; checks that they join."""

    def __init__(self, options, positions, **rest):
        self.positions = dict(positions)
        self.blocks = []
        self.woken = threading.Event()
        self.poller = Poller(options, wake=self.woken.set, **rest)

    def take(self, source, limit=None):
        block = self.poller.take(source, self.positions[source], limit)
        if block is not None:
            assert block.first == self.positions[source]
            assert all(block.first <= r.offset < block.next for r in block.records)
            self.positions[source] = block.next
            self.blocks.append(block)
        return block

    def until(self, done, limits=None, seconds=30):
        deadline = time.monotonic() + seconds
        while not done(self):
            assert time.monotonic() < deadline, (self.positions, self.blocks[-3:])
            taken = [self.take(source, (limits or {}).get(source)) for source in self.positions]
            if not any(taken):
                self.woken.wait(0.05)
                self.woken.clear()
        return self

    def values(self, source=None):
        return [r.value for b in self.blocks if source in {None, b.source} for r in b.records]

    def close(self):
        self.poller.close()


def reading(bootstrap, positions, **rest):
    return closing(Reader({"bootstrap_servers": bootstrap}, positions, **rest))


def stable(reader):
    return bool(reader.blocks) and reader.blocks[-1].stable


def test_every_record_comes_once_in_order_with_all_that_it_carries(kafka, make_topic):
    topic = make_topic(2)
    with producer(kafka) as made:
        for i in range(2_500):
            made.produce(topic, b"%d" % i, key=b"k%d" % i, partition=i % 2, timestamp=1_000_000 + i, headers=[("h", b"x"), ("none", None)])
    a, b = Source(topic, 0), Source(topic, 1)
    with reading(kafka, {a: 0, b: 0}) as reader:
        reader.until(lambda r: len(r.values()) == 2_500)
    assert reader.values(a) == [b"%d" % i for i in range(0, 2_500, 2)]
    assert reader.values(b) == [b"%d" % i for i in range(1, 2_500, 2)]
    assert max(len(block.records) for block in reader.blocks) <= 1_000
    first = next(r for block in reader.blocks if block.source == a for r in block.records)
    assert first == (0, 1_000_000_000, b"k0", b"0", [("h", b"x"), ("none", b"")])


def test_a_gate_is_reached_exactly_and_what_is_behind_it_comes_when_it_opens(kafka, make_topic):
    topic = make_topic()
    source = Source(topic, 0)
    send(kafka, topic, numbers(5_000))
    with reading(kafka, {source: 0}) as reader:
        reader.until(lambda r: r.positions[source] == 1_234, {source: 1_234})
        time.sleep(0.3)
        for _ in range(20):
            reader.take(source, 1_234)
        assert reader.values() == numbers(1_234)
        assert not any(block.stable for block in reader.blocks), "what waits behind the gate is not read"
        reader.until(lambda r: r.positions[source] == 5_000)
    assert reader.values() == numbers(5_000)


def test_a_reader_goes_back_when_it_is_told_another_position(kafka, make_topic):
    topic = make_topic()
    source = Source(topic, 0)
    send(kafka, topic, numbers(3_000))
    with reading(kafka, {source: 0}) as reader:
        reader.until(lambda r: r.positions[source] == 3_000)
        reader.positions[source], reader.blocks = 700, []
        reader.until(lambda r: r.positions[source] == 3_000)
    assert reader.values() == numbers(2_300, 700)


def test_an_empty_partition_is_said_to_be_stable_at_once_and_again_and_again(kafka, make_topic):
    source = Source(make_topic(), 0)
    began = time.time()
    with reading(kafka, {source: 0}) as reader:
        reader.until(stable)
        assert time.time() - began < 5
        reader.until(lambda r: len(r.blocks) > 5)
        assert {(b.first, b.next) for b in reader.blocks} == {(0, 0)}
        spaces = [later.now - earlier.now for earlier, later in zip(reader.blocks, reader.blocks[1:], strict=False)]
    assert all(space > 0.1 for space in spaces), "marks are few"


def test_a_record_wakes_whoever_waits(kafka, make_topic):
    topic = make_topic()
    source = Source(topic, 0)
    with reading(kafka, {source: 0}) as reader:
        reader.until(stable)
        send(kafka, topic, [b"x"])
        sent = time.monotonic()
        reader.until(lambda r: r.values())
        assert time.monotonic() - sent < 0.5


def test_an_open_transaction_is_the_end_of_what_is_stable(kafka, make_topic, name):
    topic = make_topic()
    source = Source(topic, 0)
    send(kafka, topic, numbers(3))
    with producer(kafka, transactional_id=name) as made, reading(kafka, {source: 0}) as reader:
        made.init_transactions(10)
        made.begin_transaction()
        made.produce(topic, b"open", partition=0)
        made.flush(10)
        send(kafka, topic, [b"behind"])
        reader.until(stable)
        assert reader.values() == numbers(3)
        assert reader.positions[source] == 3
        made.commit_transaction(10)
        reader.until(lambda r: r.positions[source] == 6)
        assert reader.values() == [*numbers(3), b"open", b"behind"]


def test_positions_step_over_aborted_records_and_control_records(kafka, make_topic, name):
    topic = make_topic()
    source = Source(topic, 0)
    with producer(kafka, transactional_id=name) as made, reading(kafka, {source: 0}) as reader:
        made.init_transactions(10)
        for i in range(3):
            made.begin_transaction()
            made.produce(topic, b"gone-%d" % i, partition=0)
            made.flush(10)
            made.abort_transaction(10)
        reader.until(lambda r: stable(r) and r.positions[source] == 6)
        made.begin_transaction()
        made.produce(topic, b"kept", partition=0)
        made.commit_transaction(10)
        reader.until(lambda r: stable(r) and r.positions[source] == 8)
    assert reader.values() == [b"kept"]


def test_nothing_is_lost_when_the_buffers_are_small(kafka, make_topic, monkeypatch):
    monkeypatch.setattr(poller, "BUFFER_BYTES", 50_000)
    monkeypatch.setattr(poller, "OPTIONS", {**poller.OPTIONS, "max_poll_records": 100})
    topic = make_topic(2)
    a, b = Source(topic, 0), Source(topic, 1)
    for partition in range(2):
        send(kafka, topic, [b"%d" % i + b"." * 150 for i in range(3_000)], partition)
    waits = []
    with reading(kafka, {a: 0, b: 0}) as reader:
        reader.until(lambda r: r.positions[a] == 3_000, {b: 10})
        waits.append(max(feed.size for feed in reader.poller._feeds.values()))
        reader.until(lambda r: r.positions[b] == 3_000)
    for source in (a, b):
        assert [int(v.rstrip(b".")) for v in reader.values(source)] == list(range(3_000))
    assert waits[0] < 25_000 + 4_000 * 400, "one poll beyond the bound at most"


def test_a_partition_behind_its_gate_does_not_stop_another(kafka, make_topic, monkeypatch):
    monkeypatch.setattr(poller, "BUFFER_BYTES", 20_000)
    topic = make_topic(2)
    a, b = Source(topic, 0), Source(topic, 1)
    for partition in range(2):
        send(kafka, topic, numbers(5_000), partition)
    with reading(kafka, {a: 0, b: 0}) as reader:
        reader.until(lambda r: r.positions[b] == 5_000, {a: 0})
        assert reader.positions[a] == 0
        assert reader.poller.lag() == {a: 5_000, b: 0}


def test_records_deleted_before_they_were_read_are_a_named_error_with_both_offsets(kafka, make_topic):
    topic = make_topic()
    source = Source(topic, 0)
    send(kafka, topic, numbers(100))
    delete_before(kafka, topic, 60)
    with reading(kafka, {source: 10}) as reader, pytest.raises(InputTrimmed, match=r"stand at 10, the log begins at 60") as trimmed:
        reader.until(lambda r: r.values())
    assert (trimmed.value.source, trimmed.value.position, trimmed.value.earliest, trimmed.value.end) == (source, 10, 60, 100)


def test_when_told_to_accept_the_loss_it_goes_on_and_counts_it(kafka, make_topic):
    topic = make_topic()
    source = Source(topic, 0)
    send(kafka, topic, numbers(100))
    delete_before(kafka, topic, 60)
    with reading(kafka, {source: 10}, accept_loss=True) as reader:
        reader.until(lambda r: r.positions[source] == 100)
        assert reader.values() == numbers(40, 60)
        assert reader.poller.lost() == {source: 50}


def test_a_position_beyond_the_end_is_never_accepted(kafka, make_topic):
    topic = make_topic()
    source = Source(topic, 0)
    send(kafka, topic, numbers(5))
    with reading(kafka, {source: 9}, accept_loss=True) as reader, pytest.raises(InputTrimmed, match="not the one that was read before"):
        reader.until(lambda r: r.values())


def delete_before(bootstrap, topic, offset):
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        admin.delete_records({TopicPartition(topic, 0): offset})


def test_reading_goes_on_after_the_broker_was_killed(own_broker, make_topic):
    topic = make_topic(bootstrap=own_broker.bootstrap)
    source = Source(topic, 0)
    send(own_broker.bootstrap, topic, numbers(500))
    with reading(own_broker.bootstrap, {source: 0}) as reader:
        reader.until(lambda r: r.positions[source] == 500)
        own_broker.kill()
        dark = time.time()
        reader.until(lambda r: r.blocks[-1].now > dark + 2)
        assert not [b for b in reader.blocks if b.stable and b.now > dark + 0.1], "nobody answers: nothing is known to be stable"
        own_broker.start()
        send(own_broker.bootstrap, topic, numbers(500, 500))
        reader.until(lambda r: r.positions[source] == 1_000)
        reader.until(stable)
    assert reader.values() == numbers(1_000)


def break_records(broker, topic, numbers):
    """In the log of a stopped broker: the batches that hold these fail their checksum from now on."""
    segment = broker.data / f"{topic}-0" / "00000000000000000000.log"
    data = segment.read_bytes()
    for i in numbers:
        assert b"<%04d>" % i in data
        data = data.replace(b"<%04d>" % i, b"<oops>")
    segment.write_bytes(data)


def test_batches_that_the_client_cannot_read_are_reported_and_stepped_over(own_broker, make_topic, monkeypatch):
    monkeypatch.setattr(poller, "OPTIONS", {**poller.OPTIONS, "max_poll_records": 7})
    monkeypatch.setattr(poller, "BUFFER_BYTES", 4_000)  # a partition's half of it is full by the ten records before the first broken batch
    topic = make_topic(2, bootstrap=own_broker.bootstrap)
    source, quiet = Source(topic, 0), Source(topic, 1)
    for first in range(0, 200, 10):
        send(own_broker.bootstrap, topic, [b"<%04d>" % i for i in range(first, first + 10)], linger_ms=100)
    own_broker.stop()
    break_records(own_broker, topic, (13, 55, 101, 117, 163))
    own_broker.start()
    with reading(own_broker.bootstrap, {source: 0, quiet: 0}) as reader:
        reader.until(lambda r: source in r.poller._feeds and r.poller._feeds[source].size >= 2_000, {source: 0})
        reader.until(lambda r: r.blocks and r.blocks[-1].stable, {source: 0})  # the other one is polled meanwhile
        reader.until(lambda r: r.positions[source] == 200)
    broken = [10, 50, 100, 110, 160]
    unreadable = [u for block in reader.blocks for u in block.unreadable]
    assert [offset for offset, _ in unreadable] == broken
    assert all(150 < size < 300 for _, size in unreadable)
    assert reader.values() == [b"<%04d>" % i for i in range(200) if i - i % 10 not in broken]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_compressed_batches_are_read_from_their_middle_too(kafka, make_topic, codec):
    topic = make_topic()
    source = Source(topic, 0)
    send(kafka, topic, [b"%d" % i + b"." * 2_000 for i in range(1_000)], compression_type=codec)
    with reading(kafka, {source: 500}) as reader:
        reader.until(lambda r: r.positions[source] == 1_000)
    assert [int(v.rstrip(b".")) for v in reader.values()] == list(range(500, 1_000))


def test_a_record_larger_than_a_fetch_comes_all_the_same(kafka, make_topic):
    topic = make_topic(max_message_bytes="12000000")
    source = Source(topic, 0)
    large = bytes(range(256)) * 40_000
    send(kafka, topic, [b"a", large, b"b"], message_max_bytes=12_000_000)
    with reading(kafka, {source: 0}) as reader:
        reader.until(lambda r: r.positions[source] == 3)
    assert [zlib.crc32(v) for v in reader.values()] == [zlib.crc32(v) for v in (b"a", large, b"b")]


def test_partitions_added_are_a_named_error(kafka, make_topic, monkeypatch):
    monkeypatch.setattr(poller, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(poller, "OPTIONS", {**poller.OPTIONS, "metadata_max_age_ms": 300})
    topic = make_topic(2)
    source = Source(topic, 0)
    with reading(kafka, {source: 0}) as reader:
        reader.until(stable)
        with closing(KafkaAdminClient(bootstrap_servers=kafka)) as admin:
            admin.create_partitions({topic: NewPartitions(4)})
        with pytest.raises(PartitionsAdded, match="had 2 partitions and has 4"):
            reader.until(lambda _: False)


def test_a_topic_that_is_deleted_is_a_named_error(kafka, make_topic, monkeypatch):
    monkeypatch.setattr(poller, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(poller, "OPTIONS", {**poller.OPTIONS, "metadata_max_age_ms": 300})
    topic = make_topic()
    with reading(kafka, {Source(topic, 0): 0}) as reader:
        reader.until(stable)
        with closing(KafkaAdminClient(bootstrap_servers=kafka)) as admin:
            admin.delete_topics([topic])
        with pytest.raises(TopicMissing, match=topic):
            reader.until(lambda _: False)


def test_a_topic_that_we_may_not_read_is_a_named_error(tmp_path, make_topic):
    acl = {"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer", "allow.everyone.if.no.acl.found": "true"}
    with Broker(tmp_path, properties=acl, die_with_parent=True) as guarded:
        topic = make_topic(bootstrap=guarded.bootstrap)
        with closing(KafkaAdminClient(bootstrap_servers=guarded.bootstrap)) as admin:
            pattern = ResourcePattern(ResourceType.TOPIC, topic)
            admin.create_acls([ACL("User:*", "*", ACLOperation.READ, ACLPermissionType.DENY, pattern)])
        with reading(guarded.bootstrap, {Source(topic, 0): 0}) as reader, pytest.raises(NotAuthorised, match=topic):
            reader.until(lambda _: False)


def test_starts_are_the_ends_or_the_first_record_of_a_time(kafka, make_topic):
    topic = make_topic(2)
    options = {"bootstrap_servers": kafka}
    with producer(kafka) as made:
        for i in range(10):
            made.produce(topic, b"x", partition=0, timestamp=1_000_000 + i * 1_000)
    delete_before(kafka, topic, 2)
    a, b = Source(topic, 0), Source(topic, 1)
    assert starts(options, [topic], "earliest") == {a: 2, b: 0}
    assert starts(options, [topic], "latest") == {a: 10, b: 0}
    assert starts(options, [topic], 1_004_500 * 1_000) == {a: 5, b: 0}
    assert starts(options, [topic], 9_000_000 * 1_000) == {a: 10, b: 0}
    assert starts(options, [f"^{topic[:-2]}"], "earliest") == {a: 2, b: 0}
    with pytest.raises(TopicMissing, match="nowhere does not exist"):
        starts(options, [topic, "nowhere"], "earliest")


@pytest.mark.parametrize("when", [1, 2])  # the first time for its end, then for the time
def test_who_has_no_leader_for_a_moment_does_not_begin_at_its_end(kafka, make_topic, monkeypatch, when):
    topic = make_topic(2)
    with producer(kafka) as made:
        for i in range(10):
            made.produce(topic, b"x", partition=0, timestamp=1_000_000 + i * 1_000)
    asked, known = [], ClusterMetadata.leader_for_partition

    def leader(self, partition):
        asked.append(partition)
        return None if asked.count(partition) == when and partition.partition == 0 else known(self, partition)

    monkeypatch.setattr(ClusterMetadata, "leader_for_partition", leader)
    assert starts({"bootstrap_servers": kafka}, [topic], 1_004_500 * 1_000) == {Source(topic, 0): 5, Source(topic, 1): 0}
    assert asked.count(TopicPartition(topic, 0)) == 3


@pytest.mark.parametrize(("at", "offset"), [(999_999, 0), (1_000_001, None)])
def test_a_partition_alone_is_waited_for_and_asked_once(kafka, make_topic, monkeypatch, at, offset):
    partition = TopicPartition(make_topic(), 0)
    with producer(kafka) as made:
        made.produce(partition.topic, b"x", partition=0, timestamp=1_000_000)
    looked, asked, known, request = [], [], ClusterMetadata.leader_for_partition, KafkaConsumer.offsets_for_times

    def leader(self, one):
        looked.append(one)
        return None if one == partition and looked.count(one) == 1 else known(self, one)

    monkeypatch.setattr(ClusterMetadata, "leader_for_partition", leader)
    monkeypatch.setattr(KafkaConsumer, "offsets_for_times", lambda *words, **how: asked.append(words) or request(*words, **how))
    with closing(KafkaConsumer(bootstrap_servers=kafka)) as consumer:
        found = since(consumer, [partition], at)[partition]
    assert (None if found is None else found.offset) == offset
    assert len(asked) == 1
    assert looked.count(partition) >= 2


def test_close_ends_the_thread_while_no_broker_answers():
    reader = Reader({"bootstrap_servers": "127.0.0.1:9"}, {Source("x", 0): 0})
    time.sleep(0.2)
    began = time.monotonic()
    reader.close()
    assert time.monotonic() - began < 8
    assert not reader.poller._thread.is_alive()
