"""Champion and challenger: chance promotes nobody, a gain is found, harm is seen, and a restart does not show."""

import numpy as np
import pytest

from models.versus import PROMOTED, REFUSED, SUDDEN, UNDECIDED, Guards, Rules, Versus
from tests.benchmarks.versus import played, simulated, stream

EASY = Rules(instants=0, series=1)
SHORT = {"steps": 700, "series": 4, "horizon": 6}  # 58 blocks of 24 instants


def off(seed=0, steps=500, series=3, horizon=6, better=0.0, vary=0.02):
    """(2, T, N, H) losses around 0.8 that differ from block to block by chance, and by what the challenger is better."""
    rng = np.random.default_rng(seed)
    loss = 0.8 * np.exp(rng.normal(0, 0.5, (1, steps, series, horizon)))
    blocks = np.repeat(rng.normal(0, vary, (2, steps // 24 + 1)), 24, axis=1)[:, :steps, None, None]
    return loss * (1 + blocks) * (1 - np.array([0, better]))[:, None, None, None]


def made(rules=EASY, horizon=6):
    return Versus(horizon=horizon, season=None, rules=rules)


def promoted(runs):
    return sum(v.outcome == PROMOTED for v in runs)


def test_chance_promotes_at_most_one_in_twenty_and_refuses_as_few():
    found = simulated("", runs=100, gain=0.0, **SHORT)
    assert promoted(found) <= 5
    assert sum(v.outcome == REFUSED for v in found) <= 5


def test_who_takes_every_instant_for_a_unit_promotes_by_chance():
    assert promoted(simulated("instants", runs=10, gain=0.0, **SHORT)) > 2


def test_a_gain_is_found_and_with_the_roles_exchanged_it_is_a_loss():
    both = [off(seed, steps=1000, better=0.05) for seed in range(5)]
    assert [played(made(), one).outcome for one in both] == [PROMOTED] * 5
    back = [played(made(), one[::-1]) for one in both]
    assert [v.outcome for v in back] == [REFUSED] * 5
    assert all("more than the champion" in v.cause and v.upper < 0 for v in back)


@pytest.mark.parametrize("seed", range(3))
def test_a_disaster_is_refused_after_three_blocks_and_half_of_it_is_waited_for(seed):
    """The first block says only what is usual."""
    times = {}
    for rise in (2.0, 0.3):
        champion, challenger = off(seed, steps=24 * 12, better=-rise)
        judge = made()
        for t in range(24 * 12):
            judge.take(np.arange(3), champion[t], challenger[t], np.ones((3, 6), bool))
            verdict = judge.judge(Guards())
            if verdict.outcome == REFUSED:
                times[rise] = verdict.numbers["blocks"], "no proof is waited for" in verdict.cause
                break
    assert times[2.0] == (SUDDEN, True)
    assert times.get(0.3, (99, False)) > (SUDDEN, False)


def test_bounds_hold_what_is_true_at_all_times():
    missed = 0
    for seed in range(10):
        judge, one = made(), off(seed, steps=700, better=0.05)
        for k in range(700):
            if judge.take(np.arange(3), one[0, k], one[1, k], np.ones((3, 6), bool)):
                v = judge.judge(Guards())
                missed += not v.lower < 0.0513 < v.upper  # of the mean of both
    assert missed == 0


def test_nothing_good_is_said_before_its_time_and_of_too_few_series():
    one = off(better=0.2)
    assert played(made(Rules(instants=480, series=3)), one).instants == 480
    few = played(made(Rules(instants=0, series=4)), one)
    assert (few.outcome, few.cause) == (UNDECIDED, "480 instants of 3 series so far, want 0 instants of 4 series")


@pytest.mark.parametrize(
    ("guards", "cause"),
    [
        (Guards(broken=2), "2 of its forecasts were not finite"),
        (Guards(coverage=0.7), "it is better, but its widest band holds 70.0% of the values, want 85.0% to 95.0%"),
        (Guards(latency=3.0), "it is better, but takes 3.00 times as long as the champion, allowed are 2.00"),
        (Guards(latency=float("nan")), "it is better, but takes nan times as long as the champion, allowed are 2.00"),
    ],
)
def test_guards_refuse_who_is_better(guards, cause):
    rules = EASY._replace(coverage=(0.85, 0.95))
    one = off(better=0.2)
    assert played(made(rules), one, guards=guards)[:2] == (REFUSED, cause)
    assert played(made(rules), one, guards=Guards(coverage=0.9)).outcome == PROMOTED


def test_a_series_that_is_harmed_is_named():
    one = off(steps=1500, series=8)
    one[1, :, 5] *= 1.5
    one[1, :, :5] *= 0.9
    found = played(made(Rules(instants=1500, series=1)), one)
    assert found.outcome == REFUSED
    assert found.cause.startswith("the series in slot 5 loses ")
    assert found.cause.endswith("% more, allowed are 10.0%")


def test_leads_that_are_worse_are_named_though_all_together_are_not():
    one = off(steps=1500, vary=0.005)
    one[1, ..., 0] *= 1.1
    one[1, ..., 1:] *= 0.9
    found = played(made(Rules(instants=2000, series=1, harm=0.5)), one)
    assert found.outcome == REFUSED
    assert found.cause.startswith("up to lead 1 it loses ")


def test_a_rare_disaster_promotes_nobody():
    """Clipped, it would: nine blocks in ten are better by a little."""
    one = off(steps=2400, better=0.05)
    for k in range(0, 2400, 240):
        one[1, k : k + 24] *= 3
    found = played(made(EASY._replace(harm=10.0)), one)
    assert found.outcome != PROMOTED
    assert found.numbers["plain"] < 0


def test_forecasts_made_before_a_block_do_not_count_in_it():
    judge = made()
    seen = np.zeros(6)
    for _ in range(judge.length - 1):
        judge.take(np.arange(1), np.ones((1, 6)), np.ones((1, 6)), np.ones((1, 6), bool))
        seen = judge.count[0]
    assert judge.length == 24
    assert seen.tolist() == [23, sum(23 - h for h in range(1, 6))]


def test_forecasts_that_are_not_finite_count_as_the_worst_there_is():
    judge, one = made(), off(steps=1000)
    one[1, :, 0] = np.inf
    one[1, :, 1] = np.nan
    for k in range(1000):
        judge.take(np.arange(3), one[0, k], one[1, k], np.ones((3, 6), bool))
    found = judge.judge(Guards())
    assert found.outcome == REFUSED
    assert all(np.isfinite(a).all() for name, a in judge.state().items() if name != "own_usual")


def test_a_restart_in_the_middle_does_not_show_and_what_is_kept_does_not_grow():
    whole, one = made(), off(better=0.02)
    again, size = made(), 0
    for k in range(500):
        if k == 301:
            size = sum(a.nbytes for a in whole.state().values())
            again.load({name: a.copy() for name, a in whole.state().items()})
        for judge in (whole, again)[: 1 + (k >= 301)]:
            judge.take(np.arange(3), one[0, k], one[1, k], np.ones((3, 6), bool))
    assert again.judge(Guards()) == whole.judge(Guards())
    assert sum(a.nbytes for a in whole.state().values()) == size
    assert all(np.array_equal(a, again.state()[name], equal_nan=True) for name, a in whole.state().items())


def test_series_come_and_go():
    judge, one = made(), off()
    for k in range(300):
        judge.take(np.array([7, 2]), one[0, k, :2], one[1, k, :2], np.ones((2, 6), bool))
    assert judge.judge(Guards()).series == 2
    judge.forget(np.array([7, 900]))
    for k in range(300, 348):
        judge.take(np.array([2]), one[0, k, :1], one[1, k, :1], np.ones((1, 6), bool))
    assert judge.judge(Guards()).series == 1
    assert judge.count[7].sum() == 0


def test_without_scores_nothing_is_said():
    judge = made()
    for _ in range(100):
        assert not judge.take(np.zeros(0, np.int64), *np.zeros((2, 0, 6)), np.zeros((0, 6), bool))
        assert not judge.take(np.arange(2), *np.ones((2, 2, 6)), np.zeros((2, 6), bool))
    found = judge.judge(Guards())
    assert (found.outcome, found.instants, found.evidence) == (UNDECIDED, 0, 1.0)


def test_the_same_model_is_never_better_than_itself():
    one = off(steps=1000)
    assert played(made(), one[[0, 0]]).outcome == UNDECIDED


def test_errors_that_the_simulation_makes_are_those_of_forecasts():
    made_up = stream(np.random.default_rng(0), steps=2000)[0].mean(1)
    first, last = made_up[:, 0] - made_up[:, 0].mean(), made_up[:, -1] - made_up[:, -1].mean()
    assert (last[6:] * last[:-6]).mean() / last.var() > 0.5  # overlap
    assert ((first / first.std()) ** 4).mean() > 6  # heavy tails
