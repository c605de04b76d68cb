import json
import math
import pickle

import numpy as np
import strategies
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decode import Decoder, Shape, shape_of
from pipeline.records import COLUMNS, Raw, RawBlock, Source, rfc3339
from pipeline.settings import Settings

AT = "2026-01-31T08:00:00Z"
STAMP = 1_769_846_400_000_000
METERS = Source("meters", 0)


def block_of(*values, shape=None, keys=(), **more):
    """The block decoded from these values, as JSON, at offsets 0, 1, 2 ..."""
    keys = keys or [None] * len(values)
    contents = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    records = [Raw(i, STAMP, key, content) for i, (key, content) in enumerate(zip(keys, contents, strict=True))]
    return Decoder(shape or Shape()).decode(RawBlock(METERS, 0, len(records), 1.5, records=records, **more))


def told(block):
    return [(block.names[i], float(value)) for i, value in zip(block.series, block.value, strict=True)]


def reasons(block):
    return [(rejection.record, rejection.reason, rejection.series) for rejection in block.rejected]


def test_a_block_keeps_what_it_is_told_about_its_place():
    block = block_of(stable=True, ended=True)
    assert (block.source, block.first, block.next, block.now, block.stable, block.ended) == (METERS, 0, 0, 1.5, True, True)
    assert [getattr(block, name).dtype for name in COLUMNS] == [np.dtype(kind) for kind in COLUMNS.values()]
    assert not block.names + block.records + block.rejected


def test_names_are_distinct_and_in_order_of_appearance():
    block = block_of(*({"series": name, "at": AT, "value": i} for i, name in enumerate("babcb")))
    assert block.names == ["b", "a", "c"]
    assert block.series.tolist() == [0, 1, 0, 2, 0]
    assert block.offset.tolist() == block.record.tolist() == [0, 1, 2, 3, 4]
    assert set(block.stamp) == set(block.at) == {STAMP}


