"""The pool of past rows, and the rows on their way into it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.replay import EACH, FILLING, Replay, Waiting, mixed

TABLE = {"a": (np.int64, ())}


@given(st.lists(st.integers(0, 5), max_size=20))
def test_the_pool_keeps_the_newest_rows(sizes):
    pool, put = Replay(TABLE, capacity=8), []
    for size in sizes:
        rows = np.arange(len(put), len(put) + size)
        put += rows.tolist()
        pool.add({"a": rows})
    assert sorted(pool.state()["a"].tolist()) == put[-8:]


def test_a_pool_that_is_full_remembers_as_many_instants_as_it_was_made_for():
    instants = 20
    pool = Replay(TABLE, capacity=EACH * instants)
    for instant in range(100):
        assert pool.wanted == (FILLING if len(pool) < pool.capacity else EACH)
        pool.add({"a": np.full(pool.wanted, instant)})
    assert np.unique(pool.state()["a"]).tolist() == [*range(80, 100)]


def test_draws_depend_on_the_seed_alone():
    one, other = Replay(TABLE, capacity=50), Replay(TABLE, capacity=50)
    assert len(one.draw(5, (1, 2))["a"]) == 0
    for pool in (one, other):
        pool.add({"a": np.arange(50)})
    other.draw(7, (9, 9))
    assert one.draw(20, (1, 2))["a"].tolist() == other.draw(20, (1, 2))["a"].tolist()
    assert one.draw(20, (1, 2))["a"].tolist() != one.draw(20, (1, 3))["a"].tolist()


def test_rows_wait_until_their_last_label_has_come_or_their_series_is_silent():
    waiting = Waiting({"slot": (np.int64, ()), "cell": (np.int64, ())})
    waiting.add({"slot": np.array([0, 1, 0]), "cell": np.array([10, 10, 12])})
    newest = np.array([14, 13])
    assert waiting.take(newest, 4)["cell"].tolist() == [10]  # slot 0 stands at 14 = 10 + 4
    assert waiting.columns["slot"].tolist() == [1, 0]
    waiting.add({"slot": np.array([0]), "cell": np.array([19])})
    assert waiting.take(newest, 4)["slot"].tolist() == [1]  # more than twice the horizon ago: it will not come
    assert waiting.columns["cell"].tolist() == [12, 19]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=40))
def test_what_waits_is_what_was_put_in_and_not_taken_in_its_order(turns):
    """`turns`: rows put in, and steps that all series go on, in turn; each row's label comes two steps after it."""
    waiting, left, cell = Waiting({"slot": (np.int64, ()), "cell": (np.int64, ())}), [], 0
    for count, steps in turns:
        waiting.add({"slot": np.arange(count) % 2, "cell": np.full(count, cell)})
        left += [(k % 2, cell) for k in range(count)]
        cell += steps
        out = waiting.take(np.array([cell, cell]), 2)
        assert [*zip(out["slot"].tolist(), out["cell"].tolist(), strict=True)] == [row for row in left if row[1] <= cell - 2]
        left = [row for row in left if row[1] > cell - 2]
        held = waiting.columns
        assert [*zip(held["slot"].tolist(), held["cell"].tolist(), strict=True)] == left


def test_hashes_choose_evenly():
    chosen = mixed(np.arange(10_000, dtype=np.uint64), 5) % np.uint64(10)
    assert np.bincount(chosen.astype(int)).min() > 850
