"""Hypothesis strategies: records as producers send them, good and bad, and blocks of them."""

import json
import math

import numpy as np
from hypothesis import strategies as st

from pipeline.records import SECOND, Block, Raw, RawBlock, Rejection, Source, rfc3339

START = 1_769_846_400 * SECOND  # 2026-01-31T08:00:00Z
STEP = 60 * SECOND

series_ids = st.sampled_from(["a", "b", "pump/7", "温度", "x" * 40])
steps = st.integers(0, 50)
numbers = st.floats(-1e30, 1e30, allow_nan=False)


@st.composite
def observations(draw):
    """A good record: some series, some step, some value or null."""
    value = {"series": draw(series_ids), "at": rfc3339(START + draw(steps) * STEP), "value": draw(st.none() | numbers)}
    if draw(st.booleans()):
        value["covariates"] = draw(st.dictionaries(st.sampled_from(["load", "wind"]), st.none() | numbers))
    return json.dumps(value).encode()


FIELDS = st.sampled_from(["series", "at", "value", "covariates", "ahead", "x"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner),
    max_leaves=12,
)
junk = st.none() | st.binary(max_size=60) | st.builds(lambda tree: json.dumps(tree).encode(), ANYTHING)


@st.composite
def twisted(draw):
    """A good record with one byte changed, or cut."""
    good = bytearray(draw(observations()))
    at = draw(st.integers(0, len(good) - 1))
    if draw(st.booleans()):
        return bytes(good[:at])
    good[at] = draw(st.integers(0, 255))
    return bytes(good)


values = observations() | junk | twisted()
keys = st.none() | st.sampled_from([b"", b"key", b"\xff", b"k" * 600])
headers = st.lists(st.tuples(st.text(max_size=4), st.binary(max_size=4)), max_size=2)


@st.composite
def raw_blocks(draw, values=values, max_size=12):
    """Consecutive records of one partition, with gaps between offsets as control records leave them."""
    offset = first = draw(st.integers(0, 1_000))
    records = []
    for value in draw(st.lists(values, max_size=max_size)):
        offset += draw(st.integers(1, 3))
        records.append(Raw(offset - 1, START + draw(st.integers(-1, 60)) * STEP, draw(keys), value, draw(headers)))
    return RawBlock(Source("meters", 0), first, offset + draw(st.integers(0, 2)), 0.5, stable=draw(st.booleans()), records=records)


@st.composite
def blocks(draw):
    """Decoded blocks whose columns fit together but whose contents are arbitrary."""
    names = draw(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), unique=True, max_size=3))
    records = [Raw(i, i * STEP, draw(keys), draw(junk), draw(headers)) for i in range(draw(st.integers(0, 3)))]
    n = draw(st.integers(0, 5)) if names and records else 0

    def column(kind, elements):
        return np.array(draw(st.lists(elements, min_size=n, max_size=n)), kind)

    record = np.sort(column(np.int32, st.integers(0, max(len(records) - 1, 0))))
    return Block(
        Source(draw(st.text(st.characters(codec="ascii"))), draw(st.integers(0, 9))),
        draw(st.integers(0, 2**62)),
        draw(st.integers(0, 2**62)),
        draw(st.floats(0, 2e9)),
        stable=draw(st.booleans()),
        ended=draw(st.booleans()),
        filtered=draw(st.integers(0, 9)),
        names=names,
        series=column(np.int32, st.integers(0, max(len(names) - 1, 0))),
        at=column(np.int64, st.integers(-(2**62), 2**62)),
        value=column(np.float64, st.floats() | st.just(math.nan)),
        offset=record.astype(np.int64),
        stamp=record.astype(np.int64) * STEP,
        record=record,
        records=records,
        rejected=[Rejection(-1, 3, "corrupt", "3 bytes"), Rejection(0, 0, "schema", "no", "a")][: draw(st.integers(0, 2))],
    )
