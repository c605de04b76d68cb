"""The nouns that stages share: blocks on the way in, messages on the way out.

Letters: N observations in a block, R records in a block, H lead times, Q quantile levels.
Times are integers, microseconds since the epoch (UTC); a *position* is the offset of the next record to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
import numpy as np
import xxhash

SECOND = 1_000_000  # microseconds

Reason = Literal[
    "not_json", "schema", "empty", "not_finite", "no_time", "bad_time", "future", "bad_key", "too_large", "corrupt", "too_many_series"
]
REASONS: tuple[Reason, ...] = get_args(Reason)
Expert = Literal["lstm", "gru", "elman", "jordan", "mixture", "linear", "seasonal_naive", "last_value"]
Baseline = Literal["seasonal_naive", "last_value"]


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


@dataclass(slots=True)
class Turn:
    """Blocks that a shard takes at a time, in the order in which they were read."""

    blocks: list[Block]


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


# The types below are the contract: `deploy/contracts.py` makes the published schemas from them, words and all.


def means(text: str) -> msgspec.Meta:
    """What a field means, for whoever generates types from the published schemas."""
    return msgspec.Meta(description=text)


def shaped(**keywords: Any) -> msgspec.Meta:
    """What the published schema says beside; our own decoders do not look at it."""
    return msgspec.Meta(extra_json_schema=keywords)


Time = Annotated[str, shaped(format="date-time")]
Duration = Annotated[str, shaped(format="duration")]
Id = Annotated[
    str, shaped(pattern="^[0-9a-f]{32}$"), means("Of this record: the same one never has two, no two share one. Drop what you have seen.")
]
Application = Annotated[str, means("Who wrote this: `application` of the settings. Applications may share topics.")]
Series = Annotated[str, means("Id of the series, as in the input; of a wide record <series>/<column>.")]
Lead = Annotated[int, msgspec.Meta(ge=1), means("Steps ahead; 1 is the next step.")]
Count = Annotated[int, msgspec.Meta(ge=0)]
By = Annotated[Expert, means("What made the forecast.")]
Model = Annotated[str, means("Name of the model.")]
Version = Annotated[str, means("Hash of the weights that online learning started from.")]
Updates = Annotated[Count, means("Learning instants since then.")]
Issued = Annotated[Time, means("The forecast knows the series up to this step, and nothing later.")]
Step = Annotated[Duration, means("Spacing of the series, as ISO 8601.")]
Levels = Annotated[Sequence[Annotated[float, msgspec.Meta(gt=0, lt=1)]], msgspec.Meta(min_length=1), means("Quantile levels, rising.")]
Cold = Annotated[bool, means("The series has shown fewer values than one season, or than the horizon.")]
Woken = Annotated[bool, means("Learning had gone on without this series' partition: never scored.")]
Observations = Annotated[Count, means("Values of the series so far.")]
Why = Literal["cold_start", "no_skill", "not_finite", "stale_model"]
Reasoned = Annotated[Why | None, means("Why it was not the model that the settings ask for; null: it was.")]
PointIs = Annotated[Literal["mean", "median"], means("What `point` is of the distribution.")]


class Served(msgspec.Struct, frozen=True):
    """Leads `from_lead` to `to_lead`, both included, came from `by`."""

    from_lead: Lead
    to_lead: Lead
    by: By
    reason: Reasoned = None


class Forecast(msgspec.Struct, frozen=True):
    """One series, all lead times, made when a sample arrived."""

    id: Id
    application: Application
    series: Series
    issued_at: Issued
    step: Step
    horizon: Annotated[int, msgspec.Meta(ge=1), means("Lead times, H: the length of `targets`, `point`, and each list of `quantiles`.")]
    targets: Annotated[Sequence[Time], msgspec.Meta(min_length=1), means("(H) The times forecast: issued_at + k * step.")]
    point: Annotated[Sequence[float], msgspec.Meta(min_length=1), means("(H) The forecast, a number for each target.")]
    point_is: PointIs
    levels: Levels
    quantiles: Annotated[
        Sequence[Annotated[Sequence[float], msgspec.Meta(min_length=1)]],
        msgspec.Meta(min_length=1),
        means("For each of `levels` a list (H), a number for each target."),
    ]
    served: Annotated[Sequence[Served], msgspec.Meta(min_length=1), means("Who made it, in runs of leads that cover 1 to H.")]
    model: Model
    model_version: Version
    updates: Updates
    cold: Cold
    woken: Woken
    observations: Observations


class LeadForecast(msgspec.Struct, frozen=True):
    """`output.layout = "row"`: one lead of a forecast, flat."""

    id: Id
    application: Application
    series: Series
    issued_at: Issued
    step: Step
    lead: Lead
    target: Annotated[Time, means("The time forecast: issued_at + lead * step.")]
    point: Annotated[float, means("The forecast.")]
    point_is: PointIs
    levels: Levels
    quantiles: Annotated[Sequence[float], msgspec.Meta(min_length=1), means("A number for each of `levels`.")]
    by: By
    reason: Reasoned
    model: Model
    model_version: Version
    updates: Updates
    cold: Cold
    woken: Woken
    observations: Observations


class LeadScore(msgspec.Struct, frozen=True):
    """A forecast of one lead, beside what came."""

    lead: Lead
    issued_at: Issued
    forecast_id: Annotated[str, shaped(pattern="^[0-9a-f]{32}$"), means("`id` of the forecast.")]
    by: By
    point: Annotated[float, means("The forecast.")]
    error: Annotated[float, means("actual - point")]
    baseline: Annotated[Baseline, means("The naive forecast that had been better for this series and lead when this one was issued.")]
    baseline_error: Annotated[float, means("actual - what the baseline forecast")]
    covered: Annotated[Sequence[float], means("The central bands that held the actual value: 0.9 is the one from level 0.05 to 0.95.")]
    model_version: Version


class Score(msgspec.Struct, frozen=True):
    """A value that came, and all forecasts that were made for it."""

    id: Id
    application: Application
    series: Series
    at: Annotated[Time, means("Step of the value.")]
    actual: Annotated[float, means("The value.")]
    anomaly: Annotated[bool, means("Outside the 90 % band of the forecast one step ahead.")]
    scores: Annotated[Sequence[LeadScore], msgspec.Meta(min_length=1), means("By lead, rising.")]


class Late(msgspec.Struct, frozen=True):
    """An observation that came too far behind its partition's clock to be used."""

    id: Id
    application: Application
    series: Series
    at: Annotated[Time, means("Its event time.")]
    value: Annotated[float | None, means("Its value; null: a missing observation.")]
    late_seconds: Annotated[float, means("How far it was behind the last time that would have done.")]
    topic: Annotated[str, means("Where it was read.")]
    partition: Count
    offset: Count


