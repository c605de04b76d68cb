"""Metrics: every name of the contract that has a value, closed labels, zeros from the start, one exporter."""

import re
import socket
import urllib.request
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from pipeline.metrics import LEADS, SIGNALS, Metrics, PortTaken, lead_bucket, serve
from pipeline.records import Expert, Reason

CLOSED = {  # label: every value that it may take; the others are partitions, topics, bands: as many as the settings say
    "reason": set(get_args(Reason)),
    "expert": set(get_args(Expert)),
    "lead": set(LEADS),
    "signal": set(SIGNALS),
    "outcome": {"committed", "aborted", "indefinite"},
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
            assert name.endswith("_seconds"), name


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
        ("tidecast_observations_rejected_total", "reason"),
        ("tidecast_forecasts_served_total", "expert"),
        ("tidecast_scores_total", "lead"),
        ("tidecast_commits_total", "outcome"),
        ("tidecast_drift_events_total", "signal"),
    ],
)
def test_a_rate_has_its_zero_before_anything_has_happened(name, label):
    registry = CollectorRegistry()
    Metrics(registry)
    assert {registry.get_sample_value(name, {label: value}) for value in CLOSED[label]} == {0.0}


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


def test_the_exporter_answers_while_the_context_lasts_and_gives_its_port_back():
    registry = CollectorRegistry()
    Metrics(registry).anomalies.inc(3)
    with serve(registry, "127.0.0.1:0") as port, urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert b"tidecast_anomalies_total 3.0" in answer.read()
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_taken_port_is_an_error_that_names_the_setting():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PortTaken, match=rf"metrics.address = {address}.*in use"), serve(CollectorRegistry(), address):
            pass


def test_the_text_is_what_prometheus_reads():
    registry = CollectorRegistry()
    Metrics(registry)
    text = generate_latest(registry).decode()
    assert "# TYPE tidecast_commits_total counter" in text
    assert "# TYPE tidecast_commit_duration_seconds histogram" in text
