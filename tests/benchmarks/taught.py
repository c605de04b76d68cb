"""ETTh2 by the leak-free protocol through Kafka: a `run` that starts from what a backtest has taught, beside that backtest.

    python -m tests.benchmarks.taught [--seed 0]

The backtest saves the learner at the end of the warm-up and goes on; all rows are produced into a topic of a real broker, `run` starts
from the file (rows of the warm-up are late), and its forecasts are read back as a read_committed consumer sees them. Errors are in
standard deviations of the warm-up rows, averaged over origins, leads and columns. Prints both, and a row in taught.csv.
"""

import argparse
import datetime as dt
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from models.prequential import Split
from pipeline.broker import Broker
from pipeline.operate import apply_topics, make_topic
from pipeline.settings import Settings
from tests.benchmarks.figures import ETT, ROOT, tidecast
from tests.benchmarks.protocol import asked
from tests.benchmarks.rows import write

FILE, HORIZON, SPLIT = ROOT / "tests/data/ETTh2.csv.gz", 48, Split(2880, 720, 10800)
FORMAT = "%Y-%m-%d %H:%M:%S"
PATIENCE = 3600.0  # s without the last forecast


def flags(bootstrap: str, folder: Path, seed: int) -> dict[str, str]:
    return {
        "application": "taught", "kafka.bootstrap": bootstrap, "input.topics": "taught.in", "output.prefix": "taught",
        "input.at": "date", "input.at_format": FORMAT, "input.values": ETT, "series.step": "1h", "forecast.horizon": str(HORIZON),
        "forecast.publish_from": "earliest", "learn.seed": str(seed), "learn.start_from": str(folder / "model"),
        "commit.state": str(folder / "state"), "metrics.address": "127.0.0.1:0",
    }  # fmt: skip


def forecast(bootstrap: str, count: int, running: subprocess.Popen) -> np.ndarray:
    """(T, N, H) points by row of the file, once so many forecasts are committed; NaN where none was made."""
    points = np.full((SPLIT.end(0), len(ETT.split(",")), HORIZON), np.nan)
    first, columns = dt.datetime.fromisoformat("2016-07-01T00:00:00Z"), ETT.split(",")
    reader = KafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False)
    parts = [TopicPartition("taught.forecasts.v1", p) for p in reader.partitions_for_topic("taught.forecasts.v1")]
    reader.assign(parts)
    reader.seek_to_beginning()
    seen, began = 0, time.monotonic()
    while seen < count:
        assert running.poll() is None, "the run has ended"
        assert time.monotonic() < began + PATIENCE, "it takes too long"
        for records in reader.poll(500).values():
            for record in records:
                told = json.loads(record.value)
                row = int((dt.datetime.fromisoformat(told["issued_at"]) - first).total_seconds()) // 3600
                place = row, columns.index(told["series"])
                assert np.isnan(points[place]).all(), "a forecast was published twice"
                points[place] = told["point"]
                seen += 1
    reader.close()
    return points


def through_kafka(rows: pl.DataFrame, folder: Path, seed: int) -> tuple[np.ndarray, dict]:
    """The points of a run over these rows, and its summary."""
    with Broker(folder / "broker", die_with_parent=True) as broker:
        given = flags(broker.bootstrap, folder, seed)
        settings = Settings.read(None, {}, given)
        apply_topics(settings)
        make_topic(settings, "taught.in", 1)
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=5)
        for row in rows.iter_rows(named=True):
            producer.send("taught.in", value=json.dumps(row).encode())
        producer.flush()
        producer.close()
        words = [w for k, v in given.items() for w in ("--set", f"{k}={v}")]
        child = subprocess.Popen([sys.executable, "-m", "pipeline", "run", *words, "--json"], cwd=ROOT, stdout=subprocess.PIPE)
        points = forecast(broker.bootstrap, (SPLIT.end(0) - SPLIT.warmup) * len(ETT.split(",")), child)
        child.send_signal(signal.SIGTERM)
        return points, json.loads(child.communicate()[0])


def errors(values: np.ndarray, points: np.ndarray) -> dict[str, float]:
    """Mean squared errors over leads 1 to H of points (T, N, 48) for values (T, N), by the protocol."""
    origins = np.array(SPLIT.origins(len(values), HORIZON))
    actual = values[origins[:, None] + np.arange(1, HORIZON + 1)].transpose(0, 2, 1)
    squares = ((points[origins] - actual) / values[: SPLIT.warmup].std(0)[:, None]) ** 2
    assert not np.isnan(squares).any(), "a forecast is missing"
    return {str(h): float(squares[..., :h].mean()) for h in (1, 24, HORIZON)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    rows = pl.read_csv(FILE)[: SPLIT.end(0)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told = tidecast("backtest", *asked("ETTh2"), "--values", ETT, "--seed", str(seed), "--save", str(folder / "model"))
        points, summary = through_kafka(rows, folder, seed)
    found = errors(rows.select(ETT.split(",")).to_numpy(), points)
    line: dict[str, Any] = {"seed": seed}
    for h, mse in found.items():  # as text: to the sixth digit behind the point
        line |= {f"kafka_{h}": f"{mse:.6f}", f"backtest_{h}": f"{told['by_horizon'][h]['mse']:.6f}"}
    line |= {name: summary[name] for name in ("consumed", "used", "late", "forecasts")}
    write("taught", line)


if __name__ == "__main__":
    main()
