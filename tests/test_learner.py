"""What a learner promises, whoever stands beside a series and however partitions interleave."""

import dataclasses

import numpy as np
import pytest
import torch
from arrivals import Stream, small, wavy
from hypothesis import given, settings
from hypothesis import strategies as st

from models import learner as learner_module
from models.inputs import LAGS
from models.learner import REASONS, START, Cells, Config, Learner
from models.score import LAST, NET, SEASONAL
from models.snapshot import SnapshotDamaged

LONG = 48


@pytest.fixture(scope="module")
def reference():
    return Stream(wavy(LONG, 5), small()).play()


def cells(slot, cell, value, keys=None):
    slot = np.asarray(slot, np.int64)
    keys = slot + 1 if keys is None else keys
    return Cells(slot, np.asarray(keys, np.uint64), np.broadcast_to(np.asarray(cell, np.int64), slot.shape), np.asarray(value, float))


def awake(count):
    return np.zeros(count, bool)


# The same bytes


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**31), disorder=st.integers(1, 4))
def test_any_interleaving_that_event_time_allows_says_the_same(seed, disorder):
    values = wavy(30, 3, seed % 7)
    one, other = (Stream(values, small(), disorder=disorder) for _ in range(2))
    one.play()
    other.play(np.random.default_rng(seed))
    assert one.said == other.said
    assert one.learner.digest() == other.learner.digest()
    assert one.decisions == other.decisions


def test_slot_numbers_do_not_show(reference):
    other = Stream(wavy(LONG, 5), small(), slots=np.array([40, 3, 17, 0, 9])).play(np.random.default_rng(4))
    assert other.said == reference.said
    assert other.learner.digest() == reference.learner.digest()


