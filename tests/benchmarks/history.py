"""A long history in bounded memory, from files or from a topic: `python -m tests.benchmarks.history [--topic]`.

Made-up series (daily waves with noise, by the hour, 1 % missing) are written to Parquet files, or to a topic of four partitions on a
broker of its own, read as `tidecast retrain` reads them, looked at for scales, and trained on for a while, in a process of its own, whose
peak of resident memory is measured (with the pages of files that it maps). The loader alone is timed over the same chunks that training
takes. A row: what it was, how long each part took by the clock, and how much CPU reading took.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from tests.benchmarks.rows import write

SERIES, FILES, PARTITIONS = 2_000, 20, 4
TOPIC = "meters"
BEGIN = np.datetime64("2018-01-01T00:00:00", "us")
HOUR = np.timedelta64(3_600_000_000, "us")


def rows(observations: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Times (T,) and values (T, N), a part of the history at a time."""
    steps = observations // SERIES
    for part in range(FILES):
        low, high = part * steps // FILES, (part + 1) * steps // FILES
        rng, t = np.random.default_rng(part), np.arange(low, high)
        values = 10 + 3 * np.sin(2 * np.pi * (t[:, None] + np.arange(SERIES)) / 24) + rng.normal(0, 0.5, (high - low, SERIES))
        values[rng.random(values.shape) < 0.01] = np.nan
        yield BEGIN + t * HOUR, values


def to_files(folder: Path, observations: int) -> None:
    names = np.array([f"meter-{k:04}" for k in range(SERIES)])
    for part, (at, values) in enumerate(rows(observations)):
        table = {"series": np.tile(names, len(at)), "at": np.repeat(at, SERIES), "value": values.ravel()}
        pl.DataFrame(table).write_parquet(folder / f"{part:02}.parquet")


def to_topic(bootstrap: str, observations: int) -> None:
    """A record an observation, as CONTRACTS.md has them; a series stays in its partition, hour after hour."""
    from confluent_kafka import Producer

    options = {"linger.ms": 50, "queue.buffering.max.messages": 200_000, "compression.type": "lz4"}
    producer = Producer({"bootstrap.servers": bootstrap, **options})
    for at, values in rows(observations):
        for time_, row in zip(np.datetime_as_string(at, "s").tolist(), values, strict=True):
            for k in np.flatnonzero(~np.isnan(row)).tolist():
                said = b'{"series":"meter-%04d","at":"%sZ","value":%.6f}' % (k, time_.encode(), row[k])
                producer.produce(TOPIC, said, partition=k % PARTITIONS)
            producer.poll(0)
            while len(producer) > 150_000:
                producer.poll(0.01)
    producer.flush()


def measure(where: str, folder: Path, steps: int) -> dict[str, float]:
    """In a process of its own; `where`: Parquet files, or the address of a broker."""
    import torch

    from models import course, training
    from models.learner import Learner
    from models.past import scales
    from pipeline import history
    from pipeline.configure import config_of
    from pipeline.operate import look_less_for_garbage
    from pipeline.settings import Settings

    look_less_for_garbage()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    files = where.endswith(".parquet")
    told = {"input.topics": "none"} if files else {"input.topics": TOPIC, "kafka.bootstrap": where}
    settings = Settings.read(None, {}, {"series.step": "1h", "learn.device": "cpu", **told})
    work = folder / "work"
    work.mkdir()
    began, used = time.perf_counter(), time.process_time()
    if files:
        found = history.of_file(settings, where, work, told=lambda _: None)
    else:
        found = history.of_topic(settings, history.ends_of(settings), work, told=lambda _: None)
    read, read_cpu = time.perf_counter(), time.process_time() - used
    past, learner = found.past, Learner(config_of(settings))
    end = int(past.last.max()) + 1
    until = end - (end - int(past.first.min())) // 5
    of = scales(past, learner.config, until=until)
    looked = time.perf_counter()
    trained = course.train(
        learner, past, of, until=until, begin=None, budget=course.Budget(steps), clock=time.perf_counter, resume=None,
        saved=lambda _: None, told=lambda _: None, go=training.fit,
    )  # fmt: skip
    assert trained is not None
    done = time.perf_counter()
    teacher = course.Teacher(learner, None, seen=lambda _: None)
    lanes = course.Lanes(past, of, learner, until=until, teacher=teacher, most=steps, goes_on=lambda: True)
    loaded = sum(1 for _ in lanes.taught()) + sum(1 for _ in lanes.watched()) * (1 + trained.progress.passes)
    alone = time.perf_counter()
    return {
        "source": "files" if files else "topic", "observations": found.observations, "series": len(past.key), "read_s": read - began,
        "read_cpu_s": read_cpu, "observations_per_cpu_s": found.observations / read_cpu, "scales_s": looked - read,
        "steps": trained.steps, "train_s": done - looked, "chunks": loaded, "load_s": alone - done,
        "train_by_load": (done - looked) / (alone - done), "loss_at_start": trained.progress.start, "loss": trained.loss,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def apart(where: str, folder: Path, steps: int) -> None:
    """Measure in a process of its own, and add its row."""
    words = [sys.executable, "-m", __spec__.name, "--where", where, "--folder", str(folder), "--steps", str(steps)]
    write("history", json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--observations", type=int, default=50_000_000)
    words.add_argument("--steps", type=int, default=60)
    words.add_argument("--topic", action="store_true")
    words.add_argument("--where", help=argparse.SUPPRESS)
    words.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.where is not None:
        print(json.dumps(measure(asked.where, asked.folder, asked.steps)))
        return
    with tempfile.TemporaryDirectory() as place:
        if not asked.topic:
            to_files(Path(place), asked.observations)
            apart(f"{place}/*.parquet", Path(place), asked.steps)
            return
        from pipeline.broker import Broker
        from tests.conftest import create_topic

        with Broker(Path(place) / "kafka", die_with_parent=True) as broker:
            create_topic(broker.bootstrap, TOPIC, PARTITIONS, {})
            to_topic(broker.bootstrap, asked.observations)
            apart(broker.bootstrap, Path(place), asked.steps)


if __name__ == "__main__":
    main()
