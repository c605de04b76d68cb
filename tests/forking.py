"""The server that forks processes for tests, and its end."""

import multiprocessing
from multiprocessing import forkserver


def end() -> None:
    """Stop the server, and before it what is left of a test that failed: it would wait for that for ever."""
    for left in multiprocessing.active_children():
        left.kill()
        left.join()
    forkserver._forkserver._stop()