@settings(deadline=None, max_examples=8)
@given(count=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_a_row_is_the_same_alone_and_in_any_company(trained, count, seed):
    rng = np.random.default_rng(seed)
    rows = rng.choice(300, count, replace=False)
    whole, part = (Learner.restore(trained[0], trained[1]) for _ in range(2))
    values = rng.normal(0, 3, 300)
    everyone = whole.arrive(cells(np.arange(300), 400_030, values), generation=28, woken=awake(300))
    some = part.arrive(cells(rows, 400_030, values[rows]), generation=28, woken=awake(count))
    for name, a, b in zip(everyone._fields, everyone, some, strict=True):
        if isinstance(a, np.ndarray):
            assert a[rows].tobytes() == b.tobytes(), name


@pytest.fixture(scope="module")
def trained():
    """300 series, 30 cells each."""
    config = small(rows=60)
    stream = Stream(np.nan_to_num(wavy(30, 300)), config).play()
    return config, stream.learner.snapshot()


def half_way():
    stream = Stream(wavy(LONG, 5), small())
    while stream.closed < LONG // 2:
        ready = stream.may_arrive()
        stream.close() if stream.may_close() else stream.arrive(ready[stream.at[ready] == stream.at[ready].min()])
    return stream


def test_a_snapshot_that_is_made_later_is_of_the_moment_it_was_frozen_at():
    stream = half_way()
    frozen, then = stream.learner.frozen(), stream.learner.snapshot()
    stream.play()
    assert stream.learner.snapshot() != then
    assert frozen() == then


def test_a_restart_in_the_middle_does_not_show(reference):
    first = half_way()
    first.learner = Learner.restore(first.config, first.learner.snapshot())
    first.play()
    assert first.said == reference.said
    assert first.learner.digest() == reference.learner.digest()
    assert first.learner.summary() == reference.learner.summary()


def test_what_bands_held_of_each_series_adds_up_to_what_they_held_of_all(reference):
    learner = reference.learner
    counted = [np.maximum(learner.memory["scores"][slot] - 4, 0).sum() for slot in range(5)]  # from the fifth score on
    assert min(counted) > 50
    for band, share in learner.summary()["coverage"].items():
        mine = [learner.summary(slot=slot)["coverage"][band] for slot in range(5)]
        assert np.average(mine, weights=counted) == pytest.approx(share, abs=1e-5)
        assert len(set(mine)) > 1


def test_a_snapshot_of_other_settings_is_refused():
    parts = Learner(small(hidden=32)).snapshot()
    with pytest.raises(SnapshotDamaged, match="does not fit"):
        Learner.restore(small(), parts)


def test_several_cells_of_a_series_may_close_at_once():
    values = np.nan_to_num(wavy(48, 3))
    found = []
    for order in (np.arange(3), np.array([2, 0, 1])):
        stream = Stream(values, small())
        for day in range(6):
            for row in range(day * 8, day * 8 + 8):
                for s in order:
                    c = cells([s], 400_000 + row, values[row, [s]], stream.keys[[s]])
                    stream.learner.arrive(c, generation=START if day == 0 else day * 8, woken=awake(1))
            rows = np.arange(day * 8, day * 8 + 8)
            by_key = np.argsort(stream.keys)
            c = Cells(
                np.repeat(by_key, 8), np.repeat(stream.keys[by_key], 8), np.tile(400_000 + rows, 3), values[rows][:, by_key].T.ravel()
            )
            stream.learner.close(c, instant=day * 8 + 8, drop=[])
        found.append(stream.learner.digest())
        assert stream.learner.updates(48) == 6
    assert found[0] == found[1]


# No future


@settings(deadline=None, max_examples=4)
@given(cut=st.integers(12, LONG - 2), seed=st.integers(0, 2**31))
def test_values_to_come_do_not_reach_what_is_said_before_them(reference, cut, seed):
    values = wavy(LONG, 5)
    rng = np.random.default_rng(seed)
    values[cut:] = np.where(np.isnan(values[cut:]), np.nan, rng.normal(50, 30, values[cut:].shape))
    other = Stream(values, small()).play(rng)
    before = {at: said for at, said in reference.said.items() if at[1] < cut}
    assert before == {at: said for at, said in other.said.items() if at[1] < cut}
    assert reference.said != other.said


class LearnsFromArrivals(Learner):
    """A planted leak: learning reads the values as they arrived, those not closed yet included."""

    def begin(self, closing, **kwargs):
        self.memory["closed"][:, : self.memory["ring"].shape[1]] = self.memory["ring"]
        return super().begin(closing, **kwargs)


class ScalesAtArrival(Learner):
    """A planted leak: a scale that moves with every sample of any series."""

    def arrive(self, arriving, *, generation, woken):
        self.pool.relative += 0.01 * float(np.abs(arriving.value).sum())
        then = self.generations[generation]
        then.relative = self.pool.relative
        return super().arrive(arriving, generation=generation, woken=woken)


@pytest.mark.parametrize("leak", [LearnsFromArrivals, ScalesAtArrival])
def test_a_planted_leak_shows_in_the_interleavings(leak, monkeypatch):
    values = wavy(40, 4)
    streams = []
    for _ in range(2):
        monkeypatch.setattr("arrivals.Learner", leak)
        streams.append(Stream(values, small(), disorder=3))
    streams[0].play()
    streams[1].play(np.random.default_rng(1))
    assert streams[0].said != streams[1].said


# Scores


def test_scores_are_of_the_forecasts_that_were_issued():
    values = wavy(40, 3)
    stream = Stream(values, small())
    issued, met = {}, 0
    original = stream._arrive

    def arrive(series, rows, generation):
        nonlocal met
        original(series, rows, generation)
        step = stream.last
        for k, (s, r) in enumerate(zip(series.tolist(), rows.tolist(), strict=True)):
            for h in range(1, 7):
                was = issued.get((s, r - h))
                assert step.scored[k, h - 1] == (was is not None)
                if was is None:
                    continue
                met += 1
                point, quantiles, by, _, level, seasonal = was
                assert step.s_point[k, h - 1] == point[h - 1]
                assert step.s_by[k, h - 1] == by[h - 1]
                low, high = quantiles[[0, 1, 2], h - 1][::-1], quantiles[[6, 5, 4], h - 1][::-1]
                actual = values[r, s]
                assert (step.covered[k, h - 1] == ((low <= actual) & (actual <= high))).all()
                base = {LAST: level, SEASONAL: seasonal[h - 1]}[step.s_baseline[k, h - 1]]
                assert step.s_baseline_point[k, h - 1] == base
        for k, (s, r) in enumerate(zip(series.tolist(), rows.tolist(), strict=True)):
            seasonal = [values[r + h - 8, s] if r + h - 8 >= 0 else np.nan for h in range(1, 7)]
            issued[s, r] = (step.point[k], step.quantiles[k], step.by[k], values[r, s], values[r, s], seasonal)

    stream._arrive = arrive
    stream.play()
    assert met > 300
    assert {b for _, _, by, _ in stream.steps.values() for b in by} == set(range(3))


def test_what_woke_is_forecast_but_never_scored():
    learner = Learner(small())
    learner.admit(0, 1)
    for cell in range(5):
        learner.arrive(cells([0], cell, [cell % 3]), generation=START, woken=awake(1))
    step = learner.arrive(cells([0], 5, [1.0]), generation=START, woken=np.array([True]))
    assert step.issued.all()
    assert not step.scored.any()
    step = learner.arrive(cells([0], 6, [1.0]), generation=START, woken=awake(1))
    assert step.scored[0].tolist() == [False, True, True, True, True, True]  # the woken one was one step ago


def test_a_sample_that_newer_ones_have_overtaken_is_taken_in_and_not_forecast():
    straight, overtaken = Learner(small()), Learner(small())
    for learner, order in ((straight, [0, 1, 2, 3, 4]), (overtaken, [0, 1, 3, 2, 4])):
        learner.admit(0, 1)
        for cell in order:
            step = learner.arrive(cells([0], cell, [float(cell**2)]), generation=START, woken=awake(1))
            assert step.issued.all() == (cell != 2 or learner is straight)
            if cell == 2 and learner is overtaken:
                assert not step.scored.any()
    assert step.observations.tolist() == [5]
    for name in ("ring", "carried", "newest", "seen"):
        np.testing.assert_array_equal(straight.memory[name][0], overtaken.memory[name][0])
    for name in ("carry_hidden", "carry_cell"):
        np.testing.assert_array_equal(straight.memory[name][0, 2], overtaken.memory[name][0, 2])


def test_the_value_that_learning_takes_is_the_final_one():
    one, other = (Stream(np.nan_to_num(wavy(12, 2)), small()) for _ in range(2))
    for stream in (one, other):
        for _ in range(4):
            stream.arrive(np.arange(2))
            stream.close()
    other.values = other.values.copy()
    for stream in (one, other):
        stream.arrive(np.arange(2))
    other.values[4] += 1.0
    for stream in (one, other):
        stream.close()
    assert one.said == other.said
    assert one.learner.digest() != other.learner.digest()


# Who is there


def test_a_slot_that_is_given_away_again_remembers_nothing():
    values = np.nan_to_num(wavy(30, 3))
    stream = Stream(values, small()).play()
    learner = stream.learner
    fresh = Learner.restore(stream.config, learner.snapshot())
    learner.forget(np.array([1]))
    learner.admit(1, 77)
    fresh.admit(20, 77)
    for cell, generation in ((400_030, 27), (400_031, 30), (400_032, 30)):
        again = learner.arrive(cells([1], cell, [3.0 + cell % 5], [77]), generation=generation, woken=awake(1))
        new = fresh.arrive(cells([20], cell, [3.0 + cell % 5], [77]), generation=generation, woken=awake(1))
        for a, b in zip(again, new, strict=True):
            np.testing.assert_array_equal(a, b)
    closing = [
        learner.close(cells([1], 400_030, [3.0], [77]), instant=31, drop=[]),
        fresh.close(cells([20], 400_030, [3.0], [77]), instant=31, drop=[]),
    ]
    assert closing[0] == closing[1]
    assert learner.digest() == fresh.digest()


def test_cells_of_a_series_that_has_gone_teach_nothing():
    stream = Stream(np.nan_to_num(wavy(20, 2)), small()).play()
    twin = Learner.restore(stream.config, stream.learner.snapshot())
    twin.forget(np.array([0]))
    stream.learner.forget(np.array([0]))
    closing = cells([0, 1], 400_020, [5.0, 1.0], stream.keys)
    stream.learner.close(closing, instant=21, drop=[])
    twin.close(Cells(*(c[1:] for c in closing)), instant=21, drop=[])
    assert stream.learner.digest() == twin.digest()


def test_generations_are_kept_until_they_are_dropped():
    learner = Learner(small())
    learner.admit(0, 1)
    learner.arrive(cells([0], 0, [1.0]), generation=START, woken=awake(1))
    learner.close(cells([0], 0, [1.0]), instant=1, drop=[])
    assert (learner.updates(START), learner.updates(1)) == (0, 1)
    learner.close(cells([0], 1, [2.0]), instant=2, drop=[START])
    with pytest.raises(KeyError):
        learner.arrive(cells([0], 3, [1.0]), generation=START, woken=awake(1))


def test_a_model_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="model is 'transformer'"):
        Learner(small(model="transformer"))


