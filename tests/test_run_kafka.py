"""`tidecast run` and `replay` as processes, on a real broker."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, Producer
from confluent_kafka import TopicPartition as Place
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from models.learner import Learner
from pipeline.broker import Broker, free_port
from pipeline.records import Forecast
from tests import agreed
from tests.instances import (
    AT,
    BEGIN,
    HOUR,
    Instance,
    Sample,
    committed,
    hanging,
    ids,
    make_ours,
    produce,
    samples,
    server,
    settings,
    until,
    write,
)

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
ROWS = samples(5, 80)


@pytest.fixture(scope="module", autouse=True)
def forking() -> Iterator[None]:
    with server():
        yield


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The forecasts of ROWS for the application `same`, from a file."""
    folder = tmp_path_factory.mktemp("replay")
    given = settings("127.0.0.1:1", "same", "any", folder, **AT)
    instance = Instance(folder, "replay", str(write(folder / "rows.ndjson", ROWS)), "--json", "--out", str(folder / "out"), *given)
    assert instance.ends() == 0, instance.said()
    assert instance.summary()["forecasts"] == len(ROWS)
    return (folder / "out" / "forecasts.ndjson").read_bytes().splitlines()


@pytest.fixture
def tidecast(kafka: str, name: str, make_topic: Callable[..., str], tmp_path: Path) -> Iterator[Tidecast]:
    one = Tidecast(kafka, name, make_topic(2, suffix=".input"), tmp_path)
    make_ours(kafka, name)
    yield one
    one.kill()


class Tidecast:
    """An application with a topic of its own; `start` it as often as need be."""

    def __init__(self, bootstrap: str, application: str, topic: str, folder: Path) -> None:
        self.bootstrap, self.application, self.topic, self.folder = bootstrap, application, topic, folder
        self.started: list[Instance] = []

    def start(self, *flags: str, first: Callable[[], None] | None = None, **more: str) -> Instance:
        given = settings(self.bootstrap, self.application, self.topic, self.folder, **AT | more)
        self.started.append(Instance(self.folder, "run", "--json", *flags, *given, first=first))
        return self.started[-1]

    def forecasts(self) -> list[bytes]:
        return [r.value for r in committed(self.bootstrap, f"{self.application}.forecasts.v1")]

    def has(self, count: int, instance: Instance) -> None:
        """Returns when so many forecasts are committed."""
        until(lambda: len(self.forecasts()) >= count or not instance.running(), told=instance.said)
        assert len(self.forecasts()) == count, instance.said()

    def kill(self) -> None:
        for instance in self.started:
            if instance.running():
                instance.kill()


# What comes out


@pytest.mark.parametrize("partitions", [1, 4])
def test_live_forecasts_are_those_of_a_replay_byte_for_byte(
    kafka: str, make_topic: Callable[..., str], name: str, tmp_path: Path, partitions: int, replayed: list[bytes]
) -> None:
    topic = make_topic(partitions, suffix=".input")
    make_ours(kafka, name)
    produce(kafka, topic, ROWS)
    run = Instance(tmp_path, "run", "--json", *settings(kafka, "same", topic, tmp_path, output__prefix=name, **AT))

    live = until(lambda: found if len(found := committed(kafka, f"{name}.forecasts.v1")) >= len(replayed) else None, told=run.said)
    code, summary = run.stopped()

    assert code == 0
    assert sorted(r.value for r in live) == sorted(replayed)
    assert summary["used"] == len(ROWS) == summary["consumed"]
    assert not any(json.loads(r.value)["woken"] for r in live)


def test_another_beam_runner_is_a_flag_away_and_says_the_same(
    kafka: str, make_topic: Callable[..., str], name: str, tmp_path: Path, replayed: list[bytes]
) -> None:
    topic = make_topic(2, suffix=".input")
    make_ours(kafka, name)
    produce(kafka, topic, ROWS)
    runner = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
    run = Instance(tmp_path, "run", *settings(kafka, "same", topic, tmp_path, output__prefix=name, **AT), "--", runner)

    live = until(lambda: found if len(found := committed(kafka, f"{name}.forecasts.v1")) >= len(replayed) else None, told=run.said)
    run.tell(signal.SIGTERM)

    assert run.ends() == 0
    assert sorted({r.value for r in live}) == sorted(replayed)


