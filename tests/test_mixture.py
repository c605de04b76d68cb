"""The mixture finds who is good, alone or together, and gives nobody a voice who may have none."""

import numpy as np
import pytest

from models.mixture import Mixture, groups

H = 8
EVERYONE = np.ones(4, bool)


def mixture(allowed=EVERYONE, nets=2):
    return Mixture(nets=nets, others=len(allowed) - nets, allowed=allowed, horizon=H)


def told(m, experts, instants, series=3, seed=0):
    """`experts(truth, rng)` -> what each says (K, series, H)."""
    rng = np.random.default_rng(seed)
    for _ in range(instants):
        truth = rng.normal(0, 1, (series, H))
        said = experts(truth, rng).transpose(1, 0, 2)
        m.learn(said, truth, np.ones((series, H), bool))
    m.weigh()
    return m.weights.of(np.zeros((1, m.groups, m.voices)), m.prior)[0]  # (H, K)


def noisy(*sizes):
    """Experts that say the truth with errors of these sizes, the last one nothing."""
    return lambda truth, rng: np.stack([truth + rng.normal(0, size, truth.shape) for size in sizes] + [np.zeros_like(truth)])


def test_it_begins_with_the_networks():
    m = mixture()
    weights = m.weights.of(np.zeros((1, m.groups, m.voices)), m.prior)[0]
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert (weights[:, :2].sum(1) > 0.8).all()
    np.testing.assert_allclose(weights[:, 0], weights[:, 1])


def test_errors_that_are_independent_are_averaged_and_a_bad_expert_falls_silent():
    weights = told(mixture(), noisy(0.5, 0.5, 3.0), 1500)
    assert (weights[:, :2] > 0.3).all()
    assert (np.abs(weights[:, 2]) < 0.05).all()


def test_an_expert_that_is_best_by_far_ends_alone():
    weights = told(mixture(), noisy(1.0, 1.0, 0.02), 1500)
    assert (weights[:, 2] > 0.97).all()


def test_where_nobody_knows_anything_the_level_is_said():
    weights = told(mixture(), lambda truth, rng: np.stack([*rng.normal(0, 0.5, (3, *truth.shape)), np.zeros_like(truth)]), 2500)
    assert (np.abs(weights[:, :3]).sum(1) < 0.1).all()


def test_it_does_better_than_every_expert_where_their_errors_differ():
    m, rng = mixture(), np.random.default_rng(4)
    experts = noisy(0.6, 0.7, 0.8)
    told(m, experts, 800)
    weights = m.weights.of(np.zeros((1, m.groups, m.voices)), m.prior)[0]
    truth = rng.normal(0, 1, (500, H))
    said = experts(truth, rng)
    mixed = np.einsum("knh,hk->nh", said, weights)
    errors = ((said - truth) ** 2).mean((1, 2))
    assert ((mixed - truth) ** 2).mean() < 0.7 * errors.min()


def test_who_may_not_speak_does_not():
    weights = told(mixture(allowed=np.array([False, False, True, True])), noisy(0.01, 0.01, 0.8), 300)
    np.testing.assert_allclose(weights[:, :2], 0, atol=1e-6)
    assert (weights[:, 2] > 0.5).all()


def test_a_series_leans_to_who_is_good_for_it():
    m = mixture()
    rng = np.random.default_rng(5)
    total, count = np.zeros((2, m.voices, m.groups)), np.zeros((2, m.groups))
    for _ in range(200):
        truth = rng.normal(0, 1, (2, H))
        said = np.stack([truth + rng.normal(0, s, truth.shape) for s in (1.0, 1.0, 1.0)] + [np.zeros_like(truth)], 1)
        said[0, 0] = truth[0] + rng.normal(0, 0.1, H)  # the first series is easy for the first expert
        known = np.ones((2, H), bool)
        off, _n = m.by_group(m.learn(said, truth, known), known)
        total, count = total + off, count + 1
    m.weigh()
    lean = m.lean(total / count[:, None], count * 3)
    weights = m.weights.of(lean, m.prior)
    assert (weights[0, :, 0] > 0.9).all()
    assert (weights[1, :, 0] < 0.6).all()


def test_leads_that_were_not_known_teach_nothing():
    one, other = mixture(), mixture()
    rng = np.random.default_rng(6)
    known = np.arange(H) < 3
    for _ in range(20):
        said, truth = rng.normal(0, 1, (2, 4, H)), rng.normal(0, 1, (2, H))
        one.learn(said, truth, np.tile(known, (2, 1)))
        other.learn(np.where(known, said, 1e3), np.where(known, truth, np.nan), np.tile(known, (2, 1)))
    for name in Mixture.ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert not one.gram[3:].any()


def test_it_goes_on_where_it_was():
    m = mixture()
    told(m, noisy(0.5, 0.7, 0.9), 50)
    other = mixture()
    other.load(m.state())
    for mine, theirs in zip(m.weights, other.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("horizon", [1, 6, 7, 48])
def test_groups_cover_all_leads(horizon):
    of = groups(horizon)
    assert len(of) == horizon
    assert of[0] == 0
    assert (np.diff(of) >= 0).all()
    assert set(of.tolist()) == set(range(int(of.max()) + 1))


def test_experts_that_say_next_to_nothing_are_not_blown_up_until_they_fit():
    m = mixture()
    whispers = np.array([0.01, 0.02, 0.01, 0.0])[:, None]
    for k in range(6):
        m.learn(np.full((1, 4, H), whispers), np.full((1, H), 20.0 * (-1) ** k), np.ones((1, H), bool))
        m.weigh()
        assert np.abs(m.stacked @ whispers).max() < 5
