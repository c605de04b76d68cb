"""A dump of topics, as `kcat -J` writes it, to raw blocks: every partition a source with its own positions, and the decisions of a run."""

from __future__ import annotations

import json
import operator
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from pipeline.events import SWITCH, Decision, Plan
from pipeline.files import BLOCK_RECORDS, UNREADABLE, FileUnreadable, content
from pipeline.records import Raw, RawBlock, Source, stamp_us
from pipeline.times import YEAR_10000


@dataclass(frozen=True)
class Dump:
    """Topics as `kcat -J` writes them, a record a line: every partition is a source, its records as they lay in it."""

    path: str

    def reader(self, wake: Callable[[], None]) -> DumpReader:  # noqa: ARG002
        return DumpReader(logs(self))


class DumpReader:
    """Hands out the records of several partitions, a block at a time; the last block of each is marked as such.

    Each begins with a mark: who repeats a run must know where all of them stand before anything is read.
    """

    def __init__(self, logs: Mapping[Source, Sequence[Raw]]) -> None:
        self._logs = logs
        self._left = {source: len(log) for source, log in logs.items()}
        self._silent = set(logs)  # nothing has been said of them yet

    def take(self, source: Source, position: int, limit: int | None) -> RawBlock | None:
        """The records from `position` on, none at `limit` or after it; up to the next record there lies nothing."""
        if source in self._silent:
            self._silent.remove(source)
            return RawBlock(source, position, position, time.time())
        log = self._logs[source]
        end = log[-1].offset + 1
        stop = end if limit is None else min(limit, end)
        first = bisect_left(log, position, key=_offset)
        after = min(bisect_left(log, stop, key=_offset), first + BLOCK_RECORDS)
        if after < len(log):
            stop = min(stop, log[after].offset)
        if stop <= position:
            return None
        self._left[source] = len(log) - after
        return RawBlock(source, position, stop, time.time(), stable=stop == end, ended=stop == end, records=log[first:after])

    def wait(self, seconds: float) -> None:
        """A dump has all it will ever have."""

    def lag(self) -> dict[Source, int]:
        return dict(self._left)

    def lost(self) -> dict[Source, int]:
        return {}

    def there(self) -> dict[Source, range]:
        """Every partition, and the positions of what is there."""
        return {source: range(log[0].offset, log[-1].offset + 1) for source, log in self._logs.items()}

    def close(self) -> None: ...


_offset = operator.attrgetter("offset")


class Dumped(msgspec.Struct):
    """A line of a dump. Headers are names and values in turn."""

    topic: str
    partition: Annotated[int, msgspec.Meta(ge=0)]
    offset: Annotated[int, msgspec.Meta(ge=0)]
    ts: int  # ms
    key: str | None
    payload: str | None
    headers: list[str | None] = []


def logs(dump: Dump) -> dict[Source, list[Raw]]:
    """The records of every partition, in the order of their offsets.

    Raises FileUnreadable.
    """
    found: dict[Source, list[Raw]] = {}
    for number, line in _lines(dump.path):
        try:
            told = msgspec.convert(_tree(line), Dumped)
            record = _raw(told)
        except (ValueError, msgspec.ValidationError) as wrong:
            raise FileUnreadable(f"{dump.path} line {number}: not a record as kcat -J writes it: {wrong}") from wrong
        log = found.setdefault(Source(told.topic, told.partition), [])
        if log and record.offset <= log[-1].offset:
            at = f"{told.topic}/{told.partition} at {record.offset}, after {log[-1].offset}"
            raise FileUnreadable(f"{dump.path} line {number}: {at}: allowed: each record once, each partition in its order")
        log.append(record)
    if not found:
        raise FileUnreadable(f"{dump.path}: no record in it")
    return found


def _raw(told: Dumped) -> Raw:
    names, values = told.headers[::2], told.headers[1::2]
    if len(names) != len(values) or None in names:
        raise ValueError("headers: allowed: names and values in turn")
    headers = [(str(name), _packed(value) or b"") for name, value in zip(names, values, strict=True)]
    return Raw(told.offset, stamp_us(told.ts), _packed(told.key), _packed(told.payload), headers or ())


