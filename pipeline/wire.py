"""Records as a batch of Kafka's log has them (message format 2), written into the batches of the client.

Source of the format: https://kafka.apache.org/documentation/#messageformat, 5.3.2 and 5.3.2.1. The client writes a record header
by header and byte by byte, 8 us of them; most headers are the same in every message of a kind, and are written once here. Its
batches are its own affair: what it keeps of a record beside the bytes is kept here as it does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from kafka.record.util import encode_varint

from pipeline.records import Message, instant
from pipeline.topics import event_type

NO_ATTRIBUTES = b"\0"


@lru_cache(maxsize=1 << 15)
def varint(value: int) -> bytes:
    """As the format has its integers: zig-zag, seven bits a byte, the lowest first."""
    out = bytearray()
    encode_varint(value, out.append)
    return bytes(out)


def sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def headers(message: Message, application: str) -> list[tuple[str, bytes]]:
    """CloudEvents 1.0 in binary mode on what is ours; a rejected record has only its own, and the reason."""
    if message.kind == "rejected":
        return list(message.headers)
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", message.id.encode()),
        ("ce_source", f"/tidecast/{application}".encode()),
        ("ce_type", event_type(message.kind).encode()),
        ("ce_time", instant(message.at).encode()),
        ("content-type", b"application/json"),
        *message.headers,
    ]


def written(headers: Sequence[tuple[str, bytes]]) -> bytes:
    """Headers, their number first."""
    return varint(len(headers)) + b"".join(sized(name.encode()) + sized(value) for name, value in headers)


MARK = "\0" * 32  # as long as an id, and none


@lru_cache(maxsize=512)
def _around(kind: Any, application: str, at: int) -> tuple[bytes, bytes]:
    """What is written before the id of a message without headers of its own, and after it."""
    before, after = written(headers(Message(kind, None, None, MARK, at), application)).split(MARK.encode())
    return before, after


def written_headers(message: Message, application: str) -> bytes:
    """`written(headers(message, application))`."""
    name = message.id.encode()
    if message.headers or message.kind == "rejected" or len(name) != len(MARK):
        return written(headers(message, application))
    before, after = _around(message.kind, application, message.at)
    return before + name + after


def append(batch: Any, key: bytes, value: bytes, headers: bytes) -> bool:
    """A record, its headers written, into a batch of the client's that has its first one already; False: there is no room."""
    records = batch.records
    builder = records._builder  # noqa: SLF001 - the client's own `append` is what this one is beside
    if builder is None:
        return False  # closed: on its way
    now, offset = int(time.time() * 1000), records._next_offset  # noqa: SLF001
    since, number = varint(now - builder._first_timestamp), varint(offset)  # noqa: SLF001
    body = b"".join((NO_ATTRIBUTES, since, number, varint(len(key)), key, varint(len(value)), value, headers))
    length = varint(len(body))
    size = len(length) + len(body)
    if size + len(builder._buffer) > builder._batch_size:  # noqa: SLF001
        return False
    builder._buffer += length  # noqa: SLF001
    builder._buffer += body  # noqa: SLF001
    builder._max_timestamp = max(builder._max_timestamp, now)  # noqa: SLF001
    builder._num_records += 1  # noqa: SLF001
    builder._last_offset = offset  # noqa: SLF001
    records._next_offset = offset + 1  # noqa: SLF001
    batch.max_record_size = max(batch.max_record_size, size)
    batch.last_append = time.monotonic()
    return True
