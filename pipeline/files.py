"""A file as raw blocks: NDJSON as it is, CSV and Parquet with each row as a JSON value, so that decoding is the same for all.

Positions are row numbers in the order read. A record's stamp is its row's event time; a row without a readable one has that of the
row before it. A dump of topics has positions and stamps of its own, and a source for each partition.
"""

from __future__ import annotations

import gzip
import json
import operator
import time
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import polars as pl

from pipeline.events import Decision
from pipeline.records import EPOCH, Raw, RawBlock, Source, rfc3339, stamp_us
from pipeline.times import YEAR_10000

BLOCK_RECORDS = 1_000
NO_VALUE = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")  # how the CSV files of this world write "missing"
UNITS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}  # epoch -> us
MICROSECOND = timedelta(microseconds=1)
UNREADABLE = (OSError, EOFError, zlib.error)  # what reading a file that may be packed raises


class FileUnreadable(Exception):  # noqa: N818  reads as what happened
    """The file is not there, or is not what it was said to be."""


@dataclass(frozen=True)
class File:
    """A file to replay. Its source is `Source(its path as given, 0)`."""

    path: str
    format: Literal["ndjson", "csv", "parquet"]
    time: tuple[str, ...] = ("at",)  # columns, or paths (NDJSON); several are joined by a space, under their names joined by a comma
    time_format: str = "rfc3339"  # or s, ms, us, ns since the epoch, or strptime's; UTC where it names no zone
    series: tuple[str, ...] = ()  # columns, or paths, that order rows of one time
    as_is: bool = False  # in the order of the file

    @property
    def source(self) -> Source:
        return Source(self.path, 0)

    def reader(self, wake: Callable[[], None]) -> FileReader:  # noqa: ARG002  a file is never late
        return FileReader(self.source, rows(self))


@dataclass(frozen=True)
class WideRows:
    """A CSV file of one series per row, name first, values oldest first, no times: they begin at `start`, `step` apart (us)."""

    path: str
    start: int
    step: int

    @property
    def source(self) -> Source:
        return Source(self.path, 0)

    def reader(self, wake: Callable[[], None]) -> FileReader:  # noqa: ARG002
        return FileReader(self.source, wide_rows(self))


@dataclass(frozen=True)
class Dump:
    """Topics as `kcat -J` writes them, a record a line: every partition is a source, its records as they lay in it."""

    path: str

    def reader(self, wake: Callable[[], None]) -> DumpReader:  # noqa: ARG002
        return DumpReader(logs(self))


class FileReader:
    """Hands out rows, a block at a time; the last block is marked as such."""

    def __init__(self, source: Source, rows: list[tuple[int, bytes]]) -> None:
        self._source = source
        self._rows = rows
        self._position = 0

    def take(self, source: Source, position: int, limit: int | None) -> RawBlock | None:
        """The rows from `position` on, none at `limit` or after it."""
        assert source == self._source
        end = len(self._rows)
        stop = min(position + BLOCK_RECORDS, end if limit is None else min(limit, end))
        if stop < position or (stop == position and position < end):
            return None
        self._position = stop
        records = [Raw(position + i, stamp, None, value) for i, (stamp, value) in enumerate(self._rows[position:stop])]
        return RawBlock(source, position, stop, time.time(), stable=stop == end, ended=stop == end, records=records)

    def wait(self, seconds: float) -> None:
        """A file has all it will ever have."""

    def lag(self) -> dict[Source, int]:
        return {self._source: len(self._rows) - self._position}

    def lost(self) -> dict[Source, int]:
        return {}

    def there(self) -> dict[Source, range]:
        """Its source, and the positions of what is there."""
        return {self._source: range(len(self._rows))}

    def close(self) -> None: ...


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


def rows(file: File) -> list[tuple[int, bytes]]:
    """(event time in us, JSON value) of every row, ordered by (time, series, row) unless `as_is`.

    Raises FileUnreadable.
    """
    try:
        found = list(_ndjson(file) if file.format == "ndjson" else _table(file))
    except (*UNREADABLE, pl.exceptions.PolarsError) as error:
        raise FileUnreadable(f"{file.path}: {error}") from error
    if not file.as_is:
        found.sort(key=lambda row: row[:2])
    return [(stamp, value) for stamp, _, value in found]


Row = tuple[int, tuple[str, ...], bytes]


def _ndjson(file: File) -> Iterator[Row]:
    decode, instant, stamp = msgspec.json.Decoder().decode, instants(file.time_format), 0
    for line in _bytes(file.path).split(b"\n"):
        if not line.strip():
            continue
        try:
            value = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = None  # whoever decodes says what is wrong with it
        parts = [_at(value, path) for path in file.time]
        at = instant(parts[0] if len(parts) == 1 else " ".join(map(str, parts)))
        stamp = stamp if at is None else at
        yield stamp, tuple(str(_at(value, path)) for path in file.series), line


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _bytes(path: str) -> bytes:
    content = Path(path).read_bytes()
    return gzip.decompress(content) if path.endswith(".gz") else content


