"""Raw blocks become blocks of observations in columns; what cannot be used becomes a rejection. Pure: no bytes make it raise.

What a record says is a function of that record and the shape alone, so it does not matter how records are cut into blocks.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np

from pipeline.quantities import duration_text, plain
from pipeline.records import COLUMNS, SECOND, Block, Raw, RawBlock, Reason, Rejection, Time, Told, means, rfc3339, shaped
from pipeline.settings import Settings
from pipeline.times import YEAR_10000, reader, remember

LARGEST = float(np.finfo(np.float32).max)  # the networks count in single precision: 1e39 would be infinite there
DEEPEST = 128  # nesting; beyond it, what a parser does depends on the stack that it is called on
LONGEST_ID = 512  # bytes
ABSENT: Final = object()
DIGITS = 4_000  # longer integers are infinite, as Python refuses to read them


Measured = Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
AHEAD = {  # of an entry of `ahead`
    "properties": {"at": {"type": "string", "format": "date-time"}},
    "required": ["at"],
    "additionalProperties": {"anyOf": [{"type": "number", "minimum": -LARGEST, "maximum": LARGEST}, {"type": "null"}]},
}


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """One observation in the default shape, the one that is read unless `[input]` of the settings says otherwise."""

    series: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_ID), means("At most 512 bytes of UTF-8; without it, the key says it.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    at: Annotated[Time, means("Event time, not before `time.oldest`.")]
    value: Annotated[Measured | None, means("null: a missing observation, or none beside covariates; never zero.")]
    covariates: (
        Annotated[dict[str, Measured | None], means("What else is known, by the names of `input.covariates`; null: missing.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    ahead: (
        Annotated[
            Sequence[Annotated[dict[str, Any], shaped(**AHEAD)]],
            means("What is known before its time, by the names of `input.ahead`, each entry with the time that it is of."),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class Wrong(NamedTuple):
    """Why something cannot be used."""

    reason: Reason
    message: str  # what came, what was wanted


Row = tuple[str | None, int, float | Wrong | None]  # (series, at, value, or what is wrong with it; None: not asked for)


@dataclass(frozen=True)
class Shape:
    """How records are read: `[input]` of the settings, with the bounds of time."""

    series: tuple[str, ...] = ()
    at: str = "at"
    at_format: str = "rfc3339"
    value: str = "value"
    values: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    ahead: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_record_bytes: int = 1_048_576
    oldest: int = 631_152_000 * SECOND  # 1990
    future_limit: int | None = None  # us ahead of Kafka's timestamp; None: a file, which has none


def shape_of(settings: Settings, *, kafka: bool) -> Shape:
    """The shape that settings ask for, of records from Kafka or from a file."""
    names = ("series", "at", "at_format", "value", "values", "covariates", "ahead", "include", "exclude", "max_record_bytes")
    asked = {name: getattr(settings.input, name) for name in names}
    return Shape(**asked, oldest=settings.time.oldest, future_limit=settings.time.future_limit if kafka else None)


class Decoder:
    """
    >>> from pipeline.records import Source
    >>> raw = Raw(0, 0, b"pump", b'{"at": "2026-01-01T00:00:00Z", "value": 12.5}')
    >>> block = Decoder(Shape()).decode(RawBlock(Source("meters", 0), 0, 1, 0.0, records=[raw]))
    >>> block.names, block.value.tolist(), rfc3339(int(block.at[0]))
    (['pump'], [12.5], '2026-01-01T00:00:00Z')
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._time = reader(shape.at_format)
        self._paths = shape.series or ("series",)
        self._asked = asked(shape.include, shape.exclude)

    def __reduce__(self) -> tuple[type[Decoder], tuple[Shape]]:
        return Decoder, (self.shape,)

    def decode(self, raw: RawBlock) -> Block:
        """The block of these records: every record gives rows, rejections or filtered observations, in offset order."""
        block = Block(raw.source, raw.first, raw.next, raw.now, stable=raw.stable, ended=raw.ended, records=list(raw.records))
        numbers: dict[str, int] = {}
        series: list[int] = []
        at: list[int] = []
        value: list[float] = []
        record: list[int] = []
        for index, one in enumerate(block.records):
            rows, told = self._read(one)
            if self.shape.covariates:
                block.told.append(told)
            for name, when, number in rows:
                if isinstance(number, float):
                    series.append(numbers.setdefault(name, len(numbers)))  # type: ignore[arg-type]
                    at.append(when)
                    value.append(number)
                    record.append(index)
                elif number is None:
                    block.filtered += 1
                else:
                    block.rejected.append(Rejection(index, one.offset, number.reason, number.message, name))
        for offset, size in raw.unreadable:
            block.rejected.append(Rejection(-1, offset, "corrupt", f"{size} bytes that the client cannot read"))
        block.rejected.sort(key=lambda rejection: rejection.offset)  # stable: the columns of one record keep their order
        block.names = list(numbers)
        block.series, block.at, block.value, block.record = map(np.array, (series, at, value, record), COLUMN_KINDS)
        block.offset = np.fromiter((one.offset for one in block.records), np.int64)[block.record]
        block.stamp = np.fromiter((one.stamp for one in block.records), np.int64)[block.record]
        return block

    def read(self, record: Raw) -> list[Row]:
        """What one record says, at least one row; what is not asked for comes first."""
        return self._read(record)[0]

    def _read(self, record: Raw) -> tuple[list[Row], Told | None]:
        """The same, and what it says of covariates."""
        tree = parse(record, self.shape.max_record_bytes)
        if isinstance(tree, Wrong):
            return [(None, 0, tree)], None
        pairs = self._pairs(record, tree)
        if isinstance(pairs, Wrong):
            return [(None, 0, pairs)], None
        skipped: list[Row] = []
        if self._asked:
            wanted = [pair for pair in pairs if self._asked(pair[0])]
            skipped = [("", 0, None)] * (len(pairs) - len(wanted))
            pairs = wanted
            if not pairs:
                return skipped, None
        at = self._instant(record, tree)
        told: Told | Wrong | None = None
        if self.shape.covariates:
            told = self._told(tree)
        elif "covariates" in tree or "ahead" in tree:
            told = covariates(tree, self._time)
        if isinstance(told, Wrong) or isinstance(at, Wrong):
            wrong = told if isinstance(told, Wrong) else at
            return [*skipped, (None if self.shape.values else pairs[0][0], 0, wrong)], None
        rows: list[Row] = [(series, at, measured(value)) for series, value in pairs]
        return skipped + rows if skipped else rows, told

    def _told(self, tree: dict[str, Any]) -> Told | Wrong | None:
        """What a record says of the covariates that are declared, or what is wrong with it; None: nothing."""
        names, ahead = self.shape.covariates, self.shape.ahead
        given, later = tree.get("covariates"), tree.get("ahead")
        wrong = misshapen(given, later, self._time)
        if wrong is not None:
            return wrong
        own = numbers([(name, self._covariate(tree, name)) for name in names])
        if isinstance(own, Wrong):
            return own
        known = []
        for one in later or () if ahead else ():
            said = numbers([(name, look(one, name)) for name in ahead])
            if isinstance(said, Wrong):
                return said
            if not all(map(math.isnan, said)):
                known.append((self._time(one.get("at")) or 0, said))
        return Told(own, tuple(known)) if known or not all(map(math.isnan, own)) else None

    def _covariate(self, tree: dict[str, Any], name: str) -> Any:
        """A covariate as it came: from `covariates`, else a field of the record."""
        given = tree.get("covariates")
        found = look(given, name) if type(given) is dict else ABSENT
        return look(tree, name) if found is ABSENT else found

    def _alone(self, tree: dict[str, Any]) -> bool:
        """A record may do without a value: it has covariates."""
        if "covariates" in tree or "ahead" in tree:
            return True
        return any(look(tree, name) is not ABSENT for name in self.shape.covariates)

    def _pairs(self, record: Raw, tree: dict[str, Any]) -> list[tuple[str, Any]] | Wrong:
        """(series, value as it came, or what is wrong with it) of each observation."""
        series = self._series(record, tree)
        if isinstance(series, Wrong):
            return series
        if not self.shape.values:
            value = look(tree, self.shape.value)
            if value is ABSENT:
                value = None if self._alone(tree) else Wrong("schema", f"no field {plain(self.shape.value)!r}")
            return [(series, value)]
        found = [(column, look(tree, column)) for column in self.shape.values]
        if self.shape.covariates and all(value is ABSENT for _, value in found) and self._alone(tree):
            found = [(column, None) for column in self.shape.values]
        pairs = [(f"{series}/{column}" if series else column, value) for column, value in found if value is not ABSENT]
        too_long = next((wrong for name, _ in pairs if (wrong := unfit(name))), None)
        return too_long or pairs or Wrong("schema", f"none of the columns {plain(', '.join(self.shape.values))}")

    def _series(self, record: Raw, tree: dict[str, Any]) -> str | Wrong:
        """The series id; empty where a wide record has none."""
        parts = []
        for path in self._paths:
            found = key(record) if path == "record.key" else look(tree, path)
            if found is None or found is ABSENT:
                if self.shape.series:
                    return Wrong("schema", f"no field {plain(path)!r}")
                if self.shape.values:
                    return ""
                found = key(record)
            if isinstance(found, Wrong):
                return found
            if type(found) is int:
                found = str(found)
            if type(found) is not str or not found:
                return Wrong("schema", f"{plain(path)!r} is {kind(found)}, wanted: a text or an integer")
            parts.append(found)
        series = "/".join(parts)
        return unfit(series) or series

    def _instant(self, record: Raw, tree: dict[str, Any]) -> int | Wrong:
        """The event time, within bounds."""
        if self.shape.at == "record":
            if record.stamp < 0:
                return Wrong("no_time", "the record has no timestamp")
            given: Any = record.stamp
            at: int | None = record.stamp
        else:
            given = look(tree, self.shape.at)
            if given is None or given is ABSENT:
                return Wrong("no_time", f"no field {plain(self.shape.at)!r}")
            at = self._time(given)
        if at is None or at >= YEAR_10000:
            return Wrong("bad_time", f"{shown(given)} is not a time in the format {self.shape.at_format}")
        if at < self.shape.oldest:
            return Wrong("bad_time", f"{shown(given)} is before {rfc3339(self.shape.oldest)}")
        limit = self.shape.future_limit
        if limit is not None and at - record.stamp > limit and record.stamp >= 0:
            return Wrong("future", f"{rfc3339(at)} is more than {duration_text(limit)} ahead of its timestamp {rfc3339(record.stamp)}")
        return at


