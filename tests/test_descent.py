"""Guarded descent: what is not finite is skipped, and never reaches the weights."""

import pytest
import torch

from models.descent import CLIP_NORM, PATIENCE, Descent
from models.network import Ensemble


def descent(**kwargs):
    network = Ensemble(members=1, features=4, own=2, week=(3, 4), hidden=3, horizon=2, levels=(0.1, 0.5, 0.9), seed=1)
    return Descent(network, **({"rate": 1e-2, "least": 1e-2, "halving": 100} | kwargs))


def gentle(network):
    return sum(((p - 0.3) ** 2).sum() for p in network.parameters())


def test_it_goes_down():
    d = descent()
    losses = [d.step(gentle).loss for _ in range(50)]
    assert losses[-1] < losses[0] / 2


OURS = {
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.01),
    "adam": lambda weights: torch.optim.Adam(weights, lr=1e-2),
    "sgd": lambda weights: torch.optim.SGD(weights, lr=1e-2, momentum=0.9),
}


@pytest.mark.parametrize("rule", OURS)
def test_steps_are_those_of_torchs_own(rule):
    d = descent(rule=rule)
    other = torch.nn.Parameter(d.weights.clone())
    theirs = OURS[rule]([other])
    for _ in range(5):
        d.step(gentle)
        theirs.zero_grad()
        ((other - 0.3) ** 2).sum().backward()
        torch.nn.utils.clip_grad_norm_([other], CLIP_NORM)
        theirs.step()
    torch.testing.assert_close(d.weights, other.detach(), rtol=1e-5, atol=1e-7)


BAD = {
    "loss": lambda network: gentle(network) * float("nan"),
    "gradient": lambda network: gentle(network) + (sum(p.sum() for p in network.parameters()) * 0).sqrt(),
}


@pytest.mark.parametrize("cause", BAD)
def test_a_bad_step_is_skipped_and_says_why(cause):
    d = descent()
    d.step(gentle)
    before = d.weights.clone()
    outcome = d.step(BAD[cause])
    assert (outcome.kind, outcome.cause) == ("skip", cause)
    assert d.weights.equal(before)
    assert d.step(gentle).kind == "step"


def test_weights_that_would_not_be_finite_are_not_taken():
    d = descent()
    d.step(gentle)
    before = d.weights.clone()
    d.rate = d.least = float("inf")
    outcome = d.step(gentle)
    assert (outcome.kind, outcome.cause) == ("skip", "weights")
    assert d.weights.equal(before)


def test_five_bad_steps_in_a_row_bring_the_last_good_weights_back():
    d = descent()
    d.step(gentle)
    good = d.good[0].clone()
    d.weights.add_(1.0)  # drifted since
    kinds = [d.step(BAD["loss"]).kind for _ in range(PATIENCE)]
    assert kinds == ["skip"] * (PATIENCE - 1) + ["rollback_weights"]
    assert d.weights.equal(good)


def test_a_good_step_between_bad_ones_starts_the_count_again():
    d = descent()
    kinds = [d.step(loss).kind for _ in range(2) for loss in [BAD["loss"]] * (PATIENCE - 1) + [gentle]]
    assert "rollback_weights" not in kinds


def test_a_restart_goes_on_as_if_there_had_been_none():
    d, e = descent(), descent()
    for _ in range(7):
        d.step(gentle)
    e.load({name: t.clone() for name, t in d.tensors().items()}, d.counts())
    for _ in range(7):
        d.step(gentle)
        e.step(gentle)
    assert d.weights.equal(e.weights)


@pytest.mark.parametrize("rule", OURS)
def test_parts_learn_on_at_paces_of_their_own(rule):
    whole, parts = (descent(rule=rule, rate=1e-2, least=1e-3, paces=paces) for paces in ((1.0,), (1.0, 2.0)))
    begin = whole.weights.clone()
    half = -(-len(begin) // 2)
    whole.steps = parts.steps = 10**9  # the rate has fallen to its least
    for d in (whole, parts):
        d.step(gentle)
    torch.testing.assert_close(parts.weights[:half], whole.weights[:half], rtol=0, atol=0)
    moved = [(d.weights - begin)[half:] for d in (whole, parts)]
    torch.testing.assert_close(moved[1], 2 * moved[0], rtol=1e-3, atol=1e-6)


def test_while_the_rate_falls_all_parts_learn_alike():
    whole, parts = (descent(rate=1e-2, least=1e-3, paces=paces) for paces in ((1.0,), (1.0, 2.0)))
    for d in (whole, parts):
        d.step(gentle)
    torch.testing.assert_close(parts.weights, whole.weights, rtol=0, atol=0)
