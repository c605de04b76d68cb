"""What an open page costs: throughput of a run with the live page open in a browser, against without. `python -m tests.benchmarks.watched`.

A broker, and a backlog of 21 hourly series that each run drains from its beginning, learning at every hour; an application of its own each
time. On: the page's process beside it, and Chromium with one series open. Pairs in turn, the order of each drawn. A row has the median
over pairs of on / off, by the clock, and by the run's own CPU (what it does itself and what learns for it, not what others take from the
machine): on two cores the run has one and a part of the other, and page, browser and broker want the rest.
"""

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from playwright.sync_api import sync_playwright

from pipeline.broker import Broker, free_port
from tests.benchmarks.rows import write
from tests.conftest import create_topic
from tests.instances import AT, Instance, make_ours, produce, samples, server, settings, until

SERIES = 21
TOPIC = "backlog"


def cpu(pid: int) -> float:
    """Seconds that a process and its children have had."""
    try:
        mine = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")).split()
    except FileNotFoundError:
        return 0.0
    return (int(mine[11]) + int(mine[12])) / os.sysconf("SC_CLK_TCK") + sum(cpu(int(child)) for child in children)


def counted(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return next((float(line.split()[1]) for line in answer.read().decode().splitlines() if line.startswith(f"{name} ")), 0.0)


@contextmanager
def watching(folder: Path, bootstrap: str, application: str, chromium):
    """The page of an application, open in a browser; yields the process that serves it."""
    told = ("--set", f"application={application}", "--set", f"output.prefix={application}")
    page = Instance(folder, "watch", "--bootstrap", bootstrap, "--address", "127.0.0.1:0", *told)
    found = until(lambda: "http://" in page.said() and page.said().partition("http://")[2].split()[0], told=page.said)
    browser = chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"] if os.geteuid() == 0 else [])
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(f"http://{found}#series=meter-0")
    try:
        yield page
        shown = tab.locator("#fan .plot").get_attribute("aria-label")
        assert shown.startswith("Actual, and what is forecast next. Made at"), shown
    finally:
        browser.close()
        page.stopped_quietly()


def drained(folder: Path, bootstrap: str, application: str, total: int) -> tuple[float, float]:
    """Wall and CPU seconds for 1,000 observations, from the first scrape that shows forecasts to the last one's commit."""
    make_ours(bootstrap, application)
    port = free_port()
    flags = {**AT, "metrics__address": f"127.0.0.1:{port}", "forecast__horizon": "24", "series__season": "24", "commit__interval": "500ms"}
    run = Instance(folder, "run", "--json", *settings(bootstrap, application, TOPIC, folder / application, **flags))

    def published(least: int) -> float:
        """How many forecasts are, once they are so many; 0 before."""
        with suppress(OSError):
            there = counted(port, "tidecast_forecasts_published_total")
            return there if there >= least else 0
        return 0

    def reached(least: int) -> tuple[float, float, float]:
        there = until(lambda: published(least), within=600, told=run.said)
        return there, time.perf_counter(), cpu(run.process.pid)

    began, ended = reached(1), reached(total)
    code, said = run.stopped()
    assert (code, said["consumed"]) == (0, total), said
    count, wall, own = (after - before for before, after in zip(began, ended, strict=True))
    assert count > total / 2, "most of it was over before anybody looked: more --steps"
    return 1e3 * wall / count, 1e3 * own / count


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--pairs", type=int, default=9)
    asked.add_argument("--steps", type=int, default=600)
    given = asked.parse_args()
    draw, found, page_cpu, rates = random.Random(2), [], [], {True: [], False: []}
    total = SERIES * given.steps
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(Broker(folder / "broker", die_with_parent=True))
        stack.enter_context(server())
        chromium = stack.enter_context(sync_playwright()).chromium
        create_topic(broker.bootstrap, TOPIC, 4, {})
        produce(broker.bootstrap, TOPIC, samples(SERIES, given.steps, ragged=False))
        drained(folder, broker.bootstrap, "first", total)  # what is loaded once
        for k in range(given.pairs):
            took = {}
            for on in [True, False] if draw.random() < 0.5 else [False, True]:
                name = f"pair-{k}-{'on' if on else 'off'}"
                with ExitStack() as beside:
                    page = beside.enter_context(watching(folder, broker.bootstrap, name, chromium)) if on else None
                    before = cpu(page.process.pid) if page else 0.0
                    took[on] = drained(folder, broker.bootstrap, name, total)
                    if page:
                        page_cpu.append(cpu(page.process.pid) - before)
                rates[on].append(1e3 / took[on][0])
            found.append([off / on for on, off in zip(took[True], took[False], strict=True)])
            print(k, [round(x, 3) for x in found[-1]], {on: [round(x, 2) for x in t] for on, t in took.items()}, flush=True)
    by_wall, by_cpu = zip(*found, strict=True)
    row = {
        "observations": total,
        "pairs": given.pairs,
        "off_per_s": statistics.median(rates[False]),
        "on_per_s": statistics.median(rates[True]),
    }
    for name, ratios in (("wall", by_wall), ("cpu", by_cpu)):
        row |= {f"on_by_off_{name}": statistics.median(ratios), f"{name}_least": min(ratios), f"{name}_most": max(ratios)}
    write("watched", row | {"page_cpu_s": statistics.median(page_cpu), "load": os.getloadavg()[2]})


if __name__ == "__main__":
    main()
