"""What a shard has counted since the last look, and how that reaches the metrics: sums in arrays, one walk over labels a block.

A labelled counter costs some microseconds a call; with 24 leads and three bands that was a tenth of a sample's way.

Letters: N samples in a step, H lead times, B central bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pipeline.metrics import LEADS, SIGNALS, Metrics, lead_bucket


class Scored(Protocol):
    """The part of a learner's step that is counted here; shapes as in models.learner.Step."""

    @property
    def issued(self) -> np.ndarray: ...  # (N,) bool
    @property
    def by(self) -> np.ndarray: ...  # (N, H) index of the expert
    @property
    def scored(self) -> np.ndarray: ...  # (N, H) bool
    @property
    def covered(self) -> np.ndarray: ...  # (N, H, B) bool


class Meter:
    """Counts of one shard, by lead."""

    def __init__(self, *, horizon: int, bands: Sequence[float], experts: Sequence[str]) -> None:
        self._bands, self._experts = bands, experts
        self._bucket = np.array([LEADS.index(lead_bucket(lead)) for lead in range(1, horizon + 1)])
        self._flow: dict[str, int] = {}  # the ledger as the counters have it
        self._clear()

    def _clear(self) -> None:
        leads, bands = len(self._bucket), len(self._bands)
        self._served = np.zeros(len(self._experts), np.int64)
        self._scored = np.zeros(leads, np.int64)
        self._covered = np.zeros((leads, bands), np.int64)
        self._anomalies = 0
        self._drifts = dict.fromkeys(SIGNALS, 0)

    def step(self, step: Scored) -> None:
        """Count what a step served, scored and covered."""
        self._served += np.bincount(step.by[step.issued, 0], minlength=len(self._experts))
        self._scored += step.scored.sum(0)
        self._covered += step.covered.sum(0)  # covered only where scored
        if self._bands:
            self._anomalies += int((step.scored[:, 0] & ~step.covered[:, 0, -1]).sum())

    def decide(self, kind: str, numbers: Mapping[str, Any]) -> None:
        """Count a decision of the learner."""
        if kind == "drift":
            self._drifts[numbers["signal"]] += 1

    def tell(self, metrics: Metrics) -> None:
        """Add it all to the counters."""
        for expert, count in zip(self._experts, self._served.tolist(), strict=True):
            metrics.forecasts_served.labels(expert=expert).inc(count)
        for k in np.unique(self._bucket[self._scored > 0]).tolist():
            mine, lead = self._bucket == k, LEADS[k]
            scored = int(self._scored[mine].sum())
            metrics.scores.labels(lead=lead).inc(scored)
            for band, covered in zip(self._bands, self._covered[mine].sum(0).tolist(), strict=True):
                metrics.interval_evaluated.labels(band=f"{band:g}", lead=lead).inc(scored)
                metrics.interval_covered.labels(band=f"{band:g}", lead=lead).inc(covered)
        metrics.anomalies.inc(self._anomalies)
        for signal, count in self._drifts.items():
            metrics.drift_events.labels(signal=signal).inc(count)
        self._clear()

    def ledger(self, metrics: Metrics, now: Mapping[str, int], refused: int) -> None:
        """Raise the counters of the flow to `now`; `refused`: of the rejected ones, those that have been counted by their reason."""
        counters = {
            "consumed": metrics.observations_consumed,
            "used": metrics.observations_used,
            "duplicate": metrics.observations_duplicate,
            "late": metrics.observations_late,
            "forgotten": metrics.series_forgotten,
        }
        for name, counter in counters.items():
            counter.inc(now[name] - self._flow.get(name, 0))
        rest = now["rejected"] - self._flow.get("rejected", 0) - refused
        metrics.observations_rejected.labels(reason="too_many_series").inc(max(rest, 0))
        self._flow = dict(now)

    def skill(self, metrics: Metrics, by_lead: Mapping[str, float]) -> None:
        """The mean skill of the leads of each bucket, since the start."""
        for k, lead in enumerate(LEADS):
            known = [by_lead[name] for h in np.flatnonzero(self._bucket == k).tolist() if (name := str(h + 1)) in by_lead]
            if known:
                metrics.skill_ratio.labels(lead=lead).set(sum(known) / len(known))

    def weights(self, metrics: Metrics, by_expert: Mapping[str, Sequence[float]]) -> None:
        """The mixture's mean weights over the leads of each bucket; experts of one kind (`lstm 1`, `lstm 2`) together."""
        for kind in {name.split()[0] for name in by_expert}:
            total = np.sum([weights for name, weights in by_expert.items() if name.split()[0] == kind], 0)
            for k in np.unique(self._bucket).tolist():
                metrics.mixture_weight.labels(expert=kind, lead=LEADS[k]).set(float(total[self._bucket == k].mean()))