# Any numbers

ODD = {
    "zeros": np.zeros(40),
    "constant": np.full(40, 3.25),
    "huge": 1e300 * np.sin(np.arange(40)),
    "large constant": np.full(40, 1e12),
    "jump": np.where(np.arange(40) < 30, 0.0, 5.0),
    "spike": np.where(np.arange(40) == 20, 1e300, np.sin(np.arange(40))),
    "alternating extremes": np.where(np.arange(40) % 2, 1.7e308, -1.7e308),
    "tiny": 1e-300 * np.cos(np.arange(40)),
    "one sample": np.where(np.arange(40) == 3, 7.0, np.nan),
    "sparse": np.where(np.arange(40) % 15 == 0, np.arange(40.0), np.nan),
}


@pytest.mark.parametrize("kind", ODD)
def test_any_numbers_give_finite_sorted_forecasts_and_harm_nobody(kind):
    values = np.stack([ODD[kind], np.sin(np.arange(40)) * 2, np.arange(40.0) % 7], 1)
    stream = Stream(values, small()).play()
    for point, quantiles, _, _ in stream.steps.values():
        assert np.isfinite(point).all()
        assert np.isfinite(quantiles).all()
        assert (np.diff(quantiles, axis=0) >= 0).all()
    assert torch.isfinite(stream.learner.descent.weights).all()
    neighbours = np.array([p for (s, _), (p, *_) in stream.steps.items() if s == 1])
    assert np.abs(neighbours).max() < 20
    assert not any(d.kind in ("skip", "rollback_weights") for d in stream.decisions)


