"""What 100,000 series take: memory of a shard (event time, state and what learning needs meanwhile), and CPU; a row in capacity.csv.

    python -m tests.benchmarks.capacity

One LSTM, 24 leads, a season of 24 steps.
Blocks of 1,000 records, every series once a step; each instant is learnt when its step has come, in this process, on one thread.
A row of every array is shorter than a page of memory, so the first steps bring all of them in but the anchors; after a gap come
steps whose learning begins at the first ones, and these bring the anchors. At the end a snapshot is frozen
and written, as the engine does it, and a process of its own recovers from it.
"""

import argparse
import math
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from models.learner import Config
from pipeline.engine import image
from pipeline.engine.snapshot import Folder
from pipeline.events import Rules
from pipeline.learn import Shard, Spec
from pipeline.operate import look_less_for_garbage
from pipeline.records import Block, Raw, Source
from tests.benchmarks.rows import write

STEP = 60_000_000
START = 1_760_000_000 // 60 * STEP
SOURCE = Source("series", 0)
SIZE = 1_000  # records of a block
STEPS = (0, 1, 2, 49, 50, 51)
MIB = 1 << 20


def resident(what: str = "VmRSS") -> int:
    """MiB of this process that are in memory now; VmHWM: that ever were at once (getrusage counts what a process was forked from)."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return round(int(line.split()[1]) / 1024)


def shard(series: int) -> Shard:
    rules = Rules(step=STEP, grid=STEP, disorder=STEP, quota=math.ceil(1.1 * series))
    config = Config(season=24, step_us=STEP, model="lstm", device="cpu")
    return Shard(Spec("capacity", rules, config, (SOURCE,), "record", START, 1 << 19, (), "0"))


def block(names: list[str], first: int, at: int, position: int, now: float) -> Block:
    mine = names[first : first + SIZE]
    count = np.arange(len(mine))
    made = Block(SOURCE, position, position + len(mine), now, names=mine)
    made.series, made.record, made.at = count.astype(np.int32), count.astype(np.int32), np.full(len(mine), at)
    made.stamp, made.value = made.at.copy(), np.sin((first + count) % 97 + at / STEP / 4) + (first + count) % 13
    made.records = [Raw(position + k, at, name.encode(), b"{}") for k, name in enumerate(mine)]
    return made


class Written(NamedTuple):
    frozen_s: float  # of CPU that the engine stands still for
    written_s: float  # of CPU besides
    mib: int


def written(one: Shard, folder: Path) -> Written:
    began = time.process_time()
    frozen = one.frozen()
    between = time.process_time()
    empty = image.Image("capacity", 0, [], [], [], [], [], [], [])
    Folder(folder).write("1", image.pieces(empty, [(b"shard", frozen())]))
    return Written(between - began, time.process_time() - between, round((folder / "1.snapshot").stat().st_size / MIB))


def recovered(series: int, folder: Path) -> tuple[float, int, int]:
    """Seconds of CPU, MiB held in the end, MiB at most; to be asked in a process that has done nothing else."""
    torch.set_num_threads(1)
    blank = shard(series)
    began = time.process_time()
    [(_, parts)] = image.decode(Folder(folder).read("1"))[1]
    back = Shard.thaw(blank.spec, parts)
    del parts
    assert len(back.gather.series) == series
    return time.process_time() - began, resident(), resident("VmHWM")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = [f"series-{k}" for k in range(given.series)]
    one = shard(given.series)
    look_less_for_garbage()
    before, position, seconds = resident(), 0, []
    for step in STEPS:
        began, at = time.process_time(), START + step * STEP
        for first in range(0, given.series, SIZE):
            for _ in one.turns([block(names, first, at, position, step * 60.0)]):
                pass  # what is published is not kept
            position += len(names[first : first + SIZE])
        while one.queue:
            one.learn_next()
        seconds.append(time.process_time() - began)
        print(f"step {step}: {seconds[-1]:.1f} s of CPU, {resident():,} MiB", flush=True)
    held, most = resident(), resident("VmHWM")
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        snapshot, at_snapshot = written(one, folder), resident("VmHWM")
        with multiprocessing.get_context("spawn").Pool(1) as fresh:
            recovery = fresh.apply(recovered, (given.series, folder))
    row = {
        "series": given.series,
        "steps": len(STEPS),
        "state_bytes_each": one.learner.memory.bytes_each() + len(one.learner.generations) * one.learner.learnt.dtype.itemsize,
        "resident_bytes_each": round((held - before) * MIB / given.series),
        "before_mib": before,
        "held_mib": held,
        "most_mib": most,
        "cpu_s_a_step": float(np.median(seconds[1:])),
        "freeze_s": snapshot.frozen_s,
        "snapshot_mib": snapshot.mib,
        "most_with_snapshot_mib": at_snapshot,
        "write_s": snapshot.written_s,
        "recover_s": recovery[0],
        "recovered_mib": recovery[1],
        "most_recovering_mib": recovery[2],
    }
    write("capacity", row)


if __name__ == "__main__":
    main()
