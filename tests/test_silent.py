"""`series.silent = "fill"`: at a step without a sample a series is forecast all the same, and nothing else is any different for it."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from models import silent
from models.learner import START as BEFORE
from models.learner import Cells, Learner
from pipeline.events import Admit, Rules, Sample
from pipeline.gather import Gather
from pipeline.learn import OtherSettings, Shard
from pipeline.records import Source
from tests.cases import Record, block
from tests.test_gather_identities import CASES, by_name, played, turns_of
from tests.test_learn import HOUR, SOURCES, log, run, schedule, spec, told
from tests.test_learn import block as hours

FILL = Rules(step=HOUR, grid=HOUR, disorder=HOUR, fill=True)


def filling(**changes):
    base = spec(**changes)
    return base._replace(rules=FILL, config=base.config.__class__(**{**vars(base.config), "fill": True}))


# When


def silences(rules, records):
    """(series, cell) of the samples that have no value, and all events, of one partition."""
    gather = Gather(rules, [Source("t", 0)])
    logged = [Record(i, max(at for _, at, _ in seen), 0.0, tuple(seen)) for i, seen in enumerate(records)]
    events = gather.add(block(0, 0, logged, len(logged), 1.0)) + gather.close_all()
    names = {e.slot: e.series for e in events if isinstance(e, Admit)}
    return [(names[e.slot], e.cell) for e in events if isinstance(e, Sample) and math.isnan(e.value)], gather


def test_a_series_is_forecast_at_every_cell_that_closes_without_it():
    both, only = [("a", 0, 1.0), ("b", 0, 1.0)], [[("a", t, 1.0)] for t in (10, 20, 30)]
    found, _ = silences(Rules(step=10, grid=10, disorder=10, fill=True), [both, *only, [("b", 40, 2.0)], [("a", 40, 1.0)]])
    assert found == [("b", 10), ("b", 20)]  # when 30 closed, it had spoken again


def test_a_cell_waits_for_its_disorder_and_a_series_that_has_gone_on_is_not_taken_back():
    rows = [[("a", 0, 1.0), ("b", 0, 1.0)], [("a", 10, 1.0)], [("a", 20, 1.0)], [("b", 20, 1.0)], [("b", 10, 1.0)], [("a", 50, 1.0)]]
    found, gather = silences(Rules(step=10, grid=10, disorder=10, fill=True), rows)
    assert found == [("a", 30), ("b", 30), ("b", 40), ("b", 50)]
    assert gather.totals() == {"consumed": 7, "used": 7, "duplicate": 0, "late": 0, "rejected": 0}


def test_a_null_is_no_sample_and_a_series_that_has_had_none_is_not_waited_for():
    rows = [[("a", 0, 1.0), ("b", 0, 1.0), ("c", 0, math.nan)], [("a", 10, 1.0), ("b", 10, math.nan)], [("a", 20, 1.0), ("b", 20, 1.0)]]
    assert silences(Rules(step=10, grid=10, disorder=0, fill=True), rows)[0] == [("b", 10)]


def test_of_several_samples_a_step_a_series_without_any_is_forecast_when_the_step_closes():
    rows = [[("a", 1, 1.0), ("b", 2, 1.0)], [("a", 12, 1.0)], [("a", 15, 1.0)], [("a", 21, 1.0), ("b", 25, 1.0)]]
    assert silences(Rules(step=10, grid=10, disorder=2, aggregate="mean", fill=True), rows)[0] == [("b", 10)]


def test_a_series_that_is_forgotten_is_not_forecast_any_longer():
    rows = [[("a", 0, 1.0), ("b", 0, 1.0)], *[[("a", t, 1.0)] for t in range(10, 100, 10)]]
    found, _ = silences(Rules(step=10, grid=10, disorder=10, forget_after=40, fill=True), rows)
    assert found == [("b", 10), ("b", 20)]  # at 50 it is forgotten, before 30 closes


def test_of_very_many_cells_at_once_the_last_are_filled_as_many_as_may_be_held():
    rows = [[("a", 0, 1.0), ("b", 0, 1.0)], [("a", 1_000_000, 1.0)]]
    found, _ = silences(Rules(step=10, grid=10, disorder=0, max_held=6, fill=True), rows)
    assert found == [(s, t) for t in (999_970, 999_980, 999_990) for s in "ab"] + [("b", 1_000_000)]


def test_two_partitions_with_one_series_never_say_the_same_cell_twice():
    """Outside the promise of replay; an id all the same is published once."""
    gather = Gather(Rules(step=10, grid=10, disorder=10, fill=True), [Source("t", 0), Source("t", 1)])
    events = []
    for k in range(12):
        mine = [("x", 10 * k, 1.0), ("y", 10 * k, 1.0)] if k < 3 else [("y", 10 * k, 1.0)]
        events += gather.add(block(0, k, [Record(k, 10 * k, 0.0, tuple(mine))], k + 1, 1.0))
        also = [("z", 10 * k, 1.0)] + [("x", 10 * k, 2.0)] * (k in (6, 7))
        events += gather.add(block(1, k, [Record(k, 10 * k, 0.0, tuple(also))], k + 1, 1.0))
    said = Counter((e.slot, e.cell) for e in events if isinstance(e, Sample) and not e.inserted)
    assert len(said) > 30
    assert max(said.values()) == 1


@pytest.mark.parametrize("seed", range(2))
def test_nothing_but_forecasts_of_the_silent_is_added(seed):
    import random

    added = 0
    for case in CASES:
        turns = turns_of(case, random.Random(seed))
        skip, fill = (by_name(played(case._replace(rules=case.rules._replace(fill=on)), turns)) for on in (False, True))
        rest = [e for e in fill if not (e[0] == "sample" and math.isnan(e[3]))]
        assert Counter(map(repr, rest)) == Counter(map(repr, skip))
        added += len(fill) - len(rest)
    assert added > 1000


# What


def test_what_was_forecast_is_said_again_of_the_same_times():
    """A slow reader of one forecast: by target, not by lead."""
    rng = np.random.default_rng(0)
    m = silent.Memory(silent.columns(6, 3))
    m.grow(2)
    point, quantiles = rng.normal(size=(2, 6)), np.sort(rng.normal(size=(2, 3, 6)), 1)
    codes = rng.integers(0, 3, (2, 6)).astype(np.int8)
    slots = np.array([1, 0])
    silent.keep(m, slots, np.array([100, 103]), silent.Said(point, quantiles, codes, codes[::-1], np.array([7, 8])))
    for season in (None, 4, 24):
        said = silent.again(m, slots, np.array([102, 112]), season)
        for k, since in enumerate((2, 9)):
            for h in range(1, 7):
                lead = since + h
                while lead > 6:
                    lead = max(lead - season, 6) if season == 24 else lead - season if season else 6
                assert said.point[k, h - 1] == point[k, lead - 1]
                assert (said.by[k, h - 1], said.reason[k, h - 1]) == (codes[k, lead - 1], codes[1 - k, lead - 1])
                band = min(since + h, 6) - 1
                width = quantiles[k, :, band] - point[k, band]
                np.testing.assert_allclose(said.quantiles[k, :, h - 1], point[k, lead - 1] + width)
        assert said.updates.tolist() == [7, 8]


def test_asking_changes_nothing():
    learner = Learner(filling().config)
    learner.admit(0, 5)
    learner.arrive(
        Cells(np.array([0]), np.array([5], np.uint64), np.array([10]), np.array([2.0])), generation=BEFORE, woken=np.zeros(1, bool)
    )
    before = learner.snapshot()
    step = learner.fill(np.array([0]), np.array([12]))
    assert learner.snapshot() == before
    assert (step.issued.tolist(), step.observations.tolist(), step.scored.any()) == ([True], [1], False)


# In the stream


def gaps():
    """A log in which one series of each partition is silent for some hours, and one for good; the last speaks to the end."""
    quiet = {"s00": range(10, 22), "s11": range(15, 18), "s21": range(20, 40)}
    return {source: [row for row in rows if row[1] not in quiet.get(row[0], ())] for source, rows in log().items()}


def forecasts(messages):
    return {(f["series"], f["issued_at"]): f for f in (json.loads(m.value) for m in messages if m.kind == "forecasts")}


def test_all_other_messages_keep_their_bytes_and_every_cell_is_forecast_from_the_first_on():
    rows = gaps()
    skip, fill = (run(Shard(which), schedule(rows, 3)) for which in (spec(), filling()))
    assert set(told(skip)) < set(told(fill))
    assert {m.kind for m in set(fill) - set(skip)} == {"forecasts"}
    assert [m.value for m in skip if m.kind == "scores"] == [m.value for m in fill if m.kind == "scores"]
    found, known = forecasts(fill), forecasts(skip)
    assert len(found) == sum(m.kind == "forecasts" for m in fill)
    added = Counter(s for s, _ in found.keys() - known.keys())
    last_heard = max(t for s, t, _ in rows[SOURCES[2]] if s == "s21")
    clock = max(t for _, t, _ in rows[SOURCES[2]])
    assert added == {"s00": 11, "s11": 2, "s21": clock - 2 - last_heard}  # of silences of 12, 3 and for good; a cell closes two hours later
    for (series, at), forecast in found.items():
        if (series, at) not in known:
            last = known[series, max(when for s, when in known if s == series and when < at)]
            again = dict(zip(last["targets"], last["point"], strict=True))
            shared = [t for t in forecast["targets"] if t in again]
            assert [p for t, p in zip(forecast["targets"], forecast["point"], strict=True) if t in again] == [again[t] for t in shared]
            assert forecast["updates"] == last["updates"]
            assert forecast["observations"] == last["observations"]


@pytest.mark.parametrize("seed", range(3))
def test_polls_block_sizes_and_interleavings_do_not_show(seed):
    rows = gaps()
    one, other = (told(run(Shard(filling()), schedule(rows, s, largest=n))) for s, n in ((100, 9), (seed, (1, 25, 200)[seed])))
    assert one == other


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_shard_thawed_goes_on_as_if_nothing_had_been(cut):
    blocks = list(schedule(gaps(), 7))
    whole = told(run(Shard(filling()), blocks))
    first = Shard(filling())
    early = run(first, blocks[:cut])
    assert told(early + run(Shard.thaw(filling(), first.freeze()), blocks[cut:])) == whole


def test_a_watched_series_keeps_its_last_value():
    shard = Shard(filling(sources=SOURCES[:1], watched=("b",)))
    run(shard, [hours(SOURCES[0], 0, [("b", 0, 5.0), *(("a", t, 1.0) for t in range(6))])])
    assert shard.status()["by_series"]["b"]["last"] == 5.0
    assert shard.published["forecasts"] == 6 + 1 + 3


def test_a_state_of_the_other_kind_is_refused_by_name():
    shard = Shard(spec())
    run(shard, list(schedule(log(), 7))[:5])
    with pytest.raises(OtherSettings, match=r"series\.silent was skip and is fill"):
        Shard.thaw(filling(), shard.freeze())


def test_a_wake_behind_cells_that_its_series_were_silent_at_is_on_record():
    """Partition 1 falls idle, and the other goes on; when it comes back, what it is silent of has been passed."""
    gather = Gather(Rules(step=10, grid=10, disorder=0, idle_after=1.0, fill=True), [Source("t", 0), Source("t", 1)])
    gather.add(block(1, 0, [Record(0, 0, 0.0, (("x", 0, 1.0), ("y", 0, 1.0)))], 1, 1.0))
    gather.add(block(1, 1, [], 1, 9.0, stable=True))
    rows = [Record(k, 10 * k, 0.0, (("a", 10 * k, 1.0),)) for k in range(6)]
    gather.add(block(0, 0, rows, 6, 9.0))
    events = gather.add(block(1, 1, [Record(1, 60, 0.0, (("x", 60, 1.0),))], 2, 10.0))
    silent_at = [e.cell for e in events if isinstance(e, Sample) and math.isnan(e.value) and e.woken]
    assert silent_at
    assert len(gather.decisions) == 1
