"""Several samples a step: a cell is forecast when it closes, from all of its samples, in whatever order they came."""

import itertools
import json
import math
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gather_identities import by_name
from test_learn import HOUR, SOURCES, block, run, spec, told
from test_operate import forecasts, replay
from test_operate import settings as flags
from typer.testing import CliRunner

from models.learner import Config
from pipeline import learn
from pipeline.__main__ import app
from pipeline.aggregates import AGGREGATES
from pipeline.gather import START, Admit, Close, Decision, Gather, Refused, Rules, Sample, TooLate
from pipeline.learn import OtherSettings, Shard
from pipeline.records import Source
from tests import cases
from tests.cases import Record
from tests.reading import Reader, behind_learning, only


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setattr(learn, "BY_REFERENCE", False)  # put back, whatever a run sets


def values(reader, events):
    return [(reader.gather.series[e.slot][0], e.cell, e.value) for e in only(events, Sample)]


# As sentences; step, grid and disorder are 10


def test_a_cell_is_forecast_when_its_own_partitions_clock_less_the_disorder_comes_to_its_end():
    r = Reader(2, aggregate="mean")
    r.read(1, ("other", 500))
    assert not only(r.read(0, ("a", 0, 1.0), ("a", 9, 4.0), ("a", 19, 7.0)), Sample)
    assert values(r, r.read(0, ("b", 20))) == [("a", 0, 2.5)]


@pytest.mark.parametrize(("aggregate", "value"), [("mean", 4.0), ("last", 2.0), ("sum", 16.0), ("count", 4.0), ("rate", 2_000_000.0)])
def test_every_sample_enters_the_aggregate_and_none_is_a_duplicate(aggregate, value):
    r = Reader(aggregate=aggregate)
    r.read(0, ("a", 0, 5.0), ("a", 5, 9.0), ("a", 5, 0.0), ("a", 2, 2.0))
    assert values(r, r.read(0, ("b", 20))) == [("a", 0, {"last": 0.0, "rate": (4.0 + 2.0 + 3.0) / 5 * 1e6}.get(aggregate, value))]
    assert r.gather.totals() == {"consumed": 5, "used": 5, "duplicate": 0, "late": 0, "rejected": 0}


def test_a_sample_for_a_cell_that_has_closed_is_late():
    r = Reader(aggregate="sum")
    r.read(0, ("a", 0), ("a", 20))
    assert [(e.at, e.late) for e in only(r.read(0, ("a", 9), ("a", 10)), TooLate)] == [(9, 1)]
    assert values(r, r.read(0, ("a", 30))) == [("a", 10, 1.0)]


def test_a_step_without_a_sample_is_a_gap_and_an_explicit_null_is_no_sample():
    r = Reader(aggregate="count")
    assert values(r, r.read(0, ("a", 5), ("a", 15, math.nan), ("a", 40, math.nan))) == [("a", 0, 1.0)]
    assert r.gather.totals()["used"] == 3


def test_what_is_learnt_is_what_was_forecast_from():
    r = Reader(aggregate="sum", grid=20)
    events = r.read(0, ("a", 0, 1.0), ("a", 5, 2.0), ("a", 12, 4.0), ("a", 30))
    assert [(e.cell, e.value) for e in only(events, Sample)] == [(0, 3.0), (10, 4.0)]
    assert r.closes(events) == [(20, [("a", 0, 3.0), ("a", 10, 4.0)])]
    assert isinstance(events[-1], Close)


def test_a_record_that_closes_many_cells_releases_them_by_time():
    r = Reader(aggregate="sum", disorder=100)
    r.read(0, ("b", 25), ("a", 15), ("a", 5), ("b", 6), ("a", 31))
    assert [(s, c) for s, c, _ in values(r, r.read(0, ("c", 130)))] == [("a", 0), ("b", 0), ("a", 10), ("b", 20)]


def test_a_forecast_has_the_stamp_and_the_trace_of_the_record_that_closed_its_cell():
    r = Reader(aggregate="sum")
    r.read(0, ("a", 0))
    b = cases.block(0, 1, [Record(1, 77, 0.0, (("b", 25, 1.0),))], 2, 1.0)
    b.records[0] = b.records[0]._replace(headers=[("traceparent", b"00-abc")])
    (sample,) = only(r.gather.add(b), Sample)
    assert (sample.stamp, sample.trace, sample.offset) == (77, "00-abc", 1)


