"""The engine with a small pipeline: exactly once through crashes, recovery, stopping, timers, delays."""

from __future__ import annotations

import errno
import functools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import engine_world
import pytest
from apache_beam.runners.runner import PipelineState
from engine_world import Crash, Fenced, World, expected

from pipeline import engine
from pipeline.engine import LocalRunner, SnapshotFailed, StateLost

NUMBERS = {"a": list(range(1, 60)), "b": [5, 3, 2], "c": [7] * 40}
POINTS = ("before_snapshot_rename", "after_snapshot_rename", "before_commit", "after_commit")


def crash_at(name: str, nth: int) -> Callable[[str], None]:
    seen: Counter[str] = Counter()

    def point(at: str) -> None:
        seen[at] += 1
        if at == name and seen[at] == nth:
            raise Crash(f"{name} {nth}")

    return point


@pytest.mark.parametrize("nth", [1, 2, 4])
@pytest.mark.parametrize("point", POINTS)
def test_every_output_is_committed_once_through_a_crash_at_every_point(tmp_path: Path, point: str, nth: int) -> None:
    world = World(tmp_path, NUMBERS)
    world.delay = 0.005  # so that four snapshots are written before the end, however slow the disk
    with pytest.raises(Crash):
        world.run(crash_at(point, nth)).wait_until_finish()

    world = World(tmp_path, NUMBERS)
    world.run().wait_until_finish()

    assert world.committer.outputs() == expected(NUMBERS)
    assert world.mismatches == 0


def test_crashing_again_and_again_ends_in_the_state_of_a_run_without_crashes(tmp_path: Path) -> None:
    (tmp_path / "calm").mkdir()
    calm = World(tmp_path / "calm", NUMBERS)
    calm.run().wait_until_finish()

    for nth in range(1, 30):
        world = World(tmp_path, NUMBERS)
        try:
            world.run(crash_at(POINTS[nth % len(POINTS)], 2), snapshot_every_s=0.0 if nth % 3 else 60.0).wait_until_finish()
        except Crash:
            continue
        break

    assert nth > 5, "the crashes did not happen"
    assert world.committer.outputs() == calm.committer.outputs()
    assert world.committer.records()[-1]["account"] == calm.committer.records()[-1]["account"]
    assert world.mismatches == 0


def named(world: World) -> list[Path]:
    """The files that the last commit names, newest first."""
    record = world.committer.last()
    assert record is not None
    return [tmp for name in (record["snapshot"], record["before"]) if (tmp := world.folder / "state" / f"{name}.snapshot").exists()]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def crashed(folder: Path) -> World:
    """A world that died with two named snapshots and something to repeat."""
    world = World(folder, NUMBERS)
    named_two = 0

    def point(at: str) -> None:
        nonlocal named_two
        record = world.committer.last()
        named_two += at == "after_commit" and record is not None and record["before"] is not None
        if named_two == 3:
            raise Crash

    with pytest.raises(Crash):
        world.run(point).wait_until_finish()
    assert len(named(world)) == 2
    return world


def test_the_snapshots_that_a_commit_names_are_always_there_and_few_others(tmp_path: Path) -> None:
    world = World(tmp_path, NUMBERS)
    counts = []

    def look(at: str) -> None:
        record = world.committer.last()
        if at in {"before_commit", "after_commit"} and record is not None:
            files = {path.stem for path in (tmp_path / "state").glob("*.snapshot")}
            assert {record["snapshot"], record["before"]} - {None} <= files
            counts.append(len(files))

    world.run(look).wait_until_finish()

    assert len(counts) > 5
    assert max(counts) <= 4  # the two named by the commit before, one newer, one being written


def test_a_damaged_snapshot_is_replaced_by_the_one_before(tmp_path: Path) -> None:
    damage(named(crashed(tmp_path))[0])

    world = World(tmp_path, NUMBERS)
    world.run().wait_until_finish()

    assert world.committer.outputs() == expected(NUMBERS)
    assert world.mismatches == 0


def test_without_a_snapshot_that_can_be_read_the_state_is_lost(tmp_path: Path) -> None:
    for path in named(crashed(tmp_path)):
        damage(path)

    with pytest.raises(StateLost, match=r"SHA-256.*; .*SHA-256"):
        World(tmp_path, NUMBERS).run().wait_until_finish()


def test_a_lost_folder_with_a_commit_is_a_lost_state_and_says_what_to_do(tmp_path: Path) -> None:
    crashed(tmp_path)
    shutil.rmtree(tmp_path / "state")

    with pytest.raises(StateLost, match="Bring the state folder back"):
        World(tmp_path, NUMBERS).run().wait_until_finish()


def test_a_folder_with_state_but_no_commit_is_refused(tmp_path: Path) -> None:
    crashed(tmp_path)
    (tmp_path / "committed.sqlite").unlink()

    with pytest.raises(StateLost, match="right broker"):
        World(tmp_path, NUMBERS).run().wait_until_finish()


def test_a_snapshot_of_another_pipeline_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashed(tmp_path)
    plain = engine_world.flow
    monkeypatch.setattr(
        engine_world, "flow", lambda pipeline, partitions: (plain(pipeline, partitions), pipeline | "more" >> beam.Create([1]))
    )

    with pytest.raises(StateLost, match="another shape"):
        World(tmp_path, NUMBERS).run().wait_until_finish()


