"""Bad input, and input that only looks bad: each record with what must become of it."""

import pytest

from pipeline.decode import Decoder, Shape
from pipeline.records import Raw, RawBlock, Source, decode_block, encode_block, rfc3339

AT = '"2026-01-31T08:00:00Z"'
STAMP = 1_769_846_400_000_000  # that very time
DEFAULT = Shape(max_record_bytes=1_000, future_limit=3_600_000_000)
NOW = "2026-01-31T08:00:00Z"


def value(text):
    return b'{"series": "a", "at": %s, "value": %s}' % (AT.encode(), text.encode())


def at(text):
    return b'{"series": "a", "at": %s, "value": 1}' % text.encode()


def series(text):
    return b'{"series": %s, "at": %s, "value": 1}' % (text.encode("utf-8", "surrogatepass"), AT.encode())


def used(number=1.0, *, name="a", time=NOW):
    return [(name, time, number)]


LONG_TEXT = '"' + "x" * 700 + '"'

# (value, key) -> the observations, or the reason why there are none
CORPUS = {
    # numbers
    "number": (value("12.5"), used(12.5)),
    "integer": (value("-3"), used(-3.0)),
    "zero is a value": (value("0"), used(0.0)),
    "minus zero": (value("-0.0"), used(-0.0)),
    "smallest float": (value("5e-324"), used(5e-324)),
    "null is a missing observation": (value("null"), used(None)),
    "NaN": (value("NaN"), "not_finite"),
    "Infinity": (value("Infinity"), "not_finite"),
    "minus Infinity": (value("-Infinity"), "not_finite"),
    "1e400": (value("1e400"), "not_finite"),
    "-1e400": (value("-1e400"), "not_finite"),
    "1e39, beyond single precision": (value("1e39"), "not_finite"),
    "3e38, within": (value("3e38"), used(3e38)),
    "400 digits": (value("9" * 400), "not_finite"),
    "5,000 digits": (value("9" * 900).replace(b"9" * 900, b"9" * 5_000), "too_large"),
    "600 digits and NaN elsewhere": (value("9" * 600 + ', "x": NaN'), "not_finite"),
    "400 digits behind the point": (value("0." + "3" * 400), used(1 / 3)),
    "20 digits": (value("18446744073709551616"), used(18446744073709551616.0)),
    "true": (value("true"), "schema"),
    "a number as text": (value('"12.5"'), "schema"),
    "NaN as text": (value('"NaN"'), "schema"),
    "an array for a number": (value("[1]"), "schema"),
    "an object for a number": (value("{}"), "schema"),
    "leading zero": (value("01"), "not_json"),
    "point without digits": (value("1."), "not_json"),
    "hexadecimal": (value("0x10"), "not_json"),
    # shapes
    "tombstone": (None, "empty"),
    "no bytes": (b"", "empty"),
    "spaces": (b"   ", "not_json"),
    "truncated": (value("1")[:-1], "not_json"),
    "cut inside a text": (value("1")[:8], "not_json"),
    "two objects": (value("1") + value("2"), "not_json"),
    "trailing comma": (value("1")[:-1] + b",}", "not_json"),
    "single quotes": (b"{'series': 'a'}", "not_json"),
    "a comment": (b"/* */" + value("1"), "not_json"),
    "not JSON at all": (b"pump-7 12.5", "not_json"),
    "protobuf": (b"\x0a\x06pump-7\x11\x00\x00", "not_json"),
    "confluent's magic byte": (b"\x00\x00\x00\x00\x01" + value("1"), "not_json"),
    "an array": (b"[" + value("1") + b"]", "schema"),
    "null": (b"null", "schema"),
    "a number alone": (b"1", "schema"),
    "NaN alone": (b"NaN", "schema"),
    "a text alone": (b'"a"', "schema"),
    "an empty object": (b"{}", "schema"),
    "no value": (b'{"series": "a", "at": %s}' % AT.encode(), "schema"),
    "unknown fields": (value('1, "unit": "kW", "tags": [{"a": null}]'), used()),
    "NaN in an unknown field": (value('1, "x": NaN'), used()),
    "1e400 in an unknown field": (value('1, "x": 1e400'), used()),
    "duplicate keys: the last counts": (value('1, "value": 2'), used(2.0)),
    "100 deep": (value("1, " + '"x": ' + "[" * 100 + "]" * 100), used()),
    "200 deep": (value("1, " + '"x": ' + "[" * 200 + "]" * 200), "schema"),
    "200 brackets in a text": (value('1, "x": "' + "[{" * 100 + '\\""'), used()),
    "200 shallow brackets": (value('1, "x": [' + "[]," * 200 + "1]"), used()),
    "covariates": (value('1, "covariates": {"load": 0.4, "wind": null}'), used()),
    "covariates alone are used": (b'{"series": "a", "at": %s, "covariates": {"load": 1}}' % AT.encode(), used(None)),
    "covariates null": (value('1, "covariates": null, "ahead": null'), used()),
    "covariates as an array": (value('1, "covariates": [1]'), "schema"),
    "a covariate as text": (value('1, "covariates": {"load": "high"}'), "schema"),
    "a covariate without bounds": (value('1, "covariates": {"load": NaN}'), "not_finite"),
    "ahead": (value('1, "ahead": [{"at": ' + AT + ', "load": 0.5}]'), used()),
    "ahead as an object": (value('1, "ahead": {"at": 1}'), "schema"),
    "ahead without times": (value('1, "ahead": [{"load": 1}]'), "schema"),
    "ahead of numbers": (value('1, "ahead": [1]'), "schema"),
    # text
    "unicode id": (series('"Zürich/温度"'), used(name="Zürich/温度")),
    "escaped unicode id": (series('"\\u6e29"'), used(name="温")),
    "byte order mark": (b"\xef\xbb\xbf" + value("1"), used()),
    "UTF-16": (value("1").decode().encode("utf-16"), "not_json"),
    "bad UTF-8 in the id": (series('"a"').replace(b'"a"', b'"\xff"'), "not_json"),
    "bad UTF-8 in an unknown field": (value('1, "x": "y"').replace(b"y", b"\xc3\x28"), "not_json"),
    "an encoded surrogate": (series('"\ud800"'), "not_json"),
    "half a surrogate pair in the id": (series('"\\ud800"'), "bad_key"),
    "half a surrogate pair elsewhere": (value('1, "x": "\\udfff"'), used()),
    "NUL in an id": (series('"a\\u0000b"'), used(name="a\0b")),
    "NUL raw": (series('"a\0b"'), "not_json"),
    "newline in an id": (series('"a\\nb"'), used(name="a\nb")),
    "newline raw": (series('"a\nb"'), "not_json"),
    "ANSI in an id": (series('"\\u001b[31mred"'), used(name="\x1b[31mred")),
    "an id like a path": (series('"../../etc/passwd"'), used(name="../../etc/passwd")),
    "an id of 512 bytes": (series('"' + "é" * 256 + '"'), used(name="é" * 256)),
    "an id of 513 bytes": (series('"' + "é" * 256 + 'x"'), "bad_key"),
    "an integer id": (series("7"), used(name="7")),
    "a 100-digit id": (series("7" * 100), used(name="7" * 100)),
    "a truth for an id": (series("true"), "schema"),
    "a fraction for an id": (series("1.5"), "schema"),
    "an array for an id": (series('["a"]'), "schema"),
    "an empty id": (series('""'), "schema"),
    # time
    "lower case": (at('"2026-01-31t08:00:00z"'), used()),
    "a space for T": (at('"2026-01-31 08:00:00Z"'), used()),
    "a zone": (at('"2026-01-31T09:30:00+01:30"'), used()),
    "a zone west of here": (at('"2026-01-31T00:00:00-08:00"'), used()),
    "unknown zone": (at('"2026-01-31T08:00:00-00:00"'), used()),
    "milliseconds": (at('"2026-01-31T08:00:00.250Z"'), used(time="2026-01-31T08:00:00.250000Z")),
    "nanoseconds are cut": (at('"2026-01-31T08:00:00.123456999Z"'), used(time="2026-01-31T08:00:00.123456Z")),
    "600 digits of fraction": (at('"2026-01-31T08:00:00.' + "0" * 600 + 'Z"'), used()),
    "both hours of a summer's end": (at('"2025-10-26T02:30:00+02:00"'), used(time="2025-10-26T00:30:00Z")),
    "the same clock an hour later": (at('"2025-10-26T02:30:00+01:00"'), used(time="2025-10-26T01:30:00Z")),
    "leap second": (at('"2016-12-31T23:59:60Z"'), used(time="2017-01-01T00:00:00Z")),
    "leap second in a zone": (at('"2017-01-01T00:59:60+01:00"'), used(time="2017-01-01T00:00:00Z")),
    "leap second in the middle of a day": (at('"2016-12-31T12:00:60Z"'), "bad_time"),
    "29 February": (at('"2024-02-29T08:00:00Z"'), used(time="2024-02-29T08:00:00Z")),
    "no such 29 February": (at('"2025-02-29T08:00:00Z"'), "bad_time"),
    "month 13": (at('"2025-13-01T08:00:00Z"'), "bad_time"),
    "hour 24": (at('"2025-01-01T24:00:00Z"'), "bad_time"),
    "a zone of 24 hours": (at('"2025-01-01T08:00:00+24:00"'), "bad_time"),
    "no zone": (at('"2026-01-31T08:00:00"'), "bad_time"),
    "a date": (at('"2026-01-31"'), "bad_time"),
    "basic format": (at('"20260131T080000Z"'), "bad_time"),
    "other digits": (at('"\uff12\uff10\uff12\uff16-01-31T08:00:00Z"'), "bad_time"),
    "spaces around": (at('" 2026-01-31T08:00:00Z "'), "bad_time"),
    "a long text for a time": (at(LONG_TEXT), "bad_time"),
    "an epoch that was not declared": (at("1769846400"), "bad_time"),
    "an object for a time": (at("{}"), "bad_time"),
    "an array for a time": (at("[1]"), "bad_time"),
    "no time": (b'{"series": "a", "value": 1}', "no_time"),
    "null for a time": (at("null"), "no_time"),
    "year 0": (at('"0000-01-01T00:00:00Z"'), "bad_time"),
    "year 1": (at('"0001-01-01T00:00:00+23:59"'), "bad_time"),
    "before the oldest": (at('"1989-12-31T23:59:59Z"'), "bad_time"),
    "the oldest": (at('"1990-01-01T00:00:00Z"'), used(time="1990-01-01T00:00:00Z")),
    "the end of the year 9999": (at('"9999-12-31T23:59:59-01:00"'), "bad_time"),
    "year 10000": (at('"10000-01-01T00:00:00Z"'), "bad_time"),
    "50 minutes ahead": (at('"2026-01-31T08:50:00Z"'), used(time="2026-01-31T08:50:00Z")),
    "an hour ahead": (at('"2026-01-31T09:00:00Z"'), used(time="2026-01-31T09:00:00Z")),
    "more than an hour ahead": (at('"2026-01-31T09:00:00.000001Z"'), "future"),
    "ten years ahead": (at('"2036-01-31T08:00:00Z"'), "future"),
    # size
    "1,000 bytes": (value("1").ljust(1_000), used()),
    "1,001 bytes": (value("1").ljust(1_001), "too_large"),
    "a 64-KiB id": (series('"' + "x" * 65_536 + '"'), "too_large"),
    "100,000 deep": (b"[" * 100_000, "too_large"),
}

