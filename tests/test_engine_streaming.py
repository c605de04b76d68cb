"""Timers, groups, side inputs and watermarks while a source goes on."""

# ruff: noqa: B008 - Beam declares what a function is given in its defaults

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import engine_world
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.runners.runner import PipelineState
from apache_beam.transforms import trigger, window
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Duration, Timestamp
from engine_world import World

from pipeline.engine import EngineError, LocalRunner, NotDurable
from pipeline.engine.graph import refuse_foreign


def until(happens: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


class Alarm(beam.DoFn):
    """Says that each of its two timers rang; how many did is in the live state, so that a commit follows."""

    EVENT = TimerSpec("event", TimeDomain.WATERMARK)
    CLOCK = TimerSpec("clock", TimeDomain.REAL_TIME)

    def process(
        self, output: tuple[str, int], event: Any = beam.DoFn.TimerParam(EVENT), clock: Any = beam.DoFn.TimerParam(CLOCK)
    ) -> Iterator[tuple[str, int]]:
        event.set(Timestamp(100))
        clock.set(Timestamp(time.time() + 1.0))
        yield output

    @on_timer(EVENT)
    def rang(self, key: str = beam.DoFn.KeyParam) -> Iterator[tuple[str, int]]:
        yield self.say(f"{key} event")

    @on_timer(CLOCK)
    def struck(self, key: str = beam.DoFn.KeyParam) -> Iterator[tuple[str, int]]:
        yield self.say(f"{key} clock")

    def say(self, what: str) -> tuple[str, int]:
        sums = engine_world.WORLD.live.sums
        sums["alarms"] = sums.get("alarms", 0) + 1
        return what, sums["alarms"]


def test_timers_survive_a_restart_and_ring_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_world, "flow", functools.partial(engine_world.flow, then=beam.ParDo(Alarm())))
    world = World(tmp_path, {"a": [1, 2]})
    world.hold = {"a": 1}
    result = world.run()
    until(lambda: world.processed == 1)
    result.stop()
    result.wait_until_finish()
    assert set(world.committer.outputs()) == {"a/0"}

    world = World(tmp_path, {"a": [1, 2]})
    world.hold = {"a": 1}
    result = world.run()
    until(lambda: "a/0 clock" in world.committer.outputs())
    assert "a/0 event" not in world.committer.outputs()
    world.hold = {}
    result.wait_until_finish()
    assert set(world.committer.outputs()) == {"a/0", "a/1"} | {f"a/{n} {what}" for n in range(2) for what in ("event", "clock")}


def test_an_open_group_cannot_be_made_durable_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = trigger.Repeatedly(trigger.AfterCount(100))
    windows = beam.WindowInto(window.GlobalWindows(), trigger=many, accumulation_mode=trigger.AccumulationMode.DISCARDING)
    then = windows | "Together" >> beam.GroupByKey() | beam.Map(lambda grouped: (grouped[0], sum(grouped[1])))
    monkeypatch.setattr(engine_world, "flow", functools.partial(engine_world.flow, then=then))
    with pytest.raises(NotDurable, match=r"GroupByKey '.*Together' holds 1 open keys"):
        World(tmp_path, {"a": [1, 2, 3]}).run().wait_until_finish()


class Ticks(RestrictionProvider):
    def initial_restriction(self, _element: int) -> OffsetRange:
        return OffsetRange(0, 1_000_000)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, _element: int, _restriction: OffsetRange) -> int:
        return 1


class Clock(beam.DoFn):
    """Counts seconds of event time, for ever: (second % 2, second), with the watermark right behind."""

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        _element: int,
        tracker: Any = beam.DoFn.RestrictionParam(Ticks()),
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider()),
    ) -> Iterator[Any]:
        second = tracker.current_restriction().start
        if tracker.try_claim(second):
            yield window.TimestampedValue((second % 2, second), second)
            watermark.set_watermark(Timestamp(second))
            tracker.defer_remainder(Duration(0.001))


SEEN: list[Any] = []


def see(*seen: Any) -> None:  # a function of the module: a lambda would be pickled with a SEEN of its own
    SEEN.append(seen[0] if len(seen) == 1 else seen)


