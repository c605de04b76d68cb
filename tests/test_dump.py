"""A topic's dump: read as the topic was, and with the decisions on record, the run that read it over again."""

import gzip
import json
import math
import random
import re

import pytest

from pipeline import consume, learn, operate
from pipeline.decode import Decoder, shape_of
from pipeline.dump import Dump, DumpReader, decisions, logs
from pipeline.events import NEVER, Decision, LedgerBroken
from pipeline.files import FileUnreadable
from pipeline.learn import Shard, one_thread
from pipeline.publish import FilePublisher
from pipeline.records import Raw, RawBlock, Source, rfc3339
from pipeline.settings import Settings, SettingsError

T = [Source("t", p) for p in range(3)]


def line(source, record):
    """As kcat -J writes it: text as it is, bytes that are no text too."""
    told = {
        "topic": source.topic, "partition": source.partition, "offset": record.offset, "tstype": "create", "ts": record.stamp // 1000,
        "broker": 1, "headers": [x for name, value in record.headers for x in (name, value.decode())],
        "key": None if record.key is None else record.key.decode("utf-8", "surrogateescape"),
        "payload": None if record.value is None else record.value.decode("utf-8", "surrogateescape"),
    }  # fmt: skip
    if not record.headers:
        del told["headers"]
    return json.dumps(told, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"


def dump(path, records, rng=None):
    """The records, those of a partition in order, partitions mixed."""
    rng = rng or random.Random(0)
    left = {source: list(log) for source, log in records.items()}
    with path.open("wb") as file:
        while any(left.values()):
            source = rng.choice([s for s, log in left.items() if log])
            file.write(line(source, left[source].pop(0)))
    return path


def raw(offset, **more):
    return Raw(offset, 1_700_000_000_000_000 + offset * 1000, **{"key": None, "value": b"{}"} | more)


# What is read


def test_every_partition_is_a_source_with_records_as_they_lay_in_it(tmp_path):
    strange = bytes(range(256))
    records = {
        T[0]: [raw(3, key=b"k\xc3\xa4", headers=[("traceparent", b"00-1-2-01"), ("h", b"")]), raw(4, value=None), raw(90, value=strange)],
        T[2]: [raw(7, key=strange, value=b'{"a": "\\u00e4\\n\\"/"}')],
        Source("other", 0): [raw(0)._replace(stamp=0)],
    }
    assert logs(Dump(str(dump(tmp_path / "x.ndjson", records)))) == records


def test_headers_may_be_without_values_and_timestamps_may_be_missing(tmp_path):
    told = {"topic": "t", "partition": 0, "offset": 5, "tstype": "unknown", "ts": -1, "headers": ["h", None], "key": None, "payload": "x"}
    (tmp_path / "x").write_text(json.dumps(told))
    assert logs(Dump(str(tmp_path / "x"))) == {T[0]: [Raw(5, 0, None, b"x", [("h", b"")])]}


def test_a_packed_dump_is_the_same(tmp_path):
    plain = dump(tmp_path / "x.ndjson", {T[0]: [raw(1), raw(2)]})
    (tmp_path / "x.ndjson.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert logs(Dump(str(tmp_path / "x.ndjson.gz"))) == logs(Dump(str(plain)))


GOOD = {"topic": "t", "partition": 0, "offset": 1, "ts": 0, "key": None, "payload": None}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"no\n", "line 3: not a record as kcat -J writes it: not JSON"),
        (b"[" * 100_000, "line 3: .*not JSON"),
        (b'{"at": 1, "value": 2}', "line 3: .*missing required field `topic`"),
        (json.dumps(GOOD | {"offset": "2"}).encode(), "line 3: .*Expected `int`.*offset"),
        (json.dumps(GOOD | {"payload": {"a": 1}}).encode(), "line 3: .*payload"),
        (json.dumps(GOOD | {"offset": 2, "headers": ["a"]}).encode(), "line 3: .*names and values in turn"),
        (json.dumps(GOOD | {"offset": 2, "payload": "\ud812"}).encode(), "line 3: not a record"),
        (json.dumps(GOOD).encode(), "line 3: t/0 at 1, after 1: allowed: each record once"),
        (json.dumps(GOOD | {"offset": 0}).encode(), "line 3: t/0 at 0, after 1"),
    ],
)
def test_a_line_that_is_no_record_or_out_of_order_is_named(tmp_path, bad, said):
    (tmp_path / "x").write_bytes(json.dumps(GOOD).encode() + b"\n\n" + bad)
    with pytest.raises(FileUnreadable, match=re.escape(str(tmp_path / "x")) + " " + said):
        logs(Dump(str(tmp_path / "x")))


