import gzip
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import apache_beam as beam
import polars as pl
import pytest
from apache_beam.io.restriction_trackers import OffsetRange
from hypothesis import given
from hypothesis import strategies as st

from pipeline import consume
from pipeline.decode import Decoder, Shape
from pipeline.engine import LocalRunner
from pipeline.files import File, FileReader, FileUnreadable, WideRows, instants, rows, wide_rows
from pipeline.poller import BLOCK_RECORDS, SILENCE_SECONDS, Feed, InputTrimmed, TopicMissing, cost, named
from pipeline.poller import raw as as_raw
from pipeline.records import Raw, RawBlock, Source

SOURCE = Source("load", 0)


def raw(offset, value=b"{}"):
    return Raw(offset, offset * 1000, None, value)


def feed(offsets=(), position=0, end=None):
    made = Feed(SOURCE, position, position)
    made.put([raw(o) for o in offsets], end if end is not None else (max(offsets) + 1 if offsets else position))
    return made


def drain(made, limit=None):
    blocks = []
    while (block := made.take(limit, 1.0)) is not None:
        blocks.append(block)
    return blocks


# What waits, and how it is cut


def test_a_block_reaches_to_the_next_record_over_what_holds_none():
    made = feed([3, 4, 9], position=2, end=12)
    made.records.extend([raw(20)])
    made.end = 21
    first = made.take(10, 1.0)
    assert [r.offset for r in first.records] == [3, 4, 9]
    assert (first.first, first.next) == (2, 10), "no further than the limit, though there is nothing up to 20"
    assert (made.take(None, 1.0).next, made.position) == (21, 21)


def test_control_records_alone_move_the_position_without_a_record():
    block = feed([], position=5, end=7).take(None, 1.0)
    assert (block.first, block.next, block.records) == (5, 7, [])


def test_a_block_never_holds_more_than_a_thousand_records():
    assert [len(b.records) for b in drain(feed(range(2_500)))] == [BLOCK_RECORDS, BLOCK_RECORDS, 500]


def test_large_records_make_short_blocks_and_one_too_large_still_passes():
    made = Feed(SOURCE, 0, 0)
    made.put([raw(0, bytes(3 << 20)), raw(1, bytes(3 << 20)), raw(2, bytes(9 << 20)), raw(3)], 4)
    assert [[r.offset for r in b.records] for b in drain(made)] == [[0, 1], [2], [3]]


def test_nothing_is_handed_on_at_a_gate_or_behind_it():
    made = feed([0, 1, 2, 3])
    assert [r.offset for b in drain(made, limit=2) for r in b.records] == [0, 1]
    assert made.take(2, 1.0) is None
    assert made.take(1, 1.0) is None, "a gate behind us takes nothing back"
    assert [r.offset for b in drain(made) for r in b.records] == [2, 3]


def test_a_gate_between_two_records_is_reached_exactly():
    assert feed([3, 9]).take(6, 1.0).next == 6


def test_an_unreadable_batch_comes_with_the_block_that_crosses_it():
    made = feed([0, 1])
    made.unreadable.append((2, 400))
    made.put([raw(12)], 13)
    blocks = drain(made)
    assert [(b.first, b.next, len(b.records), list(b.unreadable)) for b in blocks] == [(0, 13, 3, [(2, 400)])]


def test_an_unreadable_batch_stays_behind_a_gate():
    made = feed([0, 1])
    made.unreadable.append((2, 400))
    made.put((), 12)
    assert not made.take(2, 1.0).unreadable
    assert made.take(2, 1.0) is None
    assert list(made.take(None, 1.0).unreadable) == [(2, 400)]


def test_bytes_that_wait_are_counted_until_they_are_taken():
    made = feed([0, 1, 2])
    assert made.size == 3 * cost(raw(0))
    made.take(2, 1.0)
    assert made.size == cost(raw(2))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=60), st.lists(st.integers(0, 400), max_size=20), st.integers(0, 3))
def test_however_it_is_cut_blocks_join_and_hold_every_record_once(gaps, gates, tail):
    offsets = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    made = feed(offsets, end=offsets[-1] + 1 + tail)
    blocks = [b for gate in [*gates, None] for b in drain(made, gate)]
    assert [r.offset for b in blocks for r in b.records] == offsets
    assert [b.first for b in blocks] == [0, *[b.next for b in blocks]][:-1]
    assert blocks[-1].next == made.end
    assert all(b.first <= r.offset < b.next for b in blocks for r in b.records)


# Marks


