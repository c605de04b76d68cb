"""Event time as sentences. Step, grid and disorder are 10 unless a test says otherwise: cell t is forecast under instant t - 20."""

import math

import pytest

from pipeline.gather import START, Admit, Close, Decision, Forget, Gather, LedgerBroken, Refused, Sample, TooLate
from pipeline.records import Source
from tests.cases import Record, block
from tests.reading import Reader, behind_learning, only

# Clocks and lateness


def test_late_is_what_lies_behind_its_own_partitions_clock_less_the_disorder():
    r = Reader()
    events = r.read(0, ("a", 100), ("a", 90), ("a", 89, 7.0))
    assert [(e.series, e.at, e.value, e.late, e.offset) for e in only(events, TooLate)] == [("a", 89, 7.0, 1, 2)]
    assert r.gather.totals() == {"consumed": 3, "used": 2, "duplicate": 0, "late": 1, "rejected": 0}


def test_no_other_partition_makes_a_record_late():
    r = Reader(2)
    r.read(0, ("a", 1000))
    assert not only(r.read(1, ("b", 0)), TooLate)


def test_a_record_moves_its_partitions_clock_to_at_most_its_stamp():
    r = Reader()
    r.read(0, ("fast", 5000), stamp=100)
    assert r.part().clock == 100
    assert not only(r.read(0, ("a", 95)), TooLate)


def test_a_late_a_rejected_and_a_filtered_record_move_the_position_and_not_the_clock():
    r = Reader(quota=1)
    r.read(0, ("a", 100))
    r.read(0, ("a", 10), stamp=900)
    r.read(0, None)
    r.read(0, ("one too many", 500))
    r.filtered()
    assert (r.part().clock, r.part().position) == (100, 5)


def test_an_explicit_null_is_used_says_that_the_series_lives_and_gives_no_sample():
    r = Reader(2)
    events = r.read(0, ("a", 100, math.nan))
    assert only(events, Admit)
    assert not only(events, Sample)
    assert r.part().clock == 100
    assert not r.gather.open
    assert r.gather.totals()["used"] == 1


# Cells, duplicates, order


def test_an_instant_closes_the_cells_that_end_by_it_when_the_clock_less_the_disorder_comes_to_it():
    r = Reader()
    assert not only(r.read(0, ("a", 0, 1.0), ("b", 9, 2.0), ("a", 19)), Close)
    events = r.read(0, ("a", 20))
    assert [(instant, sorted(cells)) for instant, cells in r.closes(events)] == [(10, [("a", 0, 1.0), ("b", 0, 2.0)])]


def test_a_forecast_does_not_wait_for_the_instant_that_its_own_sample_lets_pass():
    r = Reader()
    r.read(0, ("a", 0), ("a", 10))
    assert [type(e) for e in r.read(0, ("a", 20))] == [Sample, Close]


def test_a_cell_is_closed_ordered_by_series_and_time_whatever_order_it_came_in():
    one, two = Reader(grid=30), Reader(grid=30)
    one.read(0, ("a", 0), ("b", 0), ("a", 10), ("b", 10))
    two.read(0, ("b", 0), ("b", 10), ("a", 0), ("a", 10))
    assert one.closes(one.read(0, ("a", 60))) == two.closes(two.read(0, ("a", 60)))


def test_a_second_sample_of_an_open_cell_replaces_the_first_for_learning_only():
    r = Reader()
    events = r.read(0, ("a", 3, 1.0), ("a", 8, 2.0))
    assert [(e.cell, e.value) for e in only(events, Sample)] == [(0, 1.0)]
    assert r.gather.totals()["duplicate"] == 1
    assert r.closes(r.read(0, ("a", 20))) == [(10, [("a", 0, 2.0)])]


def test_a_sample_behind_a_newer_one_of_its_series_is_inserted_and_not_forecast():
    r = Reader()
    events = r.read(0, ("a", 20), ("a", 10), ("b", 10))
    assert [(e.cell, e.inserted) for e in only(events, Sample)] == [(20, False), (10, True), (10, False)]