KEYS = {
    "the key is the id": (b"pump", used(name="pump")),
    "no key": (None, "schema"),
    "an empty key": (b"", "schema"),
    "a key that is not UTF-8": (b"\xff\xfe", "bad_key"),
    "a key of 512 bytes": (b"k" * 512, used(name="k" * 512)),
    "a key of 513 bytes": (b"k" * 513, "bad_key"),
    "a key with NUL and ANSI": (b"\0\x1b[31m", used(name="\0\x1b[31m")),
    "a key larger than a record may be": (b"k" * 2_000, "too_large"),
}

# (shape, value) -> the observations or the reason; times in other formats
EPOCHS = {
    "seconds": ("s", "1769846400", used()),
    "seconds with a fraction": ("s", "1769846400.25", used(time="2026-01-31T08:00:00.250000Z")),
    "seconds as text": ("s", '"1769846400"', used()),
    "milliseconds": ("ms", "1769846400000", used()),
    "microseconds": ("us", "1769846400000000", used()),
    "nanoseconds": ("ns", "1769846400000000999", used()),
    "seconds given as milliseconds": ("ms", "1769846400", "bad_time"),
    "milliseconds given as seconds": ("s", "1769846400000", "bad_time"),
    "milliseconds given as microseconds": ("us", "1769846400000", "bad_time"),
    "zero": ("s", "0", "bad_time"),
    "negative": ("s", "-1769846400", "bad_time"),
    "NaN": ("s", "NaN", "bad_time"),
    "Infinity": ("ms", "Infinity", "bad_time"),
    "400 digits": ("ns", "9" * 400, "bad_time"),
    "true": ("s", "true", "bad_time"),
    "RFC 3339": ("s", AT, "bad_time"),
    "a text of spaces": ("s", '" 1769846400"', "bad_time"),
    "strptime": ("%d.%m.%Y %H:%M", '"31.01.2026 08:00"', used()),
    "strptime with a zone": ("%Y-%m-%dT%H:%M%z", '"2026-01-31T09:00+0100"', used()),
    "strptime of another form": ("%d.%m.%Y %H:%M", AT, "bad_time"),
    "strptime of a number": ("%Y", "2026", "bad_time"),
    "strptime without a year": ("%H:%M", '"08:00"', "bad_time"),
    "strptime out of range": ("%Y%z", '"0001+2359"', "bad_time"),
}