def test_a_mark_is_stable_when_the_answer_lies_at_or_before_the_position_and_is_dated_when_it_was_asked():
    made = feed([], position=7)
    made.told, made.asked, made.stable = 10.0, 11.0, 7
    mark = made.mark(11.2)
    assert (mark.first, mark.next, mark.now, mark.stable) == (7, 7, 11.0, True)
    made.asked, made.stable = 12.0, 8
    assert made.mark(12.1).stable is False


def test_one_answer_makes_one_mark():
    made = feed([], position=7)
    made.told, made.asked, made.stable = 10.0, 11.0, 7
    made.mark(11.2)
    assert made.mark(11.3) is None


def test_an_answer_from_before_the_last_block_proves_nothing():
    made = feed([7], position=7)
    made.asked, made.stable = 11.0, 7
    made.take(None, 12.0)
    assert made.mark(12.1) is None


def test_an_answer_says_nothing_while_records_wait():
    made = feed([7], position=7)
    made.told, made.asked, made.stable = 11.0, 11.0, 7
    assert made.mark(11.1) is None


def test_time_passes_without_answers_but_nothing_is_stable_then():
    made = feed([], position=7)
    made.told = 10.0
    assert made.mark(10.0 + SILENCE_SECONDS / 2) is None
    mark = made.mark(10.0 + SILENCE_SECONDS)
    assert (mark.now, mark.stable) == (10.0 + SILENCE_SECONDS, False)


# Timestamps


def test_a_timestamp_that_no_clock_shows_stops_nobody():
    """A producer may write any 64 bits, and as microseconds they do not fit."""
    came = SimpleNamespace(offset=7, timestamp=(1 << 63) - 1, key=b"a", value=b'{"at": "2026-01-01T00:00:00Z", "value": 1}', headers=[])
    record = as_raw(came)
    assert Decoder(Shape(future_limit=1)).decode(RawBlock(SOURCE, 7, 8, 1.0, records=[record])).stamp.tolist() == [record.stamp]


# Topics


def test_an_expression_finds_neither_internal_topics_nor_our_own():
    assert named(["^.*"], ["__consumer_offsets", "load", "tidecast.late.v1"], "tidecast.") == ["load"]


def test_topics_that_are_not_there_are_all_named_at_once():
    with pytest.raises(TopicMissing, match=r"b does not exist.*; nothing fits \^c"):
        named(["a", "b", "^c"], ["a"], None)


# The DoFn


@dataclass
class Counting:
    """Blocks of three numbers each, up to `size`; remembers what it was asked."""

    size: int
    asked: list = field(default_factory=list)
    waited: int = 0
    closed: bool = False

    def take(self, source, position, limit):
        self.asked.append((source, position, limit))
        stop = min(position + 3, self.size, self.size if limit is None else limit)
        if stop < position or (stop == position and position < self.size):
            return None
        return RawBlock(source, position, stop, 0.0, ended=stop == self.size, records=[raw(o) for o in range(position, stop)])

    def wait(self, seconds):
        self.waited += 1
        self.size += 1

    def lag(self):
        return {SOURCE: self.size}

    def lost(self):
        return {SOURCE: 2}

    def close(self):
        self.closed = True


@dataclass(frozen=True)
class Numbers:
    """An input that can be pickled; its readers are made in the process."""

    size: int

    def reader(self, wake):
        wake()
        return Counting(self.size)


@pytest.fixture(autouse=True)
def no_readers():
    yield
    consume.close()
    consume.GATE = consume.WAKE = None


def test_a_step_asks_the_gate_and_pauses_when_there_is_nothing():
    consume.GATE = lambda source: 4 if source == SOURCE else None
    reader = Counting(9)
    assert consume.step(reader, SOURCE, 0, lingers=False)[1] == 0.0
    block, pause = consume.step(reader, SOURCE, 4, lingers=False)
    assert block is None
    assert pause > 0.0
    assert reader.asked == [(SOURCE, 0, 4), (SOURCE, 4, 4)]


def test_where_delays_are_not_honoured_it_waits_inside_the_call():
    consume.GATE = lambda _: 0
    reader = Counting(2)
    assert consume.step(reader, SOURCE, 0, lingers=False)[0] is None
    assert reader.waited == 0
    consume.step(reader, SOURCE, 0, lingers=True)
    assert reader.waited == 1


def test_a_process_makes_one_reader_for_an_input_and_a_new_one_after_close():
    woken = threading.Event()
    consume.WAKE = woken.set
    first = consume._reader(Numbers(5))
    assert woken.is_set()
    assert consume._reader(Numbers(5)) is first
    assert (consume.lag(), consume.lost()) == ({SOURCE: 5}, {SOURCE: 2})
    consume.close()
    assert first.closed
    assert consume._reader(Numbers(5)) is not first


