"""The loop counts what a slow plain one counts, knows nothing of the future, and is the learner driven by hand."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import xxhash
from arrivals import small, wavy

from models import course, covariates, prequential
from models.grid import Matrix
from models.learner import START, Cells, Learner
from models.prequential import Prequential, Split
from models.tally import thinned
from models.warmup import History, warm

FIRST = 400_000
ALL = Split()


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(course, "PASSES", 2)


def matrix(values):
    return Matrix(FIRST, values, tuple(f"s{k}" for k in range(values.shape[1])))


def lone(**kwargs):
    """One network: what is counted does not depend on how many there are, and a mixture costs three times as much."""
    return small(**({"model": "lstm"} | kwargs))


def loop(values, config=None, split=ALL, **kwargs):
    return Prequential(matrix(values), config or lone(), split=split, **kwargs)


def played(values, config=None, split=ALL, **kwargs):
    """The loop at its end, and what was said: (row, series) -> (point, quantiles, by)."""
    running, said = loop(values, config, split, **kwargs), {}

    def heard(row, at, step):
        for k, series in enumerate(at.tolist()):
            if step.issued[k]:
                said[row, series] = step.point[k], step.quantiles[k], step.by[k]

    for _ in running.play(heard=heard):
        pass
    return running, said


def ragged(steps=140, series=4):
    """Gaps, a late start, an early end."""
    values = wavy(steps, series, seed=3)
    values[:35, 1] = np.nan
    values[90:, 2] = np.nan
    values[50:54] = np.nan
    return values


def plain(values, said, split, horizon, season, levels):
    """By series and lead, one forecast after the other: the errors of ours and of the naive forecasts, pinball, covered, width, who."""
    steps, series = values.shape
    names = ("count", "ae", "se", "last", "seasonal", "pinball", "covered", "width", "net")
    sums = {name: np.zeros((series, horizon)) for name in names}
    end = steps if split.test is None else sum(split)
    low, high = levels.index(0.05), levels.index(0.95)
    for (row, k), (point, quantiles, by) in said.items():
        if not max(split.warmup + split.validation - 1, 0) <= row < end - horizon:
            continue
        for lead in range(1, horizon + 1):
            actual = values[row + lead, k]
            if np.isnan(actual):
                continue
            last, back = values[row, k], row + lead
            while back > row:
                back -= season
            seasonal = values[back, k] if back >= 0 and not np.isnan(values[back, k]) else last
            q = quantiles[:, lead - 1]
            over = [actual - x for x in q]
            sums["count"][k, lead - 1] += 1
            sums["ae"][k, lead - 1] += abs(point[lead - 1] - actual)
            sums["se"][k, lead - 1] += (point[lead - 1] - actual) ** 2
            sums["last"][k, lead - 1] += abs(last - actual)
            sums["seasonal"][k, lead - 1] += abs(seasonal - actual)
            sums["pinball"][k, lead - 1] += np.mean([max(u * o, (u - 1) * o) for u, o in zip(levels, over, strict=True)])
            sums["covered"][k, lead - 1] += q[low] <= actual <= q[high]
            sums["width"][k, lead - 1] += q[high] - q[low]
            sums["net"][k, lead - 1] += by[lead - 1] == 0
    return sums


def seasonal_width(values, said, split, horizon, season, held):
    """By series and lead, the width between numpy's quantiles of the seasonal naive's errors that leave out as many values as ours did."""
    errors = {}
    end = len(values) if split.test is None else sum(split)
    for row, k in said:
        for lead in range(1, horizon + 1):
            actual = values[row + lead, k] if max(split.warmup + split.validation - 1, 0) <= row < end - horizon else np.nan
            back = row + lead - season * -(-lead // season)
            same = values[back, k] if back >= 0 else np.nan
            if not np.isnan(actual):
                errors.setdefault((k, lead - 1), []).append(actual - (values[row, k] if np.isnan(same) else same))
    out = np.zeros(held.shape)
    for at, found in errors.items():
        low, high = np.quantile(found, [(1 - held[at]) / 2, (1 + held[at]) / 2])
        out[at] = high - low
    return out


@pytest.mark.parametrize("split", [Split(), Split(0, 30, 90), Split(60, 10, 50)])
def test_it_counts_what_a_slow_plain_loop_counts(split):
    values, config = ragged(), lone()
    scale = "warmup" if split.warmup else "none"
    running, said = played(values, config, split, scale=scale)
    want = plain(values, said, split, config.horizon, config.season, config.levels)
    t, result = running.tally, running.result()
    for have, name in [
        (t.ours.count, "count"), (t.ours.absolute, "ae"), (t.ours.square, "se"), (t.naive["last_value"].absolute, "last"),
        (t.naive["seasonal_naive"].absolute, "seasonal"), (t.pinball.mean(0), "pinball"), (t.covered, "covered"), (t.width, "width"),
        (t.served[0], "net"),
    ]:  # fmt: skip
        np.testing.assert_allclose(have, want[name], rtol=1e-9, err_msg=name)
    unit = np.ones(4) if scale == "none" else np.array([np.nanstd(values[: split.warmup, k]) for k in range(4)])
    total = want["count"].sum(0)
    lead = result.by_lead()
    np.testing.assert_allclose([one["mse"] for one in lead.values()], (want["se"] / unit[:, None] ** 2).sum(0) / total)
    np.testing.assert_allclose([one["mae"] for one in lead.values()], (want["ae"] / unit[:, None]).sum(0) / total)
    np.testing.assert_allclose([one["crps"] for one in lead.values()], 2 * (want["pinball"] / unit[:, None]).sum(0) / total)
    np.testing.assert_allclose([one["coverage_90"] for one in lead.values()], want["covered"].sum(0) / total)
    np.testing.assert_allclose([one["width_90"] for one in lead.values()], (want["width"] / unit[:, None]).sum(0) / total)
    naive = seasonal_width(values, said, split, config.horizon, config.season, want["covered"] / want["count"])
    naively = [one["seasonal_naive_width_90"] for one in lead.values()]
    np.testing.assert_allclose(naively, (naive * want["count"] / unit[:, None]).sum(0) / total)


def test_skill_is_against_the_better_of_both_in_hindsight_weighed_by_each_series_change():
    values, config = wavy(120, 3), lone()
    running, said = played(values, config)
    want = plain(values, said, Split(), config.horizon, config.season, config.levels)
    change = []
    for column in values.T:
        at = np.flatnonzero(~np.isnan(column))
        change.append(np.mean([abs(column[b] - column[a]) / np.sqrt(b - a) for a, b in pairwise(at)]))
    unit = np.array(change)[:, None] * want["count"]
    ours, base = (want["ae"] / unit).mean(0), (np.minimum(want["last"], want["seasonal"]) / unit).mean(0)
    np.testing.assert_allclose([one["skill"] for one in running.result().by_lead().values()], 1 - ours / base)


def test_no_forecast_knows_what_comes_after_it_and_no_error_before_it_changes():
    values, split, config = wavy(130, 3), Split(50, 15), small(members=2)
    other = values.copy()
    cut = 95
    other[cut + 1 :] = 1e3 * np.random.default_rng(9).normal(0, 1, other[cut + 1 :].shape)
    (_, one), (_, two) = played(values, config, split), played(other, config, split)
    before = [key for key in one if key[0] <= cut]
    assert len(before) > 200
    for key in before:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one[key], two[key], strict=True)), key
    assert any(one[key][0].tobytes() != two[key][0].tobytes() for key in one if key in two and key[0] > cut + 3)
    ended = [played(x[: cut + 1], split=split)[0].result().json("") for x in (values, other)]
    assert ended[0] == ended[1]


def test_once_more_gives_the_same_bytes():
    values, split = wavy(90, 3), Split(50, 10)
    first, again = (played(values, split=split) for _ in range(2))
    assert json.dumps(first[0].result().json("x")) == json.dumps(again[0].result().json("x"))
    assert first[0].learner.digest() == again[0].learner.digest()
    assert [x[0].tobytes() for x in first[1].values()] == [x[0].tobytes() for x in again[1].values()]


@pytest.mark.parametrize(("disorder", "ahead"), [(1, True), (0, False), (4, True)])
def test_it_is_the_learner_driven_by_hand(disorder, ahead):
    values, config, split = wavy(95, 3), small(members=2), Split(50, 15)
    running, said = played(values, config, split, disorder=disorder, learn_ahead=ahead)
    learner, keys = Learner(config), running.keys
    for slot in range(3):
        learner.admit(slot, int(keys[slot]))
    order, behind = np.argsort(keys), disorder + ahead
    for row in range(len(values)):
        if row == split.warmup:
            for late in range(row - behind - 1, row):
                close(learner, values, late, keys, order, learn=False)
            warm(learner, History(FIRST, values[: split.warmup + split.validation], np.arange(3)), until=row)
        due = row - behind - 1
        if due >= 0 and (row < split.warmup or due >= split.warmup):
            close(learner, values, due, keys, order, learn=due >= split.warmup)
        there = np.flatnonzero(~np.isnan(values[row]))
        known = [at for at in learner.generations if at <= FIRST + row - behind] or [START]
        generation = max(known) if max(known) > START or row <= behind else min(learner.generations)
        step = learner.arrive(
            Cells(there, keys[there], np.full(len(there), FIRST + row), values[row, there]),
            generation=generation, woken=np.zeros(len(there), bool),
        )  # fmt: skip
        if row >= split.warmup:
            for k, series in enumerate(there.tolist()):
                point, quantiles, by = said[row, series]
                assert point.tobytes() == step.point[k].tobytes(), (row, series)
                assert quantiles.tobytes() == step.quantiles[k].tobytes()
                assert by.tobytes() == step.by[k].tobytes()


def close(learner, values, row, keys, order, *, learn):
    there = order[~np.isnan(values[row, order])]
    if not there.size:
        return
    exercise = learner.begin(
        Cells(there, keys[there], np.full(len(there), FIRST + row), values[row, there]), instant=FIRST + row + 1, drop=[]
    )
    if learn:
        exercise.run()
    learner.finish(exercise)


def test_as_many_generations_are_kept_as_the_stream_keeps():
    for disorder in (0, 1, 5):
        running, _ = played(wavy(40, 2), disorder=disorder)
        assert len(running.learner.generations) == disorder + 3


def test_a_series_that_starts_late_ends_early_or_has_gaps_counts_where_it_is():
    values = ragged()
    running, said = played(values)
    assert not any(np.isnan(values[row, k]) for row, k in said)
    count = running.tally.ours.count
    assert (count[1] < count[0]).all()
    assert (count[2] < count[0]).all()
    assert all(one["mse"] is not None for one in running.result().by_lead().values())


def test_a_series_without_a_unit_is_not_counted_and_one_without_values_does_no_harm():
    values = wavy(120, 4)
    values[:70, 1], values[:, 2] = 5.0, np.nan
    running, _ = played(values, split=Split(60, 10), scale="warmup")
    result = running.result()
    assert np.isnan(result.unit).tolist() == [False, True, True, False]
    alone = {one["name"]: one["mae"] for one in result.by_series()}
    assert (alone["s1"], alone["s2"]) == (None, None)
    assert all(one["mae"] < 10 for one in result.by_lead().values())


def test_counts_are_of_origins_from_the_last_validation_row_to_a_horizon_before_the_end():
    values = np.random.default_rng(0).normal(0, 1, (100, 2))
    running, _ = played(values, split=Split(0, 30, 50))
    assert set(running.tally.ours.count.ravel().tolist()) == {50 - 6 + 1}


def test_without_a_season_there_is_no_seasonal_naive():
    running, _ = played(wavy(60, 2), lone(season=None))
    assert list(running.result().json("")["baselines"]) == ["last_value", "lstm"]


def test_it_can_be_asked_at_any_row():
    running = loop(wavy(80, 2))
    assert running.result().json("")["by_lead"]["1"]["mse"] is None
    for row in running.play():
        if row == 40:
            break
    half = running.result().json("")["by_lead"]["6"]["mse"]
    for _ in running.play():
        pass
    whole, _ = played(wavy(80, 2))
    assert running.result().json("") == whole.result().json("")
    assert half is not None


@pytest.mark.parametrize(
    ("split", "scale", "said"),
    [
        (Split(200), "none", "100 rows .* fewer than 200 warm-up"),
        (Split(60, 35), "none", "leave no forecast to score"),
        (Split(-1), "none", "-1 warm-up rows: allowed: 0 and more"),
        (Split(), "warmup", "there are no warm-up rows"),
        (Split(), "max", "allowed: none, warmup"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is(split, scale, said):
    with pytest.raises(ValueError, match=said):
        loop(wavy(100, 2), split=split, scale=scale)


def test_time_is_handed_in():
    ticks = iter(range(1000))
    running = loop(wavy(60, 2), clock=lambda: float(next(ticks)))
    for _ in running.play():
        pass
    result = running.result()
    assert result.seconds == 60
    assert result.json("")["updates_per_s"] == pytest.approx(result.observations / 60, abs=0.1)
    assert loop(wavy(60, 2)).result().json("")["seconds"] is None


def test_what_is_kept_does_not_grow_with_the_rows():
    small_one, large = (loop(np.zeros((steps, 3)) + np.arange(3)).tally for steps in (5_000, 50_000))
    assert large.trace.said.nbytes <= small_one.trace.said.nbytes * 1.3
    assert large.over_time.shape == small_one.over_time.shape
    assert len(thinned(0, 10**6, 50_000, 3, 24)) < 100


def test_a_trace_is_what_was_forecast_for_the_row():
    values = wavy(60, 2)
    running, said = played(values)
    trace = running.tally.trace
    for p, row in enumerate(trace.rows.tolist()):
        for k, lead in enumerate(trace.leads.tolist()):
            if row - lead in running.tally.origins and (row - lead, 1) in said:
                point, quantiles, _ = said[row - lead, 1]
                np.testing.assert_allclose(
                    trace.said[p, k, 1], [point[lead - 1], quantiles[0, lead - 1], quantiles[-1, lead - 1]], rtol=1e-6
                )


def test_another_seed_is_another_network():
    one, two = (played(wavy(60, 2), lone(min_scores=1, seed=seed))[0].learner.digest() for seed in (0, 1))
    assert one != two


def test_what_the_learner_mixes_is_counted_expert_by_expert_and_its_weights_are_kept_by_time(monkeypatch):
    def parts(learner, step):
        return {"linear": step.point + 1.0, "last_value": step.point}

    monkeypatch.setattr(prequential, "parts_of", parts)
    monkeypatch.setattr(prequential, "weights_of", lambda learner: {"linear": [0.5] * 6, "last_value": [0.5] * 6})
    running, said = played(wavy(60, 2))
    want = plain(running.values, {k: (p + 1.0, q, by) for k, (p, q, by) in said.items()}, ALL, 6, 8, lone().levels)
    np.testing.assert_allclose(running.tally.parts["linear"].absolute, want["ae"])
    result = running.result()
    assert list(result.json("")["baselines"]) == ["last_value", "seasonal_naive", "linear"]
    assert len(result.weights) == running.tally.bins
    assert [row for row, _ in result.weights] == sorted(row for row, _ in result.weights)


def test_columns_of_wide_records_know_of_each_other_as_in_the_stream():
    wide = Prequential(Matrix(FIRST, wavy(60, 4), ("a/x", "a/y", "b/x", "b/y"), columns=2), small(), split=ALL)
    m = wide.learner.memory
    assert (wide.config.columns, m["column"][:4].tolist()) == (2, [0, 1, 0, 1])
    records = m["record"][:4].tolist()
    assert records[0] == records[1] != records[2] == records[3]
    assert records[0] == xxhash.xxh3_64_intdigest(b"a") | 1
    assert "linear related" in wide.learner.parts
    for _ in wide.play():
        pass
    assert "linear related" in wide.result().json("")["baselines"]


# Covariates


def with_covariates(rows=70, change=None, **kwargs):
    known = np.random.default_rng(5).normal(0, 1, (rows, 2, 2))
    known[np.random.default_rng(6).random(known.shape) < 0.1] = np.nan
    if change is not None:
        change(known)
    values = wavy(rows, 2)
    config = small(**({"model": "lstm", "covariates": ("load", "wind"), "ahead": ("load",)} | kwargs))
    running, said = Prequential(matrix(values)._replace(known=known), config, split=Split(30, 10)), {}

    def heard(row, at, step):
        for k, series in enumerate(at.tolist()):
            said[row, series] = step.point[k].tobytes() + step.quantiles[k].tobytes() + step.parts[k].tobytes()

    for _ in running.play(heard=heard):
        pass
    return running, said


def test_the_warm_up_knows_of_each_row_what_its_forecast_will_know(monkeypatch):
    given = []
    inner = prequential.warm
    monkeypatch.setattr(prequential, "warm", lambda learner, history, **kwargs: given.append(history) or inner(learner, history, **kwargs))
    made, look = {}, covariates.look

    def noted(m, plan, slot, cell, change):
        out = look(m, plan, slot, cell, change)
        if "ring" in m._columns:  # the learner's own
            made.update({(int(c) - FIRST, int(s)): row.tobytes() for s, c, row in zip(slot, cell, out, strict=True)})
        return out

    monkeypatch.setattr(covariates, "look", noted)
    running, _ = with_covariates()
    (history,) = given
    assert history.outlooks.shape == (40, 2, running.learner.form.known.width)
    for row, series in np.argwhere(~np.isnan(running.values[:40])).tolist():
        assert history.outlooks[row, series].tobytes() == made[row, series]


def test_covariates_of_later_rows_are_known_only_where_they_are_told_ahead():
    def wind(known):
        known[51:, :, 1] = 9.0

    def load(known):
        known[51:, :, 0] = 9.0

    _, plain = with_covariates()
    for change, early in ((wind, 0), (load, 6)):
        _, other = with_covariates(change=change)
        before = [at for at in plain if at[0] < 51 - early]
        assert all(other[at] == plain[at] for at in before)
        assert any(other[at] != plain[at] for at in plain if 51 - early <= at[0] <= 51)


def test_covariates_that_nobody_has_named_are_refused():
    with pytest.raises(ValueError, match="the covariates are none, and 2 are in the matrix"):
        with_covariates(covariates=(), ahead=())