def test_a_cell_waits_for_its_generation_as_a_sample_does():
    r = Reader(2, aggregate="sum")
    r.read(0, ("slow", 0))
    r.read(1, ("b", 0))
    assert [c for _, c, _ in values(r, r.read(1, ("b", 10), ("b", 30), ("b", 50), ("b", 60)))] == [0, 10]
    assert [h[1] for h in r.part(1).held] == [30]
    assert values(r, r.read(0, ("slow", 20)))[-1] == ("b", 30, 1.0)


def test_what_lies_ahead_of_a_capped_clock_waits_in_its_cell_and_holds_nothing():
    r = Reader(aggregate="sum")
    assert values(r, r.read(0, ("a", 100), ("fast", 500), ("a", 121), stamp=121)) == [("a", 100, 1.0)]
    assert ("fast", 500, 3.0) in values(r, r.read(0, ("fast", 505, 2.0), ("a", 520), stamp=520))


def test_a_producer_that_runs_ahead_can_not_fill_the_memory():
    r = Reader(max_held=3, aggregate="sum")
    events = []
    for t in range(0, 100, 10):
        events += r.read(0, ("fast", t + 1000), ("fast", t + 1001), stamp=t)
    refused = only(events, Refused)
    assert [(e.rejection.reason, e.rejection.series) for e in refused] == [("future", "fast")] * 14
    assert r.gather.totals() == {"consumed": 20, "used": 6, "duplicate": 0, "late": 0, "rejected": 14}
    assert Gather.restore(r.gather.rules, r.gather.state()).parts[Source("t", 0)].ahead == [1000, 1010, 1020]


def test_a_wake_that_finds_learning_past_a_cell_it_had_begun_is_a_decision():
    r = behind_learning(aggregate="sum")
    events = r.read(1, ("b", 105))
    assert only(events, Decision) == [Decision(Source("t", 1), 1, 90)]
    assert [(e.cell, e.value, e.woken) for e in only(events, Sample)] == [(0, 1.0, True)]


def test_a_wake_goes_on_with_the_cell_it_had_begun():
    r = behind_learning(aggregate="sum")
    assert not only(r.read(1, ("b", 7, 2.0)), Sample)
    assert [(e.cell, e.value, e.woken) for e in only(r.read(1, ("b", 31)), Sample)] == [(0, 3.0, True)]


def test_closing_all_closes_cells_that_no_clock_has_closed():
    r = Reader(aggregate="sum")
    r.read(0, ("a", 0, 1.0), ("a", 3, 2.0), ("b", 8, 4.0))
    events = r.gather.close_all()
    assert values(r, events) == [("a", 0, 3.0), ("b", 0, 4.0)]
    assert only(events, Close)


def test_a_forgotten_series_leaves_no_mark_for_whoever_gets_its_slot():
    r = Reader(aggregate="rate", forget_after=100)
    r.read(0, ("a", 0, 5.0))
    r.read(0, ("b", 105), ("b", 120), ("b", 130), ("b", 140))
    (admitted,) = only(r.read(0, ("d", 140)), Admit)
    assert admitted.slot not in r.part().marks


# A counter


def test_a_rate_goes_on_from_the_last_sample_of_the_step_before_and_no_rise_is_lost():
    r = Reader(aggregate="rate")
    events = r.read(0, ("a", 0, 10.0), ("a", 8, 18.0), ("a", 11, 24.0), ("a", 29, 60.0), ("a", 60, 0.0))
    assert values(r, events) == [("a", 0, 1e6), ("a", 10, 2e6), ("a", 20, 2e6)]


def test_a_counter_that_falls_has_begun_again_from_nothing():
    r = Reader(aggregate="rate")
    assert values(r, r.read(0, ("a", 0, 10.0), ("a", 2, 14.0), ("a", 4, 3.0), ("a", 30, 0.0)))[0] == ("a", 0, 7 / 4 * 1e6)


