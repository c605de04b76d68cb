"""`tidecast rejected list` and `replay` on a real broker: what could not be used goes back as it was, once a run."""

from __future__ import annotations

import base64
import json
import threading
import time

import pytest
from client import read
from confluent_kafka import Producer
from typer.testing import CliRunner

from pipeline import resend, topics
from pipeline.__main__ import app
from pipeline.broker import free_port
from pipeline.decode import Decoder, Shape
from pipeline.records import Raw, RawBlock, Rejection, Source
from pipeline.rejected import OURS, rejection_message
from tests.instances import hanging

pytestmark = pytest.mark.kafka
STAMP = 1_767_225_600_000  # ms, of what is rejected


def bad(offset):
    return b'{"series": "pump", "at": 5, "value": %d}' % offset


def offsets(messages):
    return [json.loads(m.value())["value"] for m in messages]


class Application:
    """An application with a rejected topic and an input of three partitions."""

    def __init__(self, kafka: str, name: str) -> None:
        self.kafka, self.name = kafka, name
        self.input, self.rejected = f"{name}.input", f"{name}.rejected.v1"
        wanted = [topics.Wanted(self.input, 3, {}), topics.Wanted(self.rejected, 2, {})]
        topics.apply({"bootstrap_servers": [kafka]}, wanted, replication=1)
        self.producer = Producer({"bootstrap.servers": kafka, "linger.ms": 5})

    def reject(self, offset, value=..., key=b"pump", *, reason="schema", headers=(), topic=None, series=None, partition=1, max_bytes=1_000):
        value = bad(offset) if value is ... else value
        raw = Raw(offset, (STAMP + offset) * 1_000, key, value, headers)
        source = Source(topic or self.input, partition)
        made = rejection_message(
            None if reason == "corrupt" else raw, Rejection(0, offset, reason, "what came, what was wanted", series), source,
            application=self.name, version="1", max_bytes=max_bytes,
        )  # fmt: skip
        self.put(made.key, made.value, made.headers)

    def put(self, key, value, headers):
        """In the first partition, so that the order is known."""
        self.producer.produce(self.rejected, key=key, value=value, headers=list(headers), partition=0)
        assert self.producer.flush(30) == 0

    def run(self, *arguments, code=0):
        settings = ("--bootstrap", self.kafka, "--set", f"application={self.name}", "--set", f"output.prefix={self.name}", "--json")
        result = CliRunner().invoke(app, ["rejected", arguments[0], *settings, *arguments[1:]], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if code == 0 else result.stderr

    def read(self, topic=None, isolation="read_committed"):
        return read(self.kafka, topic or self.input, isolation)


@pytest.fixture
def place(kafka, name):
    return Application(kafka, name)


def test_a_record_goes_back_to_its_partition_with_its_key_value_and_headers(place):
    place.reject(7, headers=[("ce_id", b"1"), ("trace", b"\x00\xff"), ("trace", b"again")], key=b"\xffkey")
    found = place.run("replay")

    assert (found["matching"], found["sent"], found["repeats"], found["left"]) == (1, 1, 0, [])
    place.reject(8, partition=0, key=b"\xffkey")
    place.reject(9, partition=2, key=b"\xffkey")
    assert place.run("replay", "--since", "1h")["sent"] == 3
    assert sorted({(m.partition(), m.value()) for m in place.read()}) == [(0, bad(8)), (1, bad(7)), (2, bad(9))]
    message = next(m for m in place.read() if m.partition() == 1)
    assert (message.key(), message.value()) == (b"\xffkey", bad(7))
    assert abs(message.timestamp()[1] / 1e3 - time.time()) < 60
    assert message.headers() == [("ce_id", b"1"), ("trace", b"\x00\xff"), ("trace", b"again"), (OURS + "attempt", b"1")]


def test_it_has_the_time_that_it_had_where_that_is_the_time_of_the_event(kafka, place):
    lasting = f"{place.name}.lasting"  # else a broker deletes at once what seems to be months old
    topics.apply({"bootstrap_servers": [kafka]}, [topics.Wanted(lasting, 1, {"retention.ms": "-1"})], replication=1)
    place.reject(7)
    place.run("replay", "--to", lasting, "--set", "input.at=record")
    assert [m.timestamp()[1] for m in place.read(lasting)] == [STAMP + 7]


def test_what_is_rejected_again_says_how_often_that_has_been(place):
    place.reject(7)
    place.run("replay")
    [again] = place.read()
    raw = Raw(again.offset(), 0, again.key(), again.value(), again.headers())
    block = Decoder(Shape()).decode(RawBlock(Source(place.input, 1), 0, 1, 0.0, records=[raw]))
    [rejection] = block.rejected
    message = rejection_message(raw, rejection, Source(place.input, 1), application="app", version="1", max_bytes=1_000)
    place.put(message.key, message.value, message.headers)

    assert sorted(one["attempt"] for one in place.run("list")["records"]) == ["1", "2"]
    place.run("replay")
    assert sorted(dict(m.headers())[OURS + "attempt"] for m in place.read()) == [b"1", b"1", b"2"]


def test_each_record_is_sent_once_however_many_of_its_observations_were_rejected(place):
    for series in ("a", "b", "c"):
        place.reject(7, series=series)
    place.reject(8)
    found = place.run("replay")

    assert (found["matching"], found["sent"], found["repeats"]) == (4, 2, 2)
    assert offsets(place.read()) == [7, 8]


def test_what_comes_while_it_runs_is_left_for_the_next_run(place, monkeypatch):
    """Into the very topic that is read: without an end that is fixed at the start it would never end."""
    monkeypatch.setattr(resend, "TRANSACTION_RECORDS", 2)
    for offset in range(5):
        place.reject(offset)
    found = place.run("replay", "--to", place.rejected)

    assert (found["matching"], found["sent"]) == (5, 5)
    assert len(place.read(place.rejected)) == 10


def test_a_fetch_that_brings_more_than_there_was_at_the_start_is_cut(place, monkeypatch):
    for offset in range(5):
        place.reject(offset)
    monkeypatch.setattr(
        resend.KafkaConsumer, "end_offsets", lambda self, partitions, timeout_ms: {p: 3 if p.partition == 0 else 0 for p in partitions}
    )
    assert place.run("list")["matching"] == 3


def test_what_was_not_kept_whole_is_named_and_left(place):
    place.reject(1, value=b"x" * 1_001)
    place.reject(2, key=b"k" * 300_000)
    place.reject(3, headers=[("h", b"x" * 300_000)])
    place.reject(4, reason="corrupt")
    place.reject(5, value=None, key=None, reason="empty")
    place.reject(6, topic="gone-for-good")
    place.put(b"k", b"v", [("strange", b"record")])
    place.reject(7, value=None, reason="empty")
    found = place.run("replay")

    assert [one["why"] for one in found["left"]] == [
        "its value of 1001 bytes was too large to be kept",
        "its key of 300000 bytes was too large to be kept",
        "its 1 headers were too large to be kept",
        "nothing of it was kept",
        "it has neither key nor value",
        "gone-for-good does not exist: --to names another topic",
        "its headers do not say where it came from",
    ]
    assert [(one["partition"], one["offset"]) for one in found["left"]] == [(0, n) for n in range(7)]
    assert found["sent"] == 1
    [message] = place.read()
    assert (message.key(), message.value()) == (b"pump", None)


def test_a_dry_run_says_what_a_run_would_do_and_does_nothing(place):
    place.reject(1)
    place.reject(2, value=b"x" * 1_001)
    dry = place.run("replay", "--dry-run")
    assert place.read(isolation="read_uncommitted") == []
    wet = place.run("replay")

    assert {**dry, "dry_run": False} == wet
    assert (wet["sent"], len(wet["left"])) == (1, 1)


def test_they_are_chosen_by_reason_by_topic_and_by_when_they_were_rejected(place):
    other = f"{place.name}.other"
    topics.apply({"bootstrap_servers": [place.kafka]}, [topics.Wanted(other, 1, {})], replication=1)
    place.reject(1)
    place.reject(2, reason="bad_time")
    place.reject(3, topic=other)
    time.sleep(1.1)
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    time.sleep(0.1)
    place.reject(4)

    def listed(*arguments):
        return sorted(one["from"]["offset"] for one in place.run("list", *arguments)["records"])

    assert listed() == [1, 2, 3, 4]
    assert listed("--reason", "schema") == [1, 3, 4]
    assert listed("--reason", "schema", "--topic", other) == [3]
    assert listed("--since", moment) == [4]
    assert listed("--since", "1h") == [1, 2, 3, 4]
    assert place.run("replay", "--reason", "bad_time")["sent"] == 1
    assert offsets(place.read()) == [2]


def test_elsewhere_the_key_says_which_partition(place):
    other = f"{place.name}.other"
    topics.apply({"bootstrap_servers": [place.kafka]}, [topics.Wanted(other, 5, {})], replication=1)
    for offset in range(20):
        place.reject(offset, key=b"pump-%d" % offset)
        place.producer.produce(f"{place.name}.other", key=b"pump-%d" % offset, value=b"by another client", partition=murmur2(offset))
    place.producer.flush(30)
    place.run("replay", "--to", other)

    found: dict[bytes, set[int]] = {}
    for message in place.read(other):
        found.setdefault(message.key(), set()).add(message.partition())
    assert len(found) == 20
    assert all(len(partitions) == 1 for partitions in found.values())
    assert place.read() == []


def murmur2(number):
    from kafka.partitioner.default import murmur2

    return (murmur2(b"pump-%d" % number) & 0x7FFFFFFF) % 5


def test_a_list_counts_all_and_shows_the_newest_whatever_is_in_them(place):
    place.reject(1, value=b"\xff\x1b[31m\n", key=None, headers=[("a", b"b")])
    for offset in range(2, 9):
        place.reject(offset, reason="not_json" if offset % 2 else "schema")
        time.sleep(0.002)
    found = place.run("list", "--limit", "2")

    assert [one["from"]["offset"] for one in found["records"]] == [8, 7]
    assert found["matching"] == 8
    assert {one["reason"]: one["records"] for one in found["counts"]} == {"schema": 5, "not_json": 3}
    [oldest] = [one for one in place.run("list")["records"] if one["from"]["offset"] == 1]
    assert base64.b64decode(oldest["value_base64"]) == b"\xff\x1b[31m\n"
    assert oldest["headers"] == {"a": "b"}
    text = resend.list_text(place.run("list", "--limit", "8"))
    assert text.replace("\n", "").isprintable()
    assert "5 schema from" in text
    assert f"{place.input}/1@8  attempt 1  schema: what came, what was wanted" in text


def test_many_are_sent_in_several_transactions(place, monkeypatch):
    monkeypatch.setattr(resend, "TRANSACTION_RECORDS", 10)
    for offset in range(35):
        place.reject(offset)
    assert place.run("replay")["sent"] == 35
    assert offsets(place.read()) == list(range(35))
    assert hanging(place.kafka, place.input) == []


def test_where_one_cannot_be_sent_its_transaction_is_undone_and_what_went_before_is_told(place, monkeypatch):
    monkeypatch.setattr(resend, "TRANSACTION_RECORDS", 2)
    small = f"{place.name}.small"
    topics.apply({"bootstrap_servers": [place.kafka]}, [topics.Wanted(small, 1, {"max.message.bytes": "2000"})], replication=1)
    for offset in range(4):
        place.reject(offset, value=random_bytes(5_000) if offset == 3 else bad(offset), max_bytes=10_000)
    said = place.run("replay", "--to", small, code=1)

    assert f"{small} takes no record of 5,004 bytes: raise its max.message.bytes" in said
    assert "2 records had been sent by then, and are committed" in said
    assert offsets(place.read(small)) == [0, 1]
    assert hanging(place.kafka, small) == []


def random_bytes(count):
    import random

    return random.Random(0).randbytes(count)


def test_of_two_at_once_the_first_says_that_another_one_has_begun_and_leaves_it_in_peace(place, monkeypatch):
    for offset in range(3):
        place.reject(offset)
    reached = {name: threading.Event() for name in ("first", "second")}
    go_on = {name: threading.Event() for name in reached}
    honest = resend.Outbox.put

    def slow(self, one, *where, timed):
        honest(self, one, *where, timed=timed)
        if one.offset == 2:
            reached[threading.current_thread().name].set()
            assert go_on[threading.current_thread().name].wait(60)

    said = {}

    def send():
        options = {"bootstrap_servers": [place.kafka]}
        try:
            found = resend.resend(
                options, place.rejected, resend.Choice(), application=place.name, to=None, dry_run=False, timed=False
            )  # fmt: skip
            said[threading.current_thread().name] = found.sent
        except resend.ResendError as error:
            said[threading.current_thread().name] = str(error)

    monkeypatch.setattr(resend.Outbox, "put", slow)
    threads = [threading.Thread(target=send, name=name) for name in reached]
    for thread in threads:
        thread.start()
        assert reached[thread.name].wait(60)
    for thread in threads:
        go_on[thread.name].set()
        thread.join(60)

    assert said == {"first": "another `rejected replay` of this application has begun", "second": 3}
    assert offsets(place.read()) == [0, 1, 2]
    assert hanging(place.kafka, place.input) == []


def test_an_interruption_leaves_nothing_half_done(place, monkeypatch):
    for offset in range(3):
        place.reject(offset)
    honest = resend.Outbox.put

    def interrupted(self, one, *where, timed):
        honest(self, one, *where, timed=timed)
        if one.offset == 1:
            self._producer.flush()
            raise KeyboardInterrupt

    monkeypatch.setattr(resend.Outbox, "put", interrupted)
    place.run("replay", code=130)
    assert len(place.read(isolation="read_uncommitted")) == 2
    assert place.read() == []
    assert hanging(place.kafka, place.input) == []


def test_what_is_wrong_is_named(place):
    assert "nowhere.rejected.v1 is missing: run `tidecast topics apply`" in place.run("list", "--set", "output.prefix=nowhere", code=1)
    place.reject(1)
    assert "nowhere does not exist" in place.run("replay", "--to", "nowhere", code=1)
    for flags, said in (
        (("--reason", "odd"), "--reason odd: allowed: not_json, schema, "),
        (("--since", "yesterday"), "--since yesterday: not a duration"),
        (("--since", "2026-13-01"), "--since 2026-13-01: not a time"),
    ):
        assert said in place.run("list", *flags, code=2)
    place.kafka = f"127.0.0.1:{free_port()}"
    assert f"no broker answers at {place.kafka}" in place.run("list", code=1)
