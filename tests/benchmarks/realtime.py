"""In real time, as users run it: a step of 1 s for five minutes on six partitions, three of which misbehave.

    python -m tests.benchmarks.realtime [--seconds 300]

Partition 3 is empty, 4 has only series that are not asked for, the producer of 5 pauses for two minutes and comes back with
its backlog. Prints the latency (append to readable by a read_committed consumer) of the others, without and within the first
`max_hold` of the pause, and the ledger; a row in realtime.csv.
"""

import argparse
import datetime as dt
import json
import math
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from kafka import KafkaConsumer, KafkaProducer

from pipeline.broker import Broker
from pipeline.operate import apply_topics, make_topic
from tests.benchmarks.figures import ROOT, flags, settings_for
from tests.benchmarks.rows import write

STEADY, FILTERED, PAUSING = (0, 1, 2), 4, 5
HOLD = 10.0  # time.max_hold


def at_text(second: int) -> str:
    return dt.datetime.fromtimestamp(second, dt.UTC).isoformat().replace("+00:00", "Z")


def feed(bootstrap: str, topic: str, seconds: int, sent: dict[tuple[str, str], float], pause: tuple[float, float]) -> None:
    """Two series a partition, one sample a second each; (series, time) -> when it was sent."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=0, acks=1)
    backlog = []
    began = time.time()
    for k in range(seconds):
        time.sleep(max(0.0, began + k - time.time()))
        now = time.time()
        for partition in (*STEADY, FILTERED, PAUSING):
            for i in range(2):
                series = f"{'unasked' if partition == FILTERED else 'p'}{partition}-{i}"
                at = at_text(int(began) + k)
                value = json.dumps({"series": series, "at": at, "value": math.sin(k / 9 + i) + partition}).encode()
                if partition == PAUSING and pause[0] <= now - began < pause[1]:
                    backlog.append((series.encode(), value))
                    continue
                if partition == PAUSING and backlog:
                    for key, old in backlog:
                        producer.send(topic, key=key, value=old, partition=partition)
                    backlog.clear()
                sent[series, at] = time.time()
                producer.send(topic, key=series.encode(), value=value, partition=partition)
        producer.flush()
    producer.close()


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=300)
    seconds = parser.parse_args().seconds
    pause = (seconds * 0.3, seconds * 0.3 + min(120.0, seconds * 0.4))
    sent: dict[tuple[str, str], float] = {}
    calm: list[float] = []
    held: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder) / "broker", die_with_parent=True) as broker:
        settings = settings_for(broker.bootstrap, "rt", folder)
        apply_topics(settings)
        make_topic(settings, "rt.in", 6)
        asked = flags(broker.bootstrap, "rt", folder) | {"series.step": "1s", "input.include": "p*"}
        words = [w for k, v in asked.items() for w in ("--set", f"{k}={v}")]
        child = subprocess.Popen([sys.executable, "-m", "pipeline", "run", *words, "--json"], cwd=ROOT, stdout=subprocess.PIPE)
        time.sleep(15)  # imports, and the idle partition found empty
        began = time.time()
        feeding = threading.Thread(target=feed, args=(broker.bootstrap, "rt.in", seconds, sent, pause))
        feeding.start()
        reader = KafkaConsumer(
            "rt.forecasts.v1", bootstrap_servers=broker.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        while time.time() < began + seconds + 5:
            for records in reader.poll(100).values():
                now = time.time()
                for record in records:
                    told = json.loads(record.value)
                    since = sent.get((told["series"], told["issued_at"]))
                    if since is None or told["series"].startswith(f"p{PAUSING}"):
                        continue
                    within = pause[0] - 1 <= since - began <= pause[0] + HOLD + 2
                    (held if within else calm).append(now - since)
        feeding.join()
        child.send_signal(signal.SIGTERM)
        result = json.loads(child.communicate()[0])
    found = {
        "seconds": seconds,
        "forecasts": len(calm) + len(held),
        "p50_ms": round(quantile(calm, 0.5) * 1e3),
        "p99_ms": round(quantile(calm, 0.99) * 1e3),
        "max_ms": round(max(calm, default=float("nan")) * 1e3),
        "max_within_hold_ms": round(max(held, default=0.0) * 1e3),
        "late": result["late"],
        "consumed": result["consumed"],
        "accounted": result["used"] + result["duplicate"] + result["late"] + result["rejected"],
    }
    write("realtime", found)


if __name__ == "__main__":
    main()