def test_a_rate_after_a_gap_begins_with_the_first_sample_and_one_alone_says_none():
    r = Reader(aggregate="rate")
    events = r.read(0, ("a", 0, 10.0), ("a", 30, 100.0), ("a", 34, 108.0), ("a", 100, 0.0))
    assert values(r, events) == [("a", 30, 2e6)]
    assert r.gather.totals()["used"] == 4


# What must be equal. An oracle that is written apart, over a partition's log alone


def by_the_log(rows, rules, aggregate):
    """{(series, cell): value} of all cells that the log closes; rows are (series, at, value)."""
    clock, cells = -math.inf, defaultdict(list)
    for offset, (series, at, value) in enumerate(rows):
        if at >= clock - rules.disorder:
            clock = max(clock, at)
            cells[series, at // rules.step * rules.step].append((at, offset, value))
    found = {}
    for (series, cell), samples in cells.items():
        numbers = [value for _, _, value in sorted(samples)]
        if aggregate == "rate":
            times = [at for at, _, _ in sorted(samples)]
            before = sorted(cells.get((series, cell - rules.step), ()))[-1:]
            chain = [value for _, _, value in before] + numbers
            rises = [b - a if b >= a else b for a, b in itertools.pairwise(chain)]
            us = times[-1] - (before[0][0] if before else times[0])
            value = math.fsum(rises) * 1_000_000 / us if us else None
        else:
            value = {"mean": math.fsum(numbers) / len(numbers), "sum": math.fsum(numbers), "count": len(numbers), "last": numbers[-1]}[
                aggregate
            ]
        if cell + rules.step <= clock - rules.disorder and value is not None:
            found[series, cell] = value
    return found


def released(events):
    return {(e[1], e[2]): e[3] for e in by_name(events) if e[0] == "sample"}


def cut(draw, rows):
    """Sizes of polls that read all rows."""
    left, sizes = len(rows), []
    while left:
        sizes.append(draw(st.integers(1, min(left, 9))))
        left -= sizes[-1]
    return sizes


def polls(logs, sizes, order):
    """(partition, first, rows) of each poll, in an order."""
    turns = [[p] * len(mine) for p, mine in enumerate(sizes)]
    flat = [p for turn in turns for p in turn]
    order.shuffle(flat)
    left, at = [[*mine] for mine in sizes], [0] * len(logs)
    for p in flat:
        count = left[p].pop(0)
        yield p, at[p], logs[p][at[p] : at[p] + count]
        at[p] += count


def read(gather, turns):
    events = []
    for p, first, rows in turns:
        records = [Record(first + i, row[1], 0.0, (row,)) for i, row in enumerate(rows)]
        events += gather.add(cases.block(p, first, records, first + len(rows), 1.0))
    return events


def assert_goes_on(rules, turns, at):
    """A gather that is restored before a turn does from there on what the one that it was taken of does."""
    gather = Gather(rules, [Source("t", p) for p in range(2)])
    read(gather, turns[:at])
    restored = Gather.restore(rules, gather.state())
    assert restored.state() == gather.state()
    assert repr(read(restored, turns[at:])) == repr(read(gather, turns[at:]))
    assert restored.state() == gather.state()


numbers = st.integers(-(10**6), 10**6).map(lambda n: n / 7) | st.sampled_from([1e30, -1e30, 1e-30])


@st.composite
def logs(draw, names=("a", "b")):
    """Two partitions' logs: rows in rough order of time, some late."""
    found = []
    for p in range(2):
        at, rows = 0, []
        for _ in range(draw(st.integers(1, 40))):
            at += draw(st.integers(0, 7))
            rows.append((f"{draw(st.sampled_from(names))}{p}", max(at - draw(st.integers(0, 14)), 0), draw(numbers)))
        found.append(rows)
    return found


RULES = st.builds(
    lambda step, grid, disorder, aggregate: Rules(step=step, grid=grid, disorder=disorder, aggregate=aggregate),
    st.sampled_from([5, 10]), st.sampled_from([10, 30]), st.sampled_from([0, 4, 10, 25]), st.sampled_from([*AGGREGATES]),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(logs(), RULES, st.data())
def test_polls_and_interleavings_do_not_show_and_the_values_are_those_of_each_log(found, rules, data):
    sizes = [cut(data.draw, rows) for rows in found]
    sources = [Source("t", p) for p in range(2)]
    one = read(Gather(rules, sources), polls(found, sizes, random.Random(data.draw(st.integers(0, 99)))))
    single = read(Gather(rules, sources), polls(found, [[1] * len(rows) for rows in found], random.Random(0)))
    assert Counter(map(repr, by_name(one))) == Counter(map(repr, by_name(single)))
    wanted = {}
    for rows in found:
        wanted |= by_the_log(rows, rules, rules.aggregate)
    both = Gather(rules, sources)
    events = read(both, polls(found, sizes, random.Random(1)))
    held = {(both.series[h[3]][0], h[1]) for q in both.parts.values() for h in q.held}
    got = released(events)
    assert got.keys() | held == wanted.keys()
    assert got == {key: wanted[key] for key in got}


@settings(max_examples=100, deadline=None)
@given(logs(), RULES, st.data())
def test_a_restored_gather_goes_on_as_if_nothing_had_been(found, rules, data):
    turns = [*polls(found, [cut(data.draw, rows) for rows in found], random.Random(0))]
    at = data.draw(st.integers(0, len(turns)))
    assert_goes_on(rules, turns, at)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*AGGREGATES]),
    st.lists(st.tuples(st.integers(0, 60), numbers, st.integers(0, 20)), min_size=1, unique_by=lambda t: t[0]),
)
def test_the_order_of_samples_inside_the_disorder_shows_in_no_bit(aggregate, samples):
    rules = Rules(step=10, grid=10, disorder=20, aggregate=aggregate)

    def cells(order):
        rows = [("a", at, value) for at, value, _ in sorted(samples, key=order)] + [("end", 200, 0.0)]
        return released(read(Gather(rules, [Source("t", 0)]), [(0, 0, rows)]))

    assert cells(lambda s: s[0]) == cells(lambda s: (s[0] + s[2], s[0]))


