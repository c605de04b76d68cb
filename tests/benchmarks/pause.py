"""How long a stream of many series stands still when other weights come. `python -m tests.benchmarks.pause [--series 1000]`.

A shard as `run` has it, fed as a live stream is: an hour of all series in blocks of twenty, then quiet blocks until nothing is left to
do, as brokers give them. After 100 hours somebody makes another version champion; the former one is its shadow from then on. Told: the
longest time that a block took, with samples and in the quiet, in the hours before, in the hour of the switch and in those after.
"""

import argparse
import time

import numpy as np
import torch

from models import versus
from models.handover import Incoming
from models.learner import Config, Learner
from pipeline import learn, succession
from pipeline.events import Rules
from pipeline.learn import EARLIEST, Shard, Spec
from pipeline.records import Block, Raw, Source
from tests.benchmarks.rows import write

HOUR = 3_600_000_000
BEGIN = 500_000 * HOUR
SOURCE = Source("t", 0)
BLOCK, BEFORE, AFTER = 20, 100, 12
CHOICE = succession.Rules(versus.Rules(instants=240, series=1), automatic=True, longest=10_000 * HOUR, most=10**9)


def block(first, hour, series, now):
    """Samples of some series at an hour; none: nothing has come."""
    at = np.full(len(series), BEGIN + hour * HOUR, np.int64)
    draw = np.random.default_rng((hour, int(series[0]) if len(series) else 0))
    value = 10 + 3 * np.sin(2 * np.pi * hour / 24 + series) + draw.random(len(series))
    offset = np.arange(first, first + len(series))
    return Block(
        SOURCE, first, first + len(series), now, names=[f"s{k}" for k in series], series=np.arange(len(series), dtype=np.int32), at=at,
        value=value, offset=offset, stamp=at, record=np.arange(len(series), dtype=np.int32),
        records=[Raw(int(o), int(a), None, b"") for o, a in zip(offset, at, strict=True)], stable=not len(series),
    )  # fmt: skip


def took(shard, one):
    began = time.perf_counter()
    told = shard.take(one)
    return time.perf_counter() - began, told


def hour_of(shard, hour, count):
    """The longest block with samples and the longest without, s; whether a switch came with it."""
    longest, quiet, switched, first = 0.0, 0.0, False, hour * count
    for at in range(0, count, BLOCK):
        seconds, told = took(shard, block(first + at, hour, np.arange(at, at + BLOCK), float(hour)))
        longest, switched = max(longest, seconds), switched or any(m.kind == "decisions" and b'"kind":"switch"' in m.value for m in told)
    for k in range(60):
        seconds, told = took(shard, block(first + count, hour, np.arange(0), hour + 0.3 + k / 1e3))
        quiet, switched = max(quiet, seconds), switched or any(m.kind == "decisions" and b'"kind":"switch"' in m.value for m in told)
    return longest, quiet, switched


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1_000)
    count = parser.parse_args().series
    torch.set_num_threads(1)
    config = Config(horizon=24, season=24, step_us=HOUR)
    descent = Learner(Config(horizon=24, season=24, step_us=HOUR, seed=5)).descent
    shard = Shard(
        Spec(
            application="pause", rules=Rules(HOUR, HOUR, HOUR), config=config, sources=(SOURCE,), layout="record", publish_from=EARLIEST,
            rejected_max_bytes=1_000, watched=(), version="bench", apart=True, succession=CHOICE,
        )
    )  # fmt: skip
    found = {"before": [], "switch": [], "after": []}
    for hour in range(BEFORE + AFTER):
        if hour == BEFORE:
            incoming = Incoming("a" * 16, descent.weights.clone(), torch.stack(list(descent.moments)))
            learn.OFFERS.append(succession.Offer("champion", "a" * 16, 0, incoming))
        longest, quiet, switched = hour_of(shard, hour, count)
        if hour >= BEFORE // 2:
            found["switch" if switched else "after" if found["switch"] else "before"].append((longest, quiet))
    shard.close()
    row = {"series": count}
    for when, pairs in found.items():
        row |= {f"{when}_samples_s": max(p[0] for p in pairs), f"{when}_quiet_s": max(p[1] for p in pairs)}
    write("pause", row)


if __name__ == "__main__":
    main()
