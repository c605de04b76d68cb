"""Kafka, or a file, to raw blocks: the only reader of the input.

One restriction per source, in offsets. Readers live in the process, not in the DoFn, which a runner makes and drops as it likes.
Nobody looks at event times here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import apache_beam as beam
import msgspec
from apache_beam import coders
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.utils.timestamp import Duration

from pipeline.dump import Dump, DumpReader, decisions
from pipeline.files import File, FileReader, FileUnreadable, WideRows
from pipeline.metrics import passed
from pipeline.poller import InputError, InputTrimmed, NotAuthorised, PartitionsAdded, Poller, TopicMissing, starts
from pipeline.records import Raw, RawBlock, Source

__all__ = [
    "Dump", "File", "FileUnreadable", "InputError", "InputTrimmed", "Kafka", "NotAuthorised", "PartitionsAdded", "Read", "TopicMissing",
    "WideRows", "close", "decisions", "lag", "lost", "read", "starts", "there",
]  # fmt: skip

GATE: Callable[[Source], int | None] | None = None
"""How far a source may be read now; None, or an answer of None: as far as there is."""

WAKE: Callable[[], None] | None = None
"""Called, from a reader's thread, when there is something to take."""

FOR_EVER = 1 << 62  # no log is that long
QUIET_SECONDS = 0.1  # a reader wakes the engine when something comes; this only bounds what a lost wake would cost
GATED_SECONDS = 0.02  # nobody tells us when a gate opens
LINGER_SECONDS = 0.05  # where a runner does not honour delays: longer would delay its checkpoints, shorter spin


class Reader(Protocol):
    """Something that hands out the blocks of its sources, in order."""

    def take(self, source: Source, position: int, limit: int | None) -> RawBlock | None:
        """The block, or mark, that begins at `position` and does not pass `limit`; None: nothing now."""
        ...

    def wait(self, seconds: float) -> None:
        """Returns when something may have come, or after so long."""
        ...

    def lag(self) -> dict[Source, int]:
        """Records that are there and have not been handed out."""
        ...

    def lost(self) -> dict[Source, int]:
        """Records that were gone before they could be read."""
        ...

    def close(self) -> None: ...


class Input(Protocol):
    """Where to read, as plain data that can be sent to another process."""

    def reader(self, wake: Callable[[], None]) -> Reader: ...


@dataclass(frozen=True)
class Kafka:
    """Brokers. `options`: kafka-python's, for the connection."""

    options: Mapping[str, Any] = field(repr=False)  # there are passwords in it
    accept_loss: bool = False  # go on where the log begins if what was to be read is gone

    def reader(self, wake: Callable[[], None]) -> Reader:
        return Poller(self.options, wake=wake, accept_loss=self.accept_loss)


_READERS: list[tuple[Input, Reader]] = []
_LOCK = threading.Lock()


def _wake() -> None:
    if WAKE is not None:
        WAKE()


def _reader(given: Input) -> Reader:
    """The process's reader of this input, made at the first call."""
    with _LOCK:
        for known, reader in _READERS:
            if known == given:
                return reader
        reader = given.reader(_wake)
        _READERS.append((given, reader))
        return reader


def close() -> None:
    """Close every reader of this process; the next `process` makes new ones."""
    with _LOCK:
        readers, _READERS[:] = [reader for _, reader in _READERS], []
    for reader in readers:
        reader.close()


def lag() -> dict[Source, int]:
    """Records, per source, that are in the log and have not been read."""
    with _LOCK:
        return {source: records for _, reader in _READERS for source, records in reader.lag().items()}


def lost() -> dict[Source, int]:
    """Records, per source, that were gone before they could be read, where that was accepted."""
    with _LOCK:
        return {source: records for _, reader in _READERS for source, records in reader.lost().items()}


def there(given: File | WideRows | Dump) -> dict[Source, range]:
    """Every source of a file, and the positions of what is there. Raises FileUnreadable."""
    reader = _reader(given)
    assert isinstance(reader, FileReader | DumpReader)
    return reader.there()


class RawBlockCoder(coders.Coder):
    """For runners that do not fuse reading and decoding; without it Beam would pickle."""

    def encode(self, value: RawBlock) -> bytes:
        return msgspec.msgpack.encode([getattr(value, name) for name in RawBlock.__slots__])

    def decode(self, encoded: bytes) -> RawBlock:
        source, first, after, now, stable, ended, records, unreadable = msgspec.msgpack.decode(encoded)
        raws = [Raw(o, s, k, v, [(n, x) for n, x in h] or ()) for o, s, k, v, h in records]
        return RawBlock(Source(*source), first, after, now, stable, ended, raws, [(o, n) for o, n in unreadable])

    def is_deterministic(self) -> bool:
        return True


