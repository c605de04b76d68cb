"""What must be equal, over the logs of many seeds: disorder, repeats, nulls, wide records, fast clocks, gaps, several partitions."""

import random
from collections import Counter

import pytest

from pipeline.gather import Admit, Close, Forget, Gather, Refused, Sample, TooLate
from tests.cases import block, changed, make
from tests.simulation import sources

CASES = [make(seed) for seed in range(120)]


def by_name(events):
    """Events, with slots spelled out: their numbers may differ."""
    names, told = {}, []
    for e in events:
        match e:
            case Admit(slot, series, key):
                names[slot] = series
                told.append(("admit", series, key))
            case Forget(slot):
                told.append(("forget", names.pop(slot)))
            case Close(instant, cells, drop):
                told.append(("close", instant, [(names[s], c, v) for s, c, v in cells], drop))
            case Sample():
                told.append(("sample", names[e.slot], *e[1:]))
            case Refused():
                told.append(("refused", e.raw.offset, e.rejection.series, e.rejection.reason))
            case TooLate():
                told.append(("late", e.source, e.series, e.at, e.late, e.offset))
    return told


def turns_of(case, rng):
    """Who is read, and how many records: polls at random, until everything has been read."""
    left = [*map(len, case.logs)]
    turns = []
    while any(left):
        p = rng.choice([p for p, n in enumerate(left) if n])
        count = min(left[p], rng.randint(1, 9))
        left[p] -= count
        turns.append((p, count))
    return turns


def played(case, turns, gather=None, done=()):
    """The events of reading in these turns, nobody idle who has a record."""
    gather = gather or Gather(case.rules, sources(case))
    read = Counter(p for p, count in done for _ in range(count))
    events = []
    for p, log in enumerate(case.logs):
        if not log:  # empty partitions are idle at once, and hold nobody
            events += gather.add(block(p, 0, [], 0, 1.0, stable=True))
    for p, count in turns:
        log = case.logs[p]
        records = log[read[p] : read[p] + count]
        read[p] += count
        end = log[read[p]].offset if read[p] < len(log) else case.ends[p]
        part = gather.parts[sources(case)[p]]
        events += gather.add(block(p, part.position or 0, records, end, 1.0))
    return events


@pytest.mark.parametrize("seed", range(3))
def test_blocks_of_any_size_give_the_events_of_blocks_of_one_record(seed):
    for case in CASES:
        turns = turns_of(case, random.Random(seed))
        single = [(p, 1) for p, count in turns for _ in range(count)]
        assert by_name(played(case, turns)) == by_name(played(case, single))


def learnt_and_forgotten(events):
    """The closes in their order, each with the series that were forgotten after it."""
    order = []
    for e in events:
        if e[0] == "close":
            order.append([e, set()])
        elif e[0] == "forget":
            order[-1][1].add(e[1])
    return order


@pytest.mark.parametrize("seed", range(3))
def test_interleaving_shows_in_no_event_only_in_their_order(seed):
    for case in CASES:
        one, two = (by_name(played(case, turns_of(case, random.Random(s)))) for s in (seed, seed + 100))
        assert Counter(map(repr, one)) == Counter(map(repr, two))
        assert learnt_and_forgotten(one) == learnt_and_forgotten(two)


@pytest.mark.parametrize("seed", range(3))
def test_a_restored_gather_goes_on_as_if_nothing_had_been(seed):
    rng = random.Random(seed)
    for case in CASES:
        turns = turns_of(case, rng)
        cut = rng.randint(0, len(turns))
        gather = Gather(case.rules, sources(case))
        played(case, turns[:cut], gather)
        restored = Gather.restore(case.rules, gather.state())
        assert restored.state() == gather.state()
        on, again = (played(case, turns[cut:], g, turns[:cut]) for g in (gather, restored))
        assert repr(on) == repr(again)
        assert restored.state() == gather.state()


@pytest.mark.parametrize("seed", range(3))
def test_other_values_from_a_moment_on_change_nothing_that_was_released_for_before_it(seed):
    rng = random.Random(seed)
    shown = 0
    for case in CASES:
        turns = turns_of(case, rng)
        moment = rng.randrange(60) // case.rules.grid * case.rules.grid
        other = case._replace(logs=[[changed(r, moment) for r in log] for log in case.logs])
        one, two = (by_name(played(c, turns)) for c in (case, other))
        shown += repr(one) != repr(two)
        for kind, until in (("sample", moment - 1), ("close", moment)):
            at = 2 if kind == "sample" else 1
            assert [e for e in one if e[0] == kind and e[at] <= until] == [e for e in two if e[0] == kind and e[at] <= until]
    assert shown > len(CASES) // 3


def test_series_in_two_partitions_are_outside_the_promise_and_break_nothing():
    """Every slot in the events is named, no slot is given twice, and the ledger holds (or `add` raises)."""
    rng = random.Random(0)
    for case in CASES:
        logs = [[r._replace(observations=tuple((s[2:], at, v) for s, at, v in r.observations)) for r in log] for log in case.logs]
        gather = Gather(case.rules, sources(case))
        events = played(case._replace(logs=logs), turns_of(case, rng), gather)
        by_name([*events, *gather.close_all()])
        assert not gather.open
        assert not any(q.held or q.aside for q in gather.parts.values())
