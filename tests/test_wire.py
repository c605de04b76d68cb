"""Records written into the client's batches: byte for byte what the client writes itself."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from pipeline import wire
from pipeline.records import Message
from pipeline.wire import append, headers, written, written_headers

ROOM = 1 << 12
OWN = st.lists(st.tuples(st.text(max_size=9), st.binary(max_size=9)), max_size=3)
MESSAGES = st.builds(
    Message,
    kind=st.sampled_from(("forecasts", "scores", "late", "rejected", "models", "decisions")),
    key=st.binary(max_size=300),
    value=st.binary(max_size=ROOM),
    id=st.one_of(st.text("0123456789abcdef", min_size=32, max_size=32), st.text(max_size=40)),
    at=st.integers(0, 253_402_300_799_000_000),
    headers=OWN,
)


def batch(room=ROOM):
    """A batch of the client's, as `append` sees it."""
    return SimpleNamespace(records=MemoryRecordsBuilder(2, 0, room), max_record_size=0, last_append=0.0)


@given(MESSAGES)
def test_headers_that_are_written_at_once_are_those_written_one_by_one(message):
    assert written_headers(message, "app") == written(headers(message, "app"))


@given(st.lists(st.tuples(MESSAGES, st.integers(-5_000, 5_000)), max_size=6))
def test_a_batch_is_what_the_client_would_have_made(messages):
    ours, theirs, now = batch(), MemoryRecordsBuilder(2, 0, ROOM), 1_700_000_000_000
    for to in (ours.records, theirs):
        to.append(now, b"first", b"of the client", [])
    with pytest.MonkeyPatch.context() as patch:
        for message, since in messages:
            patch.setattr(wire.time, "time", lambda since=since: (now + since) / 1e3)
            taken = theirs.append(int((now + since) / 1e3 * 1000), message.key, message.value, headers(message, "app"))
            assert append(ours, message.key, message.value, written_headers(message, "app")) == (taken is not None)
            assert ours.max_record_size >= (0 if taken is None else taken.size)
    for to in (ours.records, theirs):
        to.close()
    assert bytes(ours.records.records()._buffer) == bytes(theirs.records()._buffer)
    read = MemoryRecords(ours.records.records()._buffer).next_batch()
    assert read.validate_crc()


def test_nothing_is_written_into_a_batch_that_is_on_its_way():
    closed = batch()
    closed.records.append(0, b"k", b"v", [])
    closed.records.close()
    assert not append(closed, b"k", b"v", written(()))
