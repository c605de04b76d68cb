"""Signals on which a forecaster can only cheat, or must admit that it knows nothing."""

import numpy as np
import pytest
from arrivals import Stream, small

from models.score import LAST, NET


def played(values, *, told=None, **kwargs):
    """What was issued: points (steps, series, H) and who served (steps, series, H). `told`: covariates, known six steps ahead."""
    stream = Stream(values, small(min_scores=30, **kwargs), covariates=told, told_ahead=6).play()
    steps, series = values.shape
    points = np.array([[stream.steps[s, r][0] for s in range(series)] for r in range(steps)])
    by = np.array([[stream.steps[s, r][2] for s in range(series)] for r in range(steps)])
    return points, by


def errors(values, points, lead):
    return np.abs(points[:-lead, :, lead - 1] - values[lead:])


@pytest.mark.parametrize("seed", [1, 2, 5])  # one walk may look predictable for long: of the first five, these asked for the most
def test_on_random_walks_the_last_value_ends_by_serving(seed):
    values = np.random.default_rng(seed).normal(0, 1, (500, 6)).cumsum(0) * 10.0 ** np.arange(-2, 4)
    points, by = played(values)
    assert (by[250:] == LAST).mean() > 0.9
    for lead in (1, 6):
        naive = np.abs(values[lead:] - values[:-lead])[250:].mean(0)
        assert (errors(values, points, lead)[250:].mean(0) < 1.05 * naive).all()


def test_without_a_season_a_model_can_earn_its_place():
    values = np.random.default_rng(2).normal(0, 1, (200, 6))
    _, by = played(values, season=None, model="linear")
    assert (by[150:] == NET).mean() > 0.9


NOISE = np.random.default_rng(2).normal(0, 1, (500, 6))


def floor(noise):
    """Error of the best constant, known in hindsight: who is below it has seen the future."""
    return np.abs(noise - np.median(noise, 0)).mean(0)


def sees_the_future(noise, points):
    return any((errors(noise, points, lead).mean(0) <= 0.98 * floor(noise)).any() for lead in (1, 6))


def test_on_white_noise_nobody_is_better_than_the_best_constant():
    points, by = played(NOISE)
    assert not sees_the_future(NOISE, points)
    for lead in (1, 6):
        assert errors(NOISE, points, lead)[250:].mean() < 1.1 * floor(NOISE).mean()  # it has learnt that there is nothing to learn
    assert (by[250:] == NET).mean() > 0.9  # which is much better than either baseline


@pytest.mark.parametrize("model", ["mixture", "nets"])
def test_a_covariate_that_tells_what_is_to_come_turns_the_canary_red(model):
    noise = NOISE[:150]
    points, _ = played(noise, told=noise[..., None], covariates=("plan",), ahead=("plan",), model=model)
    assert sees_the_future(noise, points)


# Two of three networks of a mixture must first learn that there is a season
@pytest.mark.parametrize(("model", "share", "error"), [("lstm", 0.9, 0.92), ("mixture", 0.75, 0.95)])
def test_on_a_clean_season_the_network_earns_its_place(model, share, error):
    t = np.arange(400)[:, None]
    values = np.sin(2 * np.pi * (t + np.arange(4)) / 8) * 5 + np.random.default_rng(3).normal(0, 0.5, (400, 4)) + 20
    points, by = played(values, model=model)
    assert (by[200:] == NET).mean() > share
    seasonal = np.abs(values[8:] - values[:-8])[200:].mean()
    assert errors(values, points, 6)[200:].mean() < error * seasonal


def test_bands_cover_what_they_promise_and_come_back_after_a_jump_in_variance():
    rng = np.random.default_rng(4)
    size = np.where(np.arange(900) < 450, 1.0, 4.0)[:, None]
    values = np.sin(2 * np.pi * np.arange(900)[:, None] / 8) * 3 + rng.normal(0, 1, (900, 4)) * size
    stream = Stream(values, small(min_scores=30)).play()
    inside = np.zeros((900, 4, 6))
    for (s, r), (_, quantiles, _, _) in stream.steps.items():
        for lead in range(1, 7):
            if r + lead < 900:
                inside[r, s, lead - 1] = quantiles[0, lead - 1] <= values[r + lead, s] <= quantiles[-1, lead - 1]
    for part in (slice(200, 440), slice(650, 890)):
        assert 0.85 < inside[part].mean() < 0.95
