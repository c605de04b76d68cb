"""What the page reads of our messages: only what it shows, checked, so that a record that is not one of ours is a value and no crash."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import msgspec

MOST_LEADS = 1_000  # as forecast.horizon allows
MOST_LEVELS = 64
LONGEST_NAME = 2_048  # characters of a series' id; the pipeline lets 512 bytes and a column's name through
LARGEST_DECISION = 65_536  # bytes; ours have a few hundred

Name = Annotated[str, msgspec.Meta(max_length=LONGEST_NAME)]
When = Annotated[datetime, msgspec.Meta(tz=True)]
Lead = Annotated[int, msgspec.Meta(ge=1, le=MOST_LEADS)]
ByLevel = Annotated[list[float], msgspec.Meta(max_length=MOST_LEVELS)]
ByLead = Annotated[list[float], msgspec.Meta(min_length=1, max_length=MOST_LEADS)]


class Head(msgspec.Struct, frozen=True):
    """Of a forecast that nobody looks at."""

    application: str
    series: Name
    lead: Lead | None = None  # of `layout = "row"` only


class Run(msgspec.Struct, frozen=True):
    """Leads `from_lead..to_lead` and who served them."""

    from_lead: int
    to_lead: int
    by: str
    reason: str | None = None


class Whole(msgspec.Struct, frozen=True):
    """A forecast of all leads (H) at all levels (Q)."""

    issued_at: When
    targets: Annotated[list[When], msgspec.Meta(min_length=1, max_length=MOST_LEADS)]  # (H,)
    point: ByLead  # (H,)
    levels: ByLevel  # (Q,)
    quantiles: Annotated[list[ByLead], msgspec.Meta(max_length=MOST_LEVELS)]  # (Q, H)
    served: list[Run] = []
    cold: bool = False
    woken: bool = False


class Row(msgspec.Struct, frozen=True):
    """One lead of a forecast."""

    issued_at: When
    target: When
    lead: Lead
    point: float
    levels: ByLevel  # (Q,)
    quantiles: ByLevel  # (Q,)
    by: str = ""
    reason: str | None = None
    cold: bool = False
    woken: bool = False


class LeadScore(msgspec.Struct, frozen=True):
    lead: Lead
    error: float
    baseline_error: float
    covered: list[float] = []


class Score(msgspec.Struct, frozen=True):
    application: str
    series: Name
    at: When
    actual: float
    scores: Annotated[list[LeadScore], msgspec.Meta(min_length=1, max_length=MOST_LEADS)]
    anomaly: bool = False


class Decision(msgspec.Struct, frozen=True):
    id: str
    application: str
    at: When
    kind: str
    series: str | None = None
    from_lead: int | None = None
    to_lead: int | None = None
    from_version: str | None = None
    version: str | None = None
    cause: str = ""
    numbers: dict[str, Any] = {}


class Learner(msgspec.Struct, frozen=True):
    skill: dict[str, float | None] = {}
    coverage: dict[str, float | None] = {}
    weights: dict[str, list[float]] = {}


class Status(msgspec.Struct, frozen=True):
    """A heartbeat; before the first block it says little but that somebody lives."""

    application: str
    instance: str = ""
    state: str = "running"
    ledger: dict[str, int] = {}
    published: dict[str, int] = {}
    learner: Learner = Learner()
    latency_ms: dict[str, float | None] = {}
    lag: int | None = None
    commits: int | None = None
    updates: int | None = None
    series: int | None = None
    held: int | None = None
    idle: int | None = None
    filtered: int | None = None
    watermark: int | None = None
    clock: int | None = None


M = TypeVar("M", bound=msgspec.Struct)


def decoder(kind: type[M]) -> Callable[[bytes], M | None]:
    r"""From a record's value to a message, or None for what is none.

    >>> decoder(Head)(b'{"application": "a", "series": "s", "issued_at": "..."}')
    Head(application='a', series='s', lead=None)
    >>> decoder(Head)(b'{"application": 5}') is decoder(Head)(b"\xff") is None
    True
    """
    decode = msgspec.json.Decoder(kind).decode

    def read(value: bytes) -> M | None:
        try:
            return decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    return read


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def us(at: datetime) -> int:
    """Microseconds since the epoch.

    >>> us(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000
    """
    return (at - EPOCH) // MICROSECOND
