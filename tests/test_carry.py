"""What is remembered of each series: it grows in place, and carries come back as they were kept."""

import numpy as np
import pytest

from models.carry import CELL, HIDDEN, NEVER, Column, Memory, keep, kept
from models.inputs import LAGS

TABLE = {"a": (np.float32, (3,), np.nan), "b": (np.int8, (), 0), "none": (np.int64, (0,), 0)}


def test_rows_stay_and_new_ones_are_empty():
    memory = Memory(TABLE)
    for slots in (1, 20, 5_000, 60_000):
        before = memory.capacity
        memory.grow(slots)
        assert memory.capacity >= slots
        assert np.isnan(memory["a"][before:]).all()
        assert not memory["b"][before:].any()
        memory["a"][before:], memory["b"][before:] = np.arange(before, memory.capacity)[:, None], 1
    np.testing.assert_array_equal(memory["a"][:, 2], np.arange(memory.capacity))
    assert memory["b"].all()
    assert memory["none"].shape == (memory.capacity, 0)


def test_who_looks_at_rows_that_grow_keeps_what_was_there():
    column = Column(np.int64, (4,))
    column.grow(1_000)
    column.rows[:] = 7
    view = column.rows[10:20, 1]
    column.grow(1_000_000)
    column.rows[:] = 8
    assert view.tolist() == [7] * 10
    assert len(column.rows) == 1_000_000


def test_what_a_memory_gave_is_taken_over_and_grows_on():
    one, two = (Memory({"live": (np.bool_, (), False), **TABLE}) for _ in range(2))
    one.grow(100)
    one["live"][:40], one["a"][:40] = True, 2
    two.load(one.state())
    one["a"][:] = 3
    assert two["a"].tolist() == [[2.0] * 3] * 40
    two.grow(41)
    assert (two["a"][:40] == 2).all()
    assert np.isnan(two["a"][40:]).all()
    with pytest.raises(ValueError, match=r"a is float64\(3,\), want float32\(3,\)"):
        two.load({**one.state(), "a": np.zeros((100, 3))})


@pytest.mark.parametrize("kind", ["carry", "anchor"])
def test_carries_come_back_at_the_phase_of_their_cell(kind):
    members, hidden, slots, cells = 3, 16, np.array([4, 1]), np.array([30, 41])
    memory = Memory(
        {
            f"{kind}_hidden": (np.int8, (LAGS, members, hidden), 0),
            f"{kind}_cell": (np.float16, (LAGS, members, hidden), 0),
            CELL[kind]: (np.int64, (LAGS,), NEVER),
        }
    )
    memory.grow(5)
    draw = np.random.default_rng(0)
    carry = np.empty((2, 2 * members, hidden), np.float16)
    carry[:, 0::2], carry[:, 1::2] = np.tanh(draw.normal(0, 2, (2, members, hidden))), draw.normal(0, 3, (2, members, hidden))
    keep(memory, kind, slots, cells, carry)
    back, carried = kept(memory, kind, slots, cells % LAGS)
    assert back.dtype == np.float16
    np.testing.assert_array_equal(back[:, 1::2], carry[:, 1::2])
    assert np.abs(back[:, 0::2].astype(float) - carry[:, 0::2]).max() <= 0.5 / HIDDEN + 5e-4
    assert carried.tolist() == cells.tolist()
    keep(memory, kind, slots, cells, back)  # what was kept once is kept as it is
    np.testing.assert_array_equal(kept(memory, kind, slots, cells % LAGS)[0], back)
    nothing, never = kept(memory, kind, slots, (cells + 1) % LAGS)
    assert not nothing.any()
    assert (never == NEVER).all()
