"""The engine with a small pipeline: exactly once through crashes, recovery, stopping, timers, delays."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import engine_world
import pytest
from engine_world import Crash, World, expected

from pipeline.engine import StateLost

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
    with pytest.raises(Crash):
        World(tmp_path, NUMBERS).run(crash_at(point, nth)).wait_until_finish()

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
    assert world.account() == calm.account()
    assert world.mismatches == 0
