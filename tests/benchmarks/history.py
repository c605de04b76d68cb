"""A long history in bounded memory: `python -m tests.benchmarks.history --observations 50000000 >> tests/benchmarks/history.csv`.

Parquet files of made-up series (daily waves with noise, by the hour, 1 % missing) are written, read as `tidecast retrain` reads them,
looked at for scales, and trained on for a while, in a process of its own, whose peak of resident memory is measured (with the pages of
files that it maps). The loader alone is timed over the same chunks that training takes. A row: what it was, and how long each part took.
"""

from __future__ import annotations

import argparse
import logging
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

SERIES, FILES = 2_000, 20


def write(folder: Path, observations: int) -> None:
    steps = observations // SERIES
    names = np.array([f"meter-{k:04}" for k in range(SERIES)])
    begin = np.datetime64("2018-01-01T00:00:00", "us")
    for part in range(FILES):
        low, high = part * steps // FILES, (part + 1) * steps // FILES
        rng, t = np.random.default_rng(part), np.arange(low, high)
        values = 10 + 3 * np.sin(2 * np.pi * (t[:, None] + np.arange(SERIES)) / 24) + rng.normal(0, 0.5, (high - low, SERIES))
        values[rng.random(values.shape) < 0.01] = np.nan
        at = np.repeat(begin + t * np.timedelta64(3_600_000_000, "us"), SERIES)
        table = {"series": np.tile(names, high - low), "at": at, "value": values.ravel()}
        pl.DataFrame(table).write_parquet(folder / f"{part:02}.parquet")


def measure(folder: Path, steps: int) -> dict[str, float]:
    """In a process of its own."""
    import torch

    from models import training
    from models.learner import Learner
    from models.past import scales
    from pipeline import history
    from pipeline.configure import config_of
    from pipeline.settings import Settings

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    settings = Settings.read(None, {}, {"input.topics": "none", "series.step": "1h", "learn.device": "cpu"})
    work = folder / "work"
    work.mkdir()
    began = time.perf_counter()
    found = history.of_file(settings, str(folder / "*.parquet"), work, told=lambda _: None)
    read = time.perf_counter()
    past, learner = found.past, Learner(config_of(settings))
    end = int(past.last.max()) + 1
    until = end - (end - int(past.first.min())) // 5
    of = scales(past, learner.config, until=until)
    looked = time.perf_counter()
    trained = training.train(
        learner, past, of, until=until, begin=None, budget=training.Budget(steps), clock=time.perf_counter, resume=None,
        saved=lambda _: None, told=lambda _: None,
    )  # fmt: skip
    assert trained is not None
    done = time.perf_counter()
    teacher = training.Teacher(learner, None, seen=lambda _: None)
    lanes = training.Lanes(past, of, learner, until=until, teacher=teacher, most=steps, goes_on=lambda: True)
    loaded = sum(1 for _ in lanes.train_dataloader()) + sum(1 for _ in lanes.val_dataloader()) * (1 + trained.progress.passes)
    alone = time.perf_counter()
    return {
        "observations": found.observations, "series": len(past.key), "read_s": read - began, "scales_s": looked - read,
        "steps": trained.steps,
        "train_s": done - looked, "chunks": loaded, "load_s": alone - done, "loss_at_start": trained.progress.start, "loss": trained.loss,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--observations", type=int, default=50_000_000)
    words.add_argument("--steps", type=int, default=60)
    words.add_argument("--folder", type=Path)
    asked = words.parse_args()
    if asked.folder is not None:
        row = measure(asked.folder, asked.steps)
        print(",".join(row))
        print(",".join(f"{value:.5g}" if isinstance(value, float) else str(value) for value in row.values()))
        return
    with tempfile.TemporaryDirectory() as place:
        write(Path(place), asked.observations)
        subprocess.run([sys.executable, "-m", __spec__.name, "--folder", place, "--steps", str(asked.steps)], check=True)


if __name__ == "__main__":
    main()
