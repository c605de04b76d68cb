"""What every forecaster must pass, whatever it is made of: a new one is a line in FORECASTERS."""

import numpy as np
import pytest
from arrivals import Stream, small, wavy

from models.learner import REASONS, Learner
from models.score import NET, NONE

STEPS, SERIES = 32, 4

FORECASTERS = {
    "mixture": small(),
    "mixture of five": small(members=5, horizon=3),
    "mixture without a season": small(season=None),
    "several seasons": small(members=2, further_seasons=(20, 3)),
    "nets": small(model="nets", members=2),
    "mixture without nets": small(model="mixture-without-nets", members=1),
    "linear": small(model="linear", members=1),
    "columns of wide records": small(columns=2, members=2),
    "lstm": small(model="lstm"),
    "gru": small(model="gru"),
    "elman": small(model="elman"),
    "jordan": small(model="jordan"),
    "lstm without a season": small(model="lstm", season=None),
    "gaps filled": small(gaps="ffill:2", members=1),
    "gaps that end sequences": small(model="lstm", gaps="split:1", season=None),
    "lstm, one lead": small(model="lstm", horizon=1),
    "lstm, leads beyond the season": small(model="lstm", horizon=9, season=4),
    "lstm, three levels": small(model="lstm", levels=(0.1, 0.5, 0.9)),
    "lstm, no median": small(model="lstm", levels=(0.25, 0.75)),
    "lstm, daily, short memory": small(model="lstm", step_us=86_400_000_000, season=7, truncation=2, hidden=32),
}


def says_the_same_however_partitions_interleave(config, undisturbed):
    other = Stream(wavy(STEPS, SERIES), config).play(np.random.default_rng(3))
    assert undisturbed.said == other.said
    assert undisturbed.learner.digest() == other.learner.digest()


def says_the_same_after_a_restart(config, undisturbed):
    halves = Stream(wavy(STEPS, SERIES), config)
    while halves.closed < STEPS // 2:
        halves.close() if halves.may_close() else halves.arrive(halves.may_arrive())
    halves.learner = Learner.restore(config, halves.learner.snapshot())
    halves.play()
    assert halves.said == undisturbed.said
    assert halves.learner.digest() == undisturbed.learner.digest()


def knows_nothing_of_the_future(config, undisturbed):
    cut, values = STEPS // 2, wavy(STEPS, SERIES)
    changed = values.copy()
    changed[cut:] = np.where(np.isnan(values[cut:]), np.nan, 50 - 3 * values[cut:])
    other = Stream(changed, config).play()
    before = {at: said for at, said in undisturbed.said.items() if at[1] < cut}
    assert before == {at: said for at, said in other.said.items() if at[1] < cut}
    assert undisturbed.said != other.said


def learns(config, undisturbed):
    fresh, learner = Stream(wavy(STEPS, SERIES), config).learner, undisturbed.learner
    assert learner.digest() != fresh.digest()
    assert learner.descent.weights.equal(fresh.descent.weights) != learner.taught
    assert learner.summary()["served"]["1"].keys() <= {*learner.experts}


def speaks_of_what_it_serves(config, undisturbed):
    for point, quantiles, by, reason in undisturbed.steps.values():
        assert np.isfinite(point).all()
        assert np.isfinite(quantiles).all()
        assert (np.diff(quantiles, axis=0) >= 0).all()
        assert set(by.tolist()) <= set(range(len(undisturbed.learner.experts)))
        assert set(reason.tolist()) <= set(range(len(REASONS)))
        assert ((reason == NONE) == (by == NET)).all(), "why not the model asked for, exactly where it was not"


def is_not_changed_by_being_asked(config, undisturbed):
    learner = undisturbed.learner
    before = learner.snapshot()
    learner.summary(), learner.summary(slot=0), learner.digest(), learner.updates(STEPS)
    assert learner.snapshot() == before


def survives_numbers_that_nobody_expects(config, undisturbed):
    values = wavy(STEPS, SERIES)
    values[10, 0], values[11, 1], values[12:15, 2] = 3e38, -3e38, np.nan
    values[20:, 0] = 0.0
    stream = Stream(values, config).play()
    assert all(np.isfinite(point).all() and np.isfinite(quantiles).all() for point, quantiles, *_ in stream.steps.values())
    assert np.isfinite(stream.learner.descent.weights.numpy()).all()


CHECKS = [
    says_the_same_however_partitions_interleave,
    says_the_same_after_a_restart,
    knows_nothing_of_the_future,
    learns,
    speaks_of_what_it_serves,
    is_not_changed_by_being_asked,
    survives_numbers_that_nobody_expects,
]


@pytest.fixture(scope="module", params=FORECASTERS.values(), ids=FORECASTERS)
def config(request):
    return request.param


@pytest.fixture(scope="module")
def undisturbed(config):
    """A stream that has been played in step: checks look at it, and change nothing."""
    return Stream(wavy(STEPS, SERIES), config).play()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_forecaster(check, config, undisturbed):
    check(config, undisturbed)