def _table(file: File) -> Iterator[Row]:
    if file.format == "parquet":
        table = pl.read_parquet(file.path)
    else:
        table = pl.read_csv(_bytes(file.path), infer_schema_length=None, null_values=list(NO_VALUE))
    missing = [name for name in (*file.time, *file.series) if name not in table.columns]
    if missing:
        raise FileUnreadable(f"{file.path}: no column {', '.join(missing)}; there are {', '.join(table.columns)}")
    table = table.with_columns(
        pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ") for name, kind in table.schema.items() if kind.is_temporal()
    )
    joined = ",".join(file.time)
    if len(file.time) > 1:
        table = table.with_columns(pl.concat_str([pl.col(name).cast(pl.String) for name in file.time], separator=" ").alias(joined))
    instant, stamp = instants(file.time_format), 0
    series = zip(*(table[name].cast(pl.String).to_list() for name in file.series), strict=True) if file.series else [()] * len(table)
    names = {*file.time, *file.series, joined}
    for at, ids, value in zip(table[joined].to_list(), series, _values(table, names), strict=True):
        found = instant(at)
        stamp = stamp if found is None else found
        yield stamp, tuple(map(str, ids)), value


def _values(table: pl.DataFrame, names: set[str]) -> Iterator[bytes]:
    """Each row as a JSON object; in a column of text, what reads as a number is one."""
    columns = []
    for name in table.columns:
        column = table[name]
        numbers = column.cast(pl.Float64, strict=False) if column.dtype == pl.String and name not in names else None
        if numbers is not None and numbers.is_not_null().any():
            columns.append([t if n is None else n for n, t in zip(numbers.to_list(), column.to_list(), strict=True)])
        else:
            columns.append(column.to_list())
    encode = msgspec.json.Encoder(decimal_format="number").encode
    for row in zip(*columns, strict=True):
        yield encode(dict(zip(table.columns, row, strict=True)))


def instants(time_format: str) -> Callable[[Any], int | None]:
    """A function from what a row says to microseconds since the epoch; None where it cannot be read.

    >>> instants("rfc3339")("2016-07-01T00:00:00Z"), instants("%Y-%m-%d")("1970-01-02"), instants("ms")(1500), instants("s")("soon")
    (1467331200000000, 86400000000, 1500000, None)
    """
    known: dict[Any, int | None] = {}  # rows of many series repeat their times

    def instant(said: Any) -> int | None:
        if said not in known:
            if len(known) > 1_000_000:  # noqa: PLR2004  a file without repeats would only fill memory
                known.clear()
            known[said] = _instant(said, time_format)
        return known[said]

    return lambda said: instant(said) if isinstance(said, str | int | float) else None


def _instant(said: Any, time_format: str) -> int | None:
    try:
        if time_format in UNITS:
            exact = said if isinstance(said, int) else float(said)
            return round(exact * UNITS[time_format])
        moment = datetime.fromisoformat(said) if time_format == "rfc3339" else datetime.strptime(str(said), time_format)  # noqa: DTZ007
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND
    except (ValueError, TypeError, OverflowError):
        return None


def wide_rows(file: WideRows) -> list[tuple[int, bytes]]:
    """(event time in us, JSON value of the default shape) of every value, ordered by (time, row); the missing ends of rows are no rows.

    Raises FileUnreadable.
    """
    try:
        table = pl.read_csv(_bytes(file.path), infer_schema_length=None, null_values=list(NO_VALUE))
    except (*UNREADABLE, pl.exceptions.PolarsError) as error:
        raise FileUnreadable(f"{file.path}: {error}") from error
    found = []
    for name, *values in table.iter_rows():
        known = _until_last(values)
        for k, value in enumerate(known):
            at = file.start + k * file.step
            found.append((at, msgspec.json.encode({"series": str(name), "at": rfc3339(at), "value": value})))
    found.sort(key=lambda row: row[0])
    return found


def _until_last(values: Sequence[Any]) -> Sequence[Any]:
    """Without the missing ones at the end.

    >>> _until_last([1, None, 2, None, None])
    [1, None, 2]
    """
    last = max((i for i, value in enumerate(values) if value is not None), default=-1)
    return values[: last + 1]


# What `kcat -J` writes


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
        content = _bytes(path)
    except UNREADABLE as error:
        raise FileUnreadable(f"{path}: {error}") from error
    return ((number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip())


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


class Decided(msgspec.Struct):
    """What a repetition looks at of a decision."""

    application: str
    kind: str
    numbers: dict[str, Any] = {}


def decisions(path: str, application: str, there: Mapping[Source, range]) -> list[Decision]:
    """The wakes that an application put on record: a decision a line, as it is or as `kcat -J` writes it.

    `there`: the positions of the records at hand, by partition. Raises FileUnreadable, also where a decision is of none of
    these, or of a kind that cannot be repeated.
    """
    found: list[Decision] = []
    applications: set[str] = set()
    for number, line in _lines(path):
        try:
            told = _decided(line)
            applications.add(told.application)
            if told.application == application:
                found += _wakes(told, there)
        except (ValueError, msgspec.ValidationError) as wrong:
            raise FileUnreadable(f"{path} line {number}: {wrong}") from wrong
    if applications and application not in applications:
        raise FileUnreadable(f"{path}: decisions of {', '.join(sorted(applications))}, none of {application}: which run is repeated?")
    return found


def _decided(line: bytes) -> Decided:
    tree = _tree(line)
    if isinstance(tree, dict) and isinstance(tree.get("payload"), str):
        tree = _tree(tree["payload"].encode())
    return msgspec.convert(tree, Decided)


def _wakes(told: Decided, there: Mapping[Source, range]) -> list[Decision]:
    if told.kind == "switch":
        raise ValueError("a switch of models, which this release cannot repeat")
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