coders.registry.register_coder(RawBlock, RawBlockCoder)


class RangeCoder(coders.Coder):
    """A restriction as two integers; without it Beam would pickle."""

    def encode(self, value: OffsetRange) -> bytes:
        return msgspec.msgpack.encode([value.start, value.stop])

    def decode(self, encoded: bytes) -> OffsetRange:
        return OffsetRange(*msgspec.msgpack.decode(encoded))

    def is_deterministic(self) -> bool:
        return True


class Positions(RestrictionProvider):
    """From the start position of an element to for ever."""

    def initial_restriction(self, element: tuple[str, int, int]) -> OffsetRange:
        return OffsetRange(element[2], FOR_EVER)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element: tuple[str, int, int], restriction: OffsetRange) -> int:  # noqa: ARG002  Beam's signature
        return 1  # unknown: the log is read as it grows

    def restriction_coder(self) -> coders.Coder:
        return RangeCoder()

    def truncate(self, element: tuple[str, int, int], restriction: OffsetRange) -> None:
        """A drain reads no more."""


class Untimed(beam.io.iobase.WatermarkEstimator):
    """Says nothing: event time is not judged here."""

    def observe_timestamp(self, timestamp: Any) -> None: ...

    def current_watermark(self) -> None: ...

    def get_estimator_state(self) -> bytes:
        return b""


class NoWatermark(WatermarkEstimatorProvider):
    """Beam's own does the same, but pickles its None."""

    def initial_estimator_state(self, element: Any, restriction: Any) -> bytes:  # noqa: ARG002  Beam's signature
        return b""

    def create_watermark_estimator(self, estimator_state: bytes) -> Untimed:  # noqa: ARG002
        return Untimed()

    def estimator_state_coder(self) -> coders.Coder:
        return coders.BytesCoder()


class Read(beam.DoFn):
    """(topic, partition, start position) in, raw blocks out: at most one a call, then a pause.

    `lingers`: wait for something inside the call, where the runner does not honour the pause (Flink).
    """

    def __init__(self, given: Input, *, lingers: bool = False) -> None:
        self._input = given
        self._lingers = lingers

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: tuple[str, int, int],
        tracker: Any = beam.DoFn.RestrictionParam(Positions()),  # noqa: B008  Beam's way
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(NoWatermark()),  # noqa: ARG002, B008
    ) -> Iterator[RawBlock]:
        """Raises InputError when the input cannot be read on."""
        source, position = Source(element[0], element[1]), tracker.current_restriction().start
        began = time.perf_counter()
        block, pause = step(_reader(self._input), source, position, lingers=self._lingers)
        if block is not None:
            if block.next > position and not tracker.try_claim(block.next - 1):
                return
            if block.next > position:
                count = len(block.records) + len(block.unreadable)
                passed("read", count, count, time.perf_counter() - began)
            yield block
            if block.ended:
                tracker.try_claim(FOR_EVER - 1)
                return
        tracker.defer_remainder(Duration(seconds=pause))


def step(reader: Reader, source: Source, position: int, *, lingers: bool) -> tuple[RawBlock | None, float]:
    """The next block, if there is one, and the seconds until it is worth asking again."""
    limit = GATE(source) if GATE is not None else None
    block = reader.take(source, position, limit)
    if block is None and lingers:
        reader.wait(LINGER_SECONDS)
        block = reader.take(source, position, limit)
    if block is not None and block.next > position:
        return block, 0.0
    return block, QUIET_SECONDS if limit is None or limit > position else GATED_SECONDS


def read(given: Input, sources: Mapping[Source, int], *, lingers: bool = False) -> beam.PTransform:
    """Raw blocks of the sources, each from its start position.

    A position only counts where no snapshot says another: a restored run goes on where it was.
    """
    elements = [(source.topic, source.partition, position) for source, position in sorted(sources.items())]
    kind = tuple[str, int, int]
    return "Sources" >> beam.Create(elements, reshuffle=False).with_output_types(kind) | "Read" >> beam.ParDo(
        Read(given, lingers=lingers)
    ).with_output_types(RawBlock)
