"""Sliding windows and sessions: which cells an instant learns, whoever reads what first. Step, grid and disorder are 10."""

import json
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gather_identities import by_name, learnt_and_forgotten
from test_learn import HOUR, log, run, schedule, spec, told
from test_many import assert_goes_on, cut, polls, read
from test_operate import replay
from test_operate import settings as flags

from pipeline import learn
from pipeline.configure import rules_of
from pipeline.gather import Close, Forget, Gather, Rules, Sample
from pipeline.learn import OtherSettings, Shard
from pipeline.records import Source
from pipeline.settings import Settings
from pipeline.windows import Sessions
from tests.reading import Reader, only


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setattr(learn, "BY_REFERENCE", False)  # put back, whatever a run sets


def session(**rules):
    return Reader(**{"kind": "session", "gap": 20, "max_span": 100} | rules)


def learnt(reader, events):
    return [(instant, [(s, cell) for s, cell, _ in cells]) for instant, cells in reader.closes(events)]


# As sentences


def test_a_session_is_learnt_when_its_series_has_been_silent_for_the_gap():
    r = session()
    events = r.read(0, ("a", 0), ("a", 10), ("a", 29), ("b", 59))
    assert not only(events, Close)
    assert learnt(r, r.read(0, ("b", 60))) == [(50, [("a", 0), ("a", 10), ("a", 20)])]


def test_a_series_that_is_silent_for_less_than_the_gap_is_in_one_session():
    r = session()
    assert learnt(r, r.read(0, ("a", 0), ("a", 20), ("b", 59))) == []
    assert learnt(r, r.read(0, ("a", 60), ("b", 70))) == [(50, [("a", 0), ("a", 20)])]


def test_a_session_is_learnt_at_the_first_instant_at_or_after_its_end():
    r = session(grid=30)
    assert learnt(r, r.read(0, ("a", 0), ("a", 10), ("b", 69))) == []
    assert learnt(r, r.read(0, ("b", 70))) == [(60, [("a", 0), ("a", 10)])]


def test_a_series_without_gaps_is_learnt_where_its_session_is_cut():
    r = session(max_span=30)
    events = r.read(0, *(("a", t) for t in range(0, 90, 10)))
    assert learnt(r, events) == [(30, [("a", 0), ("a", 10), ("a", 20)]), (60, [("a", 30), ("a", 40), ("a", 50)])]


def test_what_came_out_of_order_joins_two_sessions_to_one():
    r = session(disorder=40)
    events = r.read(0, ("a", 0), ("a", 40), ("a", 20), ("b", 109))
    assert learnt(r, events) == []
    assert learnt(r, r.read(0, ("b", 110))) == [(70, [("a", 0), ("a", 20), ("a", 40)])]


def test_sessions_of_many_series_that_end_together_are_one_instant():
    r = session()
    (closed,) = learnt(r, r.read(0, ("a", 0), ("b", 5), ("c", 11), ("d", 40)))
    assert (closed[0], sorted(closed[1])) == (30, [("a", 0), ("b", 0)])


def test_a_second_sample_of_a_session_that_is_open_is_a_duplicate_and_the_last_one_is_learnt():
    r = session()
    r.read(0, ("a", 0, 1.0), ("a", 9, 2.0))
    assert r.gather.totals()["duplicate"] == 1
    assert r.closes(r.read(0, ("b", 40))) == [(30, [("a", 0, 2.0)])]


def test_forecasts_do_not_wait_for_the_end_of_a_session():
    r = session(max_span=1000)
    events = r.read(0, *(("a", t) for t in range(0, 90, 10)))
    assert [e.cell for e in only(events, Sample)] == list(range(0, 90, 10))
    assert not only(events, Close)


def test_a_held_sample_is_not_overtaken_by_an_instant_that_a_long_session_lets_pass():
    r = Reader(2, kind="session", gap=20, max_span=1000)
    r.read(0, ("slow", 0))
    r.read(1, *(("b", t) for t in (0, 50, 40, 60)))
    events = r.read(0, ("slow", 70), ("slow", 200))
    assert [(e.cell, e.woken) for e in only(events, Sample) if e.cell in (40, 50, 60)] == [(50, False), (40, False), (60, False)]


