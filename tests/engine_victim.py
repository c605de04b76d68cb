"""A process that runs the small pipeline, and dies or stops where it is told to."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from engine_world import Fenced, World

FENCED = 70


def live(folder: Path, numbers: dict[str, list[int]], where: str, nth: int, *, delay: float = 0.0, how: int = signal.SIGKILL) -> None:
    """Run to the end, or be signalled at the nth time that the named point is passed; "time": killed after so many milliseconds."""
    seen: Counter[str] = Counter()

    def point(at: str) -> None:
        seen[at] += 1
        if at == where and seen[at] == nth:
            with nullcontext() if how == signal.SIGKILL else world.committer.writing:
                signal.pthread_kill(threading.get_ident(), how)  # returns when it goes on, and not before the others stand still, too

    if where == "time":
        threading.Timer(nth / 1000, os.kill, (os.getpid(), signal.SIGKILL)).start()
    world = World(folder, numbers)
    world.delay = delay
    try:
        world.run(point, snapshot_every_s=0.01).wait_until_finish()
    except Fenced:
        os._exit(FENCED)
    os._exit(0)  # a timer that has not gone off is of no use any more
