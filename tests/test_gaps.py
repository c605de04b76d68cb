"""What stands for missing values: in what is read, never in what is taught, scored or forecast from, and never from later."""

import math

import numpy as np
import pytest
from arrivals import Stream, small, wavy
from hypothesis import given, settings
from hypothesis import strategies as st
from test_operate import replay
from test_operate import settings as flags

from models import gaps as policies
from models.gaps import Gaps, begun, filled, gaps
from models.inputs import LAGS, shape, view
from models.learner import START, Cells, Learner
from models.lesson import Series, chains
from pipeline import learn, quantities
from pipeline.settings import Settings

NONE = math.nan


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setattr(learn, "BY_REFERENCE", False)  # put back, whatever a run sets


# The functions, and slow ones that judge them

PASTS = st.lists(st.sampled_from([NONE, NONE, 1.0, 2.0, -3.0, 1e308]), min_size=1, max_size=20)


def filled_slowly(past, kind, most):
    out = [*past]
    known = [i for i, x in enumerate(past) if not math.isnan(x)]
    for i, x in enumerate(past):
        left, right = max((k for k in known if k < i), default=None), min((k for k in known if k > i), default=None)
        if math.isnan(x) and left is not None:
            if kind == "ffill" and i - left <= most:
                out[i] = past[left]
            if kind == "linear" and right is not None and right - left - 1 <= most:
                out[i] = past[left] * (1 - (i - left) / (right - left)) + past[right] * ((i - left) / (right - left))
    return out


@given(st.lists(PASTS, min_size=1, max_size=3), st.sampled_from(["ffill", "linear"]), st.integers(1, 6))
def test_gaps_are_filled_as_a_plain_loop_does(pasts, kind, most):
    width = min(map(len, pasts))
    found = filled(np.array([past[:width] for past in pasts]), Gaps(kind, most))
    np.testing.assert_allclose(found, [filled_slowly(past[:width], kind, most) for past in pasts], rtol=1e-12)


@given(PASTS, st.integers(1, 6))
def test_a_sequence_began_where_a_plain_loop_finds_it(past, most):
    known = [i for i, x in enumerate(past) if not math.isnan(x)]
    splits = [i for i in known if i - max((k for k in known if k < i), default=-1) - 1 > most]
    wanted = max([*splits, min(most + 1, len(past) - 1)])
    assert begun(np.array([past]), Gaps("split", most)).tolist() == [len(past) - 1 - wanted]


@pytest.mark.parametrize("text", ["", "fill", "ffill", "ffill:0", "ffill:-1", "ffill:1001", "mask:1", "split:x", "linear:2.5"])
def test_settings_and_models_refuse_the_same_texts(text):
    with pytest.raises(ValueError, match="like ffill:3"):
        gaps(text)
    with pytest.raises(ValueError, match="like ffill:3"):
        quantities.gap_policy(text)


def test_settings_and_models_read_the_same_texts():
    assert quantities.LONGEST_GAP == policies.MOST
    for text in ("mask", "ffill:1", "linear:24", "split:1000"):
        assert gaps(quantities.gap_policy(text)) == gaps(text)
    read = Settings.read(None, {"TIDECAST_SERIES__GAPS": " split : 12 "}, {"input.topics": "t", "series.step": "1h"})
    assert read.series.gaps == "split:12"


# What is read of a series


def looked(values, cell, policy, season=8):
    form = shape(6, season, 3_600_000_000, gaps(policy))
    ring = np.full((1, form.reach + LAGS + 30), NONE)
    ring[0, : len(values)] = values
    slot, at = np.array([0]), np.array([cell])
    return view(ring, slot, at, ring[0, at], form)


def gappy(count, seed):
    values = np.random.default_rng(seed).normal(0, 3, count)
    values[np.random.default_rng(seed + 1).random(count) < 0.5] = NONE
    values[-1] = 1.0
    return values


@given(st.integers(0, 500), st.sampled_from(["ffill:1", "ffill:3", "linear:1", "linear:4"]), st.sampled_from([None, 8]))
def test_a_view_of_a_series_with_gaps_is_one_of_the_series_filled(seed, policy, season):
    values = gappy(45, seed)
    kind = gaps(policy)
    whole = filled(values[None], kind)[0]
    for mine, other in zip(looked(values, 44, policy, season), looked(whole, 44, "mask", season), strict=True):
        np.testing.assert_array_equal(mine, other)


@given(st.integers(0, 500), st.sampled_from(["ffill:2", "linear:3"]))
def test_a_view_reads_nothing_later_than_its_cell_whatever_stands_for_gaps(seed, policy):
    values = gappy(60, seed)
    cell = 40 - int(np.isnan(values[40:0:-1]).argmin())
    changed = np.where(np.arange(60) > cell, 100.0, values)
    for mine, other in zip(looked(values, cell, policy), looked(changed, cell, policy), strict=True):
        np.testing.assert_array_equal(mine, other)


# What a learner makes of it


def arrived(config, values, first=400_000):
    """The steps of one series, nothing learnt; NaN: no sample."""
    learner = Learner(config)
    learner.admit(0, 1)
    said = {}
    for row in np.flatnonzero(~np.isnan(values)).tolist():
        cells = Cells(np.array([0]), np.array([1], np.uint64), np.array([first + row]), values[[row]])
        said[row] = learner.arrive(cells, generation=START, woken=np.zeros(1, bool))
    return learner, said


