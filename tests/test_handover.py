"""Weights that are handed over in the middle of a stream: who says what under them, and that nothing else shows."""

import numpy as np
import pytest
import torch
from arrivals import Stream, small, wavy
from hypothesis import given, settings
from hypothesis import strategies as st

from models.handover import Incoming
from models.learner import START, Learner

LONG, AT = 96, 80
STILL = {"model": "lstm", "rate": 1e-9, "least_rate": 1e-10}


def taught(seed, **kwargs):
    """Weights and moments that have learnt from something."""
    descent = Stream(wavy(120, 6, seed), small(seed=seed, **kwargs)).play().learner.descent
    return descent.average.clone(), torch.stack(descent.moments)


@pytest.fixture(scope="module")
def pair():
    return [taught(seed, model="lstm") for seed in (1, 2)]


@pytest.fixture(scope="module")
def others():
    return [Incoming(name, *taught(seed)) for name, seed in (("b" * 16, 3), ("c" * 16, 4))]


def beginning_with(weights, values, **kwargs):
    """A stream whose learner begins with these weights, and all but keeps them."""
    config = small(**STILL)
    learner = Learner(config)
    learner.adopt(weights, None, 0)
    learner.start()
    stream = Stream(values, config, learner=learner, **kwargs)
    for slot, key in zip(stream.slots.tolist(), stream.keys.tolist(), strict=True):
        learner.admit(slot, key)
    return stream


def distances(one, other, rows):
    """Mean distance of what the network said at these rows."""
    return float(np.mean([np.abs(one.parts[at][0] - other.parts[at][0]).mean() for at in one.parts if at[1] in rows and at in other.parts]))


def test_from_the_instant_on_it_says_what_the_new_weights_would_have_said_all_along(pair, monkeypatch):
    (before, _), (after, _) = pair
    values = wavy(LONG, 5)
    handed = {AT: Incoming("b" * 16, after, None)}
    mixed = beginning_with(before, values, handed=handed).play()
    old, new = beginning_with(before, values).play(), beginning_with(after, values).play()
    at_once, soon = range(AT + 3, AT + 6), range(AT - 6, AT + 2)
    assert distances(mixed, old, soon) == 0
    apart = distances(old, new, at_once)
    assert distances(mixed, new, at_once) < 0.01 * apart
    monkeypatch.setattr(Learner, "_take_over", lambda *_: None)
    careless = beginning_with(before, values, handed=handed).play()
    assert distances(careless, new, at_once) > 10 * distances(mixed, new, at_once)


def test_learning_goes_on_from_anchors_under_the_new_weights(pair):
    (before, _), (after, _) = pair
    values = wavy(LONG, 5)
    mixed = beginning_with(before, values, handed={AT: Incoming("b" * 16, after, None)}).play()
    new = beginning_with(after, values).play()
    for name in ("anchor_hidden", "anchor_cell", "carry_hidden", "carry_cell"):
        is_, would = (np.asarray(stream.learner.memory[name], float) for stream in (mixed, new))
        assert would.any()
        assert np.abs(is_ - would).mean() < 0.2 * np.abs(would).mean(), name
    assert (mixed.learner.memory["anchored"] >= new.learner.memory["anchored"]).all()


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**31), disorder=st.integers(1, 4), later=st.integers(1, 4))
def test_any_interleaving_says_the_same(others, seed, disorder, later):
    values, handed = wavy(36, 3, seed % 7), dict(zip((15, 15 + later), others, strict=True))
    one, other = (Stream(values, small(), disorder=disorder, handed=handed) for _ in range(2))
    one.play()
    other.play(np.random.default_rng(seed))
    assert one.said == other.said
    assert one.learner.digest() == other.learner.digest()
    assert one.decisions == other.decisions


@pytest.mark.parametrize("seed", range(3))
def test_when_values_are_read_anew_does_not_show(others, seed, monkeypatch):
    values, handed = wavy(36, 5), dict(zip((15, 17), others, strict=True))
    at_once = Stream(values, small(), handed=handed).play()
    monkeypatch.setattr("models.handover.SIDE", 1)
    rng, arrive, slices = np.random.default_rng(seed), Learner.arrive, []

    def now_and_then(self, *args, **kwargs):
        if rng.random() < 0.5:
            slices.append(self.read_some())
        return arrive(self, *args, **kwargs)

    monkeypatch.setattr(Learner, "arrive", now_and_then)
    in_slices = Stream(values, small(), handed=handed).play()
    assert True in slices
    assert in_slices.said == at_once.said
    assert in_slices.learner.digest() == at_once.learner.digest()


def test_a_copy_is_the_same_and_goes_its_own_way(others):
    stream = Stream(wavy(40, 5), small(), handed={20: others[0]})
    while stream.closed < 22:
        stream.close() if stream.may_close() else stream.arrive(stream.may_arrive()[:1])
    copy = stream.learner.copy()
    assert copy.snapshot() == stream.learner.snapshot()
    before = copy.snapshot()
    stream.play()
    assert copy.snapshot() == before


@pytest.mark.parametrize("since", [0, 1, 2, 3])
def test_a_restart_on_the_way_does_not_show(others, since):
    handed = {20: others[0]}
    whole = Stream(wavy(40, 5), small(), handed=handed).play()
    broken = Stream(wavy(40, 5), small(), handed=handed)
    while broken.closed < 21 + since:
        ready = broken.may_arrive()
        if broken.may_close():
            broken.close()
        else:
            broken.arrive(ready[:1])
    broken.learner = Learner.restore(broken.config, broken.learner.snapshot())
    broken.play()
    assert broken.said == whole.said
    assert broken.learner.digest() == whole.learner.digest()


def test_versions_and_updates_count_from_the_instant(others):
    stream = Stream(np.nan_to_num(wavy(30, 3)), small(), handed={20: others[0]})
    first = stream.learner.version
    learner = stream.play().learner
    assert learner.version == "b" * 16
    assert [learner.version_at(instant) for instant in (START, 20, 21, 30)] == [first, first, "b" * 16, "b" * 16]
    assert learner.updates(30) == 30 - 21


def test_no_forecast_is_missed_and_the_weights_go_on_learning(others):
    plain, handed = (Stream(wavy(40, 5), small(), handed=h).play() for h in ({}, {20: others[0]}))
    assert plain.said.keys() == handed.said.keys()
    learnt = handed.learner.descent.weights
    assert not torch.equal(learnt, others[0].weights)
    assert handed.learner.training["loss"] > 0


def test_a_series_that_has_gone_takes_nothing_and_one_that_is_new_begins_anew(others):
    stream = Stream(wavy(40, 5), small(), handed={20: others[0]})
    while stream.closed < 21:
        stream.close() if stream.may_close() else stream.arrive(stream.may_arrive()[:1])
    slot, learner = int(stream.slots[-1]), stream.learner
    assert learner.stagings[0].left.any()
    learner.forget(np.array([slot]))
    assert not learner.stagings[0].find(np.array([slot]))[0].size


def test_what_waits_is_gone_once_everybody_has_it(others):
    stream = Stream(np.nan_to_num(wavy(40, 5)), small(), handed={20: others[0]}).play()
    assert not stream.learner.stagings[0].left.any()
    assert not stream.learner.stagings[0].state()["carry"].size