COLUMN_KINDS = [COLUMNS[name] for name in ("series", "at", "value", "record")]


def parse(record: Raw, limit: int) -> dict[str, Any] | Wrong:
    """The JSON object of a record."""
    value = record.value
    if not value:
        return Wrong("empty", "a tombstone" if value is None else "no bytes")
    length = len(value) + len(record.key or b"")
    if record.headers:
        length += sum(len(name) + len(content or b"") for name, content in record.headers)
    if length > limit:
        return Wrong("too_large", f"{length} bytes, wanted: at most {limit}")
    if len(value) > DEEPEST and value.count(b"[") + value.count(b"{") > DEEPEST and depth(value) > DEEPEST:
        return Wrong("schema", f"nested more than {DEEPEST} deep")
    try:
        tree = parse_json(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        tree = parse_leniently(value)
    if type(tree) is dict:
        return tree
    return tree if isinstance(tree, Wrong) else Wrong("schema", f"{kind(tree)}, wanted: an object")


parse_json = msgspec.json.Decoder().decode


LENIENT = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) <= DIGITS else math.inf)


def parse_leniently(value: bytes) -> Any:
    """What standard JSON refuses and people send all the same: a byte order mark, NaN, numbers beyond any float, lone surrogates.

    Slower, and asked only once the fast parser has refused.
    """
    try:
        return LENIENT.decode(str(value, "utf-8-sig"))
    except ValueError as wrong:
        return Wrong("not_json", plain(str(wrong)))


