"""Times as producers write them: RFC 3339, epochs in a declared unit, formats of strptime; read as microseconds since the epoch."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.records import EPOCH, SECOND

REMEMBERED = 100_000  # texts in a cache: some 10 MB; a day's seconds fit
LONGEST_KEPT = 64  # characters of such a text
YEAR_10000 = 253_402_300_800 * SECOND  # no time reaches it: RFC 3339 could not write it
MICROSECOND = timedelta(microseconds=1)


def reader(form: str) -> Callable[[Any], int | None]:
    """What reads times of one format, as microseconds since the epoch; None: unreadable."""
    if form == "rfc3339":
        return rfc3339_reader()
    units = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0}
    return (lambda value: from_epoch(value, units[form])) if form in units else strptime_reader(form)


DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ]", re.ASCII)
CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)", re.ASCII)
END = re.compile(r"(?:\.(\d+))?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII)


def rfc3339_reader() -> Callable[[Any], int | None]:
    """RFC 3339. Days, clocks and ends (fraction and zone) that have been read are remembered: most times are sums of three."""
    days: dict[str, int] = {}
    clocks: dict[str, int] = {}
    ends: dict[str, int] = {}

    def read(text: Any) -> int | None:
        try:
            return days[text[:11]] + clocks[text[11:19]] + ends[text[19:]]
        except (KeyError, TypeError):
            return spell(text) if type(text) is str else None

    def spell(text: str) -> int | None:
        parts = recall(days, text[:11], day), recall(clocks, text[11:19], clock), recall(ends, text[19:], end)
        if parts[0] is None or parts[1] is None or parts[2] is None:
            return None
        us = sum(parts)  # type: ignore[arg-type]
        return leap(us) if text[17:19] == "60" else us

    def recall(cache: dict[str, int], text: str, spelt: Callable[[str], int | None]) -> int | None:
        us = cache.get(text)
        if us is None:
            us = spelt(text)
            if us is not None and not text.endswith(":60"):
                remember(cache, text, us)
        return us

    return read


def day(text: str) -> int | None:
    found = DAY.fullmatch(text)
    try:
        return (datetime(int(found[1]), int(found[2]), int(found[3]), tzinfo=UTC) - EPOCH) // MICROSECOND if found else None
    except ValueError:  # the 30th of February
        return None


def clock(text: str) -> int | None:
    found = CLOCK.fullmatch(text)
    return (int(found[1]) * 3_600 + int(found[2]) * 60 + int(found[3])) * SECOND if found else None


def end(text: str) -> int | None:
    """Fraction and zone, in microseconds; further digits are cut off.

    >>> end(".5Z"), end("+00:01"), end(".0000019-00:00")
    (500000, -60000000, 1)
    """
    found = END.fullmatch(text)
    if not found:
        return None
    fraction, sign, hours, minutes = found.groups()
    zone = (int(hours) * 3_600 + int(minutes) * 60) * SECOND if sign else 0
    return int(((fraction or "") + "000000")[:6]) + (zone if sign == "-" else -zone)


def leap(us: int) -> int | None:
    """23:59:60 is the second after, as POSIX counts, and exists only at the end of a month (UTC)."""
    if not 0 <= us < YEAR_10000:
        return None
    after = EPOCH + timedelta(microseconds=us)
    return us if (after.day, after.hour, after.minute, after.second) == (1, 0, 0, 0) else None


NUMBER = re.compile(r"-?\d{1,20}(\.\d{1,9})?", re.ASCII)


def from_epoch(value: Any, unit: int) -> int | None:
    """A count since the epoch, `unit` of microseconds each (0: nanoseconds, rounded down); also as a text.

    >>> from_epoch(1_700_000_000.25, 1_000_000), from_epoch("1700000000250", 1_000), from_epoch(1_999, 0)
    (1700000000250000, 1700000000250000, 1)
    """
    if type(value) is str and NUMBER.fullmatch(value):
        value = float(value) if "." in value else int(value)
    if type(value) is int:
        return value * unit if unit else value // 1_000
    if type(value) is float and abs(value) < YEAR_10000 * 1_000:  # nor NaN
        return round(value * unit) if unit else int(value // 1_000)
    return None


def strptime_reader(form: str) -> Callable[[Any], int | None]:
    """Times in a format of strptime, UTC where it has no zone."""
    known: dict[str, int | None] = {}

    def read(text: Any) -> int | None:
        if type(text) is not str:
            return None
        try:
            return known[text]
        except KeyError:
            us = spell(text)
            remember(known, text, us)
            return us

    def spell(text: str) -> int | None:
        try:
            found = datetime.strptime(text, form)  # noqa: DTZ007 -- the next line
            return ((found if found.tzinfo else found.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND
        except (ValueError, OverflowError):
            return None

    return read


def remember(cache: dict[str, Any], text: str, found: object) -> None:
    """Keep an answer; long texts are not worth it, and a full cache begins anew."""
    if len(text) <= LONGEST_KEPT:
        if len(cache) >= REMEMBERED:
            cache.clear()
        cache[text] = found
