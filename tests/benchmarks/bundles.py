"""What a bundle costs apart from its work: `python tests/benchmarks/bundles.py >> tests/benchmarks/bundles.csv`.

A source that hands out 100 bytes a call and puts itself off, a stateful function behind it, a function behind that:
the shape of the product's flow, with nothing to do. A row is the median, least and most of five runs in CPU time a
round, the pipeline's construction (the same with one round) taken away; Beam's own local runner beside ours.
"""

import datetime as dt
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from pipeline.engine import LocalRunner

RUNNERS = {"engine": (LocalRunner, 5000), "FnApiRunner": (FnApiRunner, 1000)}  # and rounds


class Rounds(RestrictionProvider):
    def initial_restriction(self, rounds):
        return OffsetRange(0, rounds)

    def create_tracker(self, restriction):
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, _rounds, _restriction):
        return 1


class Read(beam.DoFn):
    @beam.DoFn.unbounded_per_element()
    def process(self, _rounds, tracker=beam.DoFn.RestrictionParam(Rounds())):  # noqa: B008
        if tracker.try_claim(tracker.current_restriction().start):
            yield b"0", b"x" * 100
            tracker.defer_remainder()


class Count(beam.DoFn):
    CELL = ReadModifyWriteStateSpec("count", VarIntCoder())

    def process(self, keyed, cell=beam.DoFn.StateParam(CELL)):  # noqa: B008
        cell.write((cell.read() or 0) + 1)
        yield keyed[1]


def seconds(runner, rounds):
    pipeline = beam.Pipeline(runner=runner())
    read = pipeline | beam.Create([rounds]) | beam.ParDo(Read()).with_output_types(tuple[bytes, bytes])
    read | beam.ParDo(Count()).with_output_types(bytes) | beam.Map(len)
    began = time.process_time()
    pipeline.run().wait_until_finish()
    return time.process_time() - began


def main():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), platform.machine()
    )
    sys.stdout.write("date,hardware,commit,runner,ms_a_round_median,least,most\n")
    for name, (runner, rounds) in RUNNERS.items():
        runs = [1000 * (seconds(runner, rounds) - seconds(runner, 1)) / rounds for _ in range(5)]
        row = f"{statistics.median(runs):.2f},{min(runs):.2f},{max(runs):.2f}"
        sys.stdout.write(f"{dt.datetime.now(dt.UTC).date()},{model},{commit},{name},{row}\n")


if __name__ == "__main__":
    main()