TEXTS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
NESTING = np.zeros(256, np.int64)
NESTING[list(b"[{")], NESTING[list(b"]}")] = 1, -1


def depth(value: bytes) -> int:
    """How deep brackets are nested, outside texts.

    >>> depth(b'{"a": [[1], "[[[["]}')
    3
    """
    return int(NESTING[np.frombuffer(TEXTS.sub(b"", value), np.uint8)].cumsum().max(initial=0))


def look(tree: dict[str, Any], path: str) -> Any:
    """The field at a path; a key that is the whole path comes before its parts.

    >>> look({"payload": {"sensor": {"id": 7}}}, "payload.sensor.id"), look({"pm2.5": 3}, "pm2.5")
    (7, 3)
    """
    found = tree.get(path, ABSENT)
    if found is ABSENT and "." in path:
        at: Any = tree
        for part in path.split("."):
            at = at.get(part, ABSENT) if type(at) is dict else ABSENT
        return at
    return found


def key(record: Raw) -> str | Wrong:
    if not record.key:
        return Wrong("schema", "no series: neither a field nor a key")
    if len(record.key) > LONGEST_ID:
        return Wrong("bad_key", f"a key of {len(record.key)} bytes, wanted: at most {LONGEST_ID}")
    try:
        return str(record.key, "utf-8")
    except UnicodeDecodeError:
        return Wrong("bad_key", f"the key {plain(record.key)} is not UTF-8")


