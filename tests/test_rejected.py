"""What cannot be used is carried on unchanged, with the reason, and never becomes a record that no broker takes."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import Raw, Rejection, Source
from pipeline.rejected import EXTRAS_BYTES, OURS, rejection_message

SOURCE = Source("meters", 3)
BROKER_BYTES = 1_048_588  # what a broker takes in one record unless told otherwise


def reject(raw, *, message="no field 'value'", max_bytes=524_288, series=None, offset=7):
    rejection = Rejection(0, offset, "schema", message, series)
    return rejection_message(raw, rejection, SOURCE, application="app", version="1.2", max_bytes=max_bytes)


def told(message):
    return {name.removeprefix(OURS): value for name, value in message.headers if name.startswith(OURS)}


def own(message):
    return [(name, value) for name, value in message.headers if not name.startswith(OURS)]


def test_the_bytes_and_the_headers_are_unchanged_and_the_reason_is_added():
    raw = Raw(7, 1_500_000, b"\xffkey", b"{broken", [("ce_id", b"1"), ("trace", b"\x00"), ("trace", b"again")])
    message = reject(raw)
    assert (message.kind, message.key, message.value) == ("rejected", b"\xffkey", b"{broken")
    assert own(message) == [("ce_id", b"1"), ("trace", b"\x00"), ("trace", b"again")]
    assert told(message) == {
        "topic": b"meters", "partition": b"3", "offset": b"7", "timestamp": b"1500", "reason": b"schema", "stage": b"decode",
        "message": b"no field 'value'", "attempt": b"1", "version": b"1.2",
    }  # fmt: skip


def test_a_value_at_the_limit_stays_and_one_byte_more_is_told_by_size_and_hash():
    assert reject(Raw(7, 0, None, b"x" * 100), max_bytes=100).value == b"x" * 100
    over = reject(Raw(7, 0, None, b"x" * 101), max_bytes=100)
    assert over.value == b""
    assert told(over)["bytes"] == b"101"
    assert told(over)["sha256"] == hashlib.sha256(b"x" * 101).hexdigest().encode()


def test_a_tombstone_stays_one():
    assert reject(Raw(7, 0, None, None)).value is None


def test_what_the_client_could_not_read_is_told_by_its_position():
    message = reject(None)
    assert (message.key, message.value, own(message)) == (None, None, [])
    assert (told(message)["offset"], told(message)["timestamp"]) == (b"7", b"-1")


def test_a_record_rejected_before_does_not_keep_the_old_reason():
    again = reject(Raw(7, 0, None, b"", reject(Raw(7, 0, None, b"", [("a", b"b")]), message="first").headers), message="second")
    assert [value for name, value in again.headers if name == OURS + "message"] == [b"second"]
    assert own(again) == [("a", b"b")]


def test_a_rejected_observation_has_an_id_of_its_own_and_the_same_one_every_time():
    raw = Raw(7, 0, None, b"{}")
    ids = [reject(raw).id, reject(raw, series="a").id, reject(raw, series="b").id, reject(raw, offset=8).id]
    assert len(set(ids)) == 4
    assert reject(raw, message="other words").id == ids[0]


def test_a_huge_key_stays_away_with_its_size_and_hash():
    key = b"k" * (EXTRAS_BYTES + 1)
    message = reject(Raw(7, 0, key, b"v"))
    assert (message.key, message.value) == (b"", b"v")
    assert told(message)["key_sha256"] == hashlib.sha256(key).hexdigest().encode()


texts = st.text(st.characters(), max_size=50) | st.sampled_from(["a\nb\x1b[31m", "\ud800", "ü" * 2_000, "\x00", "💥" * 700])
sizes = st.sampled_from([0, 1, 200_000, 300_000, 600_000, 2_000_000])


@given(message=texts, key=sizes, value=sizes, header=sizes, count=st.integers(0, 3))
def test_whatever_came_a_broker_takes_it_and_the_explanation_is_one_line_of_text(message, key, value, header, count):
    rejected = reject(Raw(7, 0, b"k" * key, b"v" * value, [("h", b"x" * header)] * count), message=message)
    size = len(rejected.key or b"") + len(rejected.value or b"") + sum(len(n) + len(v) for n, v in rejected.headers)
    assert size < BROKER_BYTES - 10_000
    assert told(rejected)["message"].decode().isprintable()
    assert len(told(rejected)["message"]) <= 1_000