def test_a_constant_is_forecast_as_what_it_is():
    stream = Stream(np.full((40, 1), 3.25), small()).play()
    point, quantiles, _, _ = stream.steps[0, 39]
    np.testing.assert_allclose(point, 3.25, rtol=1e-6)
    np.testing.assert_allclose(quantiles, 3.25, rtol=1e-6)


def test_cells_that_were_not_observed_are_forecast_over_and_not_scored():
    learner = Learner(small())
    learner.admit(0, 1)
    first = learner.arrive(cells([0], 0, [np.nan]), generation=START, woken=awake(1))
    assert not first.issued.any()  # nothing has ever been seen of it
    learner.arrive(cells([0], 1, [4.0]), generation=START, woken=awake(1))
    step = learner.arrive(cells([0], 2, [np.nan]), generation=START, woken=awake(1))
    assert step.issued.all()
    assert not step.scored.any()
    assert step.observations.tolist() == [1]
    assert step.point.tolist() == [[4.0] * 6]


def test_weights_that_went_bad_are_not_served(monkeypatch):
    values = np.nan_to_num(wavy(61 + LAGS, 3))
    stream = Stream(values[:60], small()).play()
    learner = stream.learner
    served = {b for (_, r), (_, _, by, _) in stream.steps.items() if r > 50 for b in by.tolist()}
    assert NET in served
    weights = learner.generations[60].weights
    good = weights.clone()
    weights.fill_(float("nan"))

    def arrive(row):
        return learner.arrive(cells(np.arange(3), 400_000 + row, values[row], stream.keys), generation=60, woken=awake(3))

    step = arrive(60)
    assert np.isfinite(step.point).all()
    assert NET not in step.by
    assert REASONS.index("not_finite") in step.reason
    weights.copy_(good)
    learner.reading.clear()
    steps = [arrive(row) for row in range(61, 61 + LAGS)]  # the last goes on from what they have left of the carry
    assert REASONS.index("not_finite") not in np.concatenate([step.reason for step in steps])
    assert NET in steps[-1].by


def test_a_bad_step_is_a_decision(monkeypatch):
    stream = Stream(np.nan_to_num(wavy(20, 2)), small()).play()
    before = stream.learner.descent.weights.clone()
    monkeypatch.setattr(learner_module.lesson, "loss", lambda network, **_: next(network.parameters()).sum() * float("nan"))
    kinds = []
    for row in range(20, 25):
        c = cells([0, 1], 400_000 + row, [1.0, 2.0], stream.keys)
        kinds += [d.kind for d in stream.learner.close(c, instant=row + 1, drop=[]) if d.cause == "loss"]
    assert kinds == ["skip"] * 4 + ["rollback_weights"]
    assert torch.isfinite(stream.learner.descent.weights).all()
    assert not before.equal(stream.learner.descent.good[0])  # it went back further than the last step


@pytest.mark.parametrize("part", ["x", "target", "paths"])
def test_a_lesson_that_is_not_finite_is_told_from_weights_that_are_not(part):
    learner = Stream(np.nan_to_num(wavy(20, 2)), small()).play().learner
    c = cells([0, 1], 400_020, [1.0, 2.0])
    exercise = learner.begin(c._replace(key=learner.memory["key"][:2]), instant=21, drop=[])
    getattr(exercise.whole, part)[:] = np.inf
    exercise.run()
    [skipped] = [d for d in learner.finish(exercise) if d.kind == "skip"]
    assert skipped.cause == "input"