def _packed(text: str | None) -> bytes | None:
    """What kcat read: it writes bytes that are not UTF-8 as they are, and so they come back."""
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, and their numbers. Raises FileUnreadable."""
    try:
        whole = content(path)
    except UNREADABLE as error:
        raise FileUnreadable(f"{path}: {error}") from error
    return ((number, line) for number, line in enumerate(whole.split(b"\n"), start=1) if line.strip())


def _tree(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None


class Woke(msgspec.Struct):
    """`numbers` of a wake."""

    topic: str
    partition: int
    position: int
    instant: Annotated[int, msgspec.Meta(ge=0, lt=YEAR_10000)]  # us


class Changed(msgspec.Struct):
    """`numbers` of what has changed in who serves."""

    effective_from: Annotated[int, msgspec.Meta(lt=YEAR_10000)]  # us
    instant: Annotated[int, msgspec.Meta(lt=YEAR_10000)]  # us
    state: Literal["begins", "ends", "better"] | None = None  # of a shadow


class Decided(msgspec.Struct):
    """What a repetition looks at of a decision."""

    application: str
    kind: str
    version: str | None = None
    cause: str = ""
    numbers: dict[str, Any] = {}


class Recorded(NamedTuple):
    """What a run was told from outside its log."""

    wakes: list[Decision]
    plans: list[Plan]


def decisions(path: str, application: str, there: Mapping[Source, range]) -> Recorded:
    """The wakes, and the changes of who serves, that an application put on record: a decision a line, as it is or as `kcat -J` writes it.

    `there`: the positions of the records at hand, by partition. Raises FileUnreadable, also where a decision is of none of
    these, or of a kind that cannot be repeated.
    """
    wakes: list[Decision] = []
    changes: list[tuple[Decided, Changed]] = []
    applications: set[str] = set()
    for number, line in _lines(path):
        try:
            told = _decided(line)
            applications.add(told.application)
            if told.application == application:
                wakes += _wakes(told, there)
                changes += _changes(told)
        except (ValueError, msgspec.ValidationError) as wrong:
            raise FileUnreadable(f"{path} line {number}: {wrong}") from wrong
    if applications and application not in applications:
        raise FileUnreadable(f"{path}: decisions of {', '.join(sorted(applications))}, none of {application}: which run is repeated?")
    return Recorded(wakes, _plans(changes))


def _decided(line: bytes) -> Decided:
    tree = _tree(line)
    if isinstance(tree, dict) and isinstance(tree.get("payload"), str):
        tree = _tree(tree["payload"].encode())
    return msgspec.convert(tree, Decided)


def _wakes(told: Decided, there: Mapping[Source, range]) -> list[Decision]:
    if told.kind != "wake":
        return []
    woke = msgspec.convert(told.numbers, Woke)
    source, name = Source(woke.topic, woke.partition), f"{woke.topic}/{woke.partition}"
    if source not in there:
        raise ValueError(f"a wake of {name}, of which the dump has no record")
    first, end = there[source].start, there[source].stop
    if not first <= woke.position <= end:
        raise ValueError(f"a wake of {name} at {woke.position}; the dump has it from {first} to {end}: it must hold all that the run read")
    return [Decision(source, woke.position, woke.instant)]


def _changes(told: Decided) -> list[tuple[Decided, Changed]]:
    """A pointer that was refused changed nothing, and has no instant."""
    if told.kind not in CHANGES or (told.kind == "refuse" and "instant" not in told.numbers):
        return []
    if told.version is None:
        raise ValueError(f"a {told.kind} of no version")
    return [(told, msgspec.convert(told.numbers, Changed))]


CHANGES = ("switch", "shadow", "promote", "rollback", "refuse")


def _plans(changes: list[tuple[Decided, Changed]]) -> list[Plan]:
    """Of each instant what changed, with what it was for."""
    verdicts = {changed.instant: told for told, changed in changes if told.kind not in ("switch", "shadow")}
    found: dict[int, Plan] = {}  # a record may stand twice: whoever reads on after a failure cannot know
    for told, changed in changes:
        if told.kind in ("switch", "shadow"):
            verdict = verdicts.get(changed.instant)
            numbers = told.numbers if verdict is None else verdict.numbers
            rest = {name: value for name, value in numbers.items() if name not in Changed.__struct_fields__}
            kind = "" if verdict is None else verdict.kind
            what, version = changed.state or SWITCH, str(told.version)
            found[changed.instant] = Plan(what, changed.instant, version, changed.effective_from, kind, told.cause, rest)
    return [found[instant] for instant in sorted(found)]
