"""Every metric, declared once: names, types, units and closed sets of labels, as attributes, so that a typo is an error."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pipeline.records import Expert, Reason

LEADS = ("1", "2-6", "7-24", "25+")
BANDS = ("0.5", "0.8", "0.9")
WIDTH = math.log(1.01)  # of a class of latencies
SIGNALS = ("loss", "level", "variance", "coverage")  # of drift
SKIPPED = ("input", "loss", "gradient", "weights")  # what was not finite; whose lesson already was not: input, which learning rules out
STAGES = ("read", "decode", "learn", "publish")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60)
FAST_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)  # of a block in a stage
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 100_000)
EXPORTED = (1, 6, 24, 48)  # leads of the few series that are exported one by one: those that people ask for

Element = TypeVar("Element")


class PortTaken(Exception):  # noqa: N818 - reads as what happened
    """Nobody can be served where we were told to serve."""


def lead_bucket(lead: int) -> str:
    """The label of a lead time.

    >>> [lead_bucket(k) for k in (1, 2, 6, 7, 24, 25)]
    ['1', '2-6', '2-6', '7-24', '7-24', '25+']
    """
    return LEADS[0] if lead == 1 else LEADS[1] if lead <= 6 else LEADS[2] if lead <= 24 else LEADS[3]  # noqa: PLR2004


class Metrics:
    """All of them, in one registry.

    >>> registry = CollectorRegistry()
    >>> Metrics(registry).observations_rejected.labels(reason="not_json").inc()
    >>> registry.get_sample_value("tidecast_observations_rejected_total", {"reason": "not_json"})
    1.0
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"tidecast_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"tidecast_{name}", about, labels, registry=registry)

        def histogram(name: str, about: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"tidecast_{name}", about, labels, registry=registry, buckets=buckets)

        # consume
        self.records_read = counter("records_read_total", "Records read from the input.", "topic")
        self.observations_consumed = counter("observations_consumed_total", "Observations read; used + duplicate + late + rejected.")
        self.observations_used = counter("observations_used_total", "Observations that were used.")
        self.observations_duplicate = counter("observations_duplicate_total", "Second samples for an open cell; the last one is learnt.")
        self.observations_late = counter("observations_late_total", "Observations behind time.disorder; see the late topic.")
        self.observations_rejected = counter("observations_rejected_total", "Observations that cannot be used, by reason.", "reason")
        self.observations_filtered = counter("observations_filtered_total", "Observations of series not asked for; not consumed.")
        self.consumer_lag_records = gauge("consumer_lag_records", "Records there and not read.", "topic", "partition")
        self.watermark_lag_seconds = gauge("watermark_lag_seconds", "Event time from the last learning instant to the newest sample.")
        self.partitions_idle = gauge("partitions_idle", "Partitions that nobody waits for.")
        self.observations_held = gauge("observations_held", "Samples that wait for another partition.")
        self.rejected_oldest_age_seconds = gauge("rejected_oldest_age_seconds", "Age of the oldest record in the rejected topic; 0: none.")
        # stages
        self.stage_duration_seconds = histogram(
            "stage_duration_seconds",
            "What a block took in a stage, without those behind it; `learn` takes those of a bundle as one.",
            "stage",
            buckets=FAST_SECONDS,
        )
        self.stage_elements_in = counter("stage_elements_in_total", "Records, observations or messages into a stage.", "stage")
        self.stage_elements_out = counter("stage_elements_out_total", "Records, observations or messages out of it.", "stage")
        self.last_processed_timestamp_seconds = gauge("last_processed_timestamp_seconds", "When a stage last did something.", "stage")
        # gather
        self.window_series = histogram("window_series", "Series that a learning instant closed windows of.", buckets=COUNTS)
        self.sequence_length_steps = histogram(
            "sequence_length_steps", "Observed steps of the longest sequence that an instant closed.", buckets=COUNTS
        )
        self.padding_ratio = gauge("padding_ratio", "Part of the newest batch of sequences that is padding.")
        self.state_bytes = gauge("state_bytes", "What is remembered of all series.")
        self.state_limit_bytes = gauge("state_limit_bytes", "learn.state_budget.")
        self.active_series = gauge("active_series", "Series in memory.")
        self.series_forgotten = counter("series_forgotten_total", "Series silent for series.forget_after.")
        self.series_in_two_partitions = gauge("series_in_two_partitions", "Series outside the promise of replay: key your producer.")
        # learn
        self.train_steps = counter("train_steps_total", "Learning instants.")
        self.train_step_seconds = histogram("train_step_seconds", "What a learning instant kept the engine from other work.")
        self.train_loss = gauge("train_loss", "Loss of the newest learning instant.")
        self.gradient_norm = gauge("gradient_norm", "Gradient norm of the newest learning instant, before clipping.")
        self.learning_rate = gauge("learning_rate", "Rate of the next step of descent.")
        self.updates_skipped = counter("updates_skipped_total", "Learning instants whose weights were not taken, by cause.", "reason")
        self.drift_events = counter("drift_events_total", "Changes found in the stream; see the decisions topic.", "signal")
        self.mixture_weight = gauge("mixture_weight", "Weight of an expert in the mixture, networks together.", "expert", "lead")
        # models
        self.model_info = gauge("model_info", "1 for the version that learning went on from.", "model", "version", "role")
        self.model_age_seconds = gauge("model_age_seconds", "Since the weights last changed.")
        self.model_swaps = counter("model_swaps_total", "Other weights that serve, or were to; see the decisions topic.", "outcome")
        self.promotions = counter("promotions_total", "What became of challengers.", "outcome")
        self.shadow_difference = gauge(
            "shadow_difference", "Part of the loss that the shadow loses less than who serves; absent: there is no shadow.", "lead"
        )
        # quality
        self.scores = counter("scores_total", "Forecasts that met their actual value.", "lead")
        self.scaled_absolute_error = counter(
            "scaled_absolute_error_total", "Their absolute errors, each in its series' mean one-step change.", "lead"
        )
        self.baseline_scaled_absolute_error = counter(
            "baseline_scaled_absolute_error_total", "The same of the better naive forecast; 1 - rate / rate is the skill.", "lead"
        )
        self.pinball_loss = counter("pinball_loss_total", "Their pinball losses in the same unit, mean over the levels but 0.5.", "lead")
        self.interval_evaluated = counter("interval_evaluated_total", "Intervals that met their actual value.", "band", "lead")
        self.interval_covered = counter("interval_covered_total", "Of them, those that held it.", "band", "lead")
        self.skill_ratio = gauge("skill_ratio", "1 - error / error of the better naive forecast, since the start.", "lead")
        self.anomalies = counter("anomalies_total", "Actual values outside the 90 % band at lead 1.")
        # publish
        self.forecasts_published = counter("forecasts_published_total", "Forecasts committed.")
        self.publish_failures = counter("publish_failures_total", "Sends and commits that did not succeed; the log says which and why.")
        self.forecasts_served = counter("forecasts_served_total", "Forecasts by who served lead 1.", "expert")
        self.forecast_latency_seconds = histogram("forecast_latency_seconds", "From a sample's append to its forecast being readable.")
        self.commit_duration_seconds = histogram("commit_duration_seconds", "What a commit took.")
        self.commits = counter("commits_total", "Commits.", "outcome")
        self.recovery_replayed_observations = gauge("recovery_replayed_observations", "Observations that the last recovery repeated.")
        self.state_digest_mismatches = counter("state_digest_mismatches_total", "Recoveries whose repetition gave other bytes.")
        # device
        self.device_memory_bytes = gauge("device_memory_bytes", "Of tensors on a GPU; on a CPU, of this process.", "device")
        # series: the few of metrics.series
        self.observed_value = gauge("observed_value", "Newest value of a series.", "series")
        self.forecast_value = gauge("forecast_value", "Newest forecast, of so many steps ahead.", "series", "lead")
        self.forecast_made_earlier = gauge(
            "forecast_made_earlier", "What was forecast so many steps before, of the newest value.", "series", "lead"
        )

        for metric, name, values in (
            (self.observations_rejected, "reason", get_args(Reason)),
            (self.forecasts_served, "expert", get_args(Expert)),
            (self.drift_events, "signal", SIGNALS),
            (self.updates_skipped, "reason", SKIPPED),
            (self.stage_duration_seconds, "stage", STAGES),
            (self.stage_elements_in, "stage", STAGES),
            (self.stage_elements_out, "stage", STAGES),
            (self.scores, "lead", LEADS),
            (self.scaled_absolute_error, "lead", LEADS),
            (self.baseline_scaled_absolute_error, "lead", LEADS),
            (self.pinball_loss, "lead", LEADS),
            (self.skill_ratio, "lead", LEADS),
            (self.model_swaps, "outcome", ("switched", "refused", "rolled_back")),
            (self.promotions, "outcome", ("promoted", "refused", "undecided")),
            (self.commits, "outcome", ("committed", "aborted", "indefinite")),
        ):
            for value in values:
                metric.labels(**{name: value})  # there from the start: a rate needs its zero


