from datetime import datetime, timedelta, timezone

import pytest
import strategies
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.records import EPOCH
from pipeline.times import reader

zones = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(when=st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=zones), letter=st.sampled_from("Tt "), again=st.booleans())
@example(when=datetime(2026, 1, 31, 8, tzinfo=timezone(timedelta(hours=1))), letter="T", again=True)
def test_rfc_3339_is_read_as_the_standard_library_reads_it(when, letter, again):
    read = reader("rfc3339")
    text = when.isoformat(letter)
    if again:
        read(text)
    assert read(text) == (when - EPOCH) // timedelta(microseconds=1)


DAYS = ["2026-01-31T", "2026-02-30T", "2026-01-31T ", ""]
CLOCKS = ["08:00:00", "8:00:00", "24:00:00", "08:00:60"]
ENDS = ["Z", "+01:00", ".5Z", ".Z", "+1:00", "ZZ", ""]


@given(pieces=st.tuples(*map(st.sampled_from, (DAYS, CLOCKS, ENDS))))
def test_what_was_read_before_never_makes_a_wrong_time_right(pieces):
    warm = reader("rfc3339")
    for text in ("2026-01-31T08:00:00Z", "2026-01-31T08:00:00+01:00", "2026-01-31T08:00:00.5Z"):
        assert warm(text) is not None
    text = "".join(pieces)
    assert warm(text) == reader("rfc3339")(text)
    assert warm("2016-12-31T23:59:60Z") == warm("2017-01-01T00:00:00Z"), "a leap second is not remembered as a clock"
    assert warm("2026-01-30T00:00:00Z") is not None
    assert warm("2026-01-30T23:59:60Z") is None


@pytest.mark.parametrize("form", ["rfc3339", "s", "ns", "%Y", "%d %b %Y %H:%M:%S %z"])
@given(given=strategies.ANYTHING | st.text() | st.floats())
def test_anything_may_be_given_for_a_time(form, given):
    read = reader(form)(given)
    assert read is None or isinstance(read, int)