def test_a_client_that_nobody_here_wrote_produces_the_input_and_reads_forecasts(tidecast: Tidecast) -> None:
    for rows, compression in ((ROWS[:200], "lz4"), (ROWS[200:], "zstd")):
        producer = Producer({"bootstrap.servers": tidecast.bootstrap, "compression.type": compression, "linger.ms": 20})
        for row in rows:
            producer.produce(tidecast.topic, key=row.series, value=row.json())
        assert producer.flush(30) == 0
    run = tidecast.start()

    consumer = Consumer(
        {
            "bootstrap.servers": tidecast.bootstrap, "group.id": f"{tidecast.application}-reader", "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )  # fmt: skip
    consumer.subscribe([f"{tidecast.application}.forecasts.v1"])
    read = []
    until(
        lambda: len(read) >= len(ROWS) or (read.extend(m for m in consumer.consume(500, 1.0) if m.error() is None), False)[1],
        told=run.said,
    )
    consumer.close()

    for message in read:
        forecast = msgspec.json.decode(message.value(), type=Forecast)
        assert message.key() == forecast.series.encode()
        assert dict(message.headers()) == {
            "ce_specversion": b"1.0",
            "ce_id": forecast.id.encode(),
            "ce_source": f"/tidecast/{tidecast.application}".encode(),
            "ce_type": b"io.tidecast.forecast.v1",
            "ce_time": forecast.issued_at.encode(),
            "content-type": b"application/json",
        }
        assert (forecast.horizon, len(forecast.targets), len(forecast.point), forecast.step) == (6, 6, 6, "PT1H")
        assert [len(q) for q in forecast.quantiles] == [6] * len(forecast.levels)
        assert (forecast.served[0].from_lead, forecast.served[-1].to_lead) == (1, 6)
    assert len({json.loads(m.value())["id"] for m in read}) == len(read) == len(ROWS)

    group = Consumer({"bootstrap.servers": tidecast.bootstrap, "group.id": tidecast.application})
    places = group.committed([Place(tidecast.topic, 0), Place(tidecast.topic, 1)], timeout=10)
    group.close()
    assert sum(max(place.offset, 0) for place in places) == len(ROWS)


# The same run again, from what kcat writes of its topics


def append(bootstrap: str, topic: str, rows: list[Sample], partition: dict[str, int]) -> None:
    """Each series to its partition, with the trace of whoever sent it."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20})
    for row in rows:
        headers = [("traceparent", f"00-{row.at:032x}-{row.at:016x}-01"), ("empty", None)]
        producer.produce(topic, key=row.series, value=row.json(), partition=partition[row.series], headers=headers)
    assert producer.flush(30) == 0


def dump(bootstrap: str, topic: str, path: Path) -> Path:
    """What `kcat -C -e -J -t TOPIC` writes."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "dumps", "enable.auto.commit": False, "enable.partition.eof": True})
    places = [Place(topic, p, 0) for p in consumer.list_topics(topic, timeout=10).topics[topic].partitions]
    consumer.assign(places)
    kinds = {TIMESTAMP_CREATE_TIME: "create", TIMESTAMP_LOG_APPEND_TIME: "logappend"}
    ended: set[int] = set()
    with path.open("w") as file:
        while len(ended) < len(places):
            message = consumer.poll(10)
            assert message is not None
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF
                ended.add(message.partition())
                continue
            kind, ts = message.timestamp()
            headers = [x for name, value in message.headers() or () for x in (name, None if value is None else value.decode())]
            told = {
                "topic": topic, "partition": message.partition(), "offset": message.offset(), "tstype": kinds[kind], "ts": ts, "broker": 1,
                "headers": headers, "key": message.key().decode(), "payload": message.value().decode(),
            }  # fmt: skip
            file.write(json.dumps(told, separators=(",", ":")) + "\n")
    consumer.close()
    return path


OURS = ("forecasts", "scores", "late", "decisions")
# Hours that each partition gets, part by part: the third falls silent at 15, comes back behind the others, and is with them at 40.
PARTS = (
    {0: range(15), 1: range(15), 2: range(15)},
    {0: range(15, 30), 1: range(15, 30)},
    {2: range(15, 22)},
    {0: range(30, 35), 1: range(30, 35)},
    {2: range(22, 40)},
    {0: range(35, 50), 1: range(35, 50), 2: range(40, 50)},
)
# Before the last part: what cannot be used, and what comes days too late.
AGAIN = [("trace", b"kept"), ("__tidecast.errors.attempt", b"1")]  # as `rejected replay` sends it
ODD = (b"{broken", b'{"series": "meter-0", "at": "yesterday", "value": 1}', Sample("meter-0", BEGIN, 1.0).json())


def append_odd(bootstrap: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for value in ODD:
        producer.produce(topic, key="meter-0", value=value, partition=0, headers=AGAIN)
    assert producer.flush(30) == 0


def test_a_run_in_which_a_partition_fell_idle_and_came_back_is_repeated_byte_for_byte_from_its_dump(
    kafka: str, make_topic: Callable[..., str], name: str, tmp_path: Path
) -> None:
    rows = samples(6, 50, ragged=False)
    partition = {f"meter-{i}": i % 3 for i in range(6)}
    tidecast = Tidecast(kafka, name, make_topic(3, suffix=".input"), tmp_path)
    make_ours(kafka, name)
    run = tidecast.start(time__idle_after="1s", metrics__series="meter-0,nobody")
    sent = 0
    for part in PARTS:
        if part is PARTS[-1]:
            append_odd(kafka, tidecast.topic)
        chosen = [r for r in rows if (r.at - BEGIN) // HOUR in part.get(partition[r.series], ())]
        append(kafka, tidecast.topic, chosen, partition)
        sent += len(chosen)
        tidecast.has(sent, run)
    assert sent == len(rows)
    assert run.stopped()[0] == 0
    live = {kind: sorted(r.value for r in committed(kafka, f"{name}.{kind}.v1")) for kind in OURS}
    wakes = [d["numbers"] for d in map(json.loads, live["decisions"]) if d["kind"] == "wake"]
    assert len({w["position"] for w in wakes if w["partition"] == 2}) > 1, "one at the wake, and more while it was rejoining"
    assert any(json.loads(f)["woken"] for f in live["forecasts"])
    assert len(live["late"]) == 1
    for schema in (*(f"{kind}.v1" for kind in (*OURS, "status")), "rejected.v1.headers"):  # as they are published in deploy/
        messages = committed(kafka, f"{name}.{schema.removesuffix('.headers')}")
        assert messages, schema
        assert agreed.faults(schema, messages) == [], schema
    told = [dict(r.headers) for r in committed(kafka, f"{name}.rejected.v1")]
    assert [(h["__tidecast.errors.reason"], h["__tidecast.errors.attempt"], h["trace"]) for h in told] == [
        (b"not_json", b"2", b"kept"), (b"bad_time", b"2", b"kept"),
    ]  # fmt: skip

    topic = dump(kafka, tidecast.topic, tmp_path / "topic.ndjson")
    decisions = dump(kafka, f"{name}.decisions.v1", tmp_path / "decisions.ndjson")
    given = settings("127.0.0.1:1", name, "any", tmp_path, **AT)
    again = Instance(
        tmp_path, "replay", str(topic), "--dump", "--decisions", str(decisions), "--json", "--out", str(tmp_path / "again"), *given
    )
    alone = Instance(tmp_path, "replay", str(topic), "--dump", "--out", str(tmp_path / "alone"), *given)

    assert again.ends() == 0, again.said()
    for kind in OURS:
        assert sorted((tmp_path / "again" / f"{kind}.ndjson").read_bytes().splitlines()) == live[kind], kind
    assert again.summary()["used"] == len(rows)
    assert alone.ends() == 0, alone.said()
    forecasts = sorted((tmp_path / "alone" / "forecasts.ndjson").read_bytes().splitlines())
    assert len(forecasts) == len(rows)
    assert forecasts != live["forecasts"]


def test_decisions_that_the_dump_cannot_follow_are_named(tmp_path: Path) -> None:
    numbers = {"topic": "meters", "partition": 1, "position": 1, "instant": BEGIN * 1_000_000}
    record = {"topic": "meters", "partition": 0, "offset": 0, "tstype": "create", "ts": 0, "key": None, "payload": "{}"}
    decision = {"application": "same", "kind": "wake", "numbers": numbers}
    (tmp_path / "topic.ndjson").write_text(json.dumps(record))
    (tmp_path / "decisions.ndjson").write_text(json.dumps(decision))
    files = str(tmp_path / "topic.ndjson"), "--decisions", str(tmp_path / "decisions.ndjson")
    given = settings("127.0.0.1:1", "same", "any", tmp_path)
    refused, misused = (Instance(tmp_path, "replay", *files, *flags, *given) for flags in (["--dump"], []))

    assert refused.ends() == 1
    assert "decisions.ndjson line 1: a wake of meters/1, of which the dump has no record" in one_message(refused)
    assert misused.ends() == 2
    assert "--decisions needs --dump" in one_message(misused)


# Stopping and starting


def test_sigterm_ends_in_ten_seconds_and_the_next_start_goes_on_where_it_stood(tidecast: Tidecast) -> None:
    produce(tidecast.bootstrap, tidecast.topic, ROWS[:200])
    run = tidecast.start()
    tidecast.has(200, run)
    before = tidecast.forecasts()
    code, first = run.stopped(within=10)
    produce(tidecast.bootstrap, tidecast.topic, ROWS[200:])
    run = tidecast.start()
    tidecast.has(len(ROWS), run)
    again, second = run.stopped()

    assert (code, again) == (0, 0)
    assert tidecast.forecasts()[: len(before)] == before or set(before) < set(tidecast.forecasts())
    assert (first["consumed"], second["consumed"]) == (200, len(ROWS))  # the ledger is the application's, not the process's
    assert second["windows"] > first["windows"]
    assert len(set(ids(committed(tidecast.bootstrap, f"{tidecast.application}.forecasts.v1")))) == len(ROWS)


def test_nothing_is_read_again_after_a_stop(tidecast: Tidecast) -> None:
    produce(tidecast.bootstrap, tidecast.topic, ROWS[:50])
    run = tidecast.start()
    tidecast.has(50, run)
    _, first = run.stopped()
    run = tidecast.start()
    until(lambda: "reading" in run.said(), told=run.said)
    time.sleep(2)
    _, second = run.stopped()

    told = ("consumed", "used", "forecasts", "scored")  # not "windows": what the first life had still to learn, the second learns
    assert {key: second[key] for key in told} == {key: first[key] for key in told}
    assert len(tidecast.forecasts()) == 50


def test_ctrl_c_prints_the_summary_and_says_so_in_the_exit_code(tidecast: Tidecast) -> None:
    produce(tidecast.bootstrap, tidecast.topic, ROWS[:50])
    run = tidecast.start()
    tidecast.has(50, run)
    code, summary = run.stopped(signal.SIGINT)

    assert code == 130
    assert summary["forecasts"] == 50


def test_a_second_instance_is_refused_and_may_take_over(tidecast: Tidecast) -> None:
    produce(tidecast.bootstrap, tidecast.topic, ROWS[:50])
    old = tidecast.start()
    tidecast.has(50, old)
    second = tidecast.start()

    assert second.ends() == 70
    assert "--take-over" in second.said()
    assert tidecast.application in second.said()

    new = tidecast.start("--take-over")
    until(lambda: "reading" in new.said(), told=new.said)
    produce(tidecast.bootstrap, tidecast.topic, ROWS[50:100])

    assert old.ends() == 70
    assert "has taken over" in old.said()
    tidecast.has(100, new)
    assert new.stopped()[0] == 0


def test_an_instance_that_slept_while_another_went_on_finds_itself_fenced(tidecast: Tidecast) -> None:
    produce(tidecast.bootstrap, tidecast.topic, ROWS[:50])
    old = tidecast.start()
    tidecast.has(50, old)
    old.tell(signal.SIGSTOP)
    new = tidecast.start()
    produce(tidecast.bootstrap, tidecast.topic, ROWS[50:100])
    tidecast.has(100, new)
    old.tell(signal.SIGCONT)

    assert old.ends(within=20) == 70
    produce(tidecast.bootstrap, tidecast.topic, ROWS[100:120])
    tidecast.has(120, new)
    assert new.stopped()[0] == 0
    assert hanging(tidecast.bootstrap, f"{tidecast.application}.forecasts.v1") == []


def learns_apart_at_once() -> None:
    """In the child: the process that learns is there from the first instant on."""
    from pipeline import learn

    class Loaded(learn.Apart):
        def __init__(self, learner: Learner) -> None:
            super().__init__(learner)
            until(self.ready)

    learn.LOADING_SECONDS, learn.Apart = 0.0, Loaded


def children(of: int | None) -> list[int]:
    """Processes below one that learn."""
    found = [int(pid) for task in Path(f"/proc/{of}/task").iterdir() for pid in (task / "children").read_text().split()]
    return [pid for pid in found if b"models.apart" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_when_the_process_that_learns_is_killed_it_goes_on_from_the_last_commit(tidecast: Tidecast, replayed: list[bytes]) -> None:
    produce(tidecast.bootstrap, tidecast.topic, ROWS[:200])
    run = tidecast.start(first=learns_apart_at_once)
    tidecast.has(200, run)
    (learning,) = children(run.process.pid)
    os.kill(learning, signal.SIGKILL)
    produce(tidecast.bootstrap, tidecast.topic, ROWS[200:])
    tidecast.has(len(ROWS), run)

    assert "the process that learns" in run.said()
    assert children(run.process.pid) not in ([], [learning])
    assert run.stopped()[0] == 0
    ids = [json.loads(value)["id"] for value in tidecast.forecasts()]
    assert len(set(ids)) == len(ids) == len(replayed)
    assert not Path(f"/proc/{learning}").exists()


# What can be wrong, and what is said then


def one_message(instance: Instance) -> str:
    """What it said last; never a stack trace."""
    assert "Traceback" not in instance.said()
    return instance.said()


def test_all_that_is_wrong_with_the_settings_is_one_message(tidecast: Tidecast) -> None:
    run = tidecast.start(series__step="soon", forecast__horizon="0", forecast__horison="3")

    assert run.ends() == 2
    for part in ("series.step", "forecast.horizon = 0", "forecast.horison", "did you mean forecast.horizon?"):
        assert part in one_message(run)


def test_without_a_broker_it_ends_soon_and_names_the_address(tidecast: Tidecast) -> None:
    tidecast.bootstrap = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    run = tidecast.start()

    assert run.ends() == 1
    assert time.monotonic() - began < 45  # 30 s, and the start of a process on a busy machine
    assert tidecast.bootstrap in one_message(run)
    assert "kafka.bootstrap" in one_message(run)


def test_an_input_topic_that_does_not_exist_is_named(tidecast: Tidecast) -> None:
    tidecast.topic = "nowhere"
    run = tidecast.start()

    assert run.ends() == 1
    assert "nowhere does not exist" in one_message(run)


def test_topics_of_ours_that_are_missing_are_named_with_the_remedy(tidecast: Tidecast) -> None:
    run = tidecast.start(output__prefix="unmade")

    assert run.ends() == 1
    for part in ("unmade.forecasts.v1 is missing", "unmade.commits.v1 is missing", "tidecast topics apply"):
        assert part in one_message(run)


def test_a_metrics_port_that_is_taken_is_named(tidecast: Tidecast) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        run = tidecast.start(metrics__address=address)

        assert run.ends() == 1
        assert f"metrics.address = {address}" in one_message(run)


def test_without_the_state_of_its_commits_it_does_not_guess(tidecast: Tidecast) -> None:
    produce(tidecast.bootstrap, tidecast.topic, ROWS[:50])
    run = tidecast.start()
    tidecast.has(50, run)
    run.stopped()
    shutil.rmtree(tidecast.folder / "state")
    run = tidecast.start()

    assert run.ends() == 78
    assert "Bring the state folder back" in one_message(run)
    assert len(tidecast.forecasts()) == 50


def test_settings_that_do_not_fit_the_state_are_named(tidecast: Tidecast) -> None:
    produce(tidecast.bootstrap, tidecast.topic, ROWS[:50])
    run = tidecast.start()
    tidecast.has(50, run)
    assert run.stopped()[0] == 0
    run = tidecast.start(forecast__horizon="8")
    assert run.ends() == 2
    assert "forecast.horizon was 6 and is 8" in one_message(run)


def test_input_trimmed_below_our_position_needs_leave_to_go_on(tidecast: Tidecast) -> None:
    produce(tidecast.bootstrap, tidecast.topic, ROWS[:50])
    run = tidecast.start()
    tidecast.has(50, run)
    run.stopped()
    produce(tidecast.bootstrap, tidecast.topic, ROWS[50:100])
    admin = KafkaAdminClient(bootstrap_servers=tidecast.bootstrap)
    ends = {p: end_of(tidecast, p) for p in (0, 1)}
    admin.delete_records({TopicPartition(tidecast.topic, p): end - 2 for p, end in ends.items()})
    admin.close()
    run = tidecast.start()

    assert run.ends() == 78
    assert f"{ends[0] - 2}" in one_message(run) or f"{ends[1] - 2}" in one_message(run)
    assert "--accept-loss" in one_message(run)

    run = tidecast.start("--accept-loss")
    tidecast.has(54, run)
    assert run.stopped()[0] == 0


def end_of(tidecast: Tidecast, partition: int) -> int:
    consumer = Consumer({"bootstrap.servers": tidecast.bootstrap, "group.id": "asks"})
    _, end = consumer.get_watermark_offsets(Place(tidecast.topic, partition), timeout=10)
    consumer.close()
    return int(end)


def small_files(limit: int) -> None:
    """As a full disk: no file may grow beyond `limit` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def test_a_full_disk_is_named_and_nothing_is_lost_when_there_is_room_again(tidecast: Tidecast) -> None:
    produce(tidecast.bootstrap, tidecast.topic, ROWS[:50])
    run = tidecast.start()
    tidecast.has(50, run)
    run.stopped()
    state = tidecast.folder / "state"
    kept = set((state / tidecast.application).iterdir())
    produce(tidecast.bootstrap, tidecast.topic, ROWS[50:100])
    run = tidecast.start(first=partial(small_files, 20_000))
    tidecast.has(100, run)
    run.tell(signal.SIGTERM)

    assert run.ends() == 1
    assert "cannot write a snapshot" in one_message(run)
    assert str(state) in one_message(run)
    assert kept & set((state / tidecast.application).iterdir())

    produce(tidecast.bootstrap, tidecast.topic, ROWS[100:150])
    run = tidecast.start()
    tidecast.has(150, run)
    code, summary = run.stopped()
    assert (code, summary["used"]) == (0, 150)
    assert len(set(ids(committed(tidecast.bootstrap, f"{tidecast.application}.forecasts.v1")))) == 150


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Broker]:
    """A broker that knows who may do what."""
    rights = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer", "allow.everyone.if.no.acl.found": "true",
    }  # fmt: skip
    with Broker(tmp_path / "kafka", die_with_parent=True, properties=rights) as running:
        yield running


def test_a_topic_that_may_not_be_written_is_named_with_the_right(
    guarded: Broker, make_topic: Callable[..., str], name: str, tmp_path: Path
) -> None:
    topic = make_topic(suffix=".input", bootstrap=guarded.bootstrap)
    make_ours(guarded.bootstrap, name)
    forbid(guarded.bootstrap, f"{name}.forecasts.v1", ACLOperation.WRITE)
    produce(guarded.bootstrap, topic, ROWS[:20])
    tidecast = Tidecast(guarded.bootstrap, name, topic, tmp_path)
    run = tidecast.start()

    assert run.ends() == 1
    assert f"{name}.forecasts.v1" in one_message(run)
    assert "WRITE" in one_message(run)
    assert tidecast.forecasts() == []


def forbid(bootstrap: str, topic: str, operation: ACLOperation) -> None:
    pattern = ResourcePattern(ResourceType.TOPIC, topic)
    rules = [("*", ACLPermissionType.ALLOW, ACLOperation.ALL), ("*", ACLPermissionType.DENY, operation)]
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_acls([ACL(f"User:{who}", "*", what, permission, pattern) for who, permission, what in rules])
    admin.close()
