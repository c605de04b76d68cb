"""The graph between its ends: raw blocks in, messages out. It fits on a screen and knows no broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import apache_beam as beam
import msgspec
from apache_beam import coders
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.learn import Learn, Spec
from pipeline.metrics import stage
from pipeline.records import Block, Message, RawBlock, Turn, decode_block, encode_block

TURN_OBSERVATIONS = 1_000  # more at a time are hardly cheaper, and their forecasts come later
SHARD = b"0"  # one global model: the largest batches; more shards are independent learners, for a cluster


class BlockCoder(coders.Coder):
    """Columns as they lie in memory; without it Beam would pickle."""

    def encode(self, value: Block) -> bytes:
        return encode_block(value)

    def decode(self, encoded: bytes) -> Block:
        return decode_block(encoded)

    def is_deterministic(self) -> bool:
        return True


class TurnCoder(coders.Coder):
    """Its blocks, one after the other."""

    def encode(self, value: Turn) -> bytes:
        return msgspec.msgpack.encode([encode_block(block) for block in value.blocks])

    def decode(self, encoded: bytes) -> Turn:
        return Turn([decode_block(block) for block in msgspec.msgpack.decode(encoded)])

    def is_deterministic(self) -> bool:
        return True


coders.registry.register_coder(Block, BlockCoder)
coders.registry.register_coder(Turn, TurnCoder)


def decoded(decode: Callable[[RawBlock], Block], raw: RawBlock) -> Block:
    """The block, counted."""
    with stage("decode", len(raw.records) + len(raw.unreadable)) as out:
        block = decode(raw)
        out.append(len(block.at) + len(block.rejected))
    return block


class Together(beam.DoFn):
    """Blocks in, turns of a shard out: what a bundle has read of several partitions is learnt from and forecast at once."""

    def start_bundle(self) -> None:
        self._blocks: list[Block] = []

    def process(self, block: Block) -> Iterator[tuple[bytes, Turn]]:
        self._blocks.append(block)
        if sum(len(one.at) + len(one.rejected) for one in self._blocks) >= TURN_OBSERVATIONS:
            yield SHARD, Turn(self._blocks)
            self._blocks = []

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._blocks:
            yield GlobalWindows.windowed_value((SHARD, Turn(self._blocks)))


def flow(raw: beam.PCollection[RawBlock], *, decode: Callable[[RawBlock], Block], spec: Spec) -> beam.PCollection[list[Message]]:
    """Every block is decoded and given to its shard with those beside it, which scores, forecasts and learns."""
    return (
        raw
        | "Decode" >> beam.Map(partial(decoded, decode)).with_output_types(Block)
        | "Shard" >> beam.ParDo(Together()).with_output_types(tuple[bytes, Turn])
        | "Learn" >> beam.ParDo(Learn(spec)).with_output_types(list[Message])
    )
