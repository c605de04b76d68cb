"""The linear expert against plain weighted least squares, and what it may look at."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import inputs
from models.linear import FORGET, GROUPS, LAGS, RIDGE, Linear, Related, affordable, features

FORM = inputs.shape(horizon=8, season=6, step_us=3_600_000_000)
RING = 200


def ring(values):
    """(series, RING): values (T, series) by cell % RING, T <= RING."""
    out = np.full((values.shape[1], RING), np.nan)
    out[:, : len(values)] = values.T
    return out


def fed(linear, values, *, related=None):
    """All of values (T, series), as cells 0.. close one after the other; sizes are one."""
    count = values.shape[1]
    slots, columns = np.arange(count), np.arange(count) if related else np.zeros(count, int)
    held = ring(values)
    for t in range(40, len(values)):
        linear.fade()
        for group, (fine, origin, level, target) in enumerate(linear.rows_of(held, slots, np.full(count, t))):
            x = linear.see(held, slots[fine], origin, level, np.ones(len(fine)), related(slots[fine], t) if related else None)
            linear.learn(group, x, columns[fine], target - level[:, None])
    return held


def all_solved(linear):
    for _ in range(len(linear.gram) * len(linear.groups)):
        linear.solve()
    return linear.solved


def walk(steps, series, seed=0):
    """Changes that answer to the last change and to the same phase of the season."""
    rng = np.random.default_rng(seed)
    season = 3 * np.sin(2 * np.pi * np.arange(steps) / 6)
    noise = rng.normal(0, 1, (steps, series))
    drift = np.zeros((steps, series))
    for t in range(1, steps):
        drift[t] = 0.6 * drift[t - 1] + noise[t]
    return drift.cumsum(0) * 0.1 + season[:, None]


def test_it_is_weighted_least_squares():
    linear, values = Linear(FORM), walk(150, 12)
    held = fed(linear, values)
    solved = all_solved(linear)
    slots = np.arange(12)
    for first, end in linear.groups:
        rows, targets, weights = [], [], []
        for t in range(40, 150):
            origin = np.full(12, t - end)
            level = held[slots, origin]
            rows.append(linear.see(held, slots, origin, level, np.ones(12), None))
            targets.append(held[slots[:, None], origin[:, None] + np.arange(first + 1, end + 1)] - level[:, None])
            weights += [FORGET ** (149 - t)] * 12
        x, y, w = np.concatenate(rows), np.concatenate(targets), np.array(weights)
        gram = (x * w[:, None]).T @ x
        pull = RIDGE * np.trace(gram) / linear.features
        wanted = np.linalg.solve(gram + pull * np.eye(linear.features), (x * w[:, None]).T @ y)
        if linear.rows[0, 0] >= 20 * linear.features * linear.gain:
            np.testing.assert_allclose(solved[0, :, first:end], wanted, rtol=2e-3, atol=2e-4)
        else:
            pytest.fail("too few rows to be solved: the test says nothing")


def test_it_says_nothing_before_it_has_seen_enough():
    linear = Linear(FORM)
    fed(linear, walk(45, 1))
    assert not all_solved(linear).any()
    assert not linear.say(np.ones((3, linear.features)), np.zeros(3, int), linear.solved).any()


def test_it_is_better_than_the_last_value_where_changes_answer_to_the_past():
    values = walk(150, 16)
    linear = Linear(FORM)
    held = fed(linear, values[:130])
    solved = all_solved(linear)
    slots, errors, naive = np.arange(16), [], []
    held = ring(values)
    for t in range(130, 141):
        level = held[slots, t]
        said = linear.say(linear.see(held, slots, np.full(16, t), level, np.ones(16), None), np.zeros(16, int), solved)
        actual = held[:, t + 1 : t + 9] - level[:, None]
        errors.append(np.abs(said - actual).mean(0))
        naive.append(np.abs(actual).mean(0))
    assert np.mean(errors) < 0.5 * np.mean(naive)


def together(values):
    """All series are columns of one record, and each may see the others up to the cell that is asked for."""
    count = values.shape[1]

    def of(slots, t):
        size = np.ones((len(slots), count))
        return Related(np.tile(np.arange(count), (len(slots), 1)), size, np.zeros((len(slots), count)), np.full((len(slots), count), t))

    return of


def test_a_column_that_runs_ahead_tells_of_those_that_follow():
    rng = np.random.default_rng(1)
    leader = rng.normal(0, 1, 200).cumsum()
    values = np.stack([leader, np.concatenate([[0.0], leader[:-1]]), rng.normal(0, 1, 200).cumsum()], 1)
    form = inputs.shape(horizon=1, season=None, step_us=1)
    alone, aware = Linear(form), Linear(form, columns=3)
    for linear, related in ((alone, None), (aware, together(values))):
        for _ in range(12):  # the ring holds 200 cells; the same ones again do
            fed(linear, values, related=related)
    all_solved(alone), all_solved(aware)
    held, at, slot = ring(values), np.full(1, 190), np.array([1])
    level = held[slot, at]
    change = held[1, 191] - level[0]
    blind = alone.say(alone.see(held, slot, at, level, np.ones(1), None), slot, alone.solved)[0, 0]
    seen = aware.say(aware.see(held, slot, at, level, np.ones(1), together(values)(slot, 190)), slot, aware.solved)[0, 0]
    assert abs(seen - change) < 0.1
    assert abs(seen - change) < abs(blind - change)


@given(st.integers(0, 5), st.integers(0, 3))
def test_of_a_column_that_has_fallen_behind_nothing_old_is_read(behind, shift):
    values = np.random.default_rng(2).normal(0, 1, (120, 2))
    linear = Linear(FORM, columns=2)
    held = ring(values)
    newest = np.array([[100, 100 - behind]])
    related = Related(np.array([[0, 1]]), np.ones((1, 2)), np.zeros((1, 2)), newest)
    one = linear.see(held, np.array([0]), np.array([100]), held[:1, 100], np.ones(1), related)
    held[1, 101 - behind : 101 - behind + 40] = 1e6 * (1 + shift)  # behind its newest: of another time, or to come
    other = linear.see(held, np.array([0]), np.array([100]), held[:1, 100], np.ones(1), related)
    np.testing.assert_array_equal(one, other)


def test_a_column_that_is_not_there_is_no_change():
    linear, held = Linear(FORM, columns=2), ring(np.random.default_rng(2).normal(0, 1, (120, 2)))
    none = Related(np.array([[0, -1]]), np.ones((1, 2)), np.zeros((1, 2)), np.full((1, 2), 100))
    x = linear.see(held, np.array([0]), np.array([100]), held[:1, 100], np.ones(1), none)
    own = LAGS + 2 * FORM.horizon
    assert x[0, own : own + 6].any()
    assert not x[0, own + 6 : own + 12].any()


@given(st.integers(1, 40), st.integers(0, 39))
def test_a_row_is_the_same_in_any_company(count, place):
    rng = np.random.default_rng(3)
    linear = Linear(FORM)
    solved = rng.normal(0, 1, linear.solved.shape).astype(np.float32)
    x = rng.normal(0, 1, (40, linear.features))
    alone = linear.say(x[place : place + 1], np.zeros(1, int), solved)
    chosen = np.unique(np.concatenate([[place], rng.permutation(40)[:count]]))
    np.testing.assert_array_equal(alone[0], linear.say(x[chosen], np.zeros(len(chosen), int), solved)[np.searchsorted(chosen, place)])


def test_louder_rows_are_turned_down_before_they_overflow():
    linear, other = Linear(FORM), Linear(FORM)
    values = walk(150, 12)
    fed(linear, values)
    other.gain = 9.9e5  # turned down on the way
    fed(other, values)
    assert other.gain < 2
    np.testing.assert_allclose(all_solved(other), all_solved(linear), rtol=1e-4, atol=1e-6)


def test_wide_records_beyond_the_bound_are_left_alone():
    assert affordable(FORM, 7)
    assert not affordable(FORM, 200)
    assert features(FORM, 0) % 16 == 0
    assert len(GROUPS) + 1 == len(Linear(inputs.shape(48, 24, 1)).groups)
