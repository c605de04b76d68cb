"""Metrics: every name of the contract that has a value, closed labels, zeros from the start, one exporter."""

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from pipeline import metrics
from pipeline.metrics import LEADS, SIGNALS, SKIPPED, STAGES, Metrics, lead_bucket, staged
from pipeline.records import Expert, Reason

OUTCOMES = {
    "commits": ("committed", "aborted", "indefinite"),
    "model_swaps": ("switched", "refused", "rolled_back"),
    "promotions": ("promoted", "refused", "undecided"),
}
CLOSED = {  # label: every value that it may take; the others are partitions, topics, bands: as many as the settings say
    "reason": {*get_args(Reason), *SKIPPED},
    "stage": set(STAGES),
    "expert": set(get_args(Expert)),
    "lead": set(LEADS),
    "signal": set(SIGNALS),
    "outcome": {outcome for outcomes in OUTCOMES.values() for outcome in outcomes},
}
OPEN = {"topic", "partition", "band", "le"}


def families(registry):
    return {family.name: family for family in registry.collect()}


def test_every_name_has_the_prefix_a_base_unit_and_a_word_of_help():
    registry = CollectorRegistry()
    Metrics(registry)
    for name, family in families(registry).items():
        assert re.fullmatch(r"tidecast_[a-z][a-z0-9_]*[a-z0-9]", name), name
        assert family.documentation.endswith("."), name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|percent)$", name), name
        assert not name.endswith("_total"), name  # of what is not a counter; a counter's family has lost it
        if family.type == "histogram":
            assert name.endswith(("_seconds", "_series", "_steps")), name


def test_labels_are_a_short_known_list():
    registry = CollectorRegistry()
    Metrics(registry)
    for family in registry.collect():
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert label in OPEN or value in CLOSED[label], (sample.name, label, value)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("tidecast_forecasts_served_total", "expert"),
        ("tidecast_scores_total", "lead"),
        ("tidecast_drift_events_total", "signal"),
        ("tidecast_scaled_absolute_error_total", "lead"),
        ("tidecast_pinball_loss_total", "lead"),
        ("tidecast_stage_elements_in_total", "stage"),
        ("tidecast_stage_duration_seconds_count", "stage"),
    ],
)
def test_a_rate_has_its_zero_before_anything_has_happened(name, label):
    registry = CollectorRegistry()
    Metrics(registry)
    assert {registry.get_sample_value(name, {label: value}) for value in CLOSED[label]} == {0.0}


@pytest.mark.parametrize("name", OUTCOMES)
def test_every_outcome_has_its_zero(name):
    registry = CollectorRegistry()
    Metrics(registry)
    assert {registry.get_sample_value(f"tidecast_{name}_total", {"outcome": outcome}) for outcome in OUTCOMES[name]} == {0.0}


@pytest.mark.parametrize(("name", "values"), [("observations_rejected", get_args(Reason)), ("updates_skipped", SKIPPED)])
def test_reasons_have_theirs_too(name, values):
    registry = CollectorRegistry()
    Metrics(registry)
    assert {registry.get_sample_value(f"tidecast_{name}_total", {"reason": value}) for value in values} == {0.0}


def test_what_is_done_with_a_stages_output_is_not_its_own_time(monkeypatch):
    registry = CollectorRegistry()
    monkeypatch.setattr(metrics, "METRICS", Metrics(registry))
    clock = iter([0.0, 1.0, 5.0, 7.0, 100.0, 100.5])  # begin, first given, taken up, second given, taken up, end
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    assert list(staged("learn", 7, iter([[1, 2], [3]]))) == [[1, 2], [3]]
    value = registry.get_sample_value
    assert value("tidecast_stage_duration_seconds_sum", {"stage": "learn"}) == 1.0 + 2.0 + 0.5
    assert value("tidecast_stage_elements_in_total", {"stage": "learn"}) == 7
    assert value("tidecast_stage_elements_out_total", {"stage": "learn"}) == 3


def test_two_runs_in_one_process_do_not_share_a_registry():
    one, other = CollectorRegistry(), CollectorRegistry()
    Metrics(one).anomalies.inc()
    Metrics(other)
    assert other.get_sample_value("tidecast_anomalies_total") == 0.0


def test_latency_buckets_reach_a_minute():
    registry = CollectorRegistry()
    Metrics(registry).forecast_latency_seconds.observe(45)
    assert registry.get_sample_value("tidecast_forecast_latency_seconds_bucket", {"le": "60.0"}) == 1.0
    assert registry.get_sample_value("tidecast_forecast_latency_seconds_bucket", {"le": "30.0"}) == 0.0


@given(lead=st.integers(1, 1_000))
def test_every_lead_has_the_bucket_that_holds_it(lead):
    low, _, high = lead_bucket(lead).partition("-")
    assert int(low.rstrip("+")) <= lead <= int(high or (low if low == "1" else 10**9))


def test_the_text_is_what_prometheus_reads():
    registry = CollectorRegistry()
    Metrics(registry)
    text = generate_latest(registry).decode()
    assert "# TYPE tidecast_commits_total counter" in text
    assert "# TYPE tidecast_commit_duration_seconds histogram" in text
