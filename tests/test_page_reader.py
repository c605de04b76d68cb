"""The live page's reader on a real broker: what was committed, from a bounded way back, through whatever happens to the broker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer
from kafka import KafkaConsumer, errors
from told import forecast, score, status

from pipeline.broker import Broker
from pipeline.page import fold as folding
from pipeline.page import reader as reading
from pipeline.page import watch
from pipeline.page.fold import Fold
from pipeline.page.reader import Reader
from pipeline.records import encode
from pipeline.settings import UNASKED, Settings
from pipeline.stop import Stop
from tests.instances import make_ours, until

pytestmark = pytest.mark.kafka


@contextmanager
def reader(bootstrap: str, prefix: str) -> Iterator[Reader]:
    with Reader({"bootstrap_servers": [bootstrap]}, prefix=prefix, fold=Fold("tidecast")) as running:
        yield running


def produce(producer: Producer, prefix: str, names: list[str], steps: range) -> None:
    for t in steps:
        for name in names:
            producer.produce(f"{prefix}.forecasts.v1", key=name, value=encode(forecast(name, t)))
            producer.produce(f"{prefix}.scores.v1", key=name, value=encode(score(name, t, actual=float(t))))
    producer.produce(f"{prefix}.status.v1", key="tidecast", value=encode(status(steps.stop)))
    assert producer.flush(30) == 0


def actual(running: Reader, name: str) -> list[float]:
    """What the page shows as having come."""
    with running.lock:
        shown = running.fold.shown(name, 1) or {"times": []}
    return [value for value in shown.get("actual", []) if value is not None]


def test_a_page_opened_late_shows_what_was_before_it_and_goes_on(kafka: str, name: str) -> None:
    make_ours(kafka, name)
    producer = Producer({"bootstrap.servers": kafka})
    produce(producer, name, ["taxi", "bus"], range(40))
    with reader(kafka, name) as running:
        until(lambda: actual(running, "taxi") == [float(t) for t in range(40)])
        with running.lock:
            first = running.fold.heard
        produce(producer, name, ["taxi"], range(40, 45))
        until(lambda: actual(running, "taxi") == [float(t) for t in range(45)])
        until(lambda: running.fold.heard != first)
        assert abs(running.fold.heard / 1e6 - time.time()) < 60
        assert (running.link.state, running.skipped, running.fold.unreadable) == ("reading", 0, 0)


def test_what_was_not_committed_is_never_shown(kafka: str, name: str) -> None:
    make_ours(kafka, name)
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": name})
    producer.init_transactions(30)
    producer.begin_transaction()
    produce(producer, name, ["aborted"], range(5))
    producer.abort_transaction(30)
    producer.begin_transaction()
    produce(producer, name, ["committed"], range(5))
    producer.commit_transaction(30)
    producer.begin_transaction()
    produce(producer, name, ["open"], range(5))
    with reader(kafka, name) as running:
        until(lambda: len(actual(running, "committed")) == 5)
        assert running.fold.names == ["committed"]
        producer.commit_transaction(30)
        until(lambda: len(actual(running, "open")) == 5)


def test_it_says_which_topics_are_missing_and_waits_for_them(kafka: str, name: str) -> None:
    with reader(kafka, name) as running:
        until(lambda: running.link.state == "missing")
        assert f"{name}.forecasts.v1" in running.link.why
        make_ours(kafka, name)
        until(lambda: running.link.state == "reading")


@pytest.mark.parametrize("failures", [0, 1])
def test_the_past_of_a_series_that_was_not_in_detail_is_read_when_it_is_picked(
    failures: int, kafka: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However early it is picked, chunk by chunk, and again where the brokers would not have it."""
    monkeypatch.setattr(folding, "IN_DETAIL", 2)
    monkeypatch.setattr(reading, "CHUNK", 7)
    monkeypatch.setattr(reading, "LOOK_BACK_SECONDS", 60.0)
    monkeypatch.setattr(reading, "POLL_RECORDS", 10)  # a name is known long before all that is there was read
    refused = iter([True] * failures)
    whole = Reader._read_back

    def read_back(running: Reader, consumer: KafkaConsumer, picked: str) -> None:
        if next(refused, False):
            raise errors.KafkaTimeoutError
        whole(running, consumer, picked)

    monkeypatch.setattr(Reader, "_read_back", read_back)
    make_ours(kafka, name)
    names = ["a", "b", "c", "d"]
    produce(Producer({"bootstrap.servers": kafka}), name, names, range(30))
    with reader(kafka, name) as running:
        until(lambda: len(running.fold.names) == 4)
        [late] = [one for one in names if running.fold.index[one] == 3]
        assert actual(running, late) == []
        with running.lock:
            assert running.fold.pick(late)
        running.look_back(late)
        until(lambda: len(actual(running, late)) == 30)
    assert next(refused, None) is None


def test_one_that_cannot_keep_up_goes_on_at_the_end_and_says_so(kafka: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BEHIND_SECONDS", -1.0)
    monkeypatch.setattr(reading, "BEHIND_RECORDS", 100)
    monkeypatch.setattr(reading, "POLL_RECORDS", 10)
    make_ours(kafka, name)
    producer = Producer({"bootstrap.servers": kafka})
    produce(producer, name, [f"s{k}" for k in range(100)], range(10))
    with reader(kafka, name) as running:
        until(lambda: running.skipped > 0)
        produce(producer, name, ["now"], range(10, 14))
        until(lambda: "now" in running.fold.index)
        until(lambda: running.behind < 100)


def test_a_broker_that_was_restarted_is_read_on(own_broker: Broker, name: str) -> None:
    make_ours(own_broker.bootstrap, name)
    produce(Producer({"bootstrap.servers": own_broker.bootstrap}), name, ["taxi"], range(20))
    with reader(own_broker.bootstrap, name) as running:
        until(lambda: len(actual(running, "taxi")) == 20)
        own_broker.stop()
        until(lambda: running.link.state == "away")
        own_broker.start()
        until(lambda: running.link.state == "reading")
        produce(Producer({"bootstrap.servers": own_broker.bootstrap}), name, ["taxi"], range(20, 25))
        until(lambda: actual(running, "taxi") == [float(t) for t in range(25)])
        assert running.fold.sums[0, 3, 0] < 25, "nothing was counted twice"


def test_a_bug_ends_the_page_instead_of_leaving_it_with_what_was(kafka: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ours(kafka, name)
    produce(Producer({"bootstrap.servers": kafka}), name, ["taxi"], range(3))
    monkeypatch.setattr(Fold, "score", lambda *_: 1 // 0)
    given = Settings.read(None, {}, {"kafka.bootstrap": kafka, "output.prefix": name, "page.address": "127.0.0.1:0"}, otherwise=UNASKED)
    with pytest.raises(ZeroDivisionError):
        watch.watch(given, stop=Stop(), ready=lambda _: None)


def test_nobody_at_the_address_is_told_and_ends_at_once() -> None:
    with reader("127.0.0.1:1", "any") as running:
        until(lambda: running.link.state == "away")
        assert "nobody answers at 127.0.0.1:1" in running.link.why
        began = time.monotonic()
    assert time.monotonic() - began < 5
