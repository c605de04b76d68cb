"""The README's figures, each from the command itself; a row each in figures.csv.

    python -m tests.benchmarks.figures demo
    python -m tests.benchmarks.figures ETTh2
    python -m tests.benchmarks.figures M4          needs TIDECAST_DATA
    python -m tests.benchmarks.figures rate --series 200
    python -m tests.benchmarks.figures burst --series 1000 --minutes 3

`rate`: an hour of observations, one a minute and series, replayed through a real broker as fast as it goes, beside a bare
kafka-python consumer on the same topic. `burst`: the same number of series in one burst a minute, in real time.
"""

import argparse
import ctypes
import datetime as dt
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from pipeline.broker import Broker
from pipeline.operate import apply_topics, make_topic
from pipeline.settings import Settings
from tests.benchmarks.rows import write

ROOT = Path(__file__).parents[2]
ETT = "HUFL,HULL,MUFL,MULL,LUFL,LULL,OT"


def tidecast(*words: str) -> dict:
    done = subprocess.run([sys.executable, "-m", "pipeline", *words, "--json"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def memory_mib(pid: int) -> int:
    """What a process holds now."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) // 1024


def row(what: str, series: int, result: dict, *, bare: float | None = None, held: tuple[int, int] | None = None) -> None:
    """One line of figures.csv, and on the terminal. `held`: MiB of the process when half was read, and all."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest child, which is it
    found = {
        "what": what,
        "series": series,
        "obs_per_s": result["obs_per_s"],
        "bare_per_s": "" if bare is None else round(bare),
        "skill_1": result["skill"].get("1", ""),
        "skill_24": result["skill"].get("24", ""),
        "coverage_90": result["coverage"].get("0.9", ""),
        "p50_ms": result["latency_ms"]["p50"] or "",
        "p99_ms": result["latency_ms"]["p99"] or "",
        "peak_mib": round(peak),
        "half_mib": held[0] if held else "",
        "end_mib": held[1] if held else "",
    }
    write("figures", found)


def settings_for(bootstrap: str, name: str, folder: str) -> Settings:
    return Settings.read(None, {}, flags(bootstrap, name, folder))


def flags(bootstrap: str, name: str, folder: str) -> dict:
    return {
        "application": name,
        "kafka.bootstrap": bootstrap,
        "input.topics": f"{name}.in",
        "series.step": "1min",
        "output.prefix": name,
        "forecast.publish_from": "earliest",
        "commit.state": folder,
        "metrics.address": "127.0.0.1:0",
    }


def produce(bootstrap: str, topic: str, series: int, minutes: int, *, real_time: bool) -> None:
    import math

    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, acks=1)
    start = int(time.time()) // 60 * 60 - (0 if real_time else minutes * 60)
    for m in range(minutes):
        if real_time:
            time.sleep(max(0.0, start + (m + 1) * 60 - time.time()))
        at = dt.datetime.fromtimestamp(start + m * 60 + (60 if real_time else 0), dt.UTC).isoformat().replace("+00:00", "Z")
        for k in range(series):
            value = 10 * math.sin(m / 10 + k) + k
            name = f"series-{k}"
            producer.send(topic, key=name.encode(), value=json.dumps({"series": name, "at": at, "value": value}).encode())
        producer.flush()
    producer.close()


def die_with_parent() -> None:
    """In the child: a measurement that is broken off leaves nothing at work behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def bare(bootstrap: str, topic: str, partitions: int) -> float:
    """Records per second of a kafka-python consumer that does nothing with them."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, group_id=None)
    parts = [TopicPartition(topic, p) for p in range(partitions)]
    consumer.assign(parts)
    consumer.seek_to_beginning()
    end = sum(consumer.end_offsets(parts).values())
    began, seen = time.perf_counter(), 0
    while seen < end:
        seen += sum(len(r) for r in consumer.poll(500).values())
    consumer.close()
    return seen / (time.perf_counter() - began)


def through_kafka(what: str, series: int, minutes: int, *, real_time: bool) -> None:
    name = f"{what}{series}"
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder) / "broker", die_with_parent=True) as broker:
        settings = settings_for(broker.bootstrap, name, folder)
        apply_topics(settings)
        make_topic(settings, f"{name}.in", 4)
        words = [w for k, v in flags(broker.bootstrap, name, folder).items() for w in ("--set", f"{k}={v}")]
        feeding = threading.Thread(target=produce, args=(broker.bootstrap, f"{name}.in", series, minutes), kwargs={"real_time": real_time})
        if not real_time:
            feeding.start()
            feeding.join()
        rate = None if real_time else bare(broker.bootstrap, f"{name}.in", 4)
        began = time.perf_counter()
        command = [sys.executable, "-m", "pipeline", "run", *words, "--json"]
        # What feeds it is not at work yet, or any more: no other thread stands in the way of a fork
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, preexec_fn=die_with_parent)  # noqa: PLW1509
        status = KafkaConsumer(f"{name}.status.v1", bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
        first, half = None, 0
        for message in status:
            if feeding.ident is None:
                feeding.start()  # in real time: not before it reads, or the first burst waits for imports
            seen = json.loads(message.value).get("ledger", {}).get("consumed", 0)
            first = first or (time.perf_counter() if seen else None)
            half = half or (memory_mib(child.pid) if seen >= series * minutes / 2 else 0)
            if seen >= series * minutes and (not real_time or not feeding.is_alive()):
                break
            assert time.perf_counter() - began < 60 * minutes + 900, "it takes too long"
        took = time.perf_counter() - (first or began) + 1.0  # the status that first says anything is up to a second old
        held = half, memory_mib(child.pid)
        time.sleep(2)
        child.send_signal(signal.SIGTERM)
        result = json.loads(child.communicate()[0])
        feeding.join()
    if not real_time:
        result["obs_per_s"] = round(series * minutes / took)
    row(what, series, result, bare=rate, held=held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("demo", "ETTh2", "M4", "rate", "burst"))
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--minutes", type=int, default=60)
    given = parser.parse_args()
    if given.what == "demo":
        result = tidecast("demo", "--seconds", "60")
        row("demo", 21, result)
        taxi = result["by_series"]["nyc_taxi"]
        mixture = taxi["served"]["1"]["mixture"]
        row(f"demo: nyc_taxi ({taxi['observations']} steps, lead 1 served by the mixture {mixture:.2f})", 1, {**result, **taxi})
    elif given.what == "ETTh2":
        shape = ("--set", "input.at=date", "--set", "input.at_format=%Y-%m-%d %H:%M:%S", "--set", f"input.values={ETT}")
        row("replay ETTh2", 7, tidecast("replay", "tests/data/ETTh2.csv.gz", "--step", "1h", *shape))
    elif given.what == "M4":
        file = Path(os.environ["TIDECAST_DATA"]) / "m4_hourly_train.csv.gz"
        row("replay M4 hourly", 414, tidecast("replay", str(file), "--step", "1h", "--wide-rows", "--start", "2020-01-01T00:00:00Z"))
    else:
        through_kafka(given.what, given.series, given.minutes, real_time=given.what == "burst")


if __name__ == "__main__":
    main()
