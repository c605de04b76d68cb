"""Records that one core decodes in a second, by shape: `python tests/benchmarks/decode.py >> tests/benchmarks/decode.csv`.

A row is the median, least and most of nine runs over 50,000 records in blocks of 1,000, measured in CPU time.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from pipeline.decode import Decoder, Shape
from pipeline.records import SECOND, Raw, RawBlock, Source, rfc3339

COLUMNS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
START = 1_700_000_000


def at(i):
    return rfc3339((START + i * 60) * SECOND)


SHAPES = {
    "default": (Shape(), lambda i: {"series": f"pump-{i % 100}", "at": at(i), "value": i * 0.1}),
    "microseconds": (Shape(), lambda i: {"series": "a", "at": f"{at(i)[:-1]}.{i * 7919 % 1_000_000:06}Z", "value": i * 0.1}),
    "covariates": (Shape(), lambda i: {"series": "a", "at": at(i), "value": 1.5, "covariates": {"load": 0.4}}),
    "nested, epoch": (
        Shape(series=("payload.sensor.id",), at="payload.ts", at_format="ms", value="payload.v"),
        lambda i: {"payload": {"sensor": {"id": f"p{i % 100}"}, "ts": (START + i) * 1_000, "v": 1.5}},
    ),
    "7 columns": (Shape(values=COLUMNS), lambda i: {"at": at(i)} | dict.fromkeys(COLUMNS, i * 0.1)),
    "filtered": (Shape(include=("pump-1*",)), lambda i: {"series": f"pump-{i % 100}", "at": at(i), "value": 1.5}),
    "NaN": (Shape(), lambda i: {"series": "a", "at": at(i), "value": float("nan")}),
}


def records_per_second(shape, record):
    raws = [Raw(i, 0, None, json.dumps(record(i)).encode()) for i in range(50_000)]
    blocks = [RawBlock(Source("t", 0), i, i + 1_000, 0.0, records=raws[i : i + 1_000]) for i in range(0, len(raws), 1_000)]
    rates = []
    for _ in range(9):
        decoder, began = Decoder(shape), time.process_time()
        for block in blocks:
            decoder.decode(block)
        rates.append(len(raws) / (time.process_time() - began))
    return statistics.median(rates), min(rates), max(rates)


def main():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    cpu = next((line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), platform.machine())
    for name, (shape, record) in SHAPES.items():
        rates = ",".join(f"{rate:.0f}" for rate in records_per_second(shape, record))
        sys.stdout.write(f"{time.strftime('%Y-%m-%d', time.gmtime())},{cpu},{commit},{json.dumps(name)},{rates}\n")


if __name__ == "__main__":
    main()
