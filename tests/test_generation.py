"""What all series together have taught: who has been how far off."""

import numpy as np
import pytest

from models.generation import Pool
from models.score import LAST, NET, SEASONAL, decode

LEVELS = (0.05, 0.5, 0.95)


def codes_after(scores, *, net, seasonal, last):
    """(SEASONAL or LAST, who serves) of one series after so many equal scores at one lead; NaN: the season before was not observed."""
    pool = Pool.new(1, LEVELS)
    memory = {"evidence": np.zeros((1, 6, 1)), "evidence_count": np.zeros((1, 1), np.int64)}
    for k in range(scores):
        errors = np.array([[[net], [seasonal[k % len(seasonal)]], [last]]])
        pool.weigh(memory, np.array([0]), errors, np.zeros((1, 2, 1), np.int8), np.ones((1, 2, 1)), mixed=True)
    pool.decide(30, mixed=True)
    by, _, better = decode(pool.served)
    return int(better[0]), int(by[0])


def test_without_a_season_a_model_with_skill_serves():
    assert codes_after(40, net=0.8, seasonal=[np.nan], last=1.0) == (SEASONAL, NET)


@pytest.mark.parametrize("gaps", [1, 5, 9])
def test_gaps_a_season_before_are_no_sign_of_skill(gaps):
    seasonal = [np.nan] * gaps + [1.2] * (10 - gaps)
    assert codes_after(200, net=1.1, seasonal=seasonal, last=1.0) == (LAST, LAST)


def test_a_season_that_was_said_is_tried_until_the_last_value_is_nearer():
    assert codes_after(20, net=1.1, seasonal=[np.nan], last=1.0)[0] == SEASONAL
    assert codes_after(20, net=1.1, seasonal=[1.01], last=1.0)[0] == LAST


def told_errors(pool, off, errors):
    """What is usual (N, 1) after errors (instants, N, 1), one lead."""
    for k, error in enumerate(errors):
        off = pool.usual(error, off, np.full(error.shape, k))
    return off


def test_quantiles_of_errors_are_in_units_of_what_is_usual_for_each_series():
    pool, rng = Pool.new(1, LEVELS), np.random.default_rng(0)
    sizes = np.array([0.2, 1.0, 5.0, 1.0])[:, None]
    errors = rng.exponential(1, (3000, 4, 1)) * sizes
    off = told_errors(pool, np.full((4, 1), 0.8), errors)
    np.testing.assert_allclose(off, sizes, rtol=0.35)
    np.testing.assert_allclose(pool.residual[:, 0], np.quantile(errors / sizes, LEVELS), rtol=0.2, atol=0.05)


def test_what_is_usual_follows_a_new_variance_and_errors_that_are_missing_change_nothing():
    pool, rng = Pool.new(1, LEVELS), np.random.default_rng(1)
    calm = told_errors(pool, np.full((2, 1), 0.8), rng.normal(0, 1, (500, 2, 1)))
    missing = np.full((1, 2, 1), np.nan)
    before = pool.residual.copy()
    np.testing.assert_array_equal(told_errors(pool, calm, missing), calm)
    np.testing.assert_array_equal(pool.residual, before)
    stormy = told_errors(pool, calm, np.concatenate([np.full((500, 2, 1), np.nan), rng.normal(0, 4, (150, 2, 1))]))
    assert (stormy > 2.5 * calm).all()
    assert (np.diff(pool.residual, axis=0) >= 0).all()
