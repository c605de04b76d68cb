"""The graph between its ends: raw blocks in, messages out. It fits on a screen and knows no broker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import apache_beam as beam
from apache_beam import coders

from pipeline.learn import Learn, Spec
from pipeline.metrics import stage
from pipeline.records import Block, Message, RawBlock, decode_block, encode_block

SHARD = b"0"  # one global model: the largest batches; more shards are independent learners, for a cluster


class BlockCoder(coders.Coder):
    """Columns as they lie in memory; without it Beam would pickle."""

    def encode(self, value: Block) -> bytes:
        return encode_block(value)

    def decode(self, encoded: bytes) -> Block:
        return decode_block(encoded)

    def is_deterministic(self) -> bool:
        return True


coders.registry.register_coder(Block, BlockCoder)


def decoded(decode: Callable[[RawBlock], Block], raw: RawBlock) -> Block:
    """The block, counted."""
    with stage("decode", len(raw.records) + len(raw.unreadable)) as out:
        block = decode(raw)
        out.append(len(block.at) + len(block.rejected))
    return block


def flow(raw: beam.PCollection[RawBlock], *, decode: Callable[[RawBlock], Block], spec: Spec) -> beam.PCollection[list[Message]]:
    """Every block is decoded and given to its shard, which scores, forecasts and learns."""
    return (
        raw
        | "Decode" >> beam.Map(partial(decoded, decode)).with_output_types(Block)
        | "Shard" >> beam.Map(lambda block: (SHARD, block)).with_output_types(tuple[bytes, Block])
        | "Learn" >> beam.ParDo(Learn(spec)).with_output_types(list[Message])
    )
