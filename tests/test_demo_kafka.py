"""The first command of the README, as a newcomer runs it: shorter, but all of it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent


class Demo(NamedTuple):
    """What a demo is started with, by which it and all of its descendants are known: other tests, or checkouts, may run theirs."""

    environ: dict[str, str]
    mark: bytes

    def running(self) -> list[str]:
        """The command lines of whatever has come of it and lives."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # another user's, or gone meanwhile
                if self.mark in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


@pytest.fixture
def demo() -> Demo:
    mark = uuid.uuid4().hex
    return Demo({**os.environ, "STARTED_BY_TEST": mark}, f"STARTED_BY_TEST={mark}".encode())


def series_of(page: str) -> int:
    with urllib.request.urlopen(f"{page}api/series") as answer:
        return json.load(answer)["total"]


@pytest.mark.kafka
def test_the_demo_forecasts_and_leaves_nothing_running(demo):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "demo", "--seconds", "12", "--json"],
        cwd=ROOT,
        env=demo.environ,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    result = json.loads(line)
    assert result["consumed"] == result["used"] + result["duplicate"] + result["late"] + result["rejected"]
    assert result["consumed"] > 21 * 50
    assert result["late"] == result["rejected"] == 0
    assert result["forecasts"] > 21 * 50
    assert result["by_series"]["nyc_taxi"]["observations"] > 50
    assert result["latency_ms"]["p99"] is not None
    assert demo.running() == []


@pytest.mark.kafka
def test_ctrl_c_ends_the_demo_and_its_page_with_130_and_leaves_nothing_running(demo, tmp_path):
    said = tmp_path / "err"
    with said.open("w") as err:
        child = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "demo", "--page", "--seconds", "100"],
            cwd=ROOT,
            env=demo.environ,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )
    deadline = time.monotonic() + 90
    while not any("pipeline.feed" in line for line in demo.running()):
        assert time.monotonic() < deadline, "the producer never started"
        time.sleep(0.2)
    [where] = re.findall(r"the live page, for as long as this runs: (http://127\.0\.0\.1:\d+/)", said.read_text())
    while not series_of(where):
        assert time.monotonic() < deadline, "the page never saw a forecast"
        time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 130, said.read_text()
    assert "observations" in out, "the summary comes first"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(where)
    assert demo.running() == []


@pytest.mark.kafka
@pytest.mark.system
def test_a_prometheus_beside_the_demo_has_what_is_forecast_and_goes_with_it(demo):
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "demo", "--seconds", "60", "--prometheus", "--json"],
        cwd=ROOT, env=demo.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    watch = threading.Timer(150, child.kill)
    watch.start()
    [at] = next(found for line in child.stderr if (found := re.findall(r"Prometheus: (http://[0-9.:]+)/graph", line)))
    query = f"{at}/api/v1/query?query=tidecast_forecast_made_earlier%7Bseries=%22nyc_taxi%22,lead=%221%22%7D"
    found = []
    while not found and child.poll() is None:
        with urllib.request.urlopen(query, timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
        time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    watch.cancel()
    assert 0 < float(found[0]["value"][1]) < 50_000
    assert child.returncode == 130
    assert demo.running() == []
