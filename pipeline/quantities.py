"""What people write in settings, as values: durations, sizes, times, lists, words; and the types that settings are made of.

Anything else is a ValueError that says what is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from pipeline.records import EPOCH, SECOND, rfc3339

MICROSECONDS = {
    "us": 1,
    "ms": 1_000,
    "s": SECOND,
    "min": 60 * SECOND,
    "h": 3_600 * SECOND,
    "d": 86_400 * SECOND,
    "w": 7 * 86_400 * SECOND,
}
CENTURY = 36_525 * MICROSECONDS["d"]  # so that sums of times and durations stay within 64 bits
LONGEST_GAP = 1_000  # steps; every series keeps up to twice as much more of its past
BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def duration(value: object) -> int:
    """A duration as microseconds; ValueError for anything else, and beyond a hundred years.

    >>> duration("500ms"), duration("1h"), duration("15min"), duration("1.5s")
    (500000, 3600000000, 900000000, 1500000)
    """
    found = re.fullmatch(r"([0-9]{1,16}(?:\.[0-9]{1,9})?) ?([a-z]+)", value.strip()) if isinstance(value, str) else None
    if found and found[2] == "mo":
        raise ValueError("months are not supported yet; allowed: a number and one of " + ", ".join(MICROSECONDS))
    if not found or found[2] not in MICROSECONDS:
        raise ValueError(f'not a duration; allowed: a number and one of {", ".join(MICROSECONDS)}, like "500ms" or "1h"')
    exact = Decimal(found[1]) * MICROSECONDS[found[2]]
    if exact != int(exact):
        raise ValueError("not a whole number of microseconds")
    if exact > CENTURY:
        raise ValueError("a duration of more than 100 years")
    return int(exact)


def duration_text(us: int) -> str:
    """Microseconds as a duration.

    >>> duration_text(3600 * SECOND), duration_text(90 * SECOND), duration_text(0)
    ('1h', '90s', '0s')
    """
    unit = next((u for u in ("d", "h", "min", "s", "ms") if us % MICROSECONDS[u] == 0), "us") if us else "s"
    return f"{us // MICROSECONDS[unit]}{unit}"


def size(value: object) -> int:
    """A size as bytes.

    >>> size("2GB"), size("512KiB"), size(1048576)
    (2000000000, 524288, 1048576)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = re.fullmatch(r"([0-9]{1,15}) ?([a-zA-Z]*)", value.strip()) if isinstance(value, str) else None
    if not found or (found[2] or "B") not in BYTES:
        raise ValueError(f'not a size; allowed: bytes, or a whole number and one of {", ".join(BYTES)}, like "2GB"')
    return int(found[1]) * BYTES[found[2] or "B"]


def instant(value: object) -> int:
    """A date or a time (UTC where no zone is said) as microseconds since the epoch.

    >>> instant("1970-01-02"), instant(datetime(1970, 1, 1, 1, tzinfo=UTC))
    (86400000000, 3600000000)
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError('not a time; allowed: "2026-01-31" or "2026-01-31T08:00:00Z"') from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise ValueError('not a time; allowed: "2026-01-31" or "2026-01-31T08:00:00Z"')  # noqa: TRY004 -- pydantic collects ValueErrors
    return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - EPOCH) // timedelta(microseconds=1)


def word_or_time(*words: str) -> Callable[[object], str | int]:
    def chosen(value: object) -> str | int:
        if value in words:
            return str(value)
        try:
            return instant(value)
        except ValueError as wrong:
            raise ValueError(f"{wrong}, or {', '.join(words)}") from None

    return chosen


def each_once(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if more := sorted({n for n in numbers if numbers.count(n) > 1}):
        raise ValueError(f"{more[0]} is there more than once; allowed: each number once")
    return numbers


def listed(value: object) -> object:
    """What the environment gives as `a,b` or `["a", "b"]`, and a single value, as a list."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError('not a list; allowed: a,b or ["a", "b"]') from None
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) else value


def topic_names(value: object) -> object:
    """A text that begins with ^ is one regular expression, commas and all; any other is a list of names."""
    names = [value] if isinstance(value, str) and value.startswith("^") else listed(value)
    for name in names if isinstance(names, list | tuple) else ():
        if isinstance(name, str) and name.startswith("^"):
            try:
                re.compile(name)
            except re.error as wrong:
                raise ValueError(f"{name!r} is not a regular expression: {wrong}") from None
        elif not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name):
            raise ValueError(f"{name!r} is not a topic name; allowed: letters, digits, . _ - or a regular expression that begins with ^")
    return names


def servers(value: object) -> object:
    names = listed(value)
    for name in names if isinstance(names, list | tuple) else ():
        address(name)
    return names


def address(value: object) -> str:
    found = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", value) if isinstance(value, str) else None
    if not found or int(found[2]) > 65535:  # noqa: PLR2004 -- the largest port
        raise ValueError('not an address; allowed: host:port, like "127.0.0.1:9092"')
    return found[0]


def number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("not a number")  # noqa: TRY004 -- pydantic collects ValueErrors
    return value


def time_format(value: object) -> str:
    """`rfc3339`, an epoch unit, or a format of strptime: tried on one date, since a wrong one would refuse every record."""
    allowed = "allowed: rfc3339, s, ms, us, ns, or a format like %Y-%m-%d %H:%M:%S"
    if value in ("rfc3339", "s", "ms", "us", "ns"):
        return str(value)
    if not isinstance(value, str) or "%" not in value:
        raise ValueError(f"not a time format; {allowed}")
    try:
        datetime.strptime(datetime(2026, 1, 31, 8, tzinfo=UTC).strftime(value), value)  # noqa: DTZ007 -- only tried
    except ValueError as wrong:
        raise ValueError(f"{wrong}; {allowed}") from None
    return value


