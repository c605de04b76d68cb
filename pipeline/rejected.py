"""A record that cannot be used, as the message that carries it on: its bytes unchanged, the reason in headers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from pipeline.records import Message, Raw, Reason, Rejection, Source, identity, means, shaped

OURS = "__tidecast.errors."
ATTEMPT = OURS + "attempt"
EXPLANATION_BYTES = 1_000  # of the message for a person
# Of keys and of headers. A broker takes 1,048,588 bytes a record unless told otherwise: the largest value that is kept
# (512 KiB), key and headers must fit in there together, or a single record could stop us for ever.
EXTRAS_BYTES = 256 << 10
Digits = Annotated[str, shaped(pattern="^[0-9]+$")]
Hash = Annotated[str, shaped(pattern="^[0-9a-f]{64}$")]
Absent = msgspec.UnsetType


class Errors(msgspec.Struct, frozen=True, kw_only=True, rename=lambda name: OURS + name):
    """What is added to the headers of a record that cannot be used; all of them text."""

    topic: Annotated[str, means("Where it was read.")]
    partition: Digits
    offset: Digits
    timestamp: Annotated[str, shaped(pattern="^(-1|[0-9]+)$"), means("Kafka's, milliseconds since the epoch; -1: none.")]
    reason: Reason
    stage: Annotated[str, means("Which part of Tidecast could not use it.")]
    message: Annotated[str, means("For a person: what came, what was wanted.")]
    attempt: Annotated[Digits, means("1, and one more each time it was sent again and rejected again.")]
    version: Annotated[str, means("Of Tidecast.")]
    bytes: Annotated[Digits, means("Size of the value, where it was too large to be kept: the value is empty.")] | Absent = msgspec.UNSET
    sha256: Annotated[Hash, means("SHA-256 of that value.")] | Absent = msgspec.UNSET
    key_bytes: Annotated[Digits, means("Size of the key, where it was too large to be kept: the key is empty.")] | Absent = msgspec.UNSET
    key_sha256: Annotated[Hash, means("SHA-256 of that key.")] | Absent = msgspec.UNSET
    headers: Annotated[Digits, means("How many headers of its own it had, where they were too large to be kept.")] | Absent = msgspec.UNSET
    headers_bytes: Annotated[Digits, means("Their size.")] | Absent = msgspec.UNSET


def rejection_message(
    raw: Raw | None, rejection: Rejection, source: Source, *, application: str, version: str, max_bytes: int, stage: str = "decode"
) -> Message:
    """The record for the rejected topic; `raw` is None for what the client could not read: position and size only.

    A value over `max_bytes` stays away, with its size and SHA-256 in headers; so does a key or a set of headers that
    would make the record too large for a broker.
    """
    name = identity("rejected", application, source.topic, source.partition, rejection.offset, rejection.series)
    told: dict[str, Any] = {
        "topic": source.topic,
        "partition": str(source.partition),
        "offset": str(rejection.offset),
        "timestamp": str(raw.stamp // 1_000 if raw is not None else -1),
        "reason": rejection.reason,
        "stage": stage,
        "message": rejection.message,
        "attempt": str(attempts(raw.headers if raw is not None else ()) + 1),
        "version": version,
    }
    key, value, own = (raw.key, raw.value, untouched(raw.headers)) if raw is not None else (None, None, ())
    if value is not None and len(value) > max_bytes:
        told |= {"bytes": str(len(value)), "sha256": hashlib.sha256(value).hexdigest()}
        value = b""
    room = EXTRAS_BYTES - len(key or b"")
    if room < 0 and key is not None:
        told |= {"key_bytes": str(len(key)), "key_sha256": hashlib.sha256(key).hexdigest()}
        key, room = b"", EXTRAS_BYTES
    weight = sum(len(header.encode()) + len(said) for header, said in own)
    if weight > room:
        told |= {"headers": str(len(own)), "headers_bytes": str(weight)}
        own = ()
    headers = (*own, *((header, text(said)) for header, said in msgspec.to_builtins(Errors(**told)).items()))
    return Message("rejected", key, value, name, raw.stamp if raw is not None else 0, headers)


def attempts(headers: Sequence[tuple[str, bytes]]) -> int:
    """How often a record has been rejected before, as whoever sent it again says.

    >>> attempts([(ATTEMPT, b"2")]), attempts([]), attempts([(ATTEMPT, b"many")])
    (2, 0, 0)
    """
    said = next((value for name, value in headers if name == ATTEMPT), b"0")
    return int(said) if said.isdigit() and len(said) <= ATTEMPT_DIGITS else 0


ATTEMPT_DIGITS = 9  # a header may say anything


def untouched(headers: Sequence[tuple[str, bytes]]) -> Sequence[tuple[str, bytes]]:
    """The record's own headers; what looks like ours comes from an earlier rejection and is replaced."""
    return tuple((name, value) for name, value in headers if not name.startswith(OURS))


def text(said: str) -> bytes:
    """One line of UTF-8, whatever was in the record.

    >>> text("a" + chr(10) + "b")
    b'a b'
    """
    plain = "".join(c if c.isprintable() else " " for c in said[:EXPLANATION_BYTES])
    return plain.encode()[:EXPLANATION_BYTES].decode(errors="ignore").encode()  # no half of a character at the end