def outcome(shape, record):
    """The observations of a record as (series, time, value; None for missing), or the only reason."""
    block = Decoder(shape).decode(RawBlock(Source("t", 0), 7, 8, 0.0, records=[record]))
    block = decode_block(encode_block(block))  # whatever is in it crosses the shuffle
    if not len(block.at):
        (rejection,) = block.rejected
        assert (rejection.record, rejection.offset) == (0, record.offset)
        assert rejection.message.isascii()
        assert rejection.message.isprintable()
        assert len(rejection.message) < 300
        return rejection.reason
    assert not block.rejected
    columns = zip(block.series, block.at, block.value, strict=True)
    return [(block.names[i], rfc3339(int(when)), None if number != number else number) for i, when, number in columns]  # noqa: PLR0124 -- NaN


@pytest.mark.parametrize("what", CORPUS)
def test_every_value_reaches_its_disposition(what):
    content, expected = CORPUS[what]
    assert outcome(DEFAULT, Raw(7, STAMP, None, content)) == expected


@pytest.mark.parametrize("what", KEYS)
def test_a_key_stands_for_a_missing_id(what):
    key, expected = KEYS[what]
    assert outcome(DEFAULT, Raw(7, STAMP, key, b'{"at": %s, "value": 1}' % AT.encode())) == expected
    if expected != "too_large":
        assert outcome(DEFAULT, Raw(7, STAMP, key, value("1"))) == used(), "a key that is not needed is not looked at"


