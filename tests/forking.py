"""The server that forks processes for tests: started, and ended."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

CONTEXT = multiprocessing.get_context("forkserver")
ROOT = str(Path(__file__).parents[1])


@contextmanager
def server(modules: list[str]) -> Iterator[None]:
    """While it lasts, `CONTEXT` forks processes of one that has imported these; each is new all the same."""
    CONTEXT.set_forkserver_preload([*modules, "tests.settled"])
    ours = os.pathsep.join([ROOT, *(path for path in sys.path if path)])  # the server itself is not told
    with patch.dict(os.environ, {"PYTHONPATH": ours}):
        try:
            forkserver.ensure_running()
            yield
        finally:
            for left in multiprocessing.active_children():  # of a test that failed: the server would wait for it for ever
                left.kill()
                left.join()
            forkserver._forkserver._stop()
