"""What metrics cost: throughput with them, served, and scraped once a run, against without. `python -m tests.benchmarks.counted`.

The flow over a file of 21 hourly series, in this process and on one core, learning at every hour; pairs in turn, the order
of each drawn. A row has the median over pairs of on / off, by CPU time (what a machine with other work says least wrong) and by wall.
"""

import argparse
import random
import statistics
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from pipeline import health, metrics, operate
from pipeline.health import Health
from pipeline.metrics import Metrics
from pipeline.settings import Settings
from tests.benchmarks.rows import write

SERIES = 21


def made(path, steps):
    draw = random.Random(1)
    rows = [f"{1_767_225_600 + t * 3600},s{k},{10 * k + draw.gauss(0, 1):.3f}\n" for t in range(steps) for k in range(SERIES)]
    path.write_text("at,series,value\n" + "".join(rows))
    return path


@contextmanager
def counting(*, on):
    """Metrics of a run, served; what it gives reads them once."""
    if not on:
        metrics.METRICS = None
        yield lambda: None
        return
    registry = CollectorRegistry()
    metrics.METRICS = Metrics(registry)
    with health.serve(registry, "127.0.0.1:0", lambda: Health("a", "0", None, 0, [])) as port:

        def look():  # a run takes seconds, and Prometheus looks every 15
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                answer.read()

        yield look
    assert registry.get_sample_value("tidecast_observations_consumed_total")
    metrics.METRICS = None


def seconds(file, *, on):
    """CPU and wall time of one run."""
    flags = {"input.topics": "x", "series.step": "1h", "input.at_format": "s", "metrics.series": "s0,s1"}
    settings = Settings.read(None, {}, flags | {"forecast.publish_from": "earliest"})
    with counting(on=on) as look:
        cpu, wall = time.process_time(), time.perf_counter()
        operate.replay(settings, file, out=None, as_is=False, close=False, wide_rows=False, start=None, dump=False, decisions=None)
        look()
        return time.process_time() - cpu, time.perf_counter() - wall


def main():
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--pairs", type=int, default=9)
    asked.add_argument("--steps", type=int, default=60)
    given = asked.parse_args()
    operate.os.cpu_count = lambda: 1  # what learns beside would be measured, too, by nobody
    draw, found = random.Random(2), []
    with tempfile.TemporaryDirectory() as folder:
        file = made(Path(folder) / "rows.csv", given.steps)
        seconds(file, on=True)  # what is loaded once
        for _ in range(given.pairs):
            turn = [True, False] if draw.random() < 0.5 else [False, True]
            took = {on: seconds(file, on=on) for on in turn}
            found.append([off / on for on, off in zip(took[True], took[False], strict=True)])
    by_cpu, by_wall = zip(*found, strict=True)
    row = {"observations": given.steps * SERIES, "pairs": given.pairs, "on_by_off_cpu": statistics.median(by_cpu)}
    row |= {"least": min(by_cpu), "most": max(by_cpu), "on_by_off_wall": statistics.median(by_wall)}
    write("counted", row)


if __name__ == "__main__":
    main()
