"""Every metric, declared once: names, types, units and closed sets of labels, as attributes, so that a typo is an error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from pipeline.records import Expert, Reason

LEADS = ("1", "2-6", "7-24", "25+")
BANDS = ("0.5", "0.8", "0.9")
WIDTH = math.log(1.01)  # of a class of latencies
SIGNALS = ("loss", "level", "variance", "coverage")  # of drift
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60)


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

        def histogram(name: str, about: str, *labels: str) -> Histogram:
            return Histogram(f"tidecast_{name}", about, labels, registry=registry, buckets=SECONDS)

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
        # gather
        self.active_series = gauge("active_series", "Series in memory.")
        self.series_forgotten = counter("series_forgotten_total", "Series silent for series.forget_after.")
        self.series_in_two_partitions = gauge("series_in_two_partitions", "Series outside the promise of replay: key your producer.")
        # learn
        self.train_steps = counter("train_steps_total", "Learning instants.")
        self.train_step_seconds = histogram("train_step_seconds", "What a learning instant kept the engine from other work.")
        self.train_loss = gauge("train_loss", "Loss of the newest learning instant.")
        self.gradient_norm = gauge("gradient_norm", "Gradient norm of the newest learning instant, before clipping.")
        self.learning_rate = gauge("learning_rate", "Rate of the next step of descent.")
        self.drift_events = counter("drift_events_total", "Changes found in the stream; see the decisions topic.", "signal")
        self.mixture_weight = gauge("mixture_weight", "Weight of an expert in the mixture, networks together.", "expert", "lead")
        # quality
        self.scores = counter("scores_total", "Forecasts that met their actual value.", "lead")
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
        self.state_digest_mismatches = counter("state_digest_mismatches_total", "Recoveries whose repetition gave other bytes.")

        for metric, name, values in (
            (self.observations_rejected, "reason", get_args(Reason)),
            (self.forecasts_served, "expert", get_args(Expert)),
            (self.drift_events, "signal", SIGNALS),
            (self.scores, "lead", LEADS),
            (self.skill_ratio, "lead", LEADS),
            (self.commits, "outcome", ("committed", "aborted", "indefinite")),
        ):
            for value in values:
                metric.labels(**{name: value})  # there from the start: a rate needs its zero


class RetrainMetrics:
    """Those of a job that comes and goes, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.last_success = Gauge(
            "tidecast_retrain_last_success_timestamp_seconds", "When the newest retraining that succeeded ended.", registry=registry
        )
        self.duration = Gauge("tidecast_retrain_duration_seconds", "What it took.", registry=registry)


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


@contextmanager
def serve(registry: CollectorRegistry, address: str) -> Iterator[int]:
    """`/metrics` at host:port while the context lasts; yields the port, which is chosen here for port 0."""
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), addr=host, registry=registry)
    except OSError as error:
        raise PortTaken(f"metrics.address = {address}: {error.strerror}; stop who listens there, or set metrics.address") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
