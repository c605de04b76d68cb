"""Names that queries may ask for: what is declared, as Prometheus stores it, and what the recording rules make of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from pipeline.metrics import Metrics, RetrainMetrics

PROMETHEUS = Path(__file__).parents[1] / "deploy" / "prometheus"
NAME = re.compile(r"(?<![\w:])(?:[a-z_]+:)?tidecast_[a-z0-9_]+(?::[a-z0-9_]+)?")


def exported() -> set[str]:
    """Names of samples, histograms by their parts."""
    registry = CollectorRegistry()
    Metrics(registry)
    RetrainMetrics(registry)
    names = set()
    for family in registry.collect():
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + ending for ending in endings}
    return names


def rules(file: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((PROMETHEUS / file).read_text())["groups"] for rule in group["rules"]]


def recorded() -> set[str]:
    return {rule["record"] for rule in rules("recording.yml")}


def unknown(expression: str) -> set[str]:
    """Names in an expression that nobody gives.

    >>> sorted(unknown("rate(tidecast_scores_total[5m]) / tidecast_scores + application:tidecast_state:ratio + a:tidecast_state:ratio"))
    ['a:tidecast_state:ratio', 'tidecast_scores']
    """
    return set(NAME.findall(expression)) - exported() - recorded()
