"""The graph between its ends, on a runner that is not ours: Beam's own TestStream decides what comes when, and what time it is."""

from __future__ import annotations

import json
import random

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from apache_beam.utils.timestamp import Timestamp

from models.learner import Config
from pipeline import learn, metrics
from pipeline.consume import RawBlockCoder
from pipeline.decode import Decoder, Shape
from pipeline.events import Rules
from pipeline.flow import Together, TurnCoder, flow
from pipeline.learn import EARLIEST, Shard, Spec
from pipeline.records import Message, Raw, RawBlock, Source, Turn, encode_block, rfc3339

HOUR = 3_600_000_000
BEGIN = 500_000 * HOUR
SOURCES = (Source("t", 0), Source("t", 1))
SPEC = Spec(
    application="app",
    rules=Rules(step=HOUR, grid=HOUR, disorder=HOUR),
    config=Config(horizon=4, season=4, step_us=HOUR, hidden=16, rows=64, min_scores=3),
    sources=SOURCES,
    layout="record",
    publish_from=EARLIEST,
    rejected_max_bytes=1000,
    watched=(),
    version="test",
)


@pytest.fixture(autouse=True)
def _by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on any runner but ours: the shard is bytes from bundle to bundle."""
    monkeypatch.setattr(learn, "BY_REFERENCE", False)
    monkeypatch.setattr(metrics, "METRICS", None)


def raw(source: Source, first: int, rows: list[tuple[str, int, object]]) -> RawBlock:
    values = [json.dumps({"series": s, "at": rfc3339(BEGIN + t * HOUR), "value": v}).encode() for s, t, v in rows]
    records = [Raw(first + i, BEGIN + rows[i][1] * HOUR, None, value) for i, value in enumerate(values)]
    return RawBlock(source, first, first + len(rows), 0.0, records=records)


def blocks() -> list[RawBlock]:
    """Two partitions in turn: steady series, one record that cannot be used and one that is late in each."""
    out, position = [], dict.fromkeys(SOURCES, 0)
    draw = random.Random(1)
    for k in range(6):
        for source in SOURCES:
            rows: list[tuple[str, int, object]] = [
                (f"s{source.partition}{i}", t, draw.random() + t % 4) for t in range(4 * k, 4 * k + 4) for i in range(2)
            ]
            if k == 3:
                rows += [(rows[0][0], 0, 7.0), (rows[0][0], 15, "seven")]
            out.append(raw(source, position[source], rows))
            position[source] += len(rows)
    return out


def told(messages: list[Message]) -> list[tuple[str, bytes]]:
    return sorted((m.kind, m.value or b"") for m in messages)


def expected() -> list[tuple[str, bytes]]:
    shard, decode = Shard(SPEC), Decoder(Shape()).decode
    return told([m for block in blocks() for m in shard.take(decode(block))])


def said_is(wanted: list[tuple[str, bytes]]):
    def check(found: list[list[Message]]) -> None:
        assert told([m for messages in found for m in messages]) == wanted

    return check


def events(watermark: str) -> TestStream:
    """The blocks, one event each; the runner's own watermark stands, goes along, or is ten years on before any of them."""
    stream = TestStream(coder=RawBlockCoder())
    if watermark == "years ahead":
        stream = stream.advance_watermark_to(Timestamp(seconds=BEGIN // 1_000_000 + 10 * 365 * 86_400))
    for k, block in enumerate(blocks()):
        stream = stream.add_elements([block])
        if watermark == "along":
            stream = stream.advance_watermark_to(Timestamp(seconds=BEGIN // 1_000_000 + 3600 * k))
    return stream.advance_watermark_to_infinity()


@pytest.mark.parametrize("watermark", ["standing", "along", "years ahead"])
def test_what_is_published_does_not_depend_on_the_runners_watermark(watermark: str) -> None:
    wanted = expected()
    kinds = [kind for kind, _ in wanted]
    assert {kind: kinds.count(kind) for kind in ("forecasts", "late", "rejected")} == {"forecasts": 96, "late": 2, "rejected": 2}
    with TestPipeline(options=PipelineOptions(["--streaming"])) as p:
        assert_that(flow(p | events(watermark), decode=Decoder(Shape()).decode, spec=SPEC), said_is(wanted))


def test_blocks_that_come_in_one_bundle_say_what_they_say_one_by_one() -> None:
    stream = TestStream(coder=RawBlockCoder())
    for k in range(0, len(blocks()), 5):
        stream = stream.add_elements(blocks()[k : k + 5])
    with TestPipeline(options=PipelineOptions(["--streaming"])) as p:
        assert_that(flow(p | stream.advance_watermark_to_infinity(), decode=Decoder(Shape()).decode, spec=SPEC), said_is(expected()))


def test_a_bundle_is_one_turn_unless_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = [Decoder(Shape()).decode(block) for block in blocks()]
    together = Together()

    def turns() -> list[int]:
        together.start_bundle()
        made = [turn for block in decoded for _, turn in together.process(block)] + [one.value[1] for one in together.finish_bundle()]
        assert [block for turn in made for block in turn.blocks] == decoded
        return [sum(len(block.at) for block in turn.blocks) for turn in made]

    assert turns() == [98]
    monkeypatch.setattr("pipeline.flow.TURN_OBSERVATIONS", 40)
    assert turns() == [40, 42, 16]


def test_a_turn_is_the_same_behind_a_shuffle() -> None:
    turn = Turn([Decoder(Shape()).decode(block) for block in blocks()[:3]])
    again = TurnCoder().decode(TurnCoder().encode(turn))
    assert [encode_block(block) for block in again.blocks] == [encode_block(block) for block in turn.blocks]


def test_a_block_that_comes_twice_is_done_once() -> None:
    stream = TestStream(coder=RawBlockCoder())
    for block in blocks():
        stream = stream.add_elements([block]).add_elements([block])
    with TestPipeline(options=PipelineOptions(["--streaming"])) as p:
        assert_that(flow(p | stream.advance_watermark_to_infinity(), decode=Decoder(Shape()).decode, spec=SPEC), said_is(expected()))


def test_a_block_that_does_not_join_stops_the_job() -> None:
    first, _, third = blocks()[:3]
    gap = RawBlock(third.source, third.first + 1, third.next + 1, 0.0)
    stream = TestStream(coder=RawBlockCoder()).add_elements([first]).add_elements([gap]).advance_watermark_to_infinity()
    with (
        pytest.raises(Exception, match="stands at 8, the next block starts at 9"),
        TestPipeline(options=PipelineOptions(["--streaming"])) as p,
    ):
        _ = flow(p | stream, decode=Decoder(Shape()).decode, spec=SPEC) | beam.Map(print)
