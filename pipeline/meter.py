"""What a shard has counted since the last look, and how that reaches the metrics: sums in arrays, one walk over labels a turn.

A labelled counter costs some microseconds a call; with 24 leads and three bands that was a tenth of a sample's way.

Letters: N samples in a step, H lead times, B central bands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pipeline.metrics import EXPORTED, LEADS, SIGNALS, SKIPPED, Metrics, lead_bucket
from pipeline.records import Block, Reason

HUGE = 1e6  # one-step changes; a single error must not be all that a sum holds from there on


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
    @property
    def point(self) -> np.ndarray: ...  # (N, H)
    @property
    def s_point(self) -> np.ndarray: ...  # (N, H) where scored
    @property
    def s_baseline_point(self) -> np.ndarray: ...  # (N, H)
    @property
    def s_pinball(self) -> np.ndarray: ...  # (N, H) in units of the size
    @property
    def size(self) -> np.ndarray: ...  # (N,) mean one-step change of the series


class Meter:
    """Counts of one shard, by lead."""

    def __init__(self, *, horizon: int, bands: Sequence[float], experts: Sequence[str], watched: Sequence[str] = ()) -> None:
        self._bands, self._experts, self._watched = bands, experts, frozenset(watched)
        self._exported = np.array([lead for lead in EXPORTED if lead <= horizon])
        self._bucket = np.array([LEADS.index(lead_bucket(lead)) for lead in range(1, horizon + 1)])
        self._flow: dict[str, int] = {}  # the ledger as the counters have it
        self._clear()

    def _clear(self) -> None:
        leads, bands = len(self._bucket), len(self._bands)
        self._served = np.zeros(len(self._experts), np.int64)
        self._scored = np.zeros(leads, np.int64)
        self._covered = np.zeros((leads, bands), np.int64)
        self._losses = np.zeros((3, leads))  # scaled errors, the baseline's, pinball
        self._anomalies = 0
        self._drifts = dict.fromkeys(SIGNALS, 0)
        self._skipped = dict.fromkeys(SKIPPED, 0)
        self._records: Counter[str] = Counter()  # by topic
        self._rejected: Counter[Reason] = Counter()
        self._filtered = 0
        self._windows: list[tuple[int, int]] = []  # series, and steps of the longest sequence, of each instant
        self._values: dict[str, float] = {}  # of watched series: newest observed; forecast, and made earlier, by lead
        self._ahead: dict[tuple[str, int], float] = {}
        self._earlier: dict[tuple[str, int], float] = {}

    def read(self, block: Block) -> None:
        """Count what a block has brought."""
        self._records[block.source.topic] += len(block.records)
        self._filtered += block.filtered
        for rejection in block.rejected:
            self._rejected[rejection.reason] += 1
            self._records[block.source.topic] += rejection.record < 0  # one that could not be read is not among the records

    def step(self, step: Scored, actual: np.ndarray) -> None:
        """Count what a step served, scored and covered; `actual` (N,)."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = [np.abs(actual[:, None] - point) / step.size[:, None] for point in (step.s_point, step.s_baseline_point)]
        for k, loss in enumerate((*scaled, step.s_pinball)):
            self._losses[k] += (np.fmin(loss, HUGE) * step.scored).sum(0)  # of a NaN and a number, fmin takes the number
        self._served += np.bincount(step.by[step.issued, 0], minlength=len(self._experts))
        self._scored += step.scored.sum(0)
        self._covered += step.covered.sum(0)  # covered only where scored
        if self._bands:
            self._anomalies += int((step.scored[:, 0] & ~step.covered[:, 0, -1]).sum())

    def watch(self, step: Scored, names: Sequence[str], actual: np.ndarray) -> None:
        """Keep what a step says of the few series that are watched one by one; `names` and `actual` are of its rows."""
        for row in [row for row, name in enumerate(names) if name in self._watched]:
            name = names[row]
            if not np.isnan(actual[row]):
                self._values[name] = float(actual[row])
            for lead in self._exported.tolist():
                if step.issued[row]:
                    self._ahead[name, lead] = float(step.point[row, lead - 1])
                if step.scored[row, lead - 1]:
                    self._earlier[name, lead] = float(step.s_point[row, lead - 1])

    def window(self, slots: Sequence[int]) -> None:
        """Count what an instant closes, a slot for each of its cells."""
        if slots:
            cells = Counter(slots)
            self._windows.append((len(cells), max(cells.values())))

    def decide(self, kind: str, cause: str, numbers: Mapping[str, Any]) -> None:
        """Count a decision of the learner."""
        if kind == "drift":
            self._drifts[numbers["signal"]] += 1
        if kind in {"skip", "rollback_weights"}:
            self._skipped[cause] += 1

    def tell(self, metrics: Metrics) -> None:
        """Add it all to the counters."""
        metrics.observations_filtered.inc(self._filtered)
        for topic, count in self._records.items():
            metrics.records_read.labels(topic=topic).inc(count)
        for reason, count in self._rejected.items():
            metrics.observations_rejected.labels(reason=reason).inc(count)
        for expert, count in zip(self._experts, self._served.tolist(), strict=True):
            metrics.forecasts_served.labels(expert=expert).inc(count)
        for k in np.unique(self._bucket[self._scored > 0]).tolist():
            mine, lead = self._bucket == k, LEADS[k]
            scored = int(self._scored[mine].sum())
            metrics.scores.labels(lead=lead).inc(scored)
            ours, baseline, pinball = self._losses[:, mine].sum(1).tolist()
            metrics.scaled_absolute_error.labels(lead=lead).inc(ours)
            metrics.baseline_scaled_absolute_error.labels(lead=lead).inc(baseline)
            metrics.pinball_loss.labels(lead=lead).inc(pinball)
            for band, covered in zip(self._bands, self._covered[mine].sum(0).tolist(), strict=True):
                metrics.interval_evaluated.labels(band=f"{band:g}", lead=lead).inc(scored)
                metrics.interval_covered.labels(band=f"{band:g}", lead=lead).inc(covered)
        metrics.anomalies.inc(self._anomalies)
        for signal, count in self._drifts.items():
            if count:
                metrics.drift_events.labels(signal=signal).inc(count)
        for cause, count in self._skipped.items():
            if count:
                metrics.updates_skipped.labels(reason=cause).inc(count)
        for series, steps in self._windows:
            metrics.window_series.observe(series)
            metrics.sequence_length_steps.observe(steps)
        for name, value in self._values.items():
            metrics.observed_value.labels(series=name).set(value)
        for gauge, found in ((metrics.forecast_value, self._ahead), (metrics.forecast_made_earlier, self._earlier)):
            for (name, ahead), value in found.items():
                gauge.labels(series=name, lead=str(ahead)).set(value)
        self._clear()

    def ledger(self, metrics: Metrics, now: Mapping[str, int]) -> None:
        """Raise the counters of the flow to `now`; to be told before `tell`, which forgets what was rejected by its reason."""
        counters = {
            "consumed": metrics.observations_consumed,
            "used": metrics.observations_used,
            "duplicate": metrics.observations_duplicate,
            "late": metrics.observations_late,
            "forgotten": metrics.series_forgotten,
        }
        for name, counter in counters.items():
            counter.inc(now[name] - self._flow.get(name, 0))
        rest = now["rejected"] - self._flow.get("rejected", 0) - self._rejected.total()
        self._rejected["too_many_series"] += max(rest, 0)
        self._flow = dict(now)

    def skill(self, metrics: Metrics, by_lead: Mapping[str, float]) -> None:
        """The mean skill of the leads of each bucket, since the start."""
        for k, lead in enumerate(LEADS):
            known = [by_lead[name] for h in np.flatnonzero(self._bucket == k).tolist() if (name := str(h + 1)) in by_lead]
            if known:
                metrics.skill_ratio.labels(lead=lead).set(sum(known) / len(known))

    def shadow(self, metrics: Metrics, difference: np.ndarray | None) -> None:
        """The mean over the leads of each bucket of what a shadow (H,) loses less; no shadow, nothing."""
        metrics.shadow_difference.clear()
        if difference is None:
            return
        for k in np.unique(self._bucket).tolist():
            metrics.shadow_difference.labels(lead=LEADS[k]).set(float(difference[self._bucket == k].mean()))

    def weights(self, metrics: Metrics, by_expert: Mapping[str, Sequence[float]]) -> None:
        """The mixture's mean weights over the leads of each bucket; experts of one kind (`lstm 1`, `lstm 2`) together."""
        for kind in {name.split()[0] for name in by_expert}:
            total = np.sum([weights for name, weights in by_expert.items() if name.split()[0] == kind], 0)
            for k in np.unique(self._bucket).tolist():
                metrics.mixture_weight.labels(expert=kind, lead=LEADS[k]).set(float(total[self._bucket == k].mean()))
