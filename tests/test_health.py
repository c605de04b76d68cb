"""What is asked of a run over HTTP, by a real client of a real server."""

import base64
import json
import socket
import ssl
import urllib.error
import urllib.request

import pytest
import trustme
from prometheus_client import CollectorRegistry

from pipeline.health import Guard, Health, serve, tell_model
from pipeline.metrics import Metrics, PortTaken

WELL = Health("meters", "1.2.3", "b3c1", 12, [])


def ask(port, path, password=None):
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if password is not None:
        asked.add_header("authorization", "Basic " + base64.b64encode(password.encode()).decode())
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
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


def test_a_password_is_asked_for_where_numbers_are_told():
    with serve(CollectorRegistry(), "127.0.0.1:0", lambda: WELL, Guard(password="s3cret")) as port:
        given = (None, "", "tidecast:wrong", "other:s3cret", "tidecast:s3cret")
        assert [ask(port, "/metrics", password)[0] for password in given] == [401, 401, 401, 401, 200]
        assert [ask(port, path)[0] for path in ("/livez", "/readyz", "/version")] == [200, 200, 401]


def test_it_is_served_with_a_certificate_where_there_is_one(tmp_path):
    authority = trustme.CA()
    mine = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    mine.cert_chain_pems[0].write_to_path(certificate)
    mine.private_key_pem.write_to_path(key)
    trusts = ssl.create_default_context()
    authority.configure_trust(trusts)
    with serve(CollectorRegistry(), "127.0.0.1:0", lambda: WELL, Guard(None, str(certificate), str(key))) as port:
        with urllib.request.urlopen(f"https://127.0.0.1:{port}/livez", timeout=10, context=trusts) as answer:
            assert answer.read() == b"alive\n"
        with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
            urllib.request.urlopen(f"https://127.0.0.1:{port}/livez", timeout=10, context=ssl.create_default_context())
