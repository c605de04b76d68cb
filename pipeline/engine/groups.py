"""GroupByKey over a stream: Beam's own trigger driver, one state per key.

Only what fires leaves; what is open is held in memory, and holds the watermark of those downstream.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from apache_beam.coders import Coder
from apache_beam.coders.coder_impl import create_InputStream, create_OutputStream
from apache_beam.runners.direct.clock import RealClock
from apache_beam.transforms import trigger
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.utils.timestamp import Timestamp

from pipeline.engine.stages import MAX, MIN


class Group:
    """One GroupByKey. `name` is for messages; coders are those of its input and output PCollection."""

    def __init__(self, name: str, before: Coder, after: Coder, windowing: Windowing) -> None:
        self.name = name
        self.watermark = MIN  # us; of the input
        self._before = before.get_impl()
        self._key = before.key_coder().get_impl()
        self._after = after.get_impl()
        self._lateness = windowing.allowed_lateness
        self._driver = trigger.create_trigger_driver(windowing, clock=RealClock())
        self._open: dict[bytes, trigger.InMemoryUnmergedState] = {}
        self._firing: list[tuple[int, bytes]] = []  # heap of (us, key): when to look at a key again; it may be gone by then
        self._clocked: set[bytes] = set()  # keys with processing-time timers
        self._hold: int | None = None  # us; None: look again

    def add(self, chunk: bytes) -> bytes:
        """Encoded (key, value) pairs in, the panes that fire by them out."""
        arrived: dict[bytes, list[Any]] = defaultdict(list)
        source = create_InputStream(chunk)
        while source.size() > 0:
            windowed = self._before.decode_from_stream(source, True)  # noqa: FBT003 - Beam's `nested`, positional there
            key, value = windowed.value
            arrived[self._key.encode(key)].append(windowed.with_value(value))
        panes: list[Any] = []
        now = Timestamp(micros=self.watermark)
        for key, values in arrived.items():
            state = self._open.setdefault(key, trigger.InMemoryUnmergedState())
            panes += self._keyed(key, self._driver.process_elements(state, values, now, now))
            self._settle(key, state)
        return self._encode(panes)

    def advance(self, watermark: int, now: float) -> bytes:
        """Move to a watermark (us) and a wall clock (s): the panes that fire by them."""
        self.watermark = max(self.watermark, watermark)
        instant = Timestamp(micros=self.watermark)
        due = set(self._clocked)
        while self._firing and self._firing[0][0] <= self.watermark:
            due.add(heapq.heappop(self._firing)[1])
        panes: list[Any] = []
        for key in sorted(due & self._open.keys()):
            state = self._open[key]
            expired, _ = state.get_timers(clear=True, watermark=instant, processing_time=Timestamp(now))
            for window, (name, domain, at, _tag) in expired:
                panes += self._keyed(key, self._driver.process_timer(window, name, domain, at, state, instant))
            self._settle(key, state)
        return self._encode(panes)

    @property
    def clocked(self) -> bool:
        """It waits for the wall clock."""
        return bool(self._clocked)

    @property
    def hold(self) -> int:
        """The event time (us) that no pane still to come is older than."""
        if self._hold is None:
            self._hold = min((state.get_earliest_hold().micros for state in self._open.values()), default=MAX)
        return self._hold

    @property
    def keys(self) -> int:
        """How many keys are open."""
        return len(self._open)

    def _keyed(self, key: bytes, panes: Iterable[Any]) -> list[Any]:
        return [pane.with_value((self._key.decode(key), list(pane.value))) for pane in panes]

    def _settle(self, key: bytes, state: trigger.InMemoryUnmergedState) -> None:
        """Note when the key has to be looked at again, or forget it when nothing can come of it any more."""
        self._hold = None
        timers = [(domain, at) for timers in state.timers.values() for (_, domain, _), at in timers.items()]
        self._clocked.discard(key)
        if any(domain == TimeDomain.REAL_TIME for domain, _ in timers):
            self._clocked.add(key)
        event = [at.micros for domain, at in timers if domain == TimeDomain.WATERMARK]
        ends = [self._end(window) for window in trigger.MergeableStateAdapter(state).known_windows()]
        if timers or any(end > self.watermark for end in ends):
            heapq.heappush(self._firing, (min(event or ends or [MAX]), key))
        else:
            del self._open[key]

    def _end(self, window: Any) -> int:
        """When a window can take nothing more (us)."""
        return min(int((window.end + self._lateness).micros), MAX)

    def _encode(self, panes: list[Any]) -> bytes:
        out = create_OutputStream()
        for pane in panes:
            self._after.encode_to_stream(pane, out, True)  # noqa: FBT003
        return bytes(out.get())
