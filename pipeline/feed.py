"""The demo's producer: real taxi counts and twenty synthetic series, at an accelerated clock that its parent paces.

Run as a child (`python -m pipeline.feed BOOTSTRAP TOPIC`): each line of its standard input is how many steps may have
been sent by then; it ends when its input does, so it never outlives the demo.
"""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections.abc import Iterator
from importlib import resources

import numpy as np

STEP_SECONDS = 1_800
DAY = 48  # steps
TAXI = "nyc_taxi"
SYNTHETIC = 20


def taxi() -> tuple[list[str], list[float]]:
    """(RFC 3339 times, passengers) per half hour: New York, July 2014 to January 2015 (Numenta NAB, MIT)."""
    with resources.files("pipeline").joinpath("data/nyc_taxi.csv.gz").open("rb") as packed:
        lines = gzip.decompress(packed.read()).decode().splitlines()[1:]
    pairs = [line.split(",") for line in lines]
    return [at.replace(" ", "T") + "Z" for at, _ in pairs], [float(value) for _, value in pairs]


def synthetic(steps: int, seed: int = 7) -> dict[str, np.ndarray]:
    """Twenty made-up series, named for what they are: daily waves, random walks, steps of level, counts. Shape (steps,) each.

    >>> sorted(synthetic(10))[:2], len(synthetic(10))
    (['synthetic/count-0', 'synthetic/count-1'], 20)
    """
    rng = np.random.default_rng(seed)
    t = np.arange(steps)
    out: dict[str, np.ndarray] = {}
    for k in range(SYNTHETIC // 4):
        wave = np.sin(2 * math.pi * (t / DAY + rng.random())) + 0.4 * np.sin(4 * math.pi * (t / DAY + rng.random()))
        out[f"synthetic/wave-{k}"] = 100 * (k + 1) + 30 * wave + rng.normal(0, 4, steps)
        out[f"synthetic/walk-{k}"] = 50 + np.cumsum(rng.normal(0, 1, steps))
        level = np.cumsum((rng.random(steps) < 1 / 400) * rng.normal(0, 10, steps))
        out[f"synthetic/level-{k}"] = 20 + level + 3 * wave + rng.normal(0, 0.5, steps)
        out[f"synthetic/count-{k}"] = rng.poisson(np.exp(1.5 + 0.8 * wave)).astype(float)
    return out


def rows() -> Iterator[list[tuple[str, str, float]]]:
    """For each half hour: (series, time, value) of all 21 series."""
    times, passengers = taxi()
    columns = {TAXI: np.array(passengers)} | {name: np.round(x, 3) for name, x in synthetic(len(times)).items()}
    for i, at in enumerate(times):
        yield [(name, at, float(x[i])) for name, x in columns.items()]


def main() -> None:
    from kafka import KafkaProducer

    bootstrap, topic = sys.argv[1:3]
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=10, acks=1)
    sent = 0
    todo = rows()
    for line in sys.stdin:
        while sent < int(line):
            step = next(todo, None)
            if step is None:
                producer.flush()
                return
            for name, at, value in step:
                producer.send(topic, key=name.encode(), value=json.dumps({"series": name, "at": at, "value": value}).encode())
            sent += 1
        producer.flush()


if __name__ == "__main__":
    main()
