"""Where forecasts wait, and who has earned to be served."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.carry import amend, put
from models.score import BASELINES, COLD, LAST, NET, NO_SKILL, REASONS, SEASONAL, Pending, bands, choose, code, decode, places, scored

H = 7


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(-5, 10**9))
def test_a_forecast_is_found_where_it_was_put_when_it_comes_due(issued, first):
    kept = np.full((H * (H + 1)) // 2, -1)
    for cell, there in enumerate(issued, first):
        at = places(np.array([cell]), H)[0]
        for lead in range(1, H + 1):
            origin = cell - lead
            if origin >= first and issued[origin - first] and all(issued[k - first] for k in range(origin, cell)):
                assert kept[at[lead - 1]] == origin
        if there:
            kept[at] = cell


def test_no_two_outstanding_forecasts_share_a_place():
    for cell in range(30):
        waiting = [(origin, lead) for origin in range(cell - H, cell) for lead in range(1, H + 1) if origin + lead >= cell]
        where = [places(np.array([origin]), H)[0, lead - 1] for origin, lead in waiting]
        assert len(set(where)) == len(where)


@given(st.integers(0, 2), st.integers(0, 4), st.sampled_from([SEASONAL, LAST]))
def test_codes_are_read_back(by, reason, better):
    back = decode(code(np.array([by]), np.array([reason]), np.array([better])))
    assert [int(a[0]) for a in back] == [by, reason, better]


def test_names_are_those_of_the_contract():
    assert EXPERTS[NET] == "net"
    assert EXPERTS[SEASONAL] == "seasonal_naive"
    assert EXPERTS[LAST] == "last_value"
    assert (REASONS[COLD], REASONS[NO_SKILL]) == ("cold_start", "no_skill")


def test_bands_are_the_pairs_of_levels_around_the_median():
    found = bands((0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95))
    assert found.nominal == (0.5, 0.8, 0.9)
    assert found.low.tolist() == [2, 1, 0]
    assert found.high.tolist() == [4, 5, 6]
    assert bands((0.1, 0.5)).nominal == ()


EXPERTS = ("net", *BASELINES)


def judged(net, seasonal, last, *, count=100, before=None, squared=None, mixed=False):
    evidence = np.array([[net], [seasonal], [last]] * 2, float)
    if squared is not None:
        evidence[3:, 0] = squared
    start = code(np.array([LAST]), np.array([COLD]), np.array([LAST])) if before is None else before
    codes = choose(evidence, np.array([count]), start, needed=30, mixed=mixed)
    by, reason, _ = decode(codes)
    return EXPERTS[by[0]], REASONS[reason[0]], codes


def test_who_has_skill_serves_and_who_has_none_says_so():
    assert judged(0.8, 1.2, 1.0)[:2] == ("net", None)
    assert judged(1.1, 1.2, 1.0)[:2] == ("last_value", "no_skill")
    assert judged(1.1, 0.9, 1.0)[:2] == ("seasonal_naive", "no_skill")
    assert judged(0.5, 0.9, 1.0, count=29)[:2] == ("seasonal_naive", "cold_start")


def test_a_hair_of_skill_is_not_believed_and_does_not_cost_the_place():
    name, reason, waiting = judged(0.995, 1.2, 1.0)
    assert (name, reason) == ("last_value", "no_skill")
    serving = judged(0.9, 1.2, 1.0, before=waiting)[2]
    assert judged(0.995, 1.2, 1.0, before=serving)[0] == "net"
    assert judged(1.001, 1.2, 1.0, before=serving)[0] == "last_value"


def test_a_mixture_is_believed_the_sooner_the_more_is_known_and_stays_until_it_has_nothing_left():
    assert judged(0.99, 1.2, 1.0, count=200, mixed=True)[0] == "last_value"
    name, _, serving = judged(0.99, 1.2, 1.0, count=3_000, mixed=True)
    assert name == "net"
    assert judged(0.9999, 1.2, 1.0, count=3_000, before=serving, mixed=True)[0] == "net"
    assert judged(1.0001, 1.2, 1.0, count=3_000, before=serving, mixed=True)[0] == "last_value"


def test_of_two_naive_forecasts_that_are_both_right_where_a_series_stands_still_the_last_value_serves():
    assert judged(0.05, 0.010, 0.015, mixed=True)[:2] == ("last_value", "no_skill")
    assert judged(0.50, 0.100, 0.150, mixed=True)[:2] == ("seasonal_naive", "no_skill")


def test_the_season_before_need_not_be_beaten_where_the_last_value_is_as_good():
    assert judged(0.80, 0.79, 1.0)[:2] == ("seasonal_naive", "no_skill")
    assert judged(0.80, 0.99, 1.0)[0] == "net"
    assert judged(0.955, 0.98, 1.0, mixed=True)[0] == "net"


def test_who_is_better_in_storms_serves_though_worse_on_other_days():
    assert judged(1.01, 1.2, 1.0, squared=(1.5, 3.0, 2.0))[:2] == ("net", None)
    assert judged(1.10, 1.2, 1.0, squared=(1.5, 3.0, 2.0))[:2] == ("net", None)
    assert judged(1.01, 1.2, 1.0, squared=(1.99, 3.0, 2.0))[:2] == ("last_value", "no_skill")


def test_the_one_that_cannot_be_beaten_serves_not_the_one_that_is_worse_in_storms():
    assert judged(1.1, 1.0, 1.05, squared=(2.0, 9.0, 1.9))[:2] == (
        "last_value",
        "no_skill",
    )  # seasonal: better on most days, beaten in storms
    assert judged(1.1, 1.0, 1.05, squared=(2.0, 1.8, 1.9))[:2] == ("seasonal_naive", "no_skill")


PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 10**6)), unique=True, max_size=30)


@given(PAIRS, PAIRS)
def test_pending_scores_are_found_by_series_and_cell(kept, wanted):
    pending = Pending(scored(2, 3, 4))
    for k, (slot, cell) in enumerate(kept):
        row = {
            "slot": np.array([slot]),
            "cell": np.array([cell]),
            "error": np.full((1, 3, 2), float(k)),
            "under": np.zeros((1, 3, 2), np.int8),
            "said": np.zeros((1, 4, 2)),
            "actual": np.zeros((1, 2)),
        }
        pending.append(**row)
    slots, cells = (np.array([w[i] for w in wanted], np.int64) for i in range(2))
    found = pending.find(slots, cells)
    for pair, row in zip(wanted, found.tolist(), strict=True):
        assert (row >= 0) == (pair in kept)
        if row >= 0:
            assert pending.columns["error"][row, 0, 0] == kept.index(pair)
    pending.drop(found[found >= 0])
    assert pending.count == len(set(kept) - set(wanted))
    assert (pending.find(slots, cells) == -1).all()


RINGS = st.lists(st.tuples(st.integers(1, 9), st.floats(-5, 5)), min_size=1, max_size=30)


@given(RINGS, st.data())
def test_a_ring_holds_what_was_put_and_nothing_from_an_earlier_round(puts, data):
    ring, newest, truth, cell = np.full((1, 6), np.nan), np.array([-(1 << 60)]), {}, 100
    for gap, value in puts:
        cell += gap
        put(ring, newest, np.array([0]), np.array([cell]), np.array([value]))
        newest[0], truth[cell] = cell, value
        late = cell - data.draw(st.integers(0, 9))
        amend(ring, newest, np.array([0]), np.array([late]), np.array([0.5]))
        truth[late] = 0.5
        for back in range(6):
            assert ring[0, (cell - back) % 6] == pytest.approx(truth.get(cell - back, np.nan), nan_ok=True)
