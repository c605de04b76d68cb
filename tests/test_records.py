import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quantities import MICROSECONDS, duration, duration_text, instant
from pipeline.records import COLUMNS, SECOND, Block, decode_block, encode_block, identity, iso_duration, rfc3339


@given(block=strategies.blocks())
def test_a_block_crosses_a_shuffle_unchanged(block):
    again = decode_block(encode_block(block))
    for name in Block.__slots__:
        if name in COLUMNS:
            np.testing.assert_array_equal(getattr(again, name), getattr(block, name), strict=True)
        else:
            assert getattr(again, name) == getattr(block, name)
    assert encode_block(again) == encode_block(block)


def test_columns_that_are_cuts_of_others_cross_too():
    block = Block(strategies.Source("t", 0), 0, 2, 0.0, at=np.arange(10)[::3])
    assert decode_block(encode_block(block)).at.tolist() == [0, 3, 6, 9]


parts = st.lists(st.text(max_size=5) | st.integers(-5, 5), max_size=3)


@given(one=parts, other=parts, kinds=st.tuples(*[st.sampled_from(["forecasts", "scores"])] * 2))
def test_two_records_have_one_id_only_when_they_are_the_same(one, other, kinds):
    same = (kinds[0], *one) == (kinds[1], *other)
    assert (identity(kinds[0], "tidecast", *one) == identity(kinds[1], "tidecast", *other)) == same


def test_an_id_never_changes():
    assert identity("forecasts", "tidecast", "taxi", 1) == "71c136dfc4a9a16907955633b71112de"
    assert identity("late", "tidecast", "t", 0, 5, None) != identity("late", "tidecast", "t", 0, 5)


@given(us=st.integers(0, 10**15))
def test_durations_are_written_so_that_they_read_back(us):
    assert duration(duration_text(us)) == us


@pytest.mark.parametrize("unit", MICROSECONDS)
def test_every_unit_of_duration_is_read(unit):
    assert duration(f"3{unit}") == duration(f"3 {unit}") == duration(f" 3.0{unit} ") == 3 * MICROSECONDS[unit]


@pytest.mark.parametrize(
    "text", ["", "1", "h", "1m", "1M", "1 H", "-1s", "1e3s", "1h30min", "0.5us", "1mo", "9999999999999d", "٣s", True, 3, None, 1.5]
)
def test_what_is_not_a_duration_is_refused(text):
    with pytest.raises(ValueError, match=r"duration|months|microseconds"):
        duration(text)


ISO = [(0, "PT0S"), (0.5, "PT0.5S"), (90, "PT1M30S"), (900, "PT15M"), (86_400, "P1D"), (90_061, "P1DT1H1M1S")]


@pytest.mark.parametrize(("seconds", "text"), ISO)
def test_a_step_is_written_as_iso_8601(seconds, text):
    assert iso_duration(int(seconds * SECOND)) == text


@given(us=st.integers(-(10**15), 10**17))
def test_times_are_written_so_that_they_read_back(us):
    assert instant(rfc3339(us)) == us