def test_a_dump_that_cannot_be_read_or_holds_nothing_is_named(tmp_path):
    (tmp_path / "empty").write_bytes(b"\n")
    whole = gzip.compress(random.Random(0).randbytes(1000))
    (tmp_path / "torn.gz").write_bytes(whole[:500])
    (tmp_path / "broken.gz").write_bytes(whole[:20] + b"\xff" * 900)
    for name, said in (("missing", "No such file"), ("empty", "no record in it"), ("torn.gz", ""), ("broken.gz", "")):
        with pytest.raises(FileUnreadable, match=f"{name}: .*{said}"):
            logs(Dump(str(tmp_path / name)))


def test_blocks_of_a_dump_join_over_gaps_and_the_last_of_each_partition_says_so():
    reader = DumpReader({T[0]: [raw(2), raw(3), raw(9)], T[1]: [raw(0)]})
    assert reader.there() == {T[0]: range(2, 10), T[1]: range(1)}
    mark = reader.take(T[0], 2, 2)
    assert (mark.first, mark.next, len(mark.records), mark.stable, mark.ended) == (2, 2, 0, False, False), "it says where it stands"
    assert reader.take(T[0], 2, 2) is None
    block = reader.take(T[0], 2, 6)
    assert ([r.offset for r in block.records], block.next, block.ended) == ([2, 3], 6, False), "a gate between two records"
    assert reader.lag() == {T[0]: 1, T[1]: 1}
    block = reader.take(T[0], 6, None)
    assert ([r.offset for r in block.records], block.first, block.next, block.ended) == ([9], 6, 10, True)
    assert [reader.take(T[1], 0, None).ended for _ in range(2)] == [False, True]


def test_a_block_of_a_dump_holds_a_thousand_records_and_reaches_to_the_next():
    reader = DumpReader({T[0]: [raw(2 * i) for i in range(2_500)]})
    blocks = [reader.take(T[0], 0, None)]
    while not blocks[-1].ended:
        blocks.append(reader.take(T[0], blocks[-1].next, None))
    assert [(b.first, b.next, len(b.records)) for b in blocks] == [(0, 0, 0), (0, 2000, 1000), (2000, 4000, 1000), (4000, 4999, 500)]


# What is on record

THERE = {T[1]: range(5, 20)}


def wake(position=7, instant=10**15, **more):
    numbers = {"topic": "t", "partition": 1, "position": position, "instant": instant}
    return {"id": "1", "application": "app", "at": "2026-01-01T00:00:00Z", "kind": "wake", "numbers": numbers} | more


def recorded(folder, *values):
    (folder / "decisions").write_text("".join(json.dumps(value) + "\n" for value in values))
    return decisions(str(folder / "decisions"), "app", THERE).wakes


def test_wakes_are_taken_as_they_are_or_out_of_what_kcat_wrote_and_other_decisions_are_left(tmp_path):
    packed = {"topic": "tidecast.decisions.v1", "partition": 0, "offset": 3, "key": "app", "payload": json.dumps(wake(8))}
    found = recorded(tmp_path, wake(7), packed, wake(kind="drift", numbers={}), wake(9, application="other"))
    assert found == [Decision(T[1], 7, 10**15), Decision(T[1], 8, 10**15)]
    assert recorded(tmp_path) == []
    assert recorded(tmp_path, wake(5), wake(20)) == [Decision(T[1], 5, 10**15), Decision(T[1], 20, 10**15)]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no", "Expected `object`"),
        ({"kind": "wake"}, "missing required field `application`"),
        (wake(numbers={"topic": "t"}), "missing required field `partition`"),
        (wake(instant=10**18), "instant"),
        (wake(kind="switch", numbers={"effective_from": 1, "instant": 1}), "a switch of no version"),
        (wake(kind="switch", version="a" * 16, numbers={"effective_from": 1}), "missing required field `instant`"),
        (wake(numbers={"topic": "t", "partition": 2, "position": 7, "instant": 1}), "a wake of t/2, of which the dump has no record"),
        (wake(21), "a wake of t/1 at 21; the dump has it from 5 to 20"),
        (wake(4), "a wake of t/1 at 4; the dump has it from 5 to 20"),
    ],
)
def test_a_decision_that_cannot_be_repeated_is_named(tmp_path, value, said):
    with pytest.raises(FileUnreadable, match=f"decisions line 2: .*{said}"):
        recorded(tmp_path, wake(), value)


def test_decisions_of_another_application_alone_are_somebody_elses_run(tmp_path):
    with pytest.raises(FileUnreadable, match="decisions of other, none of app"):
        recorded(tmp_path, wake(application="other"))


# A run, and the same run again

HOUR = 3_600_000_000
BEGIN = 490_000 * HOUR
CHOSEN = {
    "application": "app", "input.topics": "any", "series.step": "1h", "series.season": "4", "forecast.horizon": "6",
    "forecast.min_scores": "5", "forecast.publish_from": "earliest", "learn.rows": "64", "time.idle_after": "5s",
}  # fmt: skip
SETTINGS = Settings.read(None, {}, CHOSEN)
SHAPE = shape_of(SETTINGS, kafka=True)