def test_the_transform_reads_a_bounded_input_to_its_end_from_the_position_given(tmp_path):
    seen = str(tmp_path / "seen")
    with beam.Pipeline(LocalRunner()) as pipeline:
        _ = pipeline | consume.read(Numbers(10), {SOURCE: 2}) | beam.Map(write_offsets, seen)
    assert Path(seen).read_text().split() == ["2,3,4", "5,6,7", "8,9"]


@dataclass(frozen=True)
class Trimmed:
    """An input whose beginning is gone."""

    def reader(self, wake):
        return self

    def take(self, source, position, limit):
        raise InputTrimmed(source, position=position, earliest=7, end=9)

    def close(self):
        pass


def test_an_error_of_the_input_leaves_the_runner_as_it_was_raised():
    with pytest.raises(InputTrimmed, match=r"7 records are gone$") as trimmed, beam.Pipeline(LocalRunner()) as pipeline:
        _ = pipeline | consume.read(Trimmed(), {SOURCE: 0})
    assert (trimmed.value.source, trimmed.value.earliest) == (SOURCE, 7)


def write_offsets(block, path):
    with Path(path).open("a") as file:
        file.write(",".join(str(r.offset) for r in block.records) + "\n")


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_restriction_survives_its_coder(start, length):
    coder = consume.RangeCoder()
    made = OffsetRange(start, start + length)
    assert coder.decode(coder.encode(made)) == made


def test_a_raw_block_survives_its_coder():
    block = RawBlock(SOURCE, 1, 9, 2.5, True, True, [Raw(1, 2, b"k", None, [("h", b"v")]), raw(3)], [(5, 70)])
    coder = consume.RawBlockCoder()
    assert coder.decode(coder.encode(block)) == block


def test_passwords_are_not_printed():
    assert "secret" not in repr(consume.Kafka({"sasl_plain_password": "secret"}))


# Files


def blocks_of(reader, limit=None, position=0):
    out = []
    while True:
        block = reader.take(Source("x", 0), position, limit)
        if block is None:
            return out
        out.append(block)
        position = block.next
        if block.ended:
            return out


def values_of(file):
    return [json.loads(value) for _, value in rows(file)]


def test_a_file_is_handed_out_in_blocks_that_join_and_the_last_says_so():
    reader = FileReader(Source("x", 0), [(i, b"%d" % i) for i in range(2_345)])
    blocks = blocks_of(reader)
    assert [(b.first, b.next, b.ended) for b in blocks] == [(0, 1000, False), (1000, 2000, False), (2000, 2345, True)]
    assert [r.value for b in blocks for r in b.records] == [b"%d" % i for i in range(2_345)]
    assert reader.lag() == {Source("x", 0): 0}


def test_an_empty_file_ends_at_once():
    (block,) = blocks_of(FileReader(Source("x", 0), []))
    assert (block.next, block.ended, block.records) == (0, True, [])


def test_a_gate_cuts_a_file_exactly():
    reader = FileReader(Source("x", 0), [(i, b"") for i in range(10)])
    assert [b.next for b in blocks_of(reader, limit=4)] == [4]
    assert blocks_of(reader, position=4)[0].first == 4


def test_rows_are_ordered_by_time_then_series_then_row(tmp_path):
    (tmp_path / "x.csv").write_text("id,at,value\nb,1970-01-02,1\na,1970-01-02,2\nb,1970-01-01,3\nb,1970-01-02,4\n")
    file = File(str(tmp_path / "x.csv"), "csv", time_format="%Y-%m-%d", series=("id",))
    assert [v["value"] for v in values_of(file)] == [3, 2, 1, 4]
    as_is = File(str(tmp_path / "x.csv"), "csv", time_format="%Y-%m-%d", series=("id",), as_is=True)
    assert [v["value"] for v in values_of(as_is)] == [1, 2, 3, 4]