# With a learner


MANY = Rules(step=HOUR, grid=HOUR, disorder=HOUR // 6, aggregate="mean")
WIDE = ("x", "y")


def quarters(steps=30, seed=0):
    """Each partition has two series with some samples a step, out of order within ten minutes; the columns of a wide record."""
    rng = random.Random(seed)
    out = {}
    for source in SOURCES[:2]:
        rows = [(t / 4 + rng.random() / 12, math.sin(t / 8) + rng.random()) for t in range(4 * steps) if rng.random() < 0.8]
        out[source] = [
            (f"s{source.partition}/{name}", int(at * HOUR), value * k)
            for at, value in sorted(rows, key=lambda row: row[0] + rng.random() / 7)
            for k, name in enumerate(WIDE, 1)
        ]
    return out


def blocks(rows, sizes, rng):
    """Polls of whole records of two rows."""
    position, left = dict.fromkeys(rows, 0), {s: len(r) // 2 for s, r in rows.items()}
    while any(left.values()):
        source = rng.choice([s for s in rows if left[s]])
        count = min(left[source], rng.randint(1, sizes))
        left[source] -= count
        first = position[source]
        position[source] += count
        b = block(source, first, [(name, 0, value) for name, _, value in rows[source][2 * first : 2 * (first + count)]])
        b.next = first + count
        b.at = b.stamp = b.at + [at for _, at, _ in rows[source][2 * first : 2 * (first + count)]]
        b.record = b.record // 2
        b.offset = first + b.record
        b.records = [raw._replace(offset=first + i, stamp=int(b.at[2 * i])) for i, raw in enumerate(b.records[:count])]
        yield b


def shard():
    config = Config(horizon=4, season=4, step_us=HOUR, hidden=16, rows=64, min_scores=3, columns=2)
    return spec(SOURCES[:2], rules=MANY, config=config, columns=WIDE)


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 60), st.integers(0, 1000), st.data())
def test_polls_interleavings_and_restarts_do_not_show_in_what_is_published(size, seed, data):
    rows = quarters()
    plain = told(run(Shard(shard()), blocks(rows, 7, random.Random(0))))
    polled = [*blocks(rows, size, random.Random(seed))]
    at = data.draw(st.integers(0, len(polled)))
    first = Shard(shard())
    early = run(first, polled[:at])
    second = Shard.thaw(shard(), first.freeze())
    assert told(early + run(second, polled[at:])) == plain
    assert len(plain) > 200
    assert second.gather.totals()["used"] == sum(map(len, rows.values()))


