"""The live page over many series: does search answer, and does memory stay? A row in page.csv.

    python -m tests.benchmarks.page --series 100000 --minutes 10

A real broker, the page's own process, and a browser that has one series open. All series speak once, as fast as the page takes
it up; then some hundreds of them go on for `--minutes`, while searches are timed and the memory of the process and of the
browser's heap is watched. Growth is the slope of a line through the second half of it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from confluent_kafka import Producer
from playwright.sync_api import sync_playwright

from pipeline import topics
from pipeline.broker import Broker
from pipeline.records import encode
from tests.benchmarks.rows import write
from tests.told import forecast, score, status

QUERIES = ("", "9", "meter-00", "meter-04217", "METER", "77", "nothing like it")
ORDERS = ("worst", "band", "name")
LEADS = 24
CHUNK = 1_000  # series that are written before the page is waited for: it would leave out what it cannot keep up with
A_SECOND = 50  # series that go on, while memory is watched
SAMPLE_SECONDS = 10


class Writer:
    """Writes what the pipeline would: one forecast and one score of each series an hour."""

    def __init__(self, bootstrap: str, names: list[str]) -> None:
        self.names, self.t = names, 0
        self.producer = Producer(
            {"bootstrap.servers": bootstrap, "linger.ms": 20, "compression.type": "lz4", "queue.buffering.max.messages": 50_000}
        )

    def step(self, names: list[str]) -> None:
        self.t += 1
        said, came = (encode(m).decode() for m in (forecast("NAME", self.t, horizon=LEADS), score("NAME", self.t, leads=LEADS)))
        for name in names:
            for kind, text in (("forecasts", said), ("scores", came)):
                while True:
                    try:
                        self.producer.produce(f"tidecast.{kind}.v1", key=name, value=text.replace("NAME", name))
                        break
                    except BufferError:
                        self.producer.poll(0.05)
            self.producer.poll(0)
        self.producer.produce("tidecast.status.v1", key="tidecast", value=json.dumps(status(self.t)))

    def flush(self) -> None:
        assert self.producer.flush(120) == 0


def asked(url: str, **query: str) -> tuple[dict, float]:
    """The list of series, and the milliseconds that it took."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"{url}api/series?{urllib.parse.urlencode(query)}") as answer:
        found = json.load(answer)
    return found, 1e3 * (time.perf_counter() - began)


def resident_mib(pid: int) -> float:
    [line] = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def slope(samples: list[tuple[float, float]]) -> float:
    """MiB an hour over the second half."""
    at, mib = np.array(samples[len(samples) // 2 :]).T
    return float(3_600 * np.polyfit(at, mib, 1)[0])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--series", type=int, default=100_000)
    arguments.add_argument("--minutes", type=float, default=10)
    given = arguments.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(Broker(folder, die_with_parent=True))
        topics.apply({"bootstrap_servers": [broker.bootstrap]}, topics.wanted("tidecast", 4), replication=1)
        watch = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "watch", "--bootstrap", broker.bootstrap, "--address", "127.0.0.1:0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(watch.terminate)
        url = watch.stderr.readline().split()[2]
        bare = resident_mib(watch.pid)
        names = [f"meter-{k:05d}" for k in range(given.series)]
        writer = Writer(broker.bootstrap, names)

        began = time.monotonic()
        for k in range(CHUNK, given.series + CHUNK, CHUNK):
            writer.step(names[k - CHUNK : k])
            writer.flush()
            while asked(url)[0]["total"] < min(k, given.series):
                time.sleep(0.1)
        taken = time.monotonic() - began
        filled = resident_mib(watch.pid)

        chromium = stack.enter_context(sync_playwright()).chromium
        browser = chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"] if os.geteuid() == 0 else [])
        stack.callback(browser.close)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{url}#series=meter-00000")
        session = page.context.new_cdp_session(page)

        ms, process, heap = [], [], []
        end = time.monotonic() + 60 * given.minutes
        while (now := time.monotonic()) < end:
            for k in range(SAMPLE_SECONDS):
                writer.step(names[:A_SECOND])
                ms += [asked(url, q=QUERIES[(writer.t + k) % len(QUERIES)], order=order)[1] for order in ORDERS]
                page.wait_for_timeout(max(1_000 * (now + k + 1 - time.monotonic()), 0))
            session.send("HeapProfiler.collectGarbage")
            heap.append((time.monotonic(), session.send("Runtime.getHeapUsage")["usedSize"] / 2**20))
            process.append((time.monotonic(), resident_mib(watch.pid)))
        shown = page.locator("#fan .plot").get_attribute("aria-label")
        assert shown.startswith("Actual, and what is forecast next. Made at"), shown
        write(
            "page",
            {
                "series": given.series, "minutes": given.minutes, "series_per_s": given.series / taken,
                "search_p50_ms": float(np.median(ms)), "search_p99_ms": float(np.quantile(ms, 0.99)), "search_max_ms": max(ms),
                "bare_mib": bare, "filled_mib": filled, "end_mib": process[-1][1], "growth_mib_per_h": slope(process),
                "heap_mib": heap[-1][1], "heap_growth_mib_per_h": slope(heap), "load": os.getloadavg()[2],
            },
        )  # fmt: skip


if __name__ == "__main__":
    main()
