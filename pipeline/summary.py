"""What a run came to: one JSON object for programs, a few lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def summary(status: Mapping[str, Any], *, latency_ms: Mapping[str, float | None], seconds: float, device: str) -> dict[str, Any]:
    """The fields of CONTRACTS' summary from a shard's last status; `seconds` of wall clock from the first block to the last."""
    ledger = status.get("ledger") or dict.fromkeys(("consumed", "used", "duplicate", "late", "rejected"), 0)
    learner = status.get("learner") or {}
    published = status.get("published") or {}
    return {
        **ledger,
        "filtered": status.get("filtered", 0),
        "windows": status.get("windows", 0),
        "forecasts": published.get("forecasts", 0),
        "scored": published.get("scores", 0),
        "skill": learner.get("skill", {}),
        "coverage": learner.get("coverage", {}),
        "latency_ms": dict(latency_ms),
        "obs_per_s": round(ledger["consumed"] / seconds, 1) if seconds > 0 else 0.0,
        "engine": "local",
        "device": device,
        "by_series": status.get("by_series", {}),
    }


def console() -> Console:
    """For people; the summary goes to stdout, everything that scrolls by to stderr."""
    return Console(highlight=False)


def what_next(out: Console) -> None:
    out.print("\nWhat next, on your own topic:\n")
    out.print("    tidecast check --set input.topics=TOPIC --set series.step=1h --set kafka.bootstrap=HOST:9092")
    out.print("    tidecast topics apply --topic TOPIC --step 1h --bootstrap HOST:9092")
    out.print("    tidecast run --topic TOPIC --step 1h --bootstrap HOST:9092\n")


def show(result: Mapping[str, Any], out: Console) -> None:
    """The summary as a person reads it."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    ledger = " + ".join(f"{result[k]:,} {k}" for k in ("used", "duplicate", "late", "rejected"))
    table.add_row("observations", f"{result['consumed']:,} = {ledger}")
    table.add_row(
        "forecasts", f"{result['forecasts']:,} published, {result['scored']:,} records of scores, {result['windows']:,} windows learnt"
    )
    table.add_row("skill by lead", leads(result["skill"]) + "  (1 - error / error of the better naive forecast)")
    table.add_row(
        "coverage",
        ", ".join(f"{float(band):.0%} band holds {share:.1%}" for band, share in result["coverage"].items()) or "nothing scored yet",
    )
    for name, one in result["by_series"].items():
        table.add_row(name, f"{one.get('observations', 0):,} steps, skill {leads(one.get('skill', {}))}; lead 1 served by {shares(one)}")
    latency = result["latency_ms"]
    if latency.get("p99") is not None:
        table.add_row(
            "latency", f"{latency['p50']:.0f} ms median, {latency['p99']:.0f} ms p99, from the sample's append to its forecast readable"
        )
    table.add_row("rate", f"{result['obs_per_s']:,.0f} observations per second on {result['device']}")
    out.print(table)


def leads(skill: Mapping[str, float | None]) -> str:
    """The leads that people ask for.

    >>> leads({"1": 0.5, "2": 0.4, "24": None})
    '+0.50 at 1'
    """
    wanted = [(k, v) for k, v in skill.items() if k in {"1", "6", "24", "48"} and v is not None]
    return ", ".join(f"{v:+.2f} at {k}" for k, v in wanted) or "not yet known"


def shares(one: Mapping[str, Any]) -> str:
    """Who served lead 1, most often first.

    >>> shares({"served": {"1": {"lstm": 0.75, "last_value": 0.25}}})
    'lstm 75%, last_value 25%'
    """
    first = (one.get("served") or {}).get("1", {})
    return ", ".join(f"{by} {share:.0%}" for by, share in sorted(first.items(), key=lambda x: -x[1])) or "nobody yet"
