"""A small stateful pipeline for the engine, and a committer that is honest: what a crash does not leave behind is gone.

Partitions of numbers are read one number a bundle, summed up per partition by a function whose state lives beside its
cell, and each sum is published. A number may be an error to raise instead, once.
"""

# ruff: noqa: B008 - Beam declares what a function is given in its defaults

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder, StrUtf8Coder, TupleCoder, VarIntCoder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.utils.timestamp import Duration

from pipeline.engine import Durability, LocalRunner, Result


class Crash(BaseException):
    """The process dies here."""


class Fenced(Exception):  # noqa: N818 - as the product's own
    """Another committer has taken over."""


class Committer:
    """Outputs and commit records in SQLite: one transaction a commit, ids unique, only the newest committer may."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.muted = False
        self.buffer: list[tuple[str, int]] = []
        self.writing = threading.Lock()  # who stops this process for a while must not do it while others are locked out
        with self.open() as db:
            db.execute("create table if not exists outputs (id text primary key, value integer)")
            db.execute("create table if not exists records (number integer primary key, record text)")
            db.execute("create table if not exists epochs (epoch integer primary key)")
            self.epoch = db.execute("insert into epochs values (null)").lastrowid
            db.commit()

    def open(self) -> closing[sqlite3.Connection]:
        db = sqlite3.connect(self.path)
        db.execute("pragma synchronous = off")  # processes die here, machines do not
        return closing(db)

    def send(self, identity: str, value: int) -> None:
        if not self.muted:
            self.buffer.append((identity, value))

    def mute(self, muted: bool) -> None:
        self.muted = muted

    def last(self) -> dict[str, Any] | None:
        with self.open() as db:
            row = db.execute("select record from records order by number desc limit 1").fetchone()
        return json.loads(row[0]) if row else None

    def commit(self, record: dict[str, Any]) -> None:
        with self.writing, self.open() as db:
            if db.execute("select max(epoch) from epochs").fetchone()[0] != self.epoch:
                raise Fenced
            db.executemany("insert into outputs values (?, ?)", self.buffer)
            db.execute("insert into records values (?, ?)", (record["number"], json.dumps(record)))
            db.commit()
        self.buffer.clear()

    def outputs(self) -> dict[str, int]:
        with self.open() as db:
            return dict(db.execute("select id, value from outputs"))

    def records(self) -> list[dict[str, Any]]:
        with self.open() as db:
            return [json.loads(text) for (text,) in db.execute("select record from records order by number")]


@dataclass
class Sums:
    """The live state: per partition the next position and the sum so far."""

    positions: dict[str, int] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)

    def add(self, partition: str, position: int, number: int) -> int:
        assert position == self.positions.get(partition, 0), f"{partition} {position} does not join {self.positions}"
        self.positions[partition] = position + 1
        self.sums[partition] = self.sums.get(partition, 0) + number
        return self.sums[partition]


TOKEN = b"live"  # what the cell holds while the state lives beside it


class World:
    """One process's worth of everything: the input, the state beside the cells, the committer. It is the `Live` too."""

    def __init__(self, folder: Path, partitions: Mapping[str, Sequence[int | Exception]]) -> None:
        self.partitions = partitions
        self.folder = folder
        self.committer = Committer(folder / "committed.sqlite")
        self.live: Sums | None = None
        self.gate: dict[str, int] | None = None
        self.processed = 0  # unmuted numbers
        self.asked = 0  # times that the source was asked
        self.raised: set[str] = set()
        self.delay = 0.0  # s, that the source defers by
        self.hold: dict[str, int] = {}  # partition -> position at which the source has nothing yet
        self.mismatches = 0

    def freeze(self, cell: bytes) -> Callable[[], dict[str, bytes]] | None:
        if BytesCoder().get_impl().decode_nested(cell) != TOKEN:
            return None
        assert self.live is not None
        frozen = {name: json.dumps(of).encode() for name, of in (("positions", self.live.positions), ("sums", self.live.sums))}
        return lambda: frozen

    def thaw(self, parts: Mapping[str, bytes | memoryview]) -> bytes:
        whole = b"[" + bytes(parts["positions"]) + b"," + bytes(parts["sums"]) + b"]"
        return bytes(BytesCoder().get_impl().encode_nested(whole))

    def account(self) -> dict[str, Any]:
        live = self.live or Sums()
        return {"positions": [["numbers", p, n] for p, n in sorted(live.positions.items())], "sums": dict(live.sums)}

    def repeat(self, account: dict[str, Any]) -> None:
        self.gate = {partition: position for _, partition, position in account["positions"]}

    def repeated(self) -> bool:
        return self.live is not None and all(self.live.positions.get(p) == n for p, n in (self.gate or {}).items())

    def resume(self, account: dict[str, Any]) -> None:
        self.gate = None
        self.mismatches += self.account() != account

    def snapshotted(self) -> None:
        pass

    def run(self, point: Callable[[str], None] = lambda _: None, *, interval_s: float = 0.0, snapshot_every_s: float = 0.0) -> Result:
        """Start the pipeline in this world."""
        global WORLD  # noqa: PLW0603 - functions find their world as they would find a process-wide producer
        WORLD = self
        durability = Durability(
            application="sums",
            committer=self.committer,
            live=self,
            folder=self.folder / "state",
            interval_s=interval_s,
            snapshot_every_s=snapshot_every_s,
            point=point,
        )
        pipeline = beam.Pipeline(runner=LocalRunner(durability))
        flow(pipeline, sorted(self.partitions))
        return pipeline.run()