def test_a_series_is_forgotten_after_its_session_has_been_learnt():
    r = session(gap=200, max_span=250, forget_after=30)
    events = r.read(0, ("a", 0), *(("b", t) for t in range(10, 300, 10)))
    kinds = [type(e) for e in events if isinstance(e, Forget) or (isinstance(e, Close) and any(c == 0 for _, c, _ in e.cells))]
    assert kinds == [Close, Forget]


def test_closing_all_ends_every_session():
    r = session(aggregate="sum")
    r.read(0, ("a", 0), ("b", 8), ("a", 25))
    events = r.gather.close_all()
    assert learnt(r, events) == [(30, [("b", 0)]), (50, [("a", 0), ("a", 20)])]
    assert not r.gather.open


def test_sliding_windows_learn_each_cell_once_with_the_first_that_holds_it():
    def rules(**window):
        given = {"input.topics": "t", "series.step": "1h", **{f"window.{name}": value for name, value in window.items()}}
        return rules_of(Settings.read(None, {}, given), 1)

    sliding = rules(kind="sliding", span="6h", every="2h")
    assert sliding == rules(span="2h")._replace(kind="sliding")
    gather = Gather(sliding, [Source("t", 0)])
    closes = only(read(gather, [(0, 0, [("a", t * HOUR, 1.0) for t in range(12)])]), Close)
    assert [(c.instant // HOUR, [cell // HOUR for _, cell, _ in c.cells]) for c in closes] == [
        (2 * k, [2 * k - 2, 2 * k - 1]) for k in range(1, 6)
    ]


# What must be equal


def sessions_of(cells, gap, max_span):
    """(end, cells) of sessions, from all cells of a series: slow, and written apart."""
    found, left = [], sorted(cells)
    while left:
        one = [left.pop(0)]
        while left and left[0] < one[0] + max_span and left[0] - (one[-1] + 10) < gap:
            one.append(left.pop(0))
        quiet = not left or left[0] - (one[-1] + 10) >= gap
        end = one[-1] + 10 + gap
        found.append((min(end, one[0] + max_span) if quiet else one[0] + max_span, one))
    return found


CELLS = st.lists(st.integers(0, 60).map(lambda n: n * 10), min_size=1, max_size=40, unique=True)
RULES = st.builds(
    lambda grid, disorder, gap, max_span, aggregate: Rules(
        step=10, grid=grid, disorder=disorder, kind="session", gap=gap, max_span=max_span, aggregate=aggregate
    ),
    st.sampled_from([10, 30]), st.sampled_from([0, 10, 25]), st.sampled_from([10, 20, 50]), st.sampled_from([10, 40, 200]),
    st.sampled_from([None, "sum"]),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(CELLS, st.sampled_from([10, 30]), st.sampled_from([10, 20, 50]), st.sampled_from([10, 40, 200]))
def test_instants_close_the_sessions_whatever_order_the_cells_were_added_in(cells, grid, gap, max_span):
    windows = Sessions(step=10, grid=grid, gap=gap, max_span=max_span)
    for cell in cells:
        windows.add((7, cell))
    wanted = defaultdict(list)
    for end, one in sessions_of(cells, gap, max_span):
        wanted[-(-end // grid) * grid] += one
    found = {}
    while (due := windows.due()) < 10_000:
        found[due] = sorted(cell for slot, cell in windows.close(int(due)))
    assert found == wanted
    assert not windows.runs


@st.composite
def logs(draw):
    """Two partitions in rough order of time, with silences; nothing late at a disorder of 25."""
    found = []
    for p in range(2):
        at, rows = 0, []
        for _ in range(draw(st.integers(1, 40))):
            at += draw(st.sampled_from([0, 3, 10, 10, 10, 20, 60]))
            rows.append((f"{draw(st.sampled_from('ab'))}{p}", max(at - draw(st.integers(0, 25)), 0), float(draw(st.integers(0, 9)))))
        found.append(rows)
    return found


@settings(max_examples=200, deadline=None)
@given(logs(), RULES, st.data())
def test_polls_and_interleavings_show_in_no_event(found, rules, data):
    sources = [Source("t", p) for p in range(2)]
    sizes = [cut(data.draw, rows) for rows in found]
    one = by_name(read(Gather(rules, sources), polls(found, sizes, random.Random(data.draw(st.integers(0, 99))))))
    single = by_name(read(Gather(rules, sources), polls(found, [[1] * len(rows) for rows in found], random.Random(0))))
    assert Counter(map(repr, one)) == Counter(map(repr, single))
    assert learnt_and_forgotten(one) == learnt_and_forgotten(single)


@settings(max_examples=200, deadline=None)
@given(logs(), RULES)
def test_what_is_learnt_are_the_sessions_of_all_that_was_not_late(found, rules):
    gather = Gather(rules, [Source("t", p) for p in range(2)])
    events = by_name(read(gather, polls(found, [[1] * len(rows) for rows in found], random.Random(0))))
    mark = min(q.clock for q in gather.parts.values()) - rules.disorder
    closed = {(series, cell): instant for kind, instant, *rest in events if kind == "close" for series, cell, _ in rest[0]}
    cells = defaultdict(set)
    for rows in found:
        clock = 0
        for series, at, _ in rows:
            if at >= clock - rules.disorder:
                cells[series].add(at // 10 * 10)
            clock = max(clock, at)
    wanted = {}
    for series, mine in cells.items():
        for end, one in sessions_of(mine, rules.gap, rules.max_span):
            instant = -(-end // rules.grid) * rules.grid
            wanted |= {(series, cell): instant for cell in one if instant <= mark}
    assert closed == wanted


@settings(max_examples=100, deadline=None)
@given(logs(), RULES, st.data())
def test_a_restored_gather_goes_on_as_if_nothing_had_been(found, rules, data):
    turns = [*polls(found, [cut(data.draw, rows) for rows in found], random.Random(0))]
    at = data.draw(st.integers(0, len(turns)))
    assert_goes_on(rules, turns, at)


# With a learner

SESSION = Rules(step=HOUR, grid=HOUR, disorder=HOUR, kind="session", gap=2 * HOUR, max_span=12 * HOUR)


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 200), st.integers(0, 1000), st.data())
def test_polls_interleavings_and_restarts_do_not_show_in_what_is_published(size, seed, data):
    rows = {s: [row for row in r if row[1] % 9 < 6] for s, r in log().items()}
    plain = told(run(Shard(spec(rules=SESSION)), schedule(rows, 100)))
    blocks = list(schedule(rows, seed, largest=size))
    at = data.draw(st.integers(0, len(blocks)))
    first = Shard(spec(rules=SESSION))
    early = run(first, blocks[:at])
    second = Shard.thaw(spec(rules=SESSION), first.freeze())
    assert told(early + run(second, blocks[at:])) == plain
    assert len(plain) > 150
    assert second.windows > 10


def test_a_state_of_other_windows_is_refused_and_all_that_differ_are_named():
    with pytest.raises(OtherSettings, match=r"window.kind was fixed and is session; .*window.gap was None and is 2h; window.max_span"):
        Shard.thaw(spec(rules=SESSION), Shard(spec()).freeze())


def test_a_file_is_learnt_by_sessions_from_end_to_end(tmp_path):
    file = tmp_path / "machine.ndjson"
    runs = [(day, h) for day in range(1, 15) for h in range(8, 18)]
    rows = [{"series": "press", "at": f"2026-01-{day:02}T{h:02}:00:00Z", "value": h + day / 9} for day, h in runs]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    window = {"window__kind": "session", "window__gap": "3h", "window__max_span": "1d"}
    summary = replay(flags(**window), file, tmp_path / "out")
    assert (summary["used"], summary["forecasts"], summary["windows"]) == (140, 140, 13)
    updates = [json.loads(line)["updates"] for line in (tmp_path / "out" / "forecasts.ndjson").read_text().splitlines()]
    assert sorted(set(updates)) == list(range(14))