def two_pasts(silence, seed=0):
    """Two series that differ before a silence longer than anything reads back, and are the same after it."""
    rng = np.random.default_rng(seed)
    tail = rng.normal(0, 1, 30)
    return [np.concatenate([rng.normal(k, 1, 40), np.full(silence, NONE), tail]) for k in range(2)]


@pytest.mark.parametrize(("policy", "remembers"), [("mask", True), ("split:20", False), ("split:60", True), ("ffill:5", True)])
def test_a_gap_that_splits_leaves_nothing_of_the_recurrent_state(policy, remembers):
    config = small(gaps=policy, season=None)
    one, two = (arrived(config, values)[0].memory for values in two_pasts(50))
    for name in ("carry_hidden", "carry_cell"):
        assert (one[name].tobytes() != two[name].tobytes()) == remembers
        assert one[name].any()


def test_the_first_cell_behind_a_split_is_seen_as_that_of_a_series_that_begins():
    past, _ = two_pasts(50)
    alone = np.where(np.arange(len(past)) < 90, NONE, past)
    told, fresh = (arrived(small(gaps="split:20", season=None, model="lstm"), values)[1] for values in (past, alone))
    assert told.keys() > fresh.keys()
    for row, step in fresh.items():
        np.testing.assert_array_equal(step.parts, told[row].parts)
        assert step.point.tobytes() == told[row].point.tobytes()


def test_chains_that_are_taught_end_at_a_split_and_begin_with_an_empty_carry():
    found = {}
    for policy in ("mask", "split:3", "split:4"):
        form = shape(6, None, 3_600_000_000, gaps(policy))
        learner = Learner(small(gaps=policy, season=None))
        learner.admit(0, 1)
        m = learner.memory
        cells = np.arange(60, 120)
        m["closed"][0, cells % m["closed"].shape[1]] = 1.0
        m["closed"][0, np.arange(80, 84) % m["closed"].shape[1]] = NONE  # four are missing
        m["closed_newest"][0], m["anchored"][0], m["anchor_hidden"][0], m["anchor_cell"][0] = 119, 60, 127, 1.0
        of = Series(np.array([0]), np.ones(1), np.ones((1, 3, 6), np.float32), np.ones((1, 6), np.float16))
        lesson, _ = chains(m, of, np.array([108]), depth=4, origins=2, form=form)  # steps at 72, 84, 96, 108
        found[policy] = (lesson.lengths.tolist(), bool(lesson.carry.any()))
    assert found == {"mask": ([4], True), "split:4": ([4], True), "split:3": ([3], False)}


@pytest.mark.parametrize("policy", ["ffill:2", "linear:3", "mask"])
def test_what_a_seasonal_naive_forecast_is_scored_for_is_what_it_said(policy):
    values = wavy(60, 1, seed=3)[:, 0]
    values[np.random.default_rng(5).random(60) < 0.3] = NONE
    _, said = arrived(small(gaps=policy, model="seasonal_naive"), values)
    checked = 0
    for row, step in said.items():
        for lead in np.flatnonzero(step.scored[0]) + 1:
            assert step.s_point[0, lead - 1] == said[row - lead].point[0, lead - 1]
            checked += 1
    assert checked > 100


@pytest.mark.parametrize("policy", ["ffill:2", "linear:2", "split:2"])
def test_gaps_that_are_not_there_show_in_nothing(policy):
    values = np.nan_to_num(wavy(70, 2))
    one, two = (Stream(values, small(gaps=given, model="lstm")).play() for given in (policy, "mask"))
    assert one.said == two.said
    assert one.learner.digest() == two.learner.digest()


@pytest.mark.parametrize("policy", ["ffill:2", "linear:2", "split:1"])
def test_gaps_that_are_there_show(policy):
    values = wavy(50, 2)
    values[np.random.default_rng(2).random(values.shape) < 0.3] = NONE
    assert Stream(values, small(gaps=policy, model="lstm")).play().said != Stream(values, small(model="lstm")).play().said


@settings(deadline=None, max_examples=3)
@given(st.sampled_from(["ffill:2", "linear:3", "split:1"]), st.integers(0, 2**31))
def test_values_to_come_do_not_reach_what_is_said_before_them(policy, seed):
    rng = np.random.default_rng(seed)
    values = wavy(44, 2)
    values[rng.random(values.shape) < 0.25] = NONE
    changed = values.copy()
    changed[30:] = np.where(np.isnan(values[30:]), NONE, rng.normal(50, 30, values[30:].shape))
    one, two = (Stream(v, small(gaps=policy, members=1)).play(np.random.default_rng(1)).said for v in (values, changed))
    assert {at: said for at, said in one.items() if at[1] < 30} == {at: said for at, said in two.items() if at[1] < 30}
    assert one != two


# A file through the whole flow


def test_a_file_with_gaps_is_forecast_where_it_has_values_whatever_stands_for_the_others(tmp_path):
    file = tmp_path / "gaps.csv"
    rows = [(h, h % 6 + h / 100) for h in range(90) if h % 11 not in (3, 4) and not 40 <= h < 48]
    file.write_text("at,series,value\n" + "".join(f"2026-01-{1 + h // 24:02}T{h % 24:02}:00:00Z,a,{value}\n" for h, value in rows))
    said = []
    for policy in ("mask", "ffill:2"):
        summary = replay(flags(series__gaps=policy, series__season="6"), file, tmp_path / policy)
        assert (summary["used"], summary["forecasts"]) == (len(rows), len(rows))
        said.append((tmp_path / policy / "forecasts.ndjson").read_text())
    assert said[0] != said[1]
