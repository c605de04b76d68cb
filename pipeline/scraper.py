"""A Prometheus of this machine beside a run: our scrape configuration and rules, storage of its own, gone at the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.broker import SUPERVISOR, free_port

HERE = Path(__file__).parent
RULES = next((folder for folder in (HERE / "data" / "prometheus", HERE.parent / "deploy" / "prometheus") if folder.is_dir()), HERE)
START_SECONDS = 30.0
STOP_SECONDS = 10.0


class NoPrometheus(Exception):  # noqa: N818 - reads as what is the matter
    """There is no Prometheus, or it did not start; the message says what to do."""


def configuration(targets: dict[str, str], *, every: str) -> dict[str, Any]:
    """What `prometheus.yml` would say: targets (host:port) by application, looked at `every` so often, and our rules."""
    listed = [{"targets": [target], "labels": {"application": name}} for name, target in targets.items()]
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(RULES / name) for name in ("recording.yml", "alerts.yml")],
        "scrape_configs": [{"job_name": "tidecast", "static_configs": listed}],
    }


@contextmanager
def prometheus(folder: Path, targets: dict[str, str], *, every: str = "5s") -> Iterator[str]:
    """Its address, http://host:port, while the context lasts. Raises NoPrometheus."""
    program = shutil.which("prometheus")
    if program is None:
        raise NoPrometheus("no prometheus on PATH: `apt-get install prometheus`, or https://prometheus.io/download")
    folder.mkdir(parents=True, exist_ok=True)
    config, log, at = folder / "prometheus.json", folder / "prometheus.log", f"127.0.0.1:{free_port()}"
    config.write_text(json.dumps(configuration(targets, every=every)), encoding="utf-8")  # JSON is YAML
    flags = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={at}", "--log.level=warn"]
    watch = [sys.executable, "-I", "-S", "-c", SUPERVISOR, str(log), str(os.getpid()), program, *flags]
    child = subprocess.Popen(watch, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    assert child.stdin is not None
    try:
        _wait(child, at, log)
        yield f"http://{at}"
    finally:
        child.stdin.close()  # whoever watches over it stops it then
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait(child: subprocess.Popen[bytes], at: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(OSError), urllib.request.urlopen(f"http://{at}/-/ready", timeout=1):
            return
        if child.poll() is not None or time.monotonic() > deadline:
            said = "\n".join(log.read_text(errors="replace").splitlines()[-10:]) if log.exists() else ""
            raise NoPrometheus(f"Prometheus did not start; the end of its log:\n{said}")
        time.sleep(0.1)
