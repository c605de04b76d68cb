"""The engine in processes of its own, killed for real."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import engine_victim
from engine_world import Committer, expected

NUMBERS = {"a": list(range(400)), "b": [3] * 50, "c": [7] * 150}
POINTS = ("before_snapshot_rename", "after_snapshot_rename", "before_commit", "after_commit")
KILLS = [(point, nth) for nth in (1, 2) for point in POINTS] + [("time", milliseconds) for milliseconds in (300, 400, 500)]


PRELOADED = ["engine_victim"]  # see `processes`


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


def until_commits(folder: Path, count: int) -> dict[str, Any]:
    """The last record once there are that many."""
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(sqlite3.OperationalError):  # there is no table yet
            last = reader(folder).last()
            if last is not None and last["number"] >= count:
                return last
        assert time.monotonic() < end, "no commits"
        time.sleep(0.02)


def until_stopped(pid: int) -> None:
    """Once the process is stopped by a signal: `T` in what the kernel tells."""
    end = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < end, "it did not stop"
        time.sleep(0.02)


def reader(folder: Path) -> Committer:
    """Looks at what is committed without taking over."""
    looking = Committer.__new__(Committer)
    looking.path = folder / "committed.sqlite"
    return looking


def test_a_process_that_was_stopped_finds_itself_replaced_and_harms_nothing(tmp_path: Path, processes: ForkServerContext) -> None:
    def start(where: str = "nowhere", nth: int = 4, **how: Any) -> Any:
        process = processes.Process(target=engine_victim.live, args=(tmp_path, NUMBERS, where, nth), kwargs=how)
        process.start()
        return process

    # Stopped with a snapshot written that it has not taken notice of: what it does first is to clean up after it.
    zombie = start("after_snapshot_rename", delay=0.05, how=signal.SIGSTOP)
    until_stopped(zombie.pid)
    last = until_commits(tmp_path, 1)
    successor = start("after_commit", 8, delay=0.05, how=signal.SIGSTOP)
    until_stopped(successor.pid)
    until_commits(tmp_path, last["number"] + 8)
    os.kill(zombie.pid, signal.SIGCONT)
    zombie.join(60)
    assert zombie.exitcode == engine_victim.FENCED

    record = reader(tmp_path).last()
    assert record is not None
    assert record["before"] is not None
    assert all((tmp_path / "state" / f"{record[name]}.snapshot").exists() for name in ("snapshot", "before"))
    successor.kill()
    heir = start()
    heir.join(60)
    assert heir.exitcode == 0
    assert reader(tmp_path).outputs() == expected(NUMBERS)