def test_a_full_disk_ends_the_job_and_leaves_the_last_good_snapshots(tmp_path: Path) -> None:
    def full(at: str) -> None:
        if at == "before_snapshot_rename" and len(list((tmp_path / "state").glob("*.snapshot"))) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SnapshotFailed, match="No space left"):
        World(tmp_path, NUMBERS).run(full).wait_until_finish()
    assert not list((tmp_path / "state").glob("*.unfinished"))

    world = World(tmp_path, NUMBERS)
    world.run().wait_until_finish()
    assert world.committer.outputs() == expected(NUMBERS)


def test_a_snapshot_holds_bytes_of_coders_and_nothing_pickled(tmp_path: Path) -> None:
    for path in named(crashed(tmp_path)):
        assert b"engine_world" not in path.read_bytes()
        assert b"apache_beam" not in path.read_bytes()
        assert b"restriction_trackers" not in path.read_bytes()


def test_what_a_function_raises_ends_the_job_and_the_next_start_goes_on(tmp_path: Path) -> None:
    numbers = NUMBERS | {"b": [5, ValueError("unlucky"), 2]}
    world = World(tmp_path, numbers)
    result = world.run()
    with pytest.raises(ValueError, match="unlucky"):
        result.wait_until_finish()
    assert result.state == PipelineState.FAILED

    after = World(tmp_path, numbers)
    after.raised = world.raised
    after.run().wait_until_finish()
    assert after.committer.outputs() == expected(numbers)


def test_a_second_committer_ends_the_first_job_with_its_error(tmp_path: Path) -> None:
    world = World(tmp_path, NUMBERS)
    world.hold = {"a": 20}
    result = world.run()
    until(lambda: len(world.committer.records()) > 2)
    engine_world.Committer(world.committer.path)
    world.hold = {}

    with pytest.raises(Fenced):
        result.wait_until_finish()


def until(happens: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def test_stopping_commits_and_the_next_start_processes_nothing_again(tmp_path: Path) -> None:
    world = World(tmp_path, NUMBERS)
    world.hold = {"a": 30}
    result = world.run(interval_s=3600.0, snapshot_every_s=3600.0)
    until(lambda: world.processed == 30 + 3 + 40)
    result.stop()
    assert result.wait_until_finish() == PipelineState.DONE
    assert len(world.committer.outputs()) == 73

    after = World(tmp_path, NUMBERS)
    reads = []
    after.committer.mute = lambda muted: reads.append(after.asked)
    after.run().wait_until_finish()
    assert after.committer.outputs() == expected(NUMBERS)
    assert after.processed == 29
    assert reads[1] - reads[0] <= 4, "something was repeated"


def test_cancelling_leaves_what_was_not_committed_to_the_next_start(tmp_path: Path) -> None:
    world = World(tmp_path, NUMBERS)
    world.hold = {"a": 30}
    result = world.run(interval_s=3600.0)
    until(lambda: world.processed == 73)
    assert result.cancel() == PipelineState.CANCELLED
    committed = len(world.committer.outputs())
    assert committed < 73

    after = World(tmp_path, NUMBERS)
    after.run().wait_until_finish()
    assert after.committer.outputs() == expected(NUMBERS)
    assert after.processed == len(expected(NUMBERS)) - committed


def test_a_job_without_durability_ends_when_all_is_done(tmp_path: Path) -> None:
    world = World(tmp_path, NUMBERS)
    engine_world.WORLD = world
    with beam.Pipeline(runner=LocalRunner()) as pipeline:
        engine_world.flow(pipeline, sorted(NUMBERS))
    assert dict(world.committer.buffer) == expected(NUMBERS)


def test_an_idle_source_is_asked_as_often_as_it_said_and_costs_no_commits(tmp_path: Path) -> None:
    world = World(tmp_path, {"a": [1, 2]})
    world.hold, world.delay = {"a": 1}, 0.1
    result = world.run(snapshot_every_s=60.0)
    until(lambda: world.asked >= 3)
    asked, commits, cpu, began = world.asked, len(world.committer.records()), time.process_time(), time.monotonic()
    time.sleep(1.0)
    more, most = world.asked - asked, (time.monotonic() - began) / world.delay + 1
    assert 5 <= more <= most
    assert len(world.committer.records()) == commits
    assert time.process_time() - cpu < 0.5
    result.cancel()


def test_a_wake_ends_every_delay_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, {"a": [1, 2], "b": [3, 4]})
    world.hold, world.delay = {"a": 1, "b": 1}, 3600.0
    result = world.run()
    until(lambda: world.processed == 2)
    world.hold = {}
    for processed in (3, 4):
        engine.wake()
        until(lambda processed=processed: world.processed >= processed)
    engine.wake()
    assert result.wait_until_finish() == PipelineState.DONE


def test_a_commit_that_is_due_does_not_wait_for_the_input_to_pause(tmp_path: Path) -> None:
    world = World(tmp_path, {"a": [1] * 100_000})
    result = world.run(interval_s=0.1)
    until(lambda: world.processed > 0)
    time.sleep(2.0)
    result.cancel()
    assert len(world.committer.records()) >= 10


TOLD: list[tuple[str, bool]] = []  # output, and whether it was committed when its bundle was told


class Tell(beam.DoFn):
    def process(self, output: tuple[str, int], finalizer: Any = beam.DoFn.BundleFinalizerParam) -> Iterator[tuple[str, int]]:
        finalizer.register(lambda: TOLD.append((output[0], output[0] in engine_world.WORLD.committer.outputs())))
        yield output


def test_bundle_finalizers_are_called_after_the_commit_that_holds_their_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_world, "flow", functools.partial(engine_world.flow, then=beam.ParDo(Tell())))
    TOLD.clear()
    World(tmp_path, {"a": [1, 2, 3]}).run().wait_until_finish()
    assert sorted(TOLD) == [("a/0", True), ("a/1", True), ("a/2", True)]