DecisionKind = Literal[
    "drift", "refit", "reset", "skip", "rollback_weights", "fallback", "recover", "wake", "switch", "retrain", "shadow", "promote",
    "rollback", "refuse", "coverage",
]  # fmt: skip


class DecisionRecord(msgspec.Struct, frozen=True):
    """Something that was decided, or found: on change only."""

    id: Id
    application: Application
    at: Annotated[Time, means("The learning instant.")]
    kind: Annotated[str, shaped(enum=list(get_args(DecisionKind)))]
    model: Annotated[str | None, means("Name of the model.")] = None
    version: Annotated[str | None, means("Version that it is about, or that serves from then on.")] = None
    from_version: Annotated[str | None, means("Version that served before.")] = None
    series: Annotated[str | None, means("Series that it is about; null: all.")] = None
    from_lead: Annotated[int | None, means("First lead that it is about; null: all.")] = None
    to_lead: Annotated[int | None, means("Last lead that it is about.")] = None
    cause: Annotated[str, means("For a person.")] = ""
    numbers: Annotated[
        dict[str, Any],
        means(
            "What was measured, by name. Of a wake: topic, partition, position, instant; of who serves: effective_from, instant "
            "(microseconds since the epoch)."
        ),
    ] = {}


Role = Literal["champion", "challenger", "previous"]


