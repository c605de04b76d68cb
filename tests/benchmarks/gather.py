"""Observations a second that gather alone takes on one core: python -m tests.benchmarks.gather.

1,000 series in order, one sample a minute each, in blocks of 1,000 records; `wide`: ten observations a record;
`four`: over four partitions whose blocks take turns.
"""

from __future__ import annotations

import time

import numpy as np

from pipeline.gather import Gather, Rules
from pipeline.records import Block, Raw, Source

SERIES, STEP, COUNT, SIZE = 1000, 60_000_000, 300_000, 1000
SHAPES = {"plain": (1, 1), "wide": (1, 10), "four": (4, 1)}  # partitions, observations a record


def blocks(partitions: int, wide: int) -> list[Block]:
    made = []
    names = [f"series-{i}" for i in range(SERIES)]
    for first in range(0, COUNT // partitions, SIZE):
        k = np.arange(first, first + SIZE)
        at = k // SERIES * STEP + k % SERIES * 1000
        for p in range(partitions):
            b = Block(Source("t", p), first // wide, (first + SIZE) // wide, first / 1e5, names=[f"{p}-{name}" for name in names])
            b.series, b.at, b.value, b.stamp = (k % SERIES).astype(np.int32), at, (k % 97).astype(float), at
            b.record = (np.arange(SIZE) // wide).astype(np.int32)
            b.records = [Raw(first // wide + i, 0, None, b"{}") for i in range(SIZE // wide)]
            made.append(b)
    return made


def main() -> None:
    for name, (partitions, wide) in SHAPES.items():
        rates = []
        for _ in range(3):
            many = blocks(partitions, wide)
            gather = Gather(Rules(step=STEP, grid=STEP, disorder=STEP), [Source("t", p) for p in range(partitions)])
            start = time.process_time()
            for b in many:
                gather.add(b)
            rates.append(COUNT / (time.process_time() - start))
            assert gather.totals()["used"] == COUNT
        print(f"{name:6} {min(rates):9,.0f} .. {max(rates):9,.0f} observations/s")


if __name__ == "__main__":
    main()