WORLD: World


class Positions(RestrictionProvider):
    def initial_restriction(self, element: str) -> OffsetRange:
        return OffsetRange(0, len(WORLD.partitions[element]))

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element: str, restriction: OffsetRange) -> int:
        return 1

    def restriction_coder(self) -> beam.coders.Coder:
        return RangeCoder()


class RangeCoder(beam.coders.Coder):
    PAIR = TupleCoder([VarIntCoder(), VarIntCoder()])

    def encode(self, value: OffsetRange) -> bytes:
        return self.PAIR.encode((value.start, value.stop))

    def decode(self, encoded: bytes) -> OffsetRange:
        return OffsetRange(*self.PAIR.decode(encoded))

    def is_deterministic(self) -> bool:
        return True


class Read(beam.DoFn):
    """One number of a partition a call, or a mark (position -1) when there is nothing to read."""

    @beam.DoFn.unbounded_per_element()
    def process(self, partition: str, tracker: Any = beam.DoFn.RestrictionParam(Positions())) -> Iterator[Any]:
        WORLD.asked += 1
        position = tracker.current_restriction().start
        limits = [at for at in (WORLD.hold.get(partition), (WORLD.gate or {}).get(partition)) if at is not None]
        if position in limits or (WORLD.gate is not None and partition not in WORLD.gate):
            yield b"0", (partition, -1, 0)
            tracker.defer_remainder(Duration(WORLD.delay or 0.001))
            return
        if not tracker.try_claim(position):
            return
        number = WORLD.partitions[partition][position]
        if isinstance(number, Exception):
            if partition not in WORLD.raised:
                WORLD.raised.add(partition)
                raise number
            number = 0
        yield b"0", (partition, position, number)
        tracker.defer_remainder(Duration(WORLD.delay))


class Learn(beam.DoFn):
    CELL = ReadModifyWriteStateSpec("sums", BytesCoder())

    def process(self, keyed: Any, cell: Any = beam.DoFn.StateParam(CELL)) -> Iterator[tuple[str, int]]:
        _, (partition, position, number) = keyed
        if WORLD.live is None:
            saved = cell.read()
            assert saved != TOKEN, "a token outlived its process"
            WORLD.live = Sums(*json.loads(saved)) if saved else Sums()
            cell.write(TOKEN)
        if position >= 0:
            WORLD.processed += not WORLD.committer.muted
            yield f"{partition}/{position}", WORLD.live.add(partition, position, number)


class Publish(beam.DoFn):
    def process(self, output: tuple[str, int]) -> None:
        WORLD.committer.send(*output)


def flow(pipeline: beam.Pipeline, partitions: Sequence[str], then: beam.PTransform | None = None) -> None:
    """The pipeline; `then` stands before the end."""
    block = TupleCoder([StrUtf8Coder(), VarIntCoder(), VarIntCoder()]).to_type_hint()
    outputs = (
        pipeline
        | beam.Create(partitions)
        | beam.ParDo(Read()).with_output_types(tuple[bytes, block])
        | beam.ParDo(Learn()).with_output_types(tuple[str, int])
    )
    (outputs | then if then else outputs) | beam.ParDo(Publish())


def expected(partitions: Mapping[str, Sequence[int | Exception]]) -> dict[str, int]:
    """What must have been published in the end, once each."""
    outputs = {}
    for partition, numbers in partitions.items():
        total = 0
        for position, number in enumerate(numbers):
            total += 0 if isinstance(number, Exception) else number
            outputs[f"{partition}/{position}"] = total
    return outputs