def test_a_state_of_one_sample_a_step_is_no_state_of_many():
    frozen = Shard(spec()).freeze()
    with pytest.raises(OtherSettings, match=r"series.samples was one and is many"):
        Shard.thaw(spec(rules=MANY), frozen)


# A file through the whole flow


def table(folder, name, rows):
    file = folder / name
    file.write_text("at,series,a,b\n" + "".join(f"{at},{series},{a!r},{b!r}\n" for at, series, a, b in rows))
    return file


def ticks():
    rng = random.Random(3)
    return [
        (f"2026-01-{1 + h // 24:02}T{h % 24:02}:{minute:02}:00Z", f"s{k}", 10 * k + h % 6 + rng.random(), float(rng.randint(0, 5)))
        for h in range(60)
        for minute in (0, 7, 20, 41)
        for k in range(2)
        if rng.random() < 0.7
    ]


def by_hour(rows):
    cells = defaultdict(list)
    for at, series, a, b in rows:
        cells[at[:13], series].append((a, b))
    return [
        (f"{hour}:00:00Z", series, *(math.fsum(column) / len(column) for column in zip(*pairs, strict=True)))
        for (hour, series), pairs in cells.items()
    ]


COLUMNS = {"input__values": ["a", "b"], "input__series": ["series"], "time__disorder": "10min", "series__season": "6"}


def test_a_file_of_many_samples_gives_the_forecasts_of_the_file_of_its_means(tmp_path, monkeypatch):
    from pipeline import operate

    def closing(given, file, out):
        return operate.replay(given, file, out=str(out), as_is=False, close=True, wide_rows=False, start=None, dump=False, decisions=None)

    many = closing(flags(series__samples="many", **COLUMNS), table(tmp_path, "many.csv", ticks()), tmp_path / "many")
    one = closing(flags(**COLUMNS), table(tmp_path, "one.csv", by_hour(ticks())), tmp_path / "one")
    assert (many["consumed"], many["used"], many["duplicate"], many["late"]) == (2 * len(ticks()), 2 * len(ticks()), 0, 0)
    assert many["forecasts"] == one["forecasts"] == len(forecasts(tmp_path / "one")) > 200
    for kind in ("forecasts", "scores", "decisions"):
        told = [sorted((tmp_path / run / f"{kind}.ndjson").read_text().splitlines()) for run in ("many", "one")]
        assert told[0] == told[1], kind


def test_the_end_of_a_file_closes_no_cell_that_its_data_has_not_closed(tmp_path):
    file = table(tmp_path, "many.csv", ticks())
    summary = replay(flags(series__samples="many", series__aggregate="count", **COLUMNS), file, tmp_path / "out")
    assert summary["used"] == 2 * len(ticks())
    assert max(at for _, at in forecasts(tmp_path / "out")) == "2026-01-03T10:00:00Z"


def test_a_backtest_of_many_samples_is_that_of_their_means(tmp_path):
    def said(rows, *more):
        words = ["backtest", str(table(tmp_path, "rows.csv", rows)), "--step", "1h", "--horizon", "2", "--season", "6", "--json", *more]
        done = CliRunner().invoke(app, [*words, "--model", "lstm"])
        assert done.exit_code == 0, done.output
        result = json.loads(done.stdout)
        return {name: value for name, value in result.items() if name not in ("updates_per_s", "seconds")}

    assert said(ticks(), "--set", "series.samples=many", "--set", "time.disorder=1h") == said(by_hour(ticks()))
    counted = said(ticks(), "--set", "series.samples=many", "--set", "series.aggregate=count")
    assert counted["by_lead"] != said(by_hour(ticks()))["by_lead"]


def test_before_anything_is_learnt_the_generation_is_the_first():
    r = Reader(aggregate="sum")
    assert only(r.read(0, ("a", 0), ("a", 20)), Sample)[0].generation == START
