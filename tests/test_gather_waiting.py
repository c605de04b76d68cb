"""Who waits for whom, as sentences: idling, waking, limits, recovery. Step, grid and disorder are 10 unless a test says otherwise."""

import pytest

from pipeline.events import NEVER
from pipeline.gather import Close, Decision, Gather, LedgerBroken, Sample, TooLate
from pipeline.records import Source
from tests.cases import block
from tests.reading import Reader, behind_learning, only

# Idling


def test_a_partition_is_idle_when_its_clock_has_stood_for_a_while_and_all_there_is_has_been_read():
    r = Reader(2, idle_after=5)
    r.read(0, ("a", 0))
    r.read(1, *(("b", t) for t in range(0, 100, 10)))
    r.mark(0, now=5.9)
    assert not r.part(0).idle
    events = r.mark(0, now=6.0)
    assert r.part(0).idle
    assert [e.instant for e in only(events, Close)] == list(range(10, 81, 10))


def test_a_slow_reader_is_never_idle():
    r = Reader(idle_after=5)
    r.read(0, ("a", 0))
    r.mark(now=1000.0, stable=False)
    assert not r.part().idle


def test_a_clock_that_moves_ends_the_while():
    r = Reader(idle_after=5)
    r.read(0, ("a", 0), now=1.0)
    r.read(0, ("a", 1), now=5.0)
    r.mark(now=9.0)
    assert not r.part().idle


def test_records_that_move_no_clock_keep_no_partition_awake():
    r = Reader(idle_after=5)
    r.read(0, ("a", 0))
    for now in (2.0, 4.0, 6.0):
        r.filtered(now=now)
    assert r.part().idle


def test_a_partition_that_is_empty_at_the_start_is_idle_at_once():
    r = Reader(2)
    r.mark(1, now=1.0)
    assert only(r.read(0, ("a", 0), ("a", 20)), Close)


def test_when_all_are_idle_the_watermark_is_the_largest_clock_less_the_disorder():
    r = Reader(2, idle_after=5)
    r.read(0, ("a", 100))
    r.read(1, ("b", 50))
    r.mark(0, now=10.0)
    r.mark(1, now=10.0)
    assert r.gather.watermark() == 90
    assert r.gather.reached == 90


def test_who_holds_samples_for_too_long_is_treated_as_idle_if_it_has_been_read_to_its_end():
    r = Reader(2, max_hold=3)
    r.read(0, ("a", 0), now=1.0)
    r.read(1, ("b", 100), now=1.0)
    r.mark(0, now=3.9)
    r.mark(0, now=9.0, stable=False)
    assert not r.part(0).idle
    assert r.samples(r.mark(0, now=9.0)) == [("b", 100)]


def test_a_bounded_source_that_has_ended_closes_nothing_that_its_data_has_not_closed():
    r = Reader(idle_after=5)
    r.read(0, ("a", 0), ("a", 10))
    b = block(0, 2, [], 2, 1000.0, stable=True)
    b.ended = True
    assert not r.gather.add(b)


def test_closing_all_closes_what_the_data_left_open():
    r = Reader(2)
    r.read(0, ("a", 0), ("a", 10))
    r.read(1, ("b", 0), ("far", 400), ("b", 40))
    r.read(1, ("capped", 900), stamp=400)
    events = r.gather.close_all()
    assert not r.gather.open
    assert sorted(cell for e in only(events, Close) for _, cell, _ in e.cells) == [0, 0, 10, 400, 900]
    assert not r.part(1).held
    assert not r.part(1).aside
    assert r.samples(events) == [("far", 400), ("capped", 900)]


# Waking


def test_a_wake_that_is_not_behind_needs_no_record():
    r = behind_learning()
    events = r.read(1, ("b", 105))
    assert not only(events, Decision)
    assert r.samples(events) == [("b", 100)]
    assert not r.part(1).idle
    assert not r.part(1).rejoining


def test_a_wake_behind_learning_is_a_decision_and_its_samples_are_woken():
    r = behind_learning()
    events = r.read(1, ("b", 50))
    assert only(events, Decision) == r.gather.decisions == [Decision(Source("t", 1), 1, 90)]
    assert [(e.cell, e.woken) for e in only(events, Sample)] == [(50, True)]
    assert r.part(1).rejoining


def test_a_woken_sample_is_forecast_under_its_own_generation_or_else_the_oldest_that_is_kept():
    r = behind_learning()
    assert r.gather.generations == [50, 60, 70, 80, 90]
    events = r.read(1, ("b", 10), ("b", 80))
    assert [(e.cell, e.generation, e.woken) for e in only(events, Sample)] == [(10, 50, True), (80, 60, True)]


def test_every_instant_that_passes_a_rejoining_partition_is_a_decision_and_learns_what_it_brought():
    r = behind_learning()
    r.read(1, ("b", 50, 5.0))
    events = r.read(0, ("a", 110))
    assert only(events, Decision) == [Decision(Source("t", 1), 2, 100)]
    assert r.closes(events)[0][0] == 100
    assert ("b", 50, 5.0) in r.closes(events)[0][1]


def test_a_rejoining_partition_holds_nobody_until_it_has_caught_up():
    r = behind_learning()
    r.read(1, ("b", 50))
    assert only(r.read(0, ("a", 110)), Close)
    r.read(1, ("b", 110))
    assert not r.part(1).rejoining
    assert not only(r.read(0, ("a", 200)), Close)


