"""A record that cannot be used, as the message that carries it on: its bytes unchanged, the reason in headers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pipeline.records import Message, Raw, Rejection, Source, identity

OURS = "__tidecast.errors."
EXPLANATION_BYTES = 1_000  # of the message for a person


def rejection_message(
    raw: Raw | None, rejection: Rejection, source: Source, *, application: str, version: str, max_bytes: int, stage: str = "decode"
) -> Message:
    """The record for the rejected topic; `raw` is None for what the client could not read: position and size only.

    A value over `max_bytes` stays away, with its size and SHA-256 in headers.
    """
    name = identity("rejected", application, source.topic, source.partition, rejection.offset, rejection.series)
    told = {
        "topic": source.topic,
        "partition": str(source.partition),
        "offset": str(rejection.offset),
        "timestamp": str(raw.stamp // 1_000 if raw is not None else -1),
        "reason": rejection.reason,
        "stage": stage,
        "message": rejection.message,
        "attempt": "1",
        "version": version,
    }
    value, original = (raw.value, raw.headers) if raw is not None else (None, ())
    if value is not None and len(value) > max_bytes:
        told["bytes"], told["sha256"] = str(len(value)), hashlib.sha256(value).hexdigest()
        value = b""
    headers = (*untouched(original), *((OURS + name, text(said)) for name, said in told.items()))
    at = raw.stamp if raw is not None else 0
    return Message("rejected", raw.key if raw is not None else None, value, name, at, headers)


def untouched(headers: Sequence[tuple[str, bytes]]) -> Sequence[tuple[str, bytes]]:
    """The record's own headers; what looks like ours comes from an earlier rejection and is replaced."""
    return tuple((name, value) for name, value in headers if not name.startswith(OURS))


def text(said: str) -> bytes:
    """One line of UTF-8, whatever was in the record.

    >>> text("a" + chr(10) + "b")
    b'a b'
    """
    plain = "".join(c if c.isprintable() else " " for c in said)
    return plain.encode("utf-8", "replace")[:EXPLANATION_BYTES]
