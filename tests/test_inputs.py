"""What the network sees of a series: nothing from later, nothing absolute, and missing is not zero."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.baselines import errors
from models.covariates import unknown
from models.inputs import BEND, CLIP, LAGS, bearings, bent, features, shape, view

HOUR = 3_600_000_000
FORM = shape(10, 8, HOUR)
RING = FORM.reach + 4
NAIVE = np.ones((1, 3, 10), np.float32)
LASTING = np.ones((1, 10), np.float16)


def seen(values, cell, form=FORM, scale=1.0):
    """View, features and bearings of the series `values` at `cell`; later values are in the ring too, where they fit."""
    ring = np.full((1, len(values)), np.nan)
    ring[0] = values
    slot, at = np.array([0]), np.array([cell])
    v = view(ring, slot, at, ring[0, [cell]], form)
    x = features(v, at, NAIVE, np.array([scale]), LASTING, np.zeros(1), form, unknown(form.known, 1))
    return v, x, bearings(v, NAIVE, np.array([scale]), LASTING)


VALUES = np.random.default_rng(0).normal(0, 3, RING + 20)


@settings(deadline=None)
@given(st.integers(RING, RING + 19), st.integers(0, 2**31))
def test_a_view_reads_nothing_later_than_its_cell(cell, seed):
    changed = VALUES.copy()
    changed[cell + 1 :] = np.random.default_rng(seed).normal(0, 100, len(VALUES) - cell - 1)
    for a, b in zip(seen(VALUES, cell), seen(changed, cell), strict=True):
        for one, other in zip(
            np.atleast_1d(a) if isinstance(a, np.ndarray) else a, np.atleast_1d(b) if isinstance(b, np.ndarray) else b, strict=True
        ):
            np.testing.assert_array_equal(one, other)


WIDER = shape(10, 8, HOUR, further=(20, 6))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_of_further_seasons_nothing_later_is_read_either(seed):
    cell, rng = WIDER.reach, np.random.default_rng(seed)
    values = rng.normal(0, 3, cell + 30)
    changed = np.where(np.arange(len(values)) > cell, rng.normal(0, 100, len(values)), values)
    (one, x, (_, paths, _)), (other, y, (_, ways, _)) = seen(values, cell, WIDER), seen(changed, cell, WIDER)
    for a, b in zip([*one, x, paths], [*other, y, ways], strict=True):
        np.testing.assert_array_equal(a, b)


def test_of_a_further_season_the_same_phase_of_target_and_cell_is_seen():
    cell = WIDER.reach + 3
    values = np.random.default_rng(1).normal(0, 3, cell + 1)
    v, x, (_, paths, unit) = seen(values, cell, WIDER)
    assert v.further.shape == (1, 4, 10)
    assert paths.shape == (1, 3 + WIDER.more, 10)
    for k, season in enumerate((20, 6)):
        for h in range(1, 11):
            whole = -(-h // season) * season
            last, offset = (values[cell + ahead - whole] - values[cell] for ahead in (h, 0))
            assert v.further[0, 2 * k : 2 * k + 2, h - 1].tolist() == [last, offset]
            np.testing.assert_allclose(paths[0, 3 + 2 * k : 5 + 2 * k, h - 1] * unit[0, h - 1], [last, offset])
    first, _, _ = seen(values, cell)
    for one, other in zip(v[:-1], first[:-1], strict=True):  # of the first, what there would be without them
        np.testing.assert_array_equal(one, other)
    _, other, _ = seen(np.where(np.arange(len(values)) == cell - 19, 50.0, values), cell, WIDER)  # lead 1, a further season before
    assert 0 < (x != other).sum() < 4


@pytest.mark.parametrize(("further", "more"), [((168,), 0), ((30,), 4), ((168, 30), 4)])
def test_a_week_is_told_once(further, more):
    both, one = shape(4, 24, HOUR, further=further), shape(4, 24, HOUR)
    told = [sum(table.shape[1] for table in form.phases) for form in (both, one)]
    assert told == [10 + more, 10]
    assert both.week[1] - both.week[0] == 4
    cells = np.arange(400)
    weekly = (2 * np.pi * cells / 168)[:, None]
    np.testing.assert_allclose(
        both.phases[-1][cells % 168], np.concatenate([f(k * weekly) for k in (1, 2) for f in (np.sin, np.cos)], 1), atol=1e-6
    )


@settings(deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(-1e3, 1e3))
def test_units_and_level_do_not_show(size, level):
    _, x, (blend, paths, unit) = seen(VALUES, RING)
    _, moved, (other, ways, width) = seen(VALUES * size + level * size, RING, scale=size)
    np.testing.assert_allclose(moved, x, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(other, blend, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ways, paths, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(width, unit * size)


def test_a_value_that_was_not_observed_is_not_zero():
    cell = RING
    missing, zero = VALUES.copy(), VALUES.copy()
    missing[cell - 3], zero[cell - 3] = np.nan, VALUES[cell]  # relative to the newest, that is 0
    assert (seen(missing, cell)[1] != seen(zero, cell)[1]).any()


def test_anything_that_a_float_can_say_is_bounded():
    wild = VALUES.copy()
    wild[RING - 5], wild[RING - 2], wild[RING - 7] = 1e308, -1e308, 1e-320
    _, x, (blend, paths, _) = seen(wild, RING)
    for a in (x, blend, paths):
        assert np.isfinite(a).all()
        assert np.abs(a).max() <= CLIP


def test_inputs_are_themselves_until_they_bend_and_never_turn_back():
    x = np.linspace(-100, 100, 2001)
    found = bent(x)
    near = np.abs(x) <= BEND
    np.testing.assert_array_equal(found[near], x[near])
    np.testing.assert_allclose(found[~near], np.sign(x[~near]) * (BEND + np.log1p(np.abs(x[~near]) - BEND)))
    assert (np.diff(found) > 0).all()
    assert bent(np.array([np.nan, np.inf, -1e308])).tolist() == [0.0, CLIP, -CLIP]


@pytest.mark.parametrize(("season", "step_us"), [(None, 1), (8, 1), (24, 3_600_000_000), (7, 86_400_000_000), (12, 2_629_800_000_000)])
def test_features_are_as_many_as_the_shape_says(season, step_us):
    form = shape(10, season, step_us)
    values = np.arange(form.reach + 3.0)
    assert seen(values, form.reach + 1, form)[1].shape == (1, form.features)
    assert form.features % 16 == 0


def test_the_blend_leans_on_what_has_been_better():
    cell = RING
    v, _, _ = seen(VALUES, cell)
    for better, wanted in ((0, np.zeros(10)), (1, v.last[0]), (2, (v.last - v.offset)[0])):
        naive = np.ones((1, 3, 10), np.float32)
        naive[0, better] = 0.3
        blend, _, unit = bearings(v, naive, np.ones(1), LASTING)
        bound = CLIP * 0.3  # units are the best naive error
        np.testing.assert_allclose((blend * unit)[0], np.clip(wanted, -bound, bound), atol=0.05 * np.abs(VALUES).max())


def test_naive_errors_are_what_a_plain_loop_finds():
    cell = RING + 5
    found = errors(VALUES[None], np.array([0]), np.array([cell]), FORM)[0]
    for h in range(1, 11):
        back = -(-h // 8) * 8
        last = VALUES[cell] - VALUES[cell - h]
        seasonal = VALUES[cell] - VALUES[cell - back]
        drift = VALUES[cell] - (VALUES[cell - h] + VALUES[cell - back] - VALUES[cell - h - back])
        np.testing.assert_allclose(found[:, h - 1], [last, seasonal, drift])


def test_one_step_looks_as_far_back_as_its_carry():
    assert LAGS == 12
    assert FORM.reach >= LAGS
