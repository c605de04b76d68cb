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
        pool.weigh(memory, np.array([0]), errors, np.zeros((1, 2, 1), np.int8), np.ones((1, 2, 1)))
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