def test_a_rows_stamp_is_its_event_time_and_a_row_without_one_keeps_its_place(tmp_path):
    lines = [b'{"at": "1970-01-01T00:00:01Z"}', b"not json", b"", b'{"at": "1970-01-01T00:00:03Z"}', b'{"at": "1970-01-01T00:00:02Z"}']
    (tmp_path / "x.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    found = rows(File(str(tmp_path / "x.ndjson"), "ndjson"))
    assert found == [(1_000_000, lines[0]), (1_000_000, lines[1]), (2_000_000, lines[4]), (3_000_000, lines[3])]


def test_ndjson_bytes_are_not_touched_and_paths_reach_inside(tmp_path):
    line = b'{"p": {"t" : 1.5, "id":"\xc3\xa4"}, "value": 1.50}'
    with gzip.open(tmp_path / "x.ndjson.gz", "wb") as packed:
        packed.write(line + b"\r\n")
    assert rows(File(str(tmp_path / "x.ndjson.gz"), "ndjson", time=("p.t",), time_format="s", series=("p.id",))) == [
        (1_500_000, line + b"\r")
    ]


def test_a_missing_number_is_null_and_text_among_numbers_stays_text(tmp_path):
    (tmp_path / "x.csv").write_text("at,a,b\n1970-01-01,1.5,2\n1970-01-02,NA,broken\n1970-01-03,,4\n")
    file = File(str(tmp_path / "x.csv"), "csv", time_format="%Y-%m-%d")
    assert [(v["a"], v["b"]) for v in values_of(file)] == [(1.5, 2.0), (None, "broken"), (None, 4.0)]


def test_several_time_columns_are_joined_under_their_joined_names(tmp_path):
    (tmp_path / "x.csv").write_text("year,month,hour,v\n2010,1,5,7\n2010,1,4,8\n")
    file = File(str(tmp_path / "x.csv"), "csv", time=("year", "month", "hour"), time_format="%Y %m %H")
    assert [v["year,month,hour"] for v in values_of(file)] == ["2010 1 4", "2010 1 5"]


def test_series_and_time_columns_keep_their_text(tmp_path):
    (tmp_path / "x.csv").write_text("id,at,v\n007,1970-01-01,1\nx,1970-01-01,1\n")
    file = File(str(tmp_path / "x.csv"), "csv", time_format="%Y-%m-%d", series=("id",))
    assert [v["id"] for v in values_of(file)] == ["007", "x"]


def test_parquet_times_become_rfc3339(tmp_path):
    frame = pl.DataFrame({"at": ["2016-07-01T00:00:00.250000"], "OT": [1.25]}).with_columns(pl.col("at").str.to_datetime(time_unit="us"))
    frame.write_parquet(tmp_path / "x.parquet")
    assert rows(File(str(tmp_path / "x.parquet"), "parquet")) == [(1_467_331_200_250_000, b'{"at":"2016-07-01T00:00:00.250Z","OT":1.25}')]


def test_wide_rows_become_one_record_for_each_value(tmp_path):
    (tmp_path / "x.csv").write_text('"V1","V2","V3","V4"\n"H1",5,6,\n"H2",7,,9\n')
    found = wide_rows(WideRows(str(tmp_path / "x.csv"), start=0, step=3_600_000_000))
    assert [json.loads(value) for _, value in found] == [
        {"series": "H1", "at": "1970-01-01T00:00:00Z", "value": 5},
        {"series": "H2", "at": "1970-01-01T00:00:00Z", "value": 7},
        {"series": "H1", "at": "1970-01-01T01:00:00Z", "value": 6},
        {"series": "H2", "at": "1970-01-01T01:00:00Z", "value": None},
        {"series": "H2", "at": "1970-01-01T02:00:00Z", "value": 9},
    ]


@pytest.mark.parametrize("first", ["H1,5,5,6", "H1,1.5,2.5,,"])
def test_a_first_series_is_not_taken_for_the_names_of_columns(tmp_path, first):
    (tmp_path / "x.csv").write_text(f"{first}\nH2,7,8,9\n")
    with pytest.raises(FileUnreadable, match="put a line of names above it"):
        wide_rows(WideRows(str(tmp_path / "x.csv"), start=0, step=3_600_000_000))


def test_a_file_that_is_not_what_it_was_said_to_be_is_named(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FileUnreadable, match=r"no column at; there are a, b"):
        rows(File(str(tmp_path / "x.csv"), "csv"))
    with pytest.raises(FileUnreadable, match=r"missing\.csv"):
        rows(File(str(tmp_path / "missing.csv"), "csv"))
    with pytest.raises(FileUnreadable, match=r"x\.csv"):
        rows(File(str(tmp_path / "x.csv"), "parquet"))


@pytest.mark.parametrize(
    ("time_format", "said", "us"),
    [
        ("rfc3339", "2016-07-01T02:00:00+02:00", 1_467_331_200_000_000),
        ("rfc3339", "2016-07-01 00:00:00", 1_467_331_200_000_000),
        ("s", 1467331200.5, 1_467_331_200_500_000),
        ("ms", "1467331200500", 1_467_331_200_500_000),
        ("us", 1_467_331_200_000_001, 1_467_331_200_000_001),
        ("ns", 1_467_331_200_000_000_000, 1_467_331_200_000_000),
        ("rfc3339", None, None),
        ("rfc3339", "soon", None),
        ("s", float("inf"), None),
        ("s", True, 1_000_000),
    ],
)
def test_what_a_row_says_of_its_time(time_format, said, us):
    assert instants(time_format)(said) == us
