"""A row of a benchmark's CSV: what was measured, when, on what, from which commit."""

import csv
import datetime as dt
import json
import os
import platform
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
SET = Path(os.environ.get("TIDECAST_DATA", "data"))


def machine() -> str:
    cpus = [line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{len(cpus)} x {cpus[0].strip()}" if cpus else platform.machine()


def write(name: str, row: dict) -> None:
    """Append a row to `name`.csv beside this file, and show it; numbers with five significant digits. Rows of before lack new columns."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    found = {"date": dt.datetime.now(dt.UTC).date().isoformat(), "hardware": machine(), "commit": commit}
    found |= {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()}
    path = HERE / f"{name}.csv"
    before = []
    if path.exists():
        with path.open(newline="") as file:
            before = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys([*(before[0] if before else ()), *found])))
        writer.writeheader()
        writer.writerows([*before, found])
    print(json.dumps(found), flush=True)
