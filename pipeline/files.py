"""A file as raw blocks: NDJSON as it is, CSV and Parquet with each row as a JSON value, so that decoding is the same for all.

Positions are row numbers in the order read. A record's stamp is its row's event time; a row without a readable one has that of the
row before it.
"""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec
import polars as pl

from pipeline.records import EPOCH, Raw, RawBlock, Source, rfc3339

BLOCK_RECORDS = 1_000
NO_VALUE = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")  # how the CSV files of this world write "missing"
UNITS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}  # epoch -> us
MICROSECOND = timedelta(microseconds=1)
FORMATS: Mapping[str, Literal["ndjson", "csv", "parquet"]] = {
    ".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson",
}  # fmt: skip
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
    for line in content(file.path).split(b"\n"):
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


def content(path: str) -> bytes:
    """All of a file, unpacked. Raises one of UNREADABLE."""
    packed = Path(path).read_bytes()
    return gzip.decompress(packed) if path.endswith(".gz") else packed


def _table(file: File) -> Iterator[Row]:
    if file.format == "parquet":
        table = pl.read_parquet(file.path)
    else:
        table = pl.read_csv(content(file.path), infer_schema_length=None, null_values=list(NO_VALUE))
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
        table = pl.read_csv(content(file.path), infer_schema_length=None, null_values=list(NO_VALUE))
    except (*UNREADABLE, pl.exceptions.PolarsError) as error:
        raise FileUnreadable(f"{file.path}: {error}") from error
    if nameless(table.columns):
        raise FileUnreadable(f"{file.path}: {NAMELESS}")
    found = []
    for name, *values in table.iter_rows():
        known = _until_last(values)
        for k, value in enumerate(known):
            at = file.start + k * file.step
            found.append((at, msgspec.json.encode({"series": str(name), "at": rfc3339(at), "value": value})))
    found.sort(key=lambda row: row[0])
    return found


BY_CHANCE = 2  # numbers are always in equal steps
NAMELESS = "the first line holds values, and would be taken for names of columns: put a line of names above it"


def nameless(columns: Sequence[str]) -> bool:
    """The names of a wide table's columns are a series: numbers, and not whole ones that count up, by one or in equal steps.

    >>> nameless(["a", "3.5", "3.6", "3.5_duplicated_0"]), nameless(["a", "605", "586", "586_duplicated_0"]), nameless(["a", "5", "7"])
    (True, True, True)
    >>> nameless(["id", "1", "2", "3"]), nameless(["minute", "0", "15", "30"]), nameless(["V1", "V2", "V3"])
    (False, False, False)
    """
    said = [name.partition("_duplicated_")[0] for name in columns[1:]]  # polars tells equal ones apart so
    try:
        numbers = [float(name) for name in said if name not in NO_VALUE]
    except ValueError:
        return False
    steps = {b - a for a, b in pairwise(numbers)}
    counting = steps <= {1} or (len(numbers) > BY_CHANCE and len(steps) == 1 and min(steps) > 0)
    return not counting or not all(number.is_integer() for number in numbers)


def _until_last(values: Sequence[Any]) -> Sequence[Any]:
    """Without the missing ones at the end.

    >>> _until_last([1, None, 2, None, None])
    [1, None, 2]
    """
    last = max((i for i, value in enumerate(values) if value is not None), default=-1)
    return values[: last + 1]