FAILED = "tidecast_retrain_failed_timestamp_seconds"


class RetrainMetrics:
    """Those of a job that comes and goes, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.last_success = Gauge(
            "tidecast_retrain_last_success_timestamp_seconds", "When the newest retraining that succeeded ended.", registry=registry
        )
        self.duration = Gauge("tidecast_retrain_duration_seconds", "What it took.", registry=registry)
        self.failed = Gauge(FAILED, "When the newest retraining failed; 0: it succeeded.", registry=registry)


class Latency:
    """Milliseconds from append to readable: quantiles of all so far, from counts in classes 1 % wide.

    >>> latency = Latency()
    >>> for ms in range(1, 101): latency.add(ms / 1e3)
    >>> latency.ms()
    {'p50': 50.0, 'p99': 99.4}
    """

    def __init__(self) -> None:
        self._classes: dict[int, int] = {}
        self.count = 0

    def add(self, seconds: float) -> None:
        at = math.ceil(math.log(max(seconds, 1e-4)) / WIDTH)
        self._classes[at] = self._classes.get(at, 0) + 1
        self.count += 1

    def ms(self) -> dict[str, float | None]:
        return {"p50": self._quantile(0.5), "p99": self._quantile(0.99)}

    def _quantile(self, share: float) -> float | None:
        seen = 0
        classes = dict(self._classes)  # whoever asks does so in another thread
        for at in sorted(classes):
            seen += classes[at]
            if seen >= share * self.count:
                return round(1e3 * math.exp(at * WIDTH), 1)
        return None


METRICS: Metrics | None = None
"""Of the run in this process, set by whoever runs it: what a DoFn carries arrives as a copy, and nobody reads what that counts."""


@contextmanager
def stage(name: str, elements_in: int) -> Iterator[list[int]]:
    """Counts a block in a stage; what is appended to the list came out of it."""
    out: list[int] = []
    began = time.perf_counter()
    try:
        yield out
    finally:
        passed(name, elements_in, sum(out), time.perf_counter() - began)


def passed(name: str, elements_in: int, elements_out: int, seconds: float) -> None:
    """A block has passed a stage; one that says no more than that time has passed does not count. Clocks are read for metrics alone."""
    if METRICS is not None and (elements_in or elements_out):
        took, put_in, came_out, newest = of_stage(METRICS, name)
        took.observe(seconds)
        put_in.inc(elements_in)
        came_out.inc(elements_out)
        newest.set_to_current_time()


@lru_cache(maxsize=len(STAGES))
def of_stage(metrics: Metrics, name: str) -> tuple[Histogram, Counter, Counter, Gauge]:
    """Looked up once: to find a label takes longer than to count."""
    return (
        metrics.stage_duration_seconds.labels(stage=name),
        metrics.stage_elements_in.labels(stage=name),
        metrics.stage_elements_out.labels(stage=name),
        metrics.last_processed_timestamp_seconds.labels(stage=name),
    )


def staged(name: str, elements_in: int, steps: Iterator[list[Element]]) -> Iterator[list[Element]]:
    """The lists that a stage gives for a block, and the time that it takes itself: not what is done with them meanwhile."""
    seconds, count, began = 0.0, 0, time.perf_counter()
    for step in steps:
        seconds += time.perf_counter() - began
        count += len(step)
        yield step
        began = time.perf_counter()
    passed(name, elements_in, count, seconds + time.perf_counter() - began)