def test_a_woken_sample_that_its_series_has_gone_on_without_is_late():
    r = behind_learning()
    r.read(1, ("b", 55))
    r.read(0, ("a", 110))
    events = r.read(1, ("b", 50))
    assert [(e.series, e.at) for e in only(events, TooLate)] == [("b", 50)]


def test_what_was_aside_when_its_cell_was_learnt_makes_the_wake_a_decision():
    r = Reader(2, idle_after=5)
    r.read(0, ("a", 0))
    r.read(1, ("fast", 60), stamp=0)
    r.mark(1, now=10.0)
    r.read(0, *(("a", t) for t in range(10, 101, 10)), now=10.0)
    events = r.read(1, ("b", 105))
    assert only(events, Decision) == [Decision(Source("t", 1), 1, 90)]
    assert [(e.cell, e.woken) for e in only(events, Sample)] == [(60, True), (100, False)]


# How far a reader may go


def test_a_partition_that_holds_too_much_is_read_no_further():
    r = Reader(2, max_held=2)
    r.read(0, ("slow", 0))
    r.read(1, ("b", 100), ("b", 110))
    assert r.gather.limit(Source("t", 1)) == 2
    assert r.gather.limit(Source("t", 0)) is None


def test_a_partition_too_far_ahead_of_the_slowest_that_is_not_idle_is_read_no_further():
    r = Reader(2, max_skew=50, idle_after=5)
    r.read(0, ("a", 0))
    r.read(1, ("b", 50))
    assert r.gather.limit(Source("t", 1)) is None
    r.read(1, ("b", 51))
    assert r.gather.limit(Source("t", 1)) == 2
    r.mark(0, now=10.0)
    assert r.gather.limit(Source("t", 1)) is None


def test_repeating_a_partition_is_read_no_further_than_its_next_decision():
    r = Reader(2)
    r.mark(0)
    r.mark(1)
    r.gather.repeat([Decision(Source("t", 0), 2, 10), Decision(Source("t", 0), 5, 30), Decision(Source("t", 1), 1, 10)])
    assert [r.gather.limit(Source("t", p)) for p in (0, 1)] == [2, 1]
    r.read(0, ("a", 0), ("a", 10))
    assert r.gather.limit(Source("t", 0)) == 2, "the instant has not passed: partition 1 is not there"
    r.read(1, ("b", 30))
    assert r.gather.reached == 10
    assert [r.gather.limit(Source("t", p)) for p in (0, 1)] == [5, 1]


def ends(*positions):
    return [Decision(Source("t", p), position, NEVER) for p, position in enumerate(positions)]


def test_repeating_a_decision_that_has_been_followed_is_told_again():
    r = Reader(2)
    wake = Decision(Source("t", 0), 1, 10)
    r.gather.repeat([wake, *ends(9, 9)])
    assert not only(r.read(0, ("a", 0)), Decision)
    assert only(r.read(1, ("b", 30)), Decision) == [wake]
    assert r.part(0).rejoining


def test_repeating_a_partition_at_the_end_of_its_log_holds_nobody_and_one_that_rejoins_holds_everybody_until_there():
    r = Reader(2)
    r.gather.repeat([Decision(Source("t", 0), 1, 40), *ends(3, 9)])
    r.read(0, ("a", 0))
    r.read(1, ("b", 60), now=1000.0, stable=True)
    assert r.gather.reached == 40, "further on it would have been on record"
    r.read(0, ("a", 10), now=2000.0)
    assert r.gather.reached == 40
    r.read(0, ("a", 20))
    assert r.gather.reached == 50


def test_repeating_decisions_that_nothing_leads_on_to_are_an_error():
    r = Reader(2)
    r.gather.repeat([Decision(Source("t", 0), 1, 40), *ends(2, 1)])
    r.read(0, ("a", 0))
    with pytest.raises(LedgerBroken, match=r"^t/0: a decision says .* while this partition stood at 1; .* does not reach so far"):
        r.read(1, ("b", 49))


# Recovery


def test_decisions_from_before_a_snapshot_do_not_join_it():
    r = Reader()
    r.read(0, ("a", 0), ("a", 10), ("a", 20))
    with pytest.raises(LedgerBroken, match="not those since its snapshot"):
        r.gather.repeat([Decision(Source("t", 0), 1, 0)])


def test_wall_clock_makes_nobody_idle_while_a_run_is_repeated():
    r = Reader(2, idle_after=1)
    r.mark(0)
    r.mark(1)
    r.gather.repeat([Decision(Source("t", p), 3, 100) for p in (0, 1)])
    r.mark(0, now=1000.0)
    assert not r.part(0).idle


def test_flags_on_record_are_taken_when_recovery_is_over():
    r = behind_learning()
    flags, ends, state = r.gather.flags(), r.gather.ends(), r.gather.state()
    again = Gather.restore(r.gather.rules, state)
    again.repeat(ends)
    assert again.repeated()
    assert not again.parts[Source("t", 1)].idle
    again.resume(flags)
    assert again.flags() == flags
    assert again.limit(Source("t", 0)) is None


def test_a_partition_that_was_not_there_before_is_taken_up_as_an_idle_one():
    r = behind_learning()
    flags, ends = r.gather.flags(), r.gather.ends()
    r.gather = Gather.restore(r.gather.rules, r.gather.state(), [Source("t", p) for p in range(3)])
    r.end.append(0)
    r.gather.repeat(ends)
    r.mark(2)
    assert r.gather.repeated()
    r.gather.resume(flags)
    r.read(2, ("new", 50))
    assert r.gather.decisions == [Decision(Source("t", 2), 0, 90)]