def quantile_levels(value: object) -> object:
    """Quantile levels: rising, inside (0, 1), with the median, around which the others are stacked."""
    given = listed(value)
    try:
        numbers = [float(number(x)) for x in given] if isinstance(given, list | tuple) else []  # type: ignore[arg-type]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or numbers != sorted(set(numbers)) or numbers[0] <= 0 or numbers[-1] >= 1 or 0.5 not in numbers:  # noqa: PLR2004
        raise ValueError("allowed: numbers between 0 and 1, rising, 0.5 among them")
    return numbers


def legal(value: object) -> str:
    """A name that is fit for topics, transaction ids and folders."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", value):
        raise ValueError("allowed: up to 100 letters, digits, . _ -, no . in front")
    return value


def device(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,2})?", value):
        raise ValueError("not a device; allowed: auto, cpu, cuda, cuda:0")
    return value


def gap_policy(value: object) -> str:
    """The name of a policy, and the steps of a gap that it takes.

    >>> gap_policy("ffill: 3")
    'ffill:3'
    """
    found = re.fullmatch(r"(ffill|linear|split) ?: ?([0-9]{1,4})", value.strip()) if isinstance(value, str) else None
    if value == "mask" or (found and 1 <= int(found[2]) <= LONGEST_GAP):
        return f"{found[1]}:{int(found[2])}" if found else "mask"
    raise ValueError(f"allowed: mask, or ffill, linear or split with a number of steps from 1 to {LONGEST_GAP}, like ffill:3")


def plain(value: object) -> str:
    r"""What came, for a terminal or a log, whatever is in it.

    >>> plain("a\n\x1b[31m")
    'a\\n\\x1b[31m'
    """
    shown = ascii(value[:80])[1:-1] if isinstance(value, str) else ascii(value)
    return shown if len(shown) < 80 else shown[:77] + "..."  # noqa: PLR2004 -- a line


def choice(*allowed: str, later: tuple[str, ...] = ()) -> BeforeValidator:
    """One word of a list; words that belong to the contract but that nothing serves yet are told apart from mistakes."""

    def chosen(value: object) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        raise ValueError(f"{'not supported yet' if value in later else 'not known'}; allowed: {', '.join(allowed)}")

    return BeforeValidator(chosen)


def one(value: object) -> int:
    if isinstance(value, bool) or value not in (1, "1"):
        raise ValueError("not supported yet; allowed: 1")
    return 1


Duration = Annotated[int, BeforeValidator(duration), PlainSerializer(duration_text)]
Size = Annotated[int, BeforeValidator(size), Field(ge=1)]
Instant = Annotated[int, BeforeValidator(instant), PlainSerializer(rfc3339)]
Names = Annotated[tuple[str, ...], BeforeValidator(listed)]
Count = Annotated[int, BeforeValidator(number)]
Counts = Annotated[tuple[Annotated[int, BeforeValidator(number), Field(ge=2)], ...], BeforeValidator(listed), AfterValidator(each_once)]
Real = Annotated[float, BeforeValidator(number)]
File = Annotated[str, Field(min_length=1)]
Legal = Annotated[str, BeforeValidator(legal)]
Topics = Annotated[tuple[str, ...], BeforeValidator(topic_names), Field(min_length=1)]
Servers = Annotated[tuple[str, ...], BeforeValidator(servers), Field(min_length=1)]
Address = Annotated[str, BeforeValidator(address)]
Levels = Annotated[tuple[float, ...], BeforeValidator(quantile_levels)]
TimeFormat = Annotated[str, BeforeValidator(time_format)]
One = Annotated[int, BeforeValidator(one)]
Shown = PlainSerializer(lambda value: rfc3339(value) if isinstance(value, int) else value)
Start = Annotated[str | int, BeforeValidator(word_or_time("earliest", "latest")), Shown]
PublishFrom = Annotated[str | int, BeforeValidator(word_or_time("first_start", "earliest")), Shown]
Device = Annotated[str, BeforeValidator(device)]
Security = Annotated[str, choice("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")]
Mechanism = Annotated[str, choice("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", later=("OAUTHBEARER", "GSSAPI", "AWS_MSK_IAM"))]
Format = Annotated[str, choice("json", later=("avro", "protobuf", "csv"))]
Samples = Annotated[str, choice("one", "many")]
Aggregate = Annotated[str, choice("mean", "last", "sum", "count", "rate")]
Gaps = Annotated[str, BeforeValidator(gap_policy)]
Silent = Annotated[str, choice("skip", "fill")]
Kind = Annotated[str, choice("fixed", "sliding", "session")]
Model = Annotated[
    str,
    choice("mixture", "nets", "mixture-without-nets", "linear", "lstm", "gru", "elman", "jordan", "seasonal_naive", "last_value"),
]
Layout = Annotated[str, choice("record", "row")]
Optimiser = Annotated[str, choice("adamw", "adam", "sgd")]
Promote = Annotated[str, choice("auto", "hand")]
Forgetful = Annotated[str, choice("tell", "refuse")]
Moments = Annotated[str, choice("version", "stream")]


def about(meaning: str, default: Any = ..., *, shown: str | None = None, **bounds: Any) -> Any:
    """A field: what it means, with its unit; its default; how that is written where it is worked out."""
    return Field(default, description=meaning, json_schema_extra={"shown": shown} if shown else None, **bounds)
