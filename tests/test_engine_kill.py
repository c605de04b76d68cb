"""The engine in processes of its own, killed for real."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import engine_victim
import pytest
from engine_world import Committer, expected

NUMBERS = {"a": list(range(400)), "b": [3] * 50, "c": [7] * 150}
POINTS = ("before_snapshot_rename", "after_snapshot_rename", "before_commit", "after_commit")
KILLS = [(point, nth) for nth in (1, 2) for point in POINTS] + [("time", milliseconds) for milliseconds in (300, 400, 500)]


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    """Beam is imported once, in a server that forks; each process is new all the same."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["engine_victim"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))  # the server itself is not told ours
        forkserver.ensure_running()
    yield context
    forkserver._forkserver._stop()


def test_a_reader_of_what_is_committed_sees_every_output_once_through_kills(tmp_path: Path, processes: ForkServerContext) -> None:
    ends = []
    for where, nth in [*KILLS, ("nowhere", 0)]:
        victim = processes.Process(target=engine_victim.live, args=(tmp_path, NUMBERS, where, nth))
        victim.start()
        victim.join(60)
        ends.append(victim.exitcode)

    assert ends[: len(POINTS) * 2] == [-signal.SIGKILL] * len(POINTS) * 2
    assert ends[-1] == 0
    assert Committer(tmp_path / "committed.sqlite").outputs() == expected(NUMBERS)
