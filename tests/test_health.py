"""What is asked of a run over HTTP, by a real client of a real server."""

import json
import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry

from pipeline.health import Health, serve, tell_model
from pipeline.metrics import Metrics, PortTaken

WELL = Health("meters", "1.2.3", "b3c1", 12, [])


def ask(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.headers["content-type"], refused.read().decode()


def test_the_exporter_answers_while_the_context_lasts_and_gives_its_port_back():
    registry = CollectorRegistry()
    Metrics(registry).anomalies.inc(3)
    with serve(registry, "127.0.0.1:0", lambda: WELL) as port:
        status, kind, text = ask(port, "/metrics")
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    assert "tidecast_anomalies_total 3.0" in text
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_ready_says_what_is_missing_and_alive_does_not_ask():
    now = WELL._replace(missing=["20 records behind, allowed: 10"])
    with serve(CollectorRegistry(), "127.0.0.1:0", lambda: now) as port:
        status, _, text = ask(port, "/readyz")
        assert (status, json.loads(text)["missing"]) == (503, ["20 records behind, allowed: 10"])
        assert ask(port, "/livez")[0] == 200
        now = WELL
        status, _, text = ask(port, "/readyz")
        assert (status, json.loads(text)) == (200, {"ready": True, "missing": [], "lag_records": 12, "model_version": "b3c1"})
        said = json.loads(ask(port, "/version")[2])
        assert (said["version"], said["application"], said["model_version"]) == ("1.2.3", "meters", "b3c1")
        assert ask(port, "/else")[0] == 404


def test_a_taken_port_is_an_error_that_names_the_setting():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PortTaken, match=rf"metrics.address = {address}.*in use"), serve(CollectorRegistry(), address, lambda: WELL):
            pass


def test_of_a_version_that_serves_no_more_nothing_is_said():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for version in ("a", "a", "b"):
        tell_model(metrics, "default", version)
    said = [sample.labels["version"] for family in registry.collect() for sample in family.samples if sample.name == "tidecast_model_info"]
    assert said == ["b"]
