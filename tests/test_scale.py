"""Scales, and what a generation remembers of what it changed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models import scale
from models.generation import Pool


def rows(*scales):
    out = scale.blank(len(scales), 2, (2, 3))
    out["scale"] = scales
    return out


def test_older_generations_see_what_stood_before_the_newer_ones():
    now = rows(10, 20, 30, 40)
    first = scale.Change(np.array([1, 3]), rows(2, 4))  # before the first, slot 1 had 2 and slot 3 had 4
    second = scale.Change(np.array([0, 1]), rows(1, 15))
    asked = np.array([3, 1, 0, 2])
    seen = now[asked]
    second.undo(asked, seen)
    assert seen["scale"].tolist() == [40, 15, 1, 30]
    first.undo(asked, seen)
    assert seen["scale"].tolist() == [4, 2, 1, 30]


def test_who_takes_a_slot_over_has_no_past_in_any_generation():
    change = scale.Change(np.array([1, 3]), rows(2, 4))
    change.forget(np.array([3]))
    seen = rows(7, 7)
    change.undo(np.array([3, 1]), seen)
    assert np.isnan(seen["scale"][0])
    assert seen["scale"][1] == 2


def test_rows_as_bytes_come_back():
    one = rows(1.5, np.nan)
    assert scale.from_bytes(scale.to_bytes(one), 2, (2, 3)).tobytes() == one.tobytes()
    assert scale.to_bytes(one[:0]).shape == (0, one.dtype.itemsize)


def track(changes):
    found, value = np.array([np.nan]), 0
    for value, change in enumerate(changes, 1):
        found = scale.advance(found, np.array([value]), np.array([change]))
    return float(found[0])


@given(st.lists(st.floats(0.5, 2), min_size=1, max_size=100))
def test_a_scale_is_the_mean_change(changes):
    np.testing.assert_allclose(track(changes), np.mean(changes), rtol=1e-9)


def test_one_outlier_does_not_hide_what_follows():
    assert track([1.0] * 50 + [1e300] + [1.0] * 10) < 1.3


def units_that_last(units):
    """What networks measure in, after each of these units of one series."""
    long, out = np.zeros((1, 1)), []
    for count, unit in enumerate(units, 1):
        long, lasting = scale.last(long, np.array([count]), np.array([[unit]]))
        out.append(unit * float(lasting[0, 0]))
    return np.array(out)


def test_a_storm_does_not_move_what_networks_measure_in():
    calm, storm = [1.0] * 5_000, [3.0] * 200
    found = units_that_last([*calm, *storm, *calm])
    assert abs(found - 1).max() < 0.1


def test_a_series_that_is_no_longer_what_it_was_is_measured_by_what_it_is():
    found = units_that_last([*[1.0] * 5_000, *[100.0] * 50, *[0.01] * 50])
    np.testing.assert_allclose(found[5_000:5_050], 100 / scale.WITHIN)
    np.testing.assert_allclose(found[5_050:], 0.01 * scale.WITHIN)


def test_a_new_size_of_changes_is_learnt():
    assert 40 < track([1.0] * 100 + [50.0] * 3000) <= 50


@given(st.one_of(st.just(np.nan), st.floats(0, 1e300)), st.floats(-1e300, 1e300))
def test_a_scale_can_always_be_divided_by(found, level):
    size = scale.usable(np.array([found]), np.array([level]), 0.1)
    assert 0 < size[0] < np.inf


def test_before_its_own_a_series_has_the_scale_that_others_of_its_size_have():
    assert scale.usable(np.array([np.nan]), np.array([-200.0]), 0.05).tolist() == [10.0]


def covering(pool, under, rounds, stretch):
    for _ in range(rounds):
        stretch = pool._cover(under, stretch)
    return stretch


def test_bands_that_cover_too_little_widen_and_too_wide_ones_shrink():
    levels = (0.05, 0.5, 0.95)
    pool = Pool.new(1, levels)
    outside = np.array([[[3], [2]]], np.int8)  # below the lower level, above the upper one, of the network
    stretch = covering(pool, outside, 10, np.ones((1, 2, 1)))
    assert (stretch > 1).all()
    assert (pool.log_width[[0, 2]] > 0).all()
    assert pool.log_width[1] == 0
    inside = np.array([[[2], [3]]], np.int8)
    assert (covering(pool, inside, 10, stretch) < stretch).all()


def test_what_a_baseline_served_does_not_move_the_networks_own_widths():
    pool = Pool.new(1, (0.05, 0.5, 0.95))
    stretch = covering(pool, np.array([[[1], [0]]], np.int8), 10, np.ones((1, 2, 1)))
    assert not pool.log_width.any()
    assert (stretch > 1).all()
    assert (covering(pool, np.full((1, 2, 1), -1, np.int8), 10, stretch) == stretch).all()


def looped(steps, jump, factor, series=20, horizon=24):
    """(steps, H) share of 90 % bands that held normal errors, `factor` times as large from the jump on, learnt from when they are due."""
    rng, pool, stretch = np.random.default_rng(0), Pool.new(horizon, (0.05, 0.5, 0.95)), np.ones((series, 2, horizon))
    width, held = np.zeros((steps, series, 2, horizon)), np.full((steps, horizon), np.nan)
    lead = np.arange(horizon)
    for k in range(steps):
        width[k] = 1.645 * np.exp(pool.log_width[[0, 2]]) * stretch
        issued = k - 3 - lead
        edges = width[np.maximum(issued, 0), :, :, lead].transpose(1, 2, 0) * np.array([-1, 1])[:, None]
        actual = rng.normal(0, 1 if k < jump else factor, (series, 1, 1))
        under = np.where(issued >= 0, 2 + (actual <= edges), -1)
        held[k] = (under[:, 1] & ~under[:, 0] & 1).mean(0)
        stretch = pool._cover(under, stretch)
    return held


def test_after_a_jump_bands_hold_again_soon_at_lead_1_and_do_not_overshoot_at_lead_24():
    held = looped(1000, 400, 3)
    assert ((held[200:400].mean(0) > 0.88) & (held[200:400].mean(0) < 0.92)).all()
    assert 0.88 < held[420:620, 0].mean() < 0.92
    assert 0.75 < held[450:650, -1].mean() < 0.92  # widths alone: half of a band follows its errors before they do
    assert (np.abs(held[800:].mean(0) - 0.9) < 0.03).all()


def test_at_every_lead_bands_of_one_series_come_to_hold_what_they_promise():
    """What is remembered of a stretch has room for its smallest step."""
    horizon, rng, pool = 48, np.random.default_rng(0), Pool.new(48, (0.05, 0.5, 0.95))
    at = np.zeros(20, np.int64)
    stretch, held = scale.in_steps(np.full((20, 2, horizon), 1.2), at), []
    for cell in range(6000):
        pool.log_width[:] = 0  # a series' own alone
        edges = 1.645 * scale.factor(stretch) * np.array([-1, 1])[:, None]
        under = 2 + (rng.normal(0, 1.2, (20, 1, 1)) <= edges)
        held.append((under[:, 1] & ~under[:, 0] & 1).mean(0))
        stretch = scale.in_steps(pool._cover(under, scale.factor(stretch)), at + cell)
    assert (np.abs(np.mean(held[2000:], 0) - 0.9) < 0.005).all()