def test_a_sample_carries_its_stamp_and_its_trace():
    r = Reader()
    b = block(0, 0, [Record(0, 77, 0.0, (("a", 5, 1.0),))], 1, 1.0)
    b.records[0] = b.records[0]._replace(headers=[("other", b"x"), ("traceparent", b"00-abc")])
    (sample,) = only(r.gather.add(b), Sample)
    assert (sample.stamp, sample.trace) == (77, "00-abc")


# Generations and holding


def test_a_sample_is_forecast_under_the_newest_generation_two_steps_back():
    r = Reader()
    events = r.read(0, *(("a", t) for t in range(0, 60, 10)))
    assert [(e.cell, e.generation) for e in only(events, Sample)] == [(0, START), (10, START), (20, START), (30, 10), (40, 20), (50, 30)]


def test_without_learning_ahead_it_is_one_step_back():
    r = Reader(learn_ahead=False)
    events = r.read(0, *(("a", t) for t in range(0, 40, 10)))
    assert [(e.cell, e.generation) for e in only(events, Sample)] == [(0, START), (10, START), (20, 10), (30, 20)]


def test_an_instant_without_cells_makes_no_generation():
    r = Reader()
    events = r.read(0, ("a", 0), ("a", 500), ("a", 510))
    assert [e.instant for e in only(events, Close)] == [10]
    assert r.gather.reached == 500
    assert only(events, Sample)[-1].generation == 10


def test_a_sample_is_held_until_its_generation_is_there_and_holds_all_behind_it():
    r = Reader(2)
    r.read(1, ("b", 0))
    r.read(0, ("slow", 0))
    assert r.samples(r.read(1, ("b", 10), ("b", 30), ("b", 20))) == [("b", 10)]
    assert len(r.part(1).held) == 2
    assert r.samples(r.read(0, ("slow", 10))) == [("slow", 10)]
    assert r.samples(r.read(0, ("slow", 20))) == [("slow", 20), ("b", 30), ("b", 20)]


def test_held_samples_of_one_partition_hold_no_other():
    r = Reader(3)
    for p in range(3):
        r.read(p, ("a", 0))
    assert r.samples(r.read(1, ("b", 50))) == []
    assert r.samples(r.read(2, ("c", 0))) == [("c", 0)]


@pytest.mark.parametrize(("disorder", "grid", "kept"), [(0, 10, 4), (10, 10, 5), (15, 10, 6), (30, 30, 5)])
def test_as_many_generations_are_kept_as_a_sample_can_ask_for_and_one_that_stands_for_all_before(disorder, grid, kept):
    r = Reader(disorder=disorder, grid=grid)
    for t in range(0, 900, 10):
        for close in only(r.read(0, ("a", t)), Close):
            assert not set(close.drop) & set(r.gather.generations)
        assert len(r.gather.generations) <= kept
        assert r.gather.wanted(t - t % grid - disorder) >= r.gather.generations[0]
    assert len(r.gather.generations) == kept
    assert kept == math.ceil(disorder / grid) + 4


def test_every_generation_but_those_kept_is_dropped_once():
    r = Reader()
    events = r.read(0, *(("a", t) for t in range(0, 500, 10)))
    closes = only(events, Close)
    dropped = [g for close in closes for g in close.drop]
    assert sorted([*dropped, *r.gather.generations]) == [START, *(close.instant for close in closes)]


# Aside


def test_a_sample_ahead_of_what_its_stamp_allows_is_set_aside_and_holds_nothing():
    r = Reader()
    events = r.read(0, ("fast", 500), ("a", 100), stamp=100)
    assert r.samples(events) == [("a", 100)]
    assert [h[1] for h in r.part().aside] == [500]


def test_it_is_taken_up_by_time_just_before_the_first_record_whose_clock_allows_it():
    r = Reader()
    r.read(0, ("fast", 300), ("fast", 210), ("fast", 200), stamp=100)
    assert r.samples(r.read(0, ("a", 180), ("a", 189))) == [("a", 180)]
    assert r.samples(r.read(0, ("a", 205))) == [("fast", 200), ("fast", 210), ("a", 200)]
    assert [h[1] for h in r.part().aside] == [300]


