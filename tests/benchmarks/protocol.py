"""`tidecast backtest` of the sets that its figures are about, all defaults: a row in protocol.csv.

    python -m tests.benchmarks.protocol ETTh2 --seed 0
    TIDECAST_DATA=... python -m tests.benchmarks.protocol ETTm1 --seed 0 --model nets
    python -m tests.benchmarks.protocol taxi [--season 48,336]

ETTh2 and ETTm1 by the leak-free protocol (DSOF, ICLR 2025): taught on the warm-up rows, online through validation and test; squared errors
over leads 1 to H in deviations of the warm-up rows. Taxis from random weights. Of the 90 % band the least and the greatest share that it
held at any lead, and its width beside the one that the seasonal naive needed to hold as many values, its errors known.
"""

import argparse
from typing import Any, NamedTuple

from tests.benchmarks.figures import ROOT, tidecast
from tests.benchmarks.rows import SET, write


class Asked(NamedTuple):
    file: str
    words: str


def online(warmup: int, validation: int, test: int) -> str:
    return f"--horizon 48 --warmup {warmup} --validation {validation} --test {test} --scale warmup"


ASKED = {
    "ETTh2": Asked(f"{ROOT}/tests/data/ETTh2.csv.gz", f"--time date --step 1h {online(2880, 720, 10800)}"),
    "ETTm1": Asked(f"{SET}/ETTm1.csv.gz", f"--time date --step 15min {online(11520, 2880, 43200)}"),
    "taxi": Asked(f"{ROOT}/pipeline/data/nyc_taxi.csv.gz", "--time timestamp --step 30min --horizon 24"),
}


def asked(name: str) -> list[str]:
    """What `backtest` is asked: the file, and how to play it."""
    return [ASKED[name].file, *ASKED[name].words.split()]


def row(name: str, model: str, seed: int, found: dict[str, Any]) -> dict[str, Any]:
    """What `backtest --json` found, as a row."""
    by_lead, by_horizon = found["by_lead"], found["by_horizon"]
    held = {lead: one["coverage_90"] for lead, one in by_lead.items()}
    least, most = min(held, key=held.__getitem__), max(held, key=held.__getitem__)
    out = {"set": name, "model": model, "seed": seed}
    out |= {"held_least": held[least], "at": least, "held_most": held[most], "at_most": most}
    for lead in ("1", "24", "48"):
        whole, one = by_horizon.get(lead, {}), by_lead.get(lead, {})
        told = {"mse": whole.get("mse"), "mae": whole.get("mae"), "width": one.get("width_90")}
        told |= {"naive_width": one.get("seasonal_naive_width_90"), "skill": one.get("skill")}
        out |= {f"{what}_{lead}": "" if value is None else value for what, value in told.items()}
    return out | {"seconds": round(found["seconds"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=ASKED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="mixture")
    parser.add_argument("--season", help="steps of one or several; default: from the step")
    given = parser.parse_args()
    season = [] if given.season is None else ["--season", given.season]
    found = tidecast("backtest", *asked(given.set), "--seed", str(given.seed), "--model", given.model, *season)
    write("protocol", row(" ".join([given.set, *season[1:]]), given.model, given.seed, found))


if __name__ == "__main__":
    main()
