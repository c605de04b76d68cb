"""The demo: a real broker, a producer at an accelerated clock, the product as it runs anywhere, and a live table."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline import feed, operate, table
from pipeline.broker import SUPERVISOR, Broker
from pipeline.settings import Settings
from pipeline.stop import Stop, until_told_to_stop

PARTITIONS = 4
# Work that is sent ahead of the forecasts: enough that the product never waits for its producer, which is asked twenty times a
# second, and so little that latency shows the product and not a queue, however slow the machine.
AHEAD_SECONDS = 0.15
LEAST_AHEAD = 4  # steps
LOOK_AT = 'tidecast_observed_value{series="nyc_taxi"} or tidecast_forecast_made_earlier{series="nyc_taxi"}'
WATCHED = (feed.TAXI, "synthetic/wave-0", "synthetic/walk-0", "synthetic/level-0", "synthetic/count-0")


PAGE = "127.0.0.1:8464"
PAGE_SECONDS = 60.0  # that it may take to start, on a machine that is busy


def settings_for(bootstrap: str, folder: Path, name: str, metrics: str) -> Settings:
    """What a user would say of this data, and nothing else but where things lie; `metrics`: host:port."""
    return Settings.read(
        None,
        {},
        {
            "application": name,
            "kafka.bootstrap": bootstrap,
            "input.topics": f"{name}.input",
            "series.step": "30min",
            "output.prefix": name,
            "output.partitions": PARTITIONS,
            "forecast.publish_from": "earliest",
            "commit.state": str(folder / "state"),
            "metrics.series": list(WATCHED),
            "metrics.address": metrics,
            "page.address": "127.0.0.1:0",
        },
    )


@contextmanager
def producer(bootstrap: str, topic: str) -> Iterator[Callable[[int], None]]:
    """A child that sends; calling what this yields says how many steps it may have sent by now."""
    child = subprocess.Popen([sys.executable, "-m", "pipeline.feed", bootstrap, topic], stdin=subprocess.PIPE, start_new_session=True)
    assert child.stdin is not None
    pipe = child.stdin

    def allow(steps: int) -> None:
        with suppress(BrokenPipeError):  # everything has been sent
            pipe.write(b"%d\n" % steps)
            pipe.flush()

    try:
        yield allow
    finally:
        with suppress(BrokenPipeError):
            pipe.close()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def live_page(settings: Settings, folder: Path) -> Iterator[str]:
    """The live page of the run in a process of its own, which ends with this one; yields where it is."""
    log = folder / "page.log"
    told = {"output.prefix": settings.output.prefix, "page.address": PAGE if free(PAGE) else "127.0.0.1:0"}
    watch = [
        *(sys.executable, "-m", "pipeline", "watch", "--config", os.devnull, "--application", settings.application),
        *("--bootstrap", ",".join(settings.kafka.bootstrap)),
        *(part for name, value in told.items() for part in ("--set", f"{name}={value}")),
    ]
    supervised = [sys.executable, "-I", "-S", "-c", SUPERVISOR, str(log), str(os.getpid()), *watch]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDECAST_")}
    child = subprocess.Popen(supervised, env=clean, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    assert child.stdin is not None
    try:
        deadline = time.monotonic() + PAGE_SECONDS
        while not (found := re.search(r"http://\S+", log.read_text() if log.exists() else "")):
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the live page has not started: {log.read_text()[-2_000:] if log.exists() else 'it says nothing'}")
            time.sleep(0.1)
        yield found[0]
    finally:
        child.stdin.close()
        child.wait(30)


def free(address: str) -> bool:
    """Whether nobody listens there."""
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_server((host, int(port))):
        return True
    return False


def run_demo(
    seconds: float, *, bootstrap: str | None, quiet: bool, page: bool = False, prometheus: bool = False
) -> tuple[dict[str, Any], bool]:
    """The summary, after `seconds` of streaming, and whether Ctrl-C came first; what was started is stopped, whatever happens."""
    err = Console(stderr=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidecast-demo-", ignore_cleanup_errors=True)))
        if bootstrap is None:
            err.print("starting a Kafka broker on this machine ...")
            bootstrap = stack.enter_context(Broker(folder / "broker", die_with_parent=True)).bootstrap
        name, metrics = f"demo-{time.strftime('%H%M%S')}", "127.0.0.1:0"
        if prometheus:
            from pipeline.broker import free_port
            from pipeline.scraper import prometheus as started

            metrics = f"127.0.0.1:{free_port()}"
            at = stack.enter_context(started(folder / "prometheus", {name: metrics}))
            err.print(f"Prometheus: {at}/graph?g0.expr={quote(LOOK_AT)}&g0.tab=0&g0.range_input=10m", soft_wrap=True)
            err.print(f"  alerts: {at}/alerts   rules: {at}/rules   what it reads: http://{metrics}/metrics", soft_wrap=True)
        settings = settings_for(bootstrap, folder, name, metrics)
        operate.log_to_stderr(level="warning")
        operate.apply_topics(settings)
        operate.make_topic(settings, settings.input.topics[0], PARTITIONS)
        err.print(f"replaying half-hours of New York's taxis and 20 synthetic series into {settings.input.topics[0]} at {bootstrap}")
        if page:
            err.print(f"the live page, for as long as this runs: {stack.enter_context(live_page(settings, folder))}", soft_wrap=True)
        stop = stack.enter_context(until_told_to_stop())
        allow = stack.enter_context(producer(bootstrap, settings.input.topics[0]))
        watch = threading.Thread(target=_watch, args=(stop, allow, seconds, None if quiet else err), daemon=True)
        watch.start()
        result = operate.run(settings, stop=stop)
        watch.join(5)
    return result, stop.interrupted


class Rate:
    """Steps per second over the last two seconds.

    >>> rate = Rate()
    >>> [rate.now(steps, at) for steps, at in ((0, 0.0), (30, 1.0), (90, 3.0))]
    [0.0, 30.0, 30.0]
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def now(self, steps: int, at: float) -> float:
        while len(self._seen) > 1 and self._seen[1][0] <= at - 2.0:
            self._seen.popleft()
        self._seen.append((at, steps))
        since, before = self._seen[0]
        return (steps - before) / (at - since) if at > since else 0.0


def _watch(stop: Stop, allow: Callable[[int], None], seconds: float, out: Console | None) -> None:
    """Pace the producer by what has been read, draw the table, and end the demo after `seconds` of streaming."""
    began: float | None = None
    rate = Rate()
    live = Live(Text("waiting for the first forecasts ..."), console=out, refresh_per_second=4, screen=False) if out else None
    with live or nullcontext():
        allow(LEAST_AHEAD)
        while not stop.wait(0.05):
            seen = operate.now_at()
            done = seen.consumed // (feed.SYNTHETIC + 1)
            allow(done + max(LEAST_AHEAD, round(rate.now(done, time.monotonic()) * AHEAD_SECONDS)))
            began = began or (time.monotonic() if seen.consumed else None)
            spent = time.monotonic() - began if began else 0.0
            if live is not None:
                mean = seen.consumed / spent if spent else 0.0
                live.update(table.render(seen.status, rate=mean, lag=seen.lag, commits=seen.commits, latency_ms=seen.latency_ms))
            if spent >= seconds:
                stop.set()