def unfit(series: str) -> Wrong | None:
    """What is wrong with an id: too long, or not to be written as UTF-8. Any other text will do: ids never become paths."""
    if series.isascii():
        size = len(series)
    else:
        try:
            size = len(series.encode())
        except UnicodeEncodeError:
            return Wrong("bad_key", f"the id {plain(series)} has half a surrogate pair, which UTF-8 cannot write")
    return Wrong("bad_key", f"an id of {size} bytes, wanted: at most {LONGEST_ID}") if size > LONGEST_ID else None


def measured(value: Any) -> float | Wrong:
    """A value as a float; null, which is a missing observation, as NaN."""
    if type(value) is float or type(value) is int:
        return float(value) if -LARGEST <= value <= LARGEST else Wrong("not_finite", f"{shown(value)}, wanted: at most {LARGEST:g}")
    if value is None:
        return math.nan
    return value if type(value) is Wrong else Wrong("schema", f"the value is {kind(value)}, wanted: a number or null")


def covariates(tree: dict[str, Any], time: Callable[[Any], int | None]) -> Wrong | None:
    """What is wrong with `covariates` (numbers by name) or `ahead` (a list of those, each with its time), where none are declared."""
    given, ahead = tree.get("covariates"), tree.get("ahead")
    wrong = misshapen(given, ahead, time)
    if wrong is not None:
        return wrong
    found = numbers([*(given or {}).items(), *(pair for one in ahead or () for pair in one.items() if pair[0] != "at")])
    return found if isinstance(found, Wrong) else None


def misshapen(given: Any, ahead: Any, time: Callable[[Any], int | None]) -> Wrong | None:
    """What is wrong with the shape of `covariates` and `ahead`, whatever names are in them."""
    if given is not None and type(given) is not dict:
        return Wrong("schema", f"covariates is {kind(given)}, wanted: an object")
    if ahead is not None and (type(ahead) is not list or not all(type(one) is dict for one in ahead)):
        return Wrong("schema", f"ahead is {kind(ahead)}, wanted: an array of objects")
    for one in ahead or ():
        if time(one.get("at")) is None:
            return Wrong("schema", f"ahead: {shown(one.get('at'))} is not a time")
    return None


def numbers(pairs: Iterable[tuple[str, Any]]) -> tuple[float, ...] | Wrong:
    """Values by name as floats; what is absent, or null, as NaN."""
    out = []
    for name, value in pairs:
        number = math.nan if value is ABSENT else measured(value)
        if isinstance(number, Wrong):
            return Wrong(number.reason, f"{plain(name)}: {number.message}")
        out.append(number)
    return tuple(out)


def kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def shown(value: object) -> str:
    return plain(value) if type(value) in (str, int, float) else kind(value)


def asked(include: Iterable[str], exclude: Iterable[str]) -> Callable[[str], bool] | None:
    """Whether a series is asked for, by globs; None: all are."""
    wanted, unwanted = globs(include), globs(exclude)
    if not wanted and not unwanted:
        return None
    answers: dict[str, bool] = {}

    def answer(series: str) -> bool:
        found = answers.get(series)
        if found is None:
            found = (not wanted or bool(wanted.match(series))) and not (unwanted and unwanted.match(series))
            remember(answers, series, found)
        return found

    return answer


def globs(patterns: Iterable[str]) -> re.Pattern[str] | None:
    joined = "|".join(fnmatch.translate(pattern) for pattern in patterns)
    return re.compile(joined) if joined else None