def test_fields_are_found_by_paths_and_a_key_that_is_the_whole_path_comes_first():
    shape = Shape(series=("payload.sensor.id",), at="ts", at_format="ms", value="payload.pm2.5")
    sensor = {"payload": {"sensor": {"id": 7}, "pm2": {"5": 3.5}}, "ts": STAMP // 1_000}
    assert told(block_of(sensor, shape=shape)) == [("7", 3.5)]
    assert told(block_of(sensor | {"payload.pm2.5": 4}, shape=shape)) == [("7", 4.0)]
    assert told(block_of({"a.b": {"pm2.5": 1}, "at": AT}, shape=Shape(values=("a.b.pm2.5",)))) == [], "only a whole path, or all its parts"
    assert reasons(block_of({"payload": [1], "ts": 1}, shape=shape)) == [(0, "schema", None)]


def test_paths_of_an_id_are_joined_and_the_key_can_be_one_of_them():
    shape = Shape(series=("site", "record.key", "meter"))
    value = {"site": "north", "meter": 3, "at": AT, "value": 1}
    assert told(block_of(value, keys=[b"k"], shape=shape)) == [("north/k/3", 1.0)]
    assert reasons(block_of(value, {"site": "north"}, keys=[None, b"k"], shape=shape)) == [(0, "schema", None), (1, "schema", None)]
    assert reasons(block_of(value | {"site": "n" * 509}, keys=[b"k"], shape=shape)) == [(0, "bad_key", None)]


def test_a_path_that_was_asked_for_is_not_replaced_by_the_key():
    assert reasons(block_of({"at": AT, "value": 1}, keys=[b"k"], shape=Shape(series=("id",)))) == [(0, "schema", None)]


WIDE = Shape(values=("HUFL", "OT"))
CONTENT = b'{"at": "2026-01-31T08:00:00Z", "OT": 1}'


def test_a_wide_record_is_one_series_a_column():
    both = {"at": AT, "HUFL": 1, "OT": 2}
    assert told(block_of(both, shape=WIDE)) == [("HUFL", 1.0), ("OT", 2.0)]
    assert told(block_of(both | {"series": "t2"}, shape=WIDE)) == [("t2/HUFL", 1.0), ("t2/OT", 2.0)]
    assert told(block_of(both, keys=[b"k"], shape=WIDE)) == [("HUFL", 1.0), ("OT", 2.0)], "a key is asked for, or not used"
    assert told(block_of(both, keys=[b"k"], shape=Shape(values=("OT",), series=("record.key",)))) == [("k/OT", 2.0)]
    assert told(block_of({"at": AT, "OT": 2}, shape=WIDE)) == [("OT", 2.0)], "a column that is not there says nothing"


def test_one_bad_column_is_rejected_alone():
    block = block_of({"at": AT, "HUFL": "high", "OT": None}, {"at": AT, "HUFL": 1, "OT": math.inf}, shape=WIDE)
    assert block.record.tolist() == [0, 1]
    assert block.names == ["OT", "HUFL"]
    assert math.isnan(block.value[0])
    assert reasons(block) == [(0, "schema", "HUFL"), (1, "not_finite", "OT")]


def test_a_wide_record_that_yields_nothing_counts_as_one():
    assert reasons(block_of({"at": "?", "HUFL": 1, "OT": 2}, {"at": AT}, shape=WIDE)) == [(0, "bad_time", None), (1, "schema", None)]


def test_a_rejected_observation_names_its_series_where_it_is_known():
    bad = [{"series": "a", "at": AT, "value": "x"}, {"series": "a", "at": 1, "value": 1}, {"at": AT, "value": 1}]
    assert reasons(block_of(*bad)) == [(0, "schema", "a"), (1, "bad_time", "a"), (2, "schema", None)]


def test_series_that_are_not_asked_for_are_counted_and_nothing_else():
    shape = Shape(include=("plant/*", "pump-?"), exclude=("*/test", "*[!0-9]z"))
    ids = ["plant/1", "plant/test", "pump-7", "pump-77", "pump-z", "Plant/1"]
    good = [{"series": name, "at": AT, "value": 1} for name in ids]
    block = block_of(*good, {"series": "other", "at": "?", "value": math.nan}, {"series": "none"}, shape=shape)
    assert block.names == ["plant/1", "pump-7"]
    assert (block.filtered, block.rejected) == (6, [])
    assert (len(block.at) + len(block.rejected) + block.filtered, len(block.records)) == (8, 8)


def test_columns_that_are_not_asked_for_are_counted_one_by_one():
    shape = Shape(values=("HUFL", "HULL", "OT"), exclude=("H*",))
    block = block_of({"at": AT, "HUFL": "?", "HULL": 1, "OT": 2}, {"at": "?", "HUFL": 1}, shape=shape)
    assert (told(block), block.filtered, block.rejected) == ([("OT", 2.0)], 3, [])


def test_globs_do_not_become_other_expressions():
    block = block_of({"series": "a.b", "at": AT, "value": 1}, {"series": "axb", "at": AT, "value": 1}, shape=Shape(include=("a.b",)))
    assert block.names == ["a.b"]


def test_the_time_may_be_the_records_own():
    shape = Shape(at="record", future_limit=0)
    decoder = Decoder(shape)
    records = [Raw(0, STAMP, b"k", b'{"value": 1}'), Raw(1, -1_000, b"k", b'{"value": 1}'), Raw(2, 0, b"k", b'{"value": 1}')]
    block = decoder.decode(RawBlock(METERS, 0, 3, 0.0, records=records))
    assert block.at.tolist() == [STAMP]
    assert reasons(block) == [(1, "no_time", "k"), (2, "bad_time", "k")]


def test_files_have_no_future_and_a_record_without_a_timestamp_neither():
    far = {"series": "a", "at": "2090-01-01T00:00:00Z", "value": 1}
    assert reasons(block_of(far)) == []
    assert reasons(block_of(far, shape=Shape(future_limit=0))) == [(0, "future", "a")]
    stampless = Raw(0, -1_000, None, json.dumps(far).encode())
    assert not Decoder(Shape(future_limit=0)).decode(RawBlock(METERS, 0, 1, 0.0, records=[stampless])).rejected


def test_what_the_client_could_not_read_is_rejected_in_its_place():
    records = [Raw(3, 0, None, None), Raw(9, 0, None, None)]
    block = Decoder(Shape()).decode(RawBlock(METERS, 0, 10, 0.0, records=records, unreadable=[(5, 77)]))
    assert [(one.record, one.offset, one.reason) for one in block.rejected] == [(0, 3, "empty"), (-1, 5, "corrupt"), (1, 9, "empty")]
    assert "77 bytes" in block.rejected[1].message


def test_the_shape_is_that_of_the_settings():
    flags = {"input.topics": "t", "series.step": "1h", "input.series": ["a", "b"], "input.at": "record", "input.values": "x,y"}
    settings = Settings.read(None, {}, flags | {"time.future_limit": "5s", "input.max_record_bytes": 10})
    expected = Shape(series=("a", "b"), at="record", values=("x", "y"), max_record_bytes=10, future_limit=5_000_000)
    assert shape_of(settings, kafka=True) == expected
    assert shape_of(settings, kafka=False).future_limit is None


def test_a_decoder_can_be_sent_to_a_worker():
    again = pickle.loads(pickle.dumps(Decoder(WIDE)))
    assert again.shape == WIDE
    assert told(again.decode(RawBlock(METERS, 0, 1, 0.0, records=[Raw(0, 0, None, CONTENT)]))) == [("OT", 1.0)]


def summary(block):
    """All that a block says of its records, by offset."""
    rows = zip(block.offset, [block.names[i] for i in block.series], block.at, block.value, block.stamp, strict=True)
    return (
        [(int(o), name, int(at), repr(float(value)), int(stamp)) for o, name, at, value, stamp in rows],
        [tuple(rejection)[1:] for rejection in block.rejected],
        block.filtered,
    )


SHAPES = [
    Shape(future_limit=0),
    Shape(exclude=("a",)),
    Shape(values=("value", "x")),
    Shape(series=("record.key",), at="record"),
    Shape(at_format="ms"),
    Shape(at_format="%Y %j %p %z"),
]


@given(raw=strategies.raw_blocks(), shape=st.sampled_from(SHAPES))
def test_every_record_has_a_disposition_and_nothing_is_raised(raw, shape):
    block = Decoder(shape).decode(raw)
    counted = set(block.record.tolist()) | {one.record for one in block.rejected}
    if not shape.exclude:
        assert counted == set(range(len(raw.records)))
    assert len(block.at) + len(block.rejected) + block.filtered >= len(raw.records)
    assert [len(getattr(block, name)) for name in COLUMNS] == [len(block.at)] * len(COLUMNS)
    assert np.all(np.diff(block.record) >= 0)
    assert not np.isinf(block.value).any()
    assert block.records == list(raw.records)


@given(raw=strategies.raw_blocks(), shape=st.sampled_from(SHAPES), data=st.data())
def test_it_does_not_matter_how_records_are_cut_into_blocks(raw, shape, data):
    cut = data.draw(st.integers(0, len(raw.records)))
    one, other = raw.records[:cut], raw.records[cut:]
    decoder = Decoder(shape)
    halves = [decoder.decode(RawBlock(raw.source, 0, 0, 0.0, records=records)) for records in (one, other)]
    whole = Decoder(shape).decode(raw)
    assert summary(whole) == tuple(a + b for a, b in zip(*map(summary, halves), strict=True))


@given(raw=strategies.raw_blocks(values=strategies.observations()))
def test_good_records_are_all_used(raw):
    block = Decoder(Shape()).decode(raw)
    assert not block.rejected
    expected = [json.loads(record.value) for record in raw.records]
    assert [block.names[i] for i in block.series] == [one["series"] for one in expected]
    assert [rfc3339(int(at)) for at in block.at] == [one["at"] for one in expected]
    np.testing.assert_array_equal(block.value, np.array([one["value"] for one in expected], float))
