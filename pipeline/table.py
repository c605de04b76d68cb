"""The live table of a terminal: what is going on, from a shard's status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


def plain(name: str) -> Text:
    """A series' name as text, whatever is in it: no markup, no control characters."""
    return Text("".join(c if c.isprintable() else "?" for c in name)[:40])


def number(x: float | None) -> str:
    """Four digits are what an eye takes in.

    >>> number(1234.5678), number(None), number(0.000123456)
    ('1,235', '', '0.0001235')
    """
    return "" if x is None else f"{x:,.4g}" if abs(x) < 1_000 else f"{x:,.0f}"  # noqa: PLR2004


def percent(x: float | None) -> str:
    return "" if x is None else f"{x:.0%}"


def signed(x: float | None) -> str:
    return "" if x is None else f"{x:+.2f}"


def render(status: Mapping[str, Any], *, rate: float, lag: int | None, commits: int, latency_ms: Mapping[str, float | None]) -> Group:
    """Series with their last value, next forecast with its 90 % band, live skill and coverage; below, the run's health."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("series", "steps", "last", "next", "90% band", "skill 1", "skill 24", "in band", "served by"):
        table.add_column(column, justify="left" if column in {"series", "served by"} else "right")
    for name, one in sorted(status.get("by_series", {}).items()):
        skill, band = one.get("skill", {}), one.get("band") or (None, None)
        first = (one.get("served") or {}).get("1", {})
        table.add_row(
            plain(name),
            f"{one.get('observations', 0):,}",
            number(one.get("last")),
            number(one.get("next")),
            f"{number(band[0])} - {number(band[1])}",
            signed(skill.get("1")),
            signed(skill.get("24")),
            percent(one.get("coverage", {}).get("0.9")),
            max(first, key=first.get) if first else "",
        )
    ledger = status.get("ledger", {})
    learner = status.get("learner", {})
    health = Text.assemble(
        (f"{ledger.get('consumed', 0):,} observations", "bold"),
        f"  {rate:,.0f}/s   late {ledger.get('late', 0):,}   rejected {ledger.get('rejected', 0):,}   "
        f"lag {'?' if lag is None else f'{lag:,}'}   commits {commits:,}   learnt {status.get('updates', 0):,} times   "
        f"latency p50 {number(latency_ms.get('p50'))} ms, p99 {number(latency_ms.get('p99'))} ms\n",
        f"all {status.get('series', 0)} series: skill {signed(learner.get('skill', {}).get('1'))} at 1, "
        f"{signed(learner.get('skill', {}).get('24'))} at 24; the 90% band held {percent(learner.get('coverage', {}).get('0.9'))}",
    )
    return Group(table, Text(), health)