def test_a_partition_whose_clocks_all_run_ahead_is_still_read():
    r = Reader(max_held=3)
    events = []
    for t in range(0, 100, 10):
        assert r.gather.limit(Source("t", 0)) is None
        events += r.read(0, ("fast", t + 1000), stamp=t)
    assert [(e.rejection.reason, e.rejection.series) for e in only(events, Refused)] == [("future", "fast")] * 7
    assert r.gather.totals() == {"consumed": 10, "used": 3, "duplicate": 0, "late": 0, "rejected": 7}


# Blocks and positions


def test_a_block_that_repeats_what_was_read_is_dropped():
    r = Reader()
    r.read(0, ("a", 0), ("a", 10))
    before = r.gather.state()
    assert r.gather.add(block(0, 0, [Record(0, 0, 0.0, (("a", 0, 1.0),))], 1, 2.0)) == []
    assert r.gather.state() == before


@pytest.mark.parametrize(("first", "end"), [(3, 4), (1, 3)])
def test_a_block_that_does_not_join_stops_everything(first, end):
    r = Reader()
    r.read(0, ("a", 0), ("a", 10))
    with pytest.raises(LedgerBroken, match="stands at 2"):
        r.gather.add(block(0, first, [Record(first, 0, 0.0, (("a", 20, 1.0),))], end, 1.0))


def test_a_block_of_an_unknown_partition_stops_everything():
    with pytest.raises(LedgerBroken, match="not a partition"):
        Reader().gather.add(block(7, 0, [], 0, 1.0))


def test_only_positions_have_to_join_not_offsets():
    r = Reader()
    r.read(0, ("a", 0), ("a", 10), skip=3)
    r.read(0, ("a", 20))
    assert r.part().position == 9
    assert r.gather.totals()["consumed"] == 3


def test_a_partition_starts_wherever_its_first_block_does():
    r = Reader()
    r.end[0] = 1000
    r.mark()
    assert r.part().position == 1000


def test_a_decision_names_the_position_behind_the_record_before_whatever_gap_follows():
    r = behind_learning()
    r.end[1] += 4  # control records
    r.gather.add(block(1, 1, [], r.end[1], 10.0))
    r.read(1, ("late", -100), ("b", 50), skip=2)
    assert r.gather.decisions == [Decision(Source("t", 1), 6, 90)]


def test_the_observations_of_one_record_are_read_before_any_instant_passes():
    r = Reader()
    r.read(0, ("a", 0))
    events = r.read(0, [("a", 20), ("b", 10), ("c", 10)])
    assert r.samples(events) == [("a", 20), ("b", 10), ("c", 10)]
    assert isinstance(events[-1], Close)


def test_a_wide_record_that_wakes_its_partition_is_one_decision_before_it():
    r = behind_learning()
    r.read(1, [("b", 50), ("c", 50), ("d", 60)])
    assert r.gather.decisions == [Decision(Source("t", 1), 1, 90)]


def test_what_decoding_rejected_is_consumed_and_rejected_and_what_was_not_asked_for_is_filtered():
    r = Reader()
    r.read(0, None, ("a", 0), None)
    r.filtered()
    assert r.gather.totals() == {"consumed": 3, "used": 1, "duplicate": 0, "late": 0, "rejected": 2}
    assert r.part().filtered == 1


# Who is a series


def test_beyond_the_quota_a_new_series_is_refused_and_the_known_ones_are_untouched():
    r = Reader(quota=2)
    events = r.read(0, ("a", 0), ("b", 0), ("c", 0), ("a", 10), ("c", 10))
    assert [(e.rejection.series, e.rejection.reason, e.raw.offset) for e in only(events, Refused)] == [
        ("c", "too_many_series", 2),
        ("c", "too_many_series", 4),
    ]
    assert r.samples(events) == [("a", 0), ("b", 0), ("a", 10)]


def test_the_quota_is_each_partitions_own():
    r = Reader(2, quota=1)
    r.read(0, ("a", 0))
    assert only(r.read(1, ("b", 0)), Admit)