def watch(transform: beam.PTransform, *, enough: int) -> list[Any]:
    """What the transform makes of the clock, until there is enough."""
    SEEN.clear()
    pipeline = beam.Pipeline(runner=LocalRunner())
    ticks = pipeline | beam.Create([0]) | beam.ParDo(Clock()).with_output_types(tuple[int, int])
    ticks | transform | beam.Map(see)
    result = pipeline.run()
    until(lambda: len(SEEN) >= enough or result.state == PipelineState.FAILED)
    assert result.cancel() == PipelineState.CANCELLED
    return SEEN[:enough]


def test_windows_close_as_the_watermark_passes_and_not_before() -> None:
    windows = watch(beam.WindowInto(window.FixedWindows(10)) | beam.GroupByKey(), enough=4)
    assert sorted(windows[:2]) == [(0, [0, 2, 4, 6, 8]), (1, [1, 3, 5, 7, 9])]
    assert sorted(windows[2:]) == [(0, [10, 12, 14, 16, 18]), (1, [11, 13, 15, 17, 19])]


def test_a_trigger_on_a_count_fires_inside_its_window() -> None:
    threes = beam.WindowInto(
        window.GlobalWindows(), trigger=trigger.Repeatedly(trigger.AfterCount(3)), accumulation_mode=trigger.AccumulationMode.DISCARDING
    )
    assert sorted(watch(threes | beam.GroupByKey(), enough=4)) == [(0, [0, 2, 4]), (0, [6, 8, 10]), (1, [1, 3, 5]), (1, [7, 9, 11])]


def test_a_trigger_on_the_clock_fires_without_any_watermark() -> None:
    often = beam.WindowInto(
        window.GlobalWindows(),
        trigger=trigger.Repeatedly(trigger.AfterProcessingTime(0)),
        accumulation_mode=trigger.AccumulationMode.DISCARDING,
    )
    panes = watch(often | beam.GroupByKey(), enough=4)
    assert {key for key, _ in panes} == {0, 1}


class Later(beam.DoFn):
    """An event-time timer five seconds after each second: how many seconds had come when it rang."""

    COUNT = ReadModifyWriteStateSpec("count", VarIntCoder())
    TIMER = TimerSpec("later", TimeDomain.WATERMARK)

    def process(
        self,
        tick: tuple[int, int],
        at: Timestamp = beam.DoFn.TimestampParam,
        count: Any = beam.DoFn.StateParam(COUNT),
        timer: Any = beam.DoFn.TimerParam(TIMER),
    ) -> None:
        count.write((count.read() or 0) + 1)
        timer.set(at + 5, dynamic_timer_tag=str(tick[1]))

    @on_timer(TIMER)
    def rang(
        self, count: Any = beam.DoFn.StateParam(COUNT), tag: str = beam.DoFn.DynamicTimerTagParam, key: int = beam.DoFn.KeyParam
    ) -> Iterator[Any]:
        yield key, int(tag), count.read()


def test_event_time_timers_ring_in_order_as_their_instant_passes() -> None:
    rings = watch(beam.ParDo(Later()), enough=6)
    assert [(key, tick) for key, tick, _ in rings] == [(n % 2, n) for n in range(6)]
    assert [count for _, _, count in rings] == [3, 3, 4, 4, 5, 5]  # of its own key: the ticks up to five seconds later


def test_a_side_input_is_waited_for_and_seen_by_every_element() -> None:
    SEEN.clear()
    with beam.Pipeline(runner=LocalRunner()) as pipeline:
        side = pipeline | "side" >> beam.Create([("x", 1), ("y", 2)]) | beam.GroupByKey() | beam.Map(lambda kv: (kv[0], sum(kv[1])))
        main = pipeline | "main" >> beam.Create([10, 20])
        main | beam.Map(see, beam.pvalue.AsDict(side))
    assert sorted(SEEN, key=str) == [(10, {"x": 1, "y": 2}), (20, {"x": 1, "y": 2})]


def test_another_language_has_no_place_in_this_process() -> None:
    stage = SimpleNamespace(name="Java", environment="docker")
    context = SimpleNamespace(components=SimpleNamespace(environments={"docker": SimpleNamespace(urn="beam:env:docker:v1")}))
    with pytest.raises(EngineError, match="stage Java asks for the environment beam:env:docker:v1"):
        refuse_foreign(stage, context)
