"""The nouns that stages share: blocks on the way in, messages on the way out.

Letters: N observations in a block, R records in a block, H lead times, Q quantile levels.
Times are integers, microseconds since the epoch (UTC); a *position* is the offset of the next record to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import xxhash

SECOND = 1_000_000  # microseconds

Reason = Literal[
    "not_json", "schema", "empty", "not_finite", "no_time", "bad_time", "future", "bad_key", "too_large", "corrupt", "too_many_series"
]
Expert = Literal["lstm", "gru", "elman", "jordan", "mixture", "linear", "seasonal_naive", "last_value"]


class Source(NamedTuple):
    """Where records come from: a partition of a topic, or a file (partition 0)."""

    topic: str
    partition: int


class Raw(NamedTuple):
    """One record as it came."""

    offset: int
    stamp: int  # Kafka's timestamp (us); for files: the row's event time
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(slots=True)
class RawBlock:
    """Consecutive records of one partition, undecoded, in offset order.

    `first` is the position before the block, `next` the one after it: control records and compacted gaps lie between, so
    only these two must join from block to block. A block without records is a mark: time has passed (`now`), and
    perhaps everything there is has been read (`stable`).
    """

    source: Source
    first: int
    next: int
    now: float  # wall clock (s) at reading; only idling and holding look at it
    stable: bool = False  # `next` has reached the last stable offset that a fresh answer of the broker gave
    ended: bool = False  # a bounded source has nothing more
    records: Sequence[Raw] = ()
    unreadable: Sequence[tuple[int, int]] = ()  # (offset, bytes) of batches that the client could not read


class Told(NamedTuple):
    """What a record says of covariates, K of which are declared, A of them as known ahead. NaN: nothing."""

    values: tuple[float, ...]  # (K,) of its own cell
    ahead: tuple[tuple[int, tuple[float, ...]], ...] = ()  # (time in us, (A,)) of later ones


class Rejection(NamedTuple):
    """An observation, or a whole record, that cannot be used."""

    record: int  # index into the block's records; -1 for an unreadable one
    offset: int
    reason: Reason
    message: str  # for a person: what came, what was wanted
    series: str | None = None


@dataclass(slots=True)
class Block:
    """A raw block, decoded: observations in columns (N), those of one record side by side, in offset order."""

    source: Source
    first: int
    next: int
    now: float
    stable: bool = False
    ended: bool = False
    filtered: int = 0  # observations of series that are not asked for
    names: list[str] = field(default_factory=list)  # the distinct series of the block
    series: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # (N,) index into names
    at: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (N,) event time, us
    value: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float64))  # (N,) NaN: an explicit null, a missing observation
    offset: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (N,)
    stamp: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (N,) us
    record: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # (N,) index into records
    records: list[Raw] = field(default_factory=list)  # as they came: whoever rejects later needs the bytes
    rejected: list[Rejection] = field(default_factory=list)
    told: list[Told | None] = field(default_factory=list)  # (R,) by record; empty where no covariates are declared


COLUMNS = {"series": np.int32, "at": np.int64, "value": np.float64, "offset": np.int64, "stamp": np.int64, "record": np.int32}


def encode_block(block: Block) -> bytes:
    """A block as bytes, for a shuffle; `decode_block` is its inverse.

    >>> decode_block(encode_block(Block(Source("t", 0), 3, 5, 1.5, names=["a"], records=[Raw(3, 0, None, b"{}")]))).records[0].value
    b'{}'
    """
    plain = {name: getattr(block, name) for name in Block.__slots__ if name not in COLUMNS}
    return msgspec.msgpack.encode([plain, [np.ascontiguousarray(getattr(block, name)).tobytes() for name in COLUMNS]])


def decode_block(data: bytes) -> Block:
    """The inverse of `encode_block`; the columns are read-only views of the bytes."""
    plain, columns = msgspec.msgpack.decode(data)
    arrays: dict[str, Any] = {name: np.frombuffer(raw, kind) for (name, kind), raw in zip(COLUMNS.items(), columns, strict=True)}
    plain["source"] = Source(*plain["source"])
    plain["records"] = [Raw(o, s, k, v, [(n, x) for n, x in h]) for o, s, k, v, h in plain["records"]]
    plain["rejected"] = [Rejection(*r) for r in plain["rejected"]]
    plain["told"] = [None if t is None else Told(tuple(t[0]), tuple((at, tuple(said)) for at, said in t[1])) for t in plain["told"]]
    return Block(**plain, **arrays)


# What goes out. Field order is the order on the wire.

MessageKind = Literal["forecasts", "scores", "late", "rejected", "models", "decisions", "status"]


class Message(NamedTuple):
    """One record for one of our topics."""

    kind: MessageKind
    key: bytes | None
    value: bytes | None
    id: str
    at: int  # event time of what it tells (us): ce_time
    headers: Sequence[tuple[str, bytes]] = ()  # beside the CloudEvents ones; for `rejected`, all of them
    cause: int = 0  # Kafka's timestamp (us) of the record it waited for; 0: none


class Served(msgspec.Struct, frozen=True):
    """Leads `from_lead..to_lead` (1-based, both in) came from `by`; `reason` says why it was not the model asked for."""

    from_lead: int
    to_lead: int
    by: Expert
    reason: Literal["cold_start", "no_skill", "not_finite", "stale_model"] | None = None


class Forecast(msgspec.Struct, frozen=True):
    id: str
    application: str
    series: str
    issued_at: str
    step: str
    horizon: int
    targets: Sequence[str]  # (H,)
    point: Sequence[float]  # (H,)
    point_is: Literal["mean", "median"]
    levels: Sequence[float]  # (Q,)
    quantiles: Sequence[Sequence[float]]  # (Q, H)
    served: Sequence[Served]
    model: str
    model_version: str
    updates: int
    cold: bool
    woken: bool
    observations: int


class LeadForecast(msgspec.Struct, frozen=True):
    """`[output] layout = "row"`: one lead of a forecast, flat."""

    id: str
    application: str
    series: str
    issued_at: str
    step: str
    lead: int
    target: str
    point: float
    point_is: Literal["mean", "median"]
    levels: Sequence[float]  # (Q,)
    quantiles: Sequence[float]  # (Q,)
    by: Expert
    reason: str | None
    model: str
    model_version: str
    updates: int
    cold: bool
    woken: bool
    observations: int


class LeadScore(msgspec.Struct, frozen=True):
    lead: int
    issued_at: str
    forecast_id: str
    by: Expert
    point: float
    error: float
    baseline: Expert
    baseline_error: float
    covered: Sequence[float]  # the central bands that held the actual value
    model_version: str


class Score(msgspec.Struct, frozen=True):
    id: str
    application: str
    series: str
    at: str
    actual: float
    anomaly: bool
    scores: Sequence[LeadScore]


class Late(msgspec.Struct, frozen=True):
    id: str
    application: str
    series: str
    at: str
    value: float | None
    late_seconds: float
    topic: str
    partition: int
    offset: int


class DecisionRecord(msgspec.Struct, frozen=True):
    id: str
    application: str
    at: str
    kind: str
    model: str | None = None
    version: str | None = None
    from_version: str | None = None
    series: str | None = None
    from_lead: int | None = None
    to_lead: int | None = None
    cause: str = ""
    numbers: dict[str, Any] = {}


encode = msgspec.json.Encoder().encode

LATEST_MS = ((1 << 63) - 1) // 1000  # beyond it, microseconds do not fit 64 bits


def stamp_us(ms: int) -> int:
    """Kafka's timestamp, which may be missing (-1) or any number that a producer wrote, as a record's stamp.

    >>> stamp_us(1_500), stamp_us(-1), stamp_us((1 << 63) - 1) < 1 << 63
    (1500000, 0, True)
    """
    return min(max(ms, 0), LATEST_MS) * 1000


def identity(kind: str, application: str, *parts: object) -> str:
    """The id of an outgoing record: the same record never has two, and no two records share one.

    >>> identity("forecasts", "tidecast", "taxi", 1) == identity("forecasts", "tidecast", "taxi", 1)
    True
    """
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode([kind, application, *parts]))


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(us: int) -> str:
    """Microseconds since the epoch as RFC 3339, to the second where that is exact.

    >>> rfc3339(0), rfc3339(1_500_000)
    ('1970-01-01T00:00:00Z', '1970-01-01T00:00:01.500000Z')
    """
    return (EPOCH + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")


instant = lru_cache(maxsize=4096)(rfc3339)  # many records of a step tell the same one


def iso_duration(us: int) -> str:
    """A length of time as ISO 8601.

    >>> iso_duration(3600 * SECOND), iso_duration(1_500_000), iso_duration(86400 * SECOND)
    ('PT1H', 'PT1.5S', 'P1D')
    """
    days, rest = divmod(us, 86_400 * SECOND)
    hours, rest = divmod(rest, 3_600 * SECOND)
    minutes, rest = divmod(rest, 60 * SECOND)
    seconds = f"{rest / SECOND:.6f}".rstrip("0").rstrip(".") if rest else ""
    clock = "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M"), (seconds, "S")) if n)
    return "P" + (f"{days}D" if days else "") + (f"T{clock}" if clock else "") if us else "PT0S"
