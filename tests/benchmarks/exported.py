"""What `/metrics` weighs and takes with 100,000 series in memory, learning and being asked at once: a row in exported.csv.

    python -m tests.benchmarks.exported

A shard with the defaults, 24 leads and a season, ten series exported one by one, 16 partitions; told as a run tells it; the run's own
server. Another process asks, first while the shard does nothing, then while it takes in a step of all series and learns it.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time

import numpy as np
import torch
from prometheus_client import CollectorRegistry

from models.learner import Config
from pipeline import health, metrics
from pipeline.events import Rules
from pipeline.health import Health
from pipeline.learn import Shard, Spec
from pipeline.metrics import Metrics
from pipeline.operate import look_less_for_garbage
from tests.benchmarks.capacity import SIZE, SOURCE, START, STEP, block
from tests.benchmarks.rows import write

PARTITIONS, WATCHED, ASKED = 16, 10, 100
LIMITS = 300_000, 100.0  # bytes, ms

ASKS = """
import json, sys, time, urllib.request
took = []
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    with urllib.request.urlopen(sys.argv[1]) as answer:
        size = len(answer.read())
    took.append(1e3 * (time.perf_counter() - began))
    time.sleep(0.1)
print(json.dumps([size, took]))
"""


def ask(port: int) -> tuple[int, np.ndarray]:
    """Bytes of an answer, and milliseconds of each."""
    command = [sys.executable, "-S", "-c", ASKS, f"http://127.0.0.1:{port}/metrics", str(ASKED)]
    size, took = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return size, np.array(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--model", default="mixture")
    given = parser.parse_args()
    torch.set_num_threads(1)
    registry = CollectorRegistry()
    metrics.METRICS = Metrics(registry)
    names = [f"series-{k}" for k in range(given.series)]
    rules = Rules(step=STEP, grid=STEP, disorder=STEP, quota=math.ceil(1.1 * given.series))
    config = Config(season=24, step_us=STEP, model=given.model, device="cpu")
    shard = Shard(Spec("exported", rules, config, (SOURCE,), "record", START, 1 << 19, tuple(names[:WATCHED]), "0"))
    look_less_for_garbage()

    def step(number: int) -> None:
        """Every series speaks once, and what can be learnt is."""
        for first in range(0, given.series, SIZE):
            position = number * given.series + first
            for _ in shard.turns([block(names, first, START + number * STEP, position, position / 1e3)]):
                pass  # what is published is not kept
            tell(metrics.METRICS, shard)
        while shard.queue:
            shard.learn_next()

    for number in range(2):  # the second has scores, and teaches
        step(number)
        print(f"step {number}", flush=True)
    now = Health("exported", "0", shard.learner.version, 0, [])
    with health.serve(registry, "127.0.0.1:0", lambda: now) as port:
        size, still = ask(port)
        over = threading.Event()
        worker = threading.Thread(target=lambda: [step(number) for number in range(2, 100) if not over.is_set()])
        worker.start()
        time.sleep(1)
        size, busy = ask(port)
        assert worker.is_alive(), "the steps were over before the last question"
        over.set()
        worker.join()
    row = {"model": given.model, "series": int(registry.get_sample_value("tidecast_active_series") or 0), "bytes": size}
    for name, took in (("still", still), ("busy", busy)):
        row |= {
            f"{name}_p50_ms": float(np.median(took)),
            f"{name}_p99_ms": float(np.quantile(took, 0.99)),
            f"{name}_max_ms": float(took.max()),
        }
    write("exported", row | {"load": os.getloadavg()[0]})
    assert size <= LIMITS[0], f"{size} bytes, wanted: {LIMITS[0]}"
    assert np.quantile(busy, 0.99) <= LIMITS[1], f"{np.quantile(busy, 0.99):.0f} ms, wanted: {LIMITS[1]}"


def tell(m: Metrics, shard: Shard) -> None:
    """The gauges that a run sets once a second: operate.status_now, which has a run's own shard and consumer."""
    for partition in range(PARTITIONS):
        m.consumer_lag_records.labels(topic=SOURCE.topic, partition=str(partition)).set(partition)
    m.active_series.set(shard.status()["series"])
    m.model_age_seconds.set(max(time.time() - shard.changed, 0.0))
    m.device_memory_bytes.labels(device=str(shard.learner.device)).set(1)
    health.tell_model(m, shard.voice.model, shard.learner.version)


if __name__ == "__main__":
    main()
