"""Ctrl-C and SIGTERM as a wish to stop, for whoever has something to finish first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stop(threading.Event):
    """Set when it is time to end; `interrupted` when that was Ctrl-C."""

    interrupted = False


@contextmanager
def until_told_to_stop() -> Iterator[Stop]:
    """Turns Ctrl-C and SIGTERM into a wish to stop; the second Ctrl-C is Python's own."""
    stop = Stop()

    def told(number: int, _: object) -> None:
        stop.interrupted = number == signal.SIGINT
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