def spec(sources, *, repeats=()):
    return operate.spec_of(SETTINGS, tuple(sorted(sources)), now=0.0)._replace(repeats=repeats, apart=False)


def topic():
    """Three partitions of two series each, forty hours; offsets with gaps, some disorder, a few records that cannot be used."""
    rng = random.Random(4)
    out = {}
    for source in T:
        log, offset = [], 3 * source.partition
        for t in range(40):
            for k in range(2):
                hour = t - 1 if rng.random() < 0.1 else t
                stamp = BEGIN + hour * HOUR + (HOUR // 2 if rng.random() < 0.9 else -HOUR // 4)  # some clocks are fast
                value = {
                    "series": f"s{source.partition}{k}",
                    "at": rfc3339(BEGIN + hour * HOUR),
                    "value": 10 * k + math.sin(t) + rng.random(),
                }
                if rng.random() < 0.03:
                    value["at"] = rfc3339(BEGIN + (hour + 9) * HOUR)  # beyond future_limit
                headers = [("traceparent", b"00-%032x-%016x-01" % (offset + 1, t + 1))] if rng.random() < 0.5 else ()
                log.append(Raw(offset, stamp, None, json.dumps(value).encode() if rng.random() < 0.97 else b"{", headers))
                offset += rng.choice((1, 1, 1, 1, 2, 4))
        out[source] = log
    return out


class Live:
    """A shard as `run` feeds it: blocks of what has been appended, and the wall clock."""

    def __init__(self, records):
        self.records, self.shard, self.decode = records, Shard(spec(records)), Decoder(SHAPE).decode
        self.now, self.told = 1.0, []
        self.position = {source: log[0].offset for source, log in records.items()}

    def read(self, source, hour):
        """Its records up to an hour."""
        first = self.position[source]
        fresh = [r for r in self.records[source][: 2 * hour] if r.offset >= first]
        self._take(RawBlock(source, first, fresh[-1].offset + 1 if fresh else first, self.now, records=fresh))

    def quiet(self, seconds, *sources):
        """Nothing comes for a while, and the brokers say that there is nothing."""
        self.now += seconds
        for source in sources:
            self._take(RawBlock(source, self.position[source], self.position[source], self.now, stable=True))

    def _take(self, block):
        self.position[block.source] = block.next
        self.told += self.shard.take(self.decode(block))


@pytest.fixture(scope="module")
def run():
    """Partition 2 falls silent after ten hours, wakes with its backlog when the others are at 25 and 30, and catches up at 35."""
    one_thread()
    live = Live(topic())
    for hour in (5, 10):
        for source in T:
            live.read(source, hour)
    live.quiet(6.0, T[2])
    for hour in (15, 20, 25):
        live.read(T[0], hour)
        live.read(T[1], hour + 1)
    live.read(T[2], 13)
    live.read(T[0], 30)
    live.read(T[1], 30)
    live.read(T[2], 17)
    live.read(T[1], 33)
    live.read(T[0], 34)
    for hour in (35, 40):
        for source in reversed(T):
            live.read(source, hour)
    live.quiet(6.0, *T)
    live.quiet(6.0, *T)
    return live


def told(messages):
    return sorted((m.kind, m.key or b"", m.value or b"", tuple(m.headers)) for m in messages)


def kinds(messages, kind):
    return [m for m in messages if m.kind == kind]


@pytest.fixture
def dumped(run, tmp_path):
    """Files of the topic and of the decisions topic."""
    (tmp_path / "decisions.ndjson").write_bytes(b"".join(m.value + b"\n" for m in kinds(run.told, "decisions")))
    return dump(tmp_path / "topic.ndjson", run.records), tmp_path / "decisions.ndjson"


def test_the_run_is_one_that_its_log_alone_does_not_tell(run):
    forecasts = [json.loads(m.value) for m in kinds(run.told, "forecasts")]
    wakes = [d for d in map(json.loads, (m.value for m in kinds(run.told, "decisions"))) if d["kind"] == "wake"]
    assert len({d["numbers"]["position"] for d in wakes}) > 1, "one at the wake, more while it is rejoining"
    assert {f["woken"] for f in forecasts if f["series"].startswith("s2")} == {True, False}
    assert kinds(run.told, "rejected")
    assert any(dict(m.headers) for m in kinds(run.told, "forecasts"))


def replayed(path, wakes, seed):
    """What a shard tells that reads a dump in turns and pieces that a seed decides."""
    rng, reader, decode = random.Random(seed), Dump(str(path)).reader(lambda: None), Decoder(SHAPE).decode
    there = reader.there()
    known = decisions(str(wakes), "app", there).wakes if wakes is not None else []
    shard = Shard(spec(there, repeats=(*known, *(Decision(s, r.stop, NEVER) for s, r in there.items()))))
    position, out, still = {s: r.start for s, r in there.items()}, [], 0
    while position:
        source = rng.choice(sorted(position))
        limit, pace = shard.limit(source), position[source] + rng.choice((1, 2, 9, 100))
        block = reader.take(source, position[source], pace if limit is None else min(limit, pace))
        still = still + 1 if block is None else 0
        assert still < 500, f"nothing leads on from {position}"
        if block is not None:
            block.now = rng.random() * 1e9  # the clock of a replay decides nothing
            block.stable = rng.random() < 0.5
            out += shard.take(decode(block))
            position[source] = block.next
            if block.ended:
                del position[source]
    return out


@pytest.mark.parametrize("seed", range(4))
def test_a_replay_of_the_dump_with_its_decisions_tells_what_the_run_told_byte_for_byte(run, dumped, seed):
    assert told(replayed(*dumped, seed)) == told(run.told)


def test_without_its_decisions_a_replay_is_another_run_and_always_the_same_one(run, dumped):
    path, _ = dumped
    one, other = (told(replayed(path, None, seed)) for seed in range(2))
    assert one == other
    assert one != told(run.told)
    assert not any(json.loads(m[2])["woken"] for m in one if m[0] == "forecasts")


def test_decisions_that_nothing_leads_on_to_are_an_error_and_no_wait(dumped, tmp_path):
    path, wakes = dumped
    later = [value for value in map(json.loads, wakes.read_text().splitlines()) if value["kind"] == "wake"]
    later[-1]["numbers"]["instant"] += 1000 * HOUR
    (tmp_path / "later").write_text("".join(json.dumps(value) + "\n" for value in later))
    with pytest.raises(
        LedgerBroken, match=r"^t/2: a decision says that learning passed .* while this partition stood at \d+; .*other settings$"
    ):
        replayed(path, tmp_path / "later", 0)


# The whole flow


@pytest.fixture
def _alone():
    yield
    learn.BY_REFERENCE = False
    learn.LIVE.clear()
    consume.GATE = consume.WAKE = None


def flow(path, out, **more):
    given = {"as_is": False, "close": False, "wide_rows": False, "start": None, "dump": True, "decisions": None} | more
    return operate.replay(SETTINGS, path, out=str(out), **given)


def written(folder):
    return {file.stem: sorted(file.read_bytes().splitlines()) for file in folder.iterdir()}


@pytest.mark.usefixtures("_alone")
def test_replay_repeats_what_is_on_record_and_goes_on_to_the_end_of_every_partition(run, dumped, tmp_path):
    path, wakes = dumped
    summary = flow(path, tmp_path / "out", decisions=wakes)
    out = written(tmp_path / "out")

    for kind in ("forecasts", "scores", "late", "decisions"):
        assert out[kind] == sorted(m.value for m in kinds(run.told, kind))
    assert len(out["rejected"]) == len(kinds(run.told, "rejected"))
    assert summary | run.shard.gather.totals() == summary
    assert summary["windows"] == run.shard.windows + sum(len({slot for slot, *_ in close.cells}) for close in run.shard.queue)


@pytest.mark.usefixtures("_alone")
def test_close_waits_for_the_end_of_the_last_partition(dumped, tmp_path):
    path, wakes = dumped
    plain = flow(path, tmp_path / "plain", decisions=wakes)
    closed = flow(path, tmp_path / "closed", decisions=wakes, close=True)
    assert closed["windows"] > plain["windows"]
    assert written(tmp_path / "closed")["forecasts"] == written(tmp_path / "plain")["forecasts"]


@pytest.mark.usefixtures("_alone")
def test_a_replay_that_cannot_be_leaves_what_was_written_before(dumped, tmp_path):
    path, wakes = dumped
    out = tmp_path / "out"
    FilePublisher(str(out)).close()
    (out / "decisions.ndjson").write_bytes(wakes.read_bytes() + b"no\n")
    with pytest.raises(FileUnreadable, match=r"decisions\.ndjson line \d+: not JSON"):
        flow(path, out, decisions=out / "decisions.ndjson")
    assert (out / "decisions.ndjson").read_bytes() == wakes.read_bytes() + b"no\n"


@pytest.mark.parametrize("more", [{"as_is": True}, {"wide_rows": True}, {"start": "2026-01-01"}, {"dump": False, "decisions": "x"}])
@pytest.mark.usefixtures("_alone")
def test_what_does_not_go_together_is_wrong_usage(tmp_path, more):
    with pytest.raises(SettingsError, match="--dump"):
        flow(tmp_path / "any.ndjson", tmp_path / "out", **more)