class Pointer(msgspec.Struct, frozen=True):
    """Which version of a model has a role; the newest record of a key counts."""

    application: Application
    model: Model
    role: Annotated[Role, means("What the version is from then on.")]
    version: Annotated[str | None, means("Hash of its weights; null: nobody has the role.")]
    effective_from: Annotated[Time, means("Learning instant from which it counts.")]
    by: Annotated[str, means("Who moved it.")]
    reason: Annotated[str, means("Why, for a person.")]


Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Skill = Annotated[dict[str, float], means("By lead: 1 - error / error of the better naive forecast, since the start.")]
Shares = Annotated[dict[str, dict[str, Share]], means("By lead: who served which share of the forecasts that were scored.")]
Coverage = Annotated[dict[str, Share], means("By central band: the share of values that it held.")]
Seen = Annotated[Count, means("Values so far.")]


class Ledger(msgspec.Struct, frozen=True):
    """Observations read so far: consumed = used + duplicate + late + rejected."""

    consumed: Count
    used: Count
    duplicate: Count
    late: Count
    rejected: Count


class Published(msgspec.Struct, frozen=True):
    """Records written so far, by topic."""

    forecasts: Count
    scores: Count
    late: Count
    rejected: Count


class Quality(msgspec.Struct, frozen=True):
    """How good the forecasts of all series have been."""

    observations: Seen
    skill: Skill
    served: Shares
    coverage: Coverage
    coverage_by_lead: Annotated[dict[str, dict[str, Share]], means("By central band and lead: the share of values that it held.")]
    weights: Annotated[dict[str, Sequence[float]], means("By expert of the mixture: its weight at each lead (H); empty without a mixture.")]


class SeriesQuality(msgspec.Struct, frozen=True):
    """How good the forecasts of one series have been, and the newest."""

    observations: Seen
    skill: Skill
    served: Shares
    coverage: Coverage
    last: Annotated[float | None, means("Its newest value.")]
    next: Annotated[float | None, means("The forecast of the step that follows.")]
    band: Annotated[Sequence[float] | None, shaped(minItems=2, maxItems=2), means("Its lowest and highest quantile.")]


class Latency(msgspec.Struct, frozen=True):
    """From the append of a sample to its forecast being readable, in milliseconds; null before the first."""

    p50: float | None
    p99: float | None


Absent = msgspec.UnsetType
Micros = Annotated[int | None, means("Event time, microseconds since the epoch; null before there is one.")]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How an application is, once a second; outside all promises. What is not required is left out until something has been read."""

    application: Application
    instance: Annotated[str, means("The process; another one after every start.")]
    beat: Annotated[int, msgspec.Meta(ge=1), means("Counts this process's records: the heartbeat.")]
    state: Annotated[Literal["running", "stopped"], means("stopped: it said good-bye.")]
    lag: Annotated[Count, means("Records of the input that have not been read.")] | Absent = msgspec.UNSET
    commits: Annotated[Count, means("Of this process.")] | Absent = msgspec.UNSET
    latency_ms: Latency | Absent = msgspec.UNSET
    ledger: Ledger | Absent = msgspec.UNSET
    filtered: Annotated[Count, means("Observations of series that are not asked for.")] | Absent = msgspec.UNSET
    windows: Annotated[Count, means("Windows learnt.")] | Absent = msgspec.UNSET
    updates: Annotated[Count, means("Learning instants so far.")] | Absent = msgspec.UNSET
    series: Annotated[Count, means("Series that are kept.")] | Absent = msgspec.UNSET
    held: Annotated[Count, means("Observations that wait for another partition.")] | Absent = msgspec.UNSET
    idle: Annotated[Count, means("Partitions that are silent.")] | Absent = msgspec.UNSET
    watermark: Micros | Absent = msgspec.UNSET
    clock: Micros | Absent = msgspec.UNSET
    published: Published | Absent = msgspec.UNSET
    learner: Quality | Absent = msgspec.UNSET
    by_series: Annotated[dict[str, SeriesQuality], means("Those of `metrics.series`.")] | Absent = msgspec.UNSET


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
