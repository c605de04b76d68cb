"""Times as cells, and long tables as matrices: calendars have no gaps where people have none."""

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.grid import DAY, grid, matrix

EPOCH = date(1970, 1, 1)


def us(*days):
    return np.array([(d - EPOCH).days * DAY for d in days])


@given(cell=st.integers(-20_000, 20_000), step=st.sampled_from(["15min", "1h", "1d", "1w", "1b", "2b", "1mo", "3mo"]))
def test_a_cell_begins_at_a_time_that_belongs_to_it(cell, step):
    on = grid(step)
    cells = np.array([cell, cell + 1])
    times = on.times(cells)
    assert on.cells(times).tolist() == cells.tolist()
    assert on.cells(times - 1).tolist() == (cells - 1).tolist()


def test_business_days_follow_each_other_over_weekends():
    days = [date(2026, 11, 23) + timedelta(k) for k in range(14)]  # from a Monday on
    weekdays = us(*(d for d in days if d.weekday() < 5))
    assert np.diff(grid("1b").cells(weekdays)).tolist() == [1] * 9


def test_a_weekend_belongs_to_its_friday():
    friday, saturday, sunday = (date(2026, 11, 27) + timedelta(k) for k in range(3))
    assert len(set(grid("1b").cells(us(friday, saturday, sunday)).tolist())) == 1


def test_months_follow_each_other_whatever_their_length():
    firsts = [date(2023 + k // 12, k % 12 + 1, 1 + k % 28) for k in range(30)]
    assert np.diff(grid("1mo").cells(us(*firsts))).tolist() == [1] * 29


@pytest.mark.parametrize("step", ["", "h", "0h", "1.5h", "1y", "-1h", "1 fortnight"])
def test_other_steps_are_refused_with_what_is_allowed(step):
    with pytest.raises(ValueError, match=r"allowed: a number and one of us, .* b \(business days\), mo \(months\)"):
        grid(step)


def test_the_last_of_two_rows_for_a_cell_counts_also_when_it_is_missing():
    found, repeat = matrix(np.array([3, 3, 4]), np.zeros(3, int), np.array([1.0, np.nan, 2.0]), ["a"])
    assert np.isnan(found.values[0, 0])
    assert (found.values[1, 0], repeat.total, repeat.where) == (2.0, 1, (0,))


def test_a_step_that_makes_too_many_cells_is_asked_about():
    with pytest.raises(ValueError, match="is the step right"):
        matrix(np.array([0, 1 << 40]), np.zeros(2, int), np.zeros(2), ["a"])


@given(st.data())
def test_a_matrix_holds_what_a_dictionary_would(data):
    rows = data.draw(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 2), st.floats(-9, 9)), min_size=1, max_size=30))
    cells, columns, values = (np.array(x) for x in zip(*rows, strict=True))
    found, repeat = matrix(cells, columns, values, ["a", "b", "c"])
    last = {(c, k): v for c, k, v in rows}
    there = {(found.first + r, k): found.values[r, k] for r, k in np.argwhere(~np.isnan(found.values)).tolist()}
    assert there == last
    assert repeat.total == len(rows) - len(last)