@pytest.mark.parametrize("what", EPOCHS)
def test_times_are_read_in_the_format_declared(what):
    form, text, expected = EPOCHS[what]
    assert outcome(Shape(at_format=form), Raw(7, STAMP, None, at(text))) == expected


@pytest.mark.parametrize("headers", [[("", b"")], [("h", b"\xff\0")], [("ce_id", None)], [("x" * 300, b"y" * 300)] * 3])
def test_headers_do_not_matter_but_for_their_size(headers):
    size = sum(len(name) + len(content or b"") for name, content in headers)
    assert outcome(DEFAULT, Raw(7, STAMP, None, value("1"), headers)) == (used() if size < 900 else "too_large")


def test_100_000_deep_is_refused_where_it_is_not_too_large():
    for content in (b"[" * 100_000, b'{"a":' * 100_000, value("1, " + '"x": ' + "[" * 100_000 + "]" * 100_000)):
        assert outcome(Shape(), Raw(7, STAMP, None, content)) == "schema"


def test_integers_that_python_would_not_read_are_infinite():
    assert outcome(Shape(), Raw(7, STAMP, None, value("9" * 5_000))) == "not_finite"
    assert outcome(Shape(), Raw(7, STAMP, None, series("9" * 5_000))) == "schema"
    assert outcome(Shape(at_format="ns"), Raw(7, STAMP, None, at("9" * 5_000))) == "bad_time"
