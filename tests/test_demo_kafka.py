"""The first command of the README, as a newcomer runs it: shorter, but all of it."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def children_of_the_demo() -> list[str]:
    """Ours: other checkouts on this machine may run theirs."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = rf"tidecast-demo-|{re.escape(sys.executable)} .*(pipeline\.feed|models\.apart|pipeline watch --config)"
    return [line for line in listed if re.search(ours, line)]


def series_of(page: str) -> int:
    with urllib.request.urlopen(f"{page}api/series") as answer:
        return json.load(answer)["total"]


@pytest.mark.kafka
def test_the_demo_forecasts_and_leaves_nothing_running():
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "demo", "--seconds", "12", "--json"],
        cwd=ROOT,
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
    assert children_of_the_demo() == []


@pytest.mark.kafka
def test_ctrl_c_ends_the_demo_and_its_page_with_130_and_leaves_nothing_running(tmp_path):
    said = tmp_path / "err"
    with said.open("w") as err:
        child = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "demo", "--page", "--seconds", "100"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )
    deadline = time.monotonic() + 90
    while not any("pipeline.feed" in line for line in children_of_the_demo()):
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
    assert children_of_the_demo() == []


@pytest.mark.kafka
@pytest.mark.system
def test_a_prometheus_beside_the_demo_has_what_is_forecast_and_goes_with_it():
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "demo", "--seconds", "60", "--prometheus", "--json"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
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
    assert children_of_the_demo() == []