def test_a_series_without_data_for_long_gives_up_its_place_by_its_partitions_clock():
    r = Reader(quota=2, forget_after=100)
    r.read(0, ("a", 0), ("b", 100))
    assert only(r.read(0, ("c", 100)), Refused)
    assert only(r.read(0, ("b", 101), ("c", 101)), Admit)


def test_an_explicit_null_keeps_a_series_its_place():
    r = Reader(quota=2, forget_after=100)
    r.read(0, ("a", 0), ("a", 50, math.nan), ("b", 101))
    assert only(r.read(0, ("c", 101)), Refused)


def test_what_is_refused_moves_no_clock():
    r = Reader(quota=1, forget_after=100)
    r.read(0, ("a", 0), ("b", 500))
    assert r.part().clock == 0
    assert "a" in r.gather.names


def test_a_forgotten_series_is_forgotten_with_the_first_instant_after_the_clock_that_left_it_behind():
    r = Reader(forget_after=100)
    r.read(0, ("a", 0), ("b", 0))
    events = r.read(0, ("b", 105))
    assert not only(events, Forget)
    assert r.gather.forgotten == 1
    events = r.read(0, ("b", 115), ("b", 120))
    assert [type(e) for e in events][-2:] == [Close, Forget]
    assert [r.gather.series[e.slot][0] for e in only(events, Forget)] == ["a"]


def test_what_is_held_or_open_of_a_forgotten_series_is_released_and_learnt_before_it_is_forgotten():
    r = Reader(2, forget_after=100)
    r.read(0, ("slow", 0))
    r.read(1, ("b", 50), ("c", 500))
    assert "b" not in r.gather.names
    events = r.read(0, ("slow", 500), ("slow", 540)) + r.read(1, ("c", 540))
    kinds = [(type(e).__name__, getattr(e, "cell", None)) for e in events if not isinstance(e, Admit)]
    slot = next(e.slot for e in events if isinstance(e, Forget))
    assert r.gather.series[slot][0] == "b"
    assert kinds.index(("Sample", 50)) < kinds.index(("Forget", None))
    assert any((slot, 50, 1.0) in e.cells for e in only(events[: kinds.index(("Forget", None))], Close))


def test_a_series_on_its_way_out_is_forgotten_after_a_restore_as_well():
    r = Reader(forget_after=100)
    r.read(0, ("a", 0), ("b", 105))
    r.gather = Gather.restore(r.gather.rules, r.gather.state())
    assert "a" not in r.gather.names
    assert len(only(r.read(0, ("b", 115), ("b", 120)), Forget)) == 1


def test_a_slot_is_given_to_another_series_only_after_the_block_in_which_it_was_forgotten():
    r = Reader(forget_after=100)
    r.read(0, ("a", 0))
    events = r.read(0, ("b", 105), ("b", 120), ("b", 130), ("c", 140))
    assert {r.gather.series[e.slot][0] for e in only(events, Forget)} == {"a"}
    (admitted,) = only(r.read(0, ("d", 140)), Admit)
    assert admitted.slot == only(events, Forget)[0].slot


def test_a_series_that_comes_back_in_the_same_block_is_not_taken_for_the_one_that_has_its_slot():
    r = Reader(forget_after=20, disorder=0)
    events = r.read(0, ("a", 0), ("b", 50), ("b", 60), ("b", 70), ("c", 70), ("a", 80, 5.0))
    names = {}
    for e in events:
        if isinstance(e, Admit):
            names[e.slot] = e.series
    assert [names[e.slot] for e in only(events, Sample)] == ["a", "b", "b", "b", "c", "a"]


def test_a_series_lives_on_where_a_second_partition_has_it_and_is_counted():
    r = Reader(2, forget_after=100)
    r.read(0, ("a", 0), ("x", 0))
    r.read(1, ("a", 50), ("y", 50))
    assert len(r.gather.elsewhere) == 1
    r.read(0, ("x", 200))
    assert "a" in r.gather.names
    r.read(1, ("y", 300))
    assert "a" not in r.gather.names
    assert not r.gather.elsewhere
