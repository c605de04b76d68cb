"""A stream that never stops learning says what it forgets, once; one that forgets nothing says nothing; a restart does not show."""

import numpy as np
import pytest
from arrivals import Stream, small

from models import regimes
from models.learner import Learner
from models.regimes import CHAINS, REGIMES, STRETCHES, Regimes
from models.replay import Replay

TABLE = {"x": (np.float32, (2,)), "mark": (np.float64, ())}
EVERY = 100


def pool(mark):
    made = Replay(TABLE, capacity=EVERY)
    made.add({"x": np.ones((EVERY, 2), np.float32), "mark": mark + np.random.default_rng(0).normal(0, 0.05, EVERY)})
    return made


def level(of, scale=1.0):
    """A loss that is what the chains are marked with, as their regime stands, `scale` times."""
    return lambda rows: float(np.mean(rows["mark"])) * (scale if of is None or abs(rows["mark"].mean() - of) < 0.5 else 1.0)


def test_regimes_are_kept_farther_and_farther_apart_and_the_oldest_makes_room():
    kept = Regimes(TABLE, every=EVERY)
    for times in range(1, 40):
        kept.keep(pool(float(times)), times * EVERY, level(None), seed=0)
    assert REGIMES == 4
    assert sorted((kept.at // EVERY).tolist()) == [4, 8, 16, 32]
    np.testing.assert_allclose(kept.loss.mean(1), kept.at / EVERY, rtol=0.02)


def test_a_pool_with_too_little_in_it_is_no_regime():
    kept, few = Regimes(TABLE, every=EVERY), Replay(TABLE, capacity=EVERY)
    few.add({"x": np.ones((STRETCHES * CHAINS - 1, 2), np.float32), "mark": np.ones(STRETCHES * CHAINS - 1)})
    kept.keep(few, EVERY, level(None), seed=0)
    assert not kept.at.any()
    assert kept.ask(level(None), share=0.1) is None


def test_what_is_lost_is_said_once_and_again_after_it_had_come_back():
    kept = Regimes(TABLE, every=EVERY)
    for times in (1, 2):
        kept.keep(pool(float(times)), times * EVERY, level(None), seed=0)
    said = [kept.ask(level(2.0, scale), share=0.1) for scale in (1.0, 1.05, 1.3, 1.4, 1.0, 1.3)]
    assert [None if exam is None else np.flatnonzero(exam.lost).tolist() for exam in said] == [None, None, [1], None, None, [1]]
    assert said[2].rise[1] == pytest.approx(0.3, abs=0.01)


def test_what_is_remembered_comes_back_with_a_restart():
    kept, again = Regimes(TABLE, every=EVERY), Regimes(TABLE, every=EVERY)
    kept.keep(pool(1.0), EVERY, level(None), seed=0)
    kept.ask(level(1.0, 1.3), share=0.1)
    again.load(kept.state())
    for one, other in zip(kept.state().values(), again.state().values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.ask(level(1.0, 1.3), share=0.1) is None, "it has been said"


# In a learner

STEPS = 500
CONFIG = small(model="lstm", season=None, replay=80, rate=0.01, least_rate=0.005)


def turning(*, at, seed=0):
    """Two series that swing to and fro; from row `at` on what had turned round at each step goes on as it went."""
    rng, out = np.random.default_rng(seed), np.zeros((STEPS, 2))
    for row in range(1, STEPS):
        before = out[row - 1] - out[max(row - 2, 0)]
        out[row] = out[row - 1] + (0.8 if row >= at else -0.8) * before + rng.normal(0, 0.3, 2)
    return out


def said(stream):
    return [d for d in stream.decisions if d.kind == "retrain"]


def test_a_stream_says_that_it_has_forgotten_how_it_was():
    stream = Stream(turning(at=200), CONFIG).play()
    assert [(d.cause, d.numbers["instants"][:1]) for d in said(stream)[:1]] == [("old regimes are being forgotten", [80])]
    assert said(stream)[0].numbers["rise"][0] > 0.1
    assert said(Stream(turning(at=STEPS), CONFIG).play()) == []


def test_a_regime_that_makes_room_as_it_is_found_lost_is_named_as_it_was(monkeypatch):
    monkeypatch.setattr(regimes, "REGIMES", 1)
    found = said(Stream(turning(at=200), CONFIG).play())
    assert found[0].numbers["instants"] == [160]  # at 320, when the one of 320 takes its place
    assert found[0].numbers["rise"][0] > 0.1


def test_a_restart_in_the_middle_says_the_same():
    values = turning(at=200)
    whole, broken = Stream(values, CONFIG).play(), Stream(values, CONFIG)
    while broken.closed < 170:
        ready = broken.may_arrive()
        broken.close() if broken.may_close() else broken.arrive(ready[broken.at[ready] == broken.at[ready].min()])
    broken.learner = Learner.restore(CONFIG, broken.learner.snapshot())
    broken.play()
    assert said(whole) == said(broken) != []
    assert whole.learner.digest() == broken.learner.digest()