@settings(deadline=None, max_examples=5)
@given(st.permutations([(record, column) for record in (7, 9) for column in range(3)]), st.lists(st.integers(0, 5), max_size=4))
def test_columns_of_a_record_know_each_other_in_whatever_order_they_come(order, leave):
    learner = Learner(small(columns=3))

    def admit(slot):
        learner.admit(slot, slot + 1, record=order[slot][0], column=order[slot][1])

    for slot in range(6):
        admit(slot)
    for slot in leave:
        learner.forget(np.array([slot]))
        admit(slot)
    for slot, (record, _) in enumerate(order):
        assert learner.memory["related"][slot].tolist() == [order.index((record, column)) for column in range(3)]


def test_quantiles_that_cross_are_sorted_and_no_others_touched():
    x = np.random.default_rng(0).normal(size=(50, 7, 3))
    x[10:40] = np.sort(x[10:40], 1)
    np.testing.assert_array_equal(learner_module.ascending(x.copy()), np.sort(x, 1))


def test_a_state_is_no_larger_than_it_was_measured():
    generations = 4  # with a disorder of one step

    def size(**kwargs):
        learner = Learner(Config(horizon=24, season=24, **kwargs))
        return learner.memory.bytes_each() + generations * learner.learnt.dtype.itemsize

    assert size(model="lstm") <= 14.5 * 1024
    sizes = [size(members=members) for members in (1, 2, 3)]
    assert sizes[0] <= 16 * 1024
    assert max(np.diff(sizes)) <= 5.25 * 1024


@pytest.mark.parametrize("given", [{}, {"gaps": "ffill:2"}, {"season": 4}, {"season": 4, "further_seasons": (13,)}])
def test_least_squares_see_the_same_where_they_forecast_and_where_they_learn(given):
    learner = Stream(np.nan_to_num(wavy(90, 3), nan=0.5), small(**{"season": None} | given)).play().learner
    m, slots, linear = learner.memory, np.arange(3), learner.others.linear[0]
    cell = m["closed_newest"][slots]
    np.testing.assert_array_equal(m["newest"][slots], cell)
    level = m["closed"][slots, cell % m["closed"].shape[1]]
    one, other = (linear.see(m[ring], slots, cell, level, np.ones(3), None) for ring in ("ring", "closed"))
    np.testing.assert_array_equal(one, other)
    assert one[:, : LAGS * 2].all()  # every one of the last 24 changes is there


@pytest.mark.parametrize("model", ["mixture-without-nets", "linear"])
def test_bands_of_a_model_without_taught_networks_say_nothing_of_networks(model):
    one, other = (Stream(wavy(LONG, 4), small(model=model, members=1, seed=seed)).play() for seed in (1, 2))
    for at, (point, quantiles, *_) in one.steps.items():
        np.testing.assert_allclose(other.steps[at][0], point, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(other.steps[at][1], quantiles, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("model", ["mixture", "mixture-without-nets"])
def test_bands_of_random_walks_bracket_the_last_value_and_widen_with_the_lead(model):
    steps = 200
    walks = np.random.default_rng(8).normal(0, 1, (steps, 4)).cumsum(0)
    stream = Stream(walks, small(model=model, members=1)).play()
    late = [(series, row) for series, row in stream.steps if row >= steps // 2]
    quantiles = np.stack([stream.steps[at][1] for at in late])
    level = np.array([walks[row, series] for series, row in late])
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert ((quantiles[:, 0] < level[:, None]) & (level[:, None] < quantiles[:, -1])).mean() > 0.95
    width = (quantiles[:, -1] - quantiles[:, 0]).mean(0)
    assert 2.3 < width[0] < 4.6  # of a standard normal's steps 3.29
    assert 1.7 < width[-1] / width[0] < 3.6  # root of 6


def test_settings_are_plain_values():
    assert dataclasses.replace(Config(), seed=3) == Config(seed=3)
    assert hash(Config()) == hash(Config())


def test_another_seed_is_another_network():
    assert Learner(small(seed=1)).version != Learner(small(seed=2)).version
    assert Learner(small(seed=1)).version == Learner(small(seed=1)).version


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@needs_gpu
def test_a_gpu_says_what_a_cpu_says():
    values = wavy(40, 3)
    cpu, gpu = (Stream(values, small(device=device)).play() for device in ("cpu", "cuda"))
    for at, (point, quantiles, _, _) in cpu.steps.items():
        np.testing.assert_allclose(gpu.steps[at][0], point, rtol=1e-2, atol=1e-2)
        np.testing.assert_allclose(gpu.steps[at][1], quantiles, rtol=5e-2, atol=5e-2)
