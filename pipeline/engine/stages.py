"""A stage between its bundles: what waits for it, what it put off, its timers, its watermarks.

Watermarks are microseconds of event time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from apache_beam.coders.coder_impl import create_OutputStream
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP

from pipeline.engine.bundles import Outcome, TimerFamily, Worker

MIN: int = MIN_TIMESTAMP.micros
MAX: int = MAX_TIMESTAMP.micros

# Elements of a splittable function in one bundle: what they give is worked on together, and a due commit waits for it. Who reads
# is to read less of each where there are many.
AT_ONCE = 16


class Residual(NamedTuple):
    """A splittable element, or what is left of one, and when to take it up."""

    due: float  # monotonic clock, s
    watermark: int
    transform: str
    element: bytes


class Timers:
    """The timers of one family.

    Encoded by the family's own coder wherever they cross a border: to the worker, to disk.
    """

    def __init__(self, coder: Any, *, event: bool) -> None:
        self.event = event  # False: processing time
        self._coder = coder
        self._set: dict[tuple[Any, str, Any], Any] = {}  # (key, tag, window) -> timer
        self.earliest = MAX + 1  # us, in the family's time domain
        self.hold = MAX  # us of event time: no output of these timers will be older

    def __bool__(self) -> bool:
        return bool(self._set)

    def update(self, chunks: Iterable[bytes]) -> None:
        """Take timers as a bundle wrote them: the last word for a key, tag and window counts."""
        for chunk in chunks:
            for timer in self._coder.decode_all(chunk):
                identity = (timer.user_key, timer.dynamic_timer_tag, timer.windows[0])
                if timer.clear_bit:
                    self._set.pop(identity, None)
                else:
                    self._set[identity] = timer
        self._look()

    def take(self, until: int) -> bytes:
        """Remove and encode the earliest timers due at `until`: those of one instant, since they may set or clear later ones."""
        if self.earliest > until:
            return b""
        due = [identity for identity, timer in self._set.items() if timer.fire_timestamp.micros == self.earliest]
        encoded = self._encode([self._set.pop(identity) for identity in due])
        self._look()
        return encoded

    def snapshot(self) -> bytes:
        return self._encode(self._set.values())

    def _look(self) -> None:
        self.earliest = min((timer.fire_timestamp.micros for timer in self._set.values()), default=MAX + 1)
        self.hold = min((timer.hold_timestamp.micros for timer in self._set.values()), default=MAX)

    def _encode(self, timers: Iterable[Any]) -> bytes:
        out = create_OutputStream()
        for timer in timers:
            self._coder.encode_to_stream(timer, out, True)  # noqa: FBT003 - Beam's `nested`, positional there
        return bytes(out.get())


class Stage:
    """One fused stage of the graph.

    `inputs` maps its inputs to the buffers they read (None: an impulse); `needs` are the buffers of its side inputs.
    A splittable stage never runs what waits for it in one go: each element becomes a residual that is due at once.
    """

    def __init__(self, *, name: str, worker: Worker, inputs: dict[str, bytes | None], needs: frozenset[bytes], splits: bool) -> None:
        self.name = name
        self.worker = worker
        self.inputs = inputs
        self.needs = needs
        self.splits = splits
        self.coders: dict[str, Any] = {}  # of the inputs, where it splits
        self.timers: dict[TimerFamily, Timers] = {}
        self.pending: dict[str, list[bytes]] = {}
        self.residuals: list[Residual] = []
        self.arrived = MIN  # input watermark
        self.passed = MIN  # output watermark

    def deliver(self, transform: str, chunk: bytes) -> None:
        """Encoded elements for one of the inputs."""
        if not self.splits:
            self.pending.setdefault(transform, []).append(chunk)
            return
        coder = self.coders[transform]
        for element in coder.decode_all(chunk):
            self.residuals.append(Residual(0.0, MIN, transform, coder.encode_nested(element)))

    def take_pending(self) -> dict[str, list[bytes]]:
        pending, self.pending = self.pending, {}
        return pending

    def take_due(self, now: float) -> dict[str, list[bytes]]:
        """The longest-waiting residuals that are due, a few of them."""
        due = sorted(residual for residual in self.residuals if residual.due <= now)[:AT_ONCE]
        data: dict[str, list[bytes]] = {}
        for residual in due:
            self.residuals.remove(residual)
            data.setdefault(residual.transform, []).append(residual.element)
        return data

    def hurry(self) -> None:
        """Make everything put off due now."""
        self.residuals = [residual._replace(due=0.0) for residual in self.residuals]

    def run(self, data: dict[str, list[bytes]], timers: dict[TimerFamily, bytes], now: float) -> Sequence[tuple[bytes, list[bytes]]]:
        """One bundle; keeps its timers and residuals, returns its outputs."""
        outcome: Outcome = self.worker.run(data, timers)
        for family, chunks in outcome.timers:
            if any(chunks):
                self.timers[family].update(chunks)
        for deferred in outcome.deferred:
            watermark = MIN if deferred.watermark is None else deferred.watermark
            self.residuals.append(Residual(now + max(0.0, deferred.delay), watermark, deferred.transform, deferred.element))
        return outcome.outputs

    def take_timers(self, now_us: int) -> dict[TimerFamily, bytes]:
        """The earliest due timers of one family."""
        for family, timers in self.timers.items():
            if encoded := timers.take(self.arrived if timers.event else now_us):
                return {family: encoded}
        return {}

    def arrive(self, watermark: int) -> None:
        """Raise the input watermark. What still waits, and what splittable elements are still to bring, hold it.

        The latter too, because Beam fuses a stateful function with the splittable one before it: its timers are here.
        """
        held = min([watermark, *(residual.watermark for residual in self.residuals)])
        self.arrived = max(self.arrived, min(held, self.passed) if self.pending else held)

    def pass_on(self) -> None:
        """Raise the output watermark as far as timers and waiting elements allow."""
        if not self.pending:
            self.passed = max(self.passed, min([self.arrived, *(timers.hold for timers in self.timers.values())]))
