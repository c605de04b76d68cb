"""Messages on their way out, without a broker: headers, files, latency, and the stage."""

import base64
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import publish
from pipeline.metrics import Latency
from pipeline.publish import FilePublisher, Publish
from pipeline.records import Message
from pipeline.wire import headers

FORECAST = Message("forecasts", b"taxi", b'{"id":"1"}', "id-1", 1_467_331_200_000_000, [("traceparent", b"00-1")], 5)
REJECTED = Message("rejected", b"\xff", None, "id-2", 0, [("own", b"\xfe"), ("__tidecast.errors.reason", b"empty")])


def test_what_is_ours_is_a_cloud_event_in_binary_mode():
    assert headers(FORECAST, "app") == [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"id-1"),
        ("ce_source", b"/tidecast/app"),
        ("ce_type", b"io.tidecast.forecast.v1"),
        ("ce_time", b"2016-07-01T00:00:00Z"),
        ("content-type", b"application/json"),
        ("traceparent", b"00-1"),
    ]


@pytest.mark.parametrize(
    ("kind", "said"),
    [("scores", "score"), ("late", "late"), ("decisions", "decision"), ("models", "model")],
)
def test_every_kind_of_ours_has_a_type(kind, said):
    assert ("ce_type", f"io.tidecast.{said}.v1".encode()) in headers(FORECAST._replace(kind=kind), "app")


def test_a_rejected_record_has_its_own_headers_only():
    assert headers(REJECTED, "app") == REJECTED.headers


class Collects:
    muted = False

    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)


def test_the_stage_sends_every_message_in_order(monkeypatch):
    monkeypatch.setattr(publish, "PUBLISHER", Collects())
    Publish().process([FORECAST, REJECTED])
    assert publish.PUBLISHER.sent == [FORECAST, REJECTED]


def test_files_hold_the_bytes_of_the_topics_a_line_each(tmp_path):
    out = FilePublisher(str(tmp_path / "out"))
    out.send(FORECAST)
    out.send(FORECAST._replace(kind="late", value=b"{}"))
    out.send(REJECTED)
    out.close()
    assert (tmp_path / "out/forecasts.ndjson").read_bytes() == b'{"id":"1"}\n'
    assert (tmp_path / "out/late.ndjson").read_bytes() == b"{}\n"
    assert (tmp_path / "out/scores.ndjson").read_bytes() == b""
    line = json.loads((tmp_path / "out/rejected.ndjson").read_bytes())
    assert base64.b64decode(line["key_base64"]) == b"\xff"
    assert line["value_base64"] is None
    assert line["headers"]["__tidecast.errors.reason"] == "empty"


def test_a_dash_is_forecasts_to_stdout_and_nothing_else(capfdbinary):
    out = FilePublisher("-")
    out.send(FORECAST)
    out.send(FORECAST._replace(kind="scores", value=b"never"))
    out.send(REJECTED)
    out.close()
    assert capfdbinary.readouterr().out == b'{"id":"1"}\n'


def test_nowhere_is_nowhere(tmp_path, monkeypatch, capfdbinary):
    monkeypatch.chdir(tmp_path)
    out = FilePublisher(None)
    out.send(FORECAST)
    out.close()
    assert list(tmp_path.iterdir()) == []
    assert capfdbinary.readouterr().out == b""


@given(seconds=st.lists(st.floats(0.001, 100), min_size=1, max_size=300), seed=st.integers(0, 9))
def test_quantiles_of_latency_are_within_one_percent_of_the_sorted_list(seconds, seed):
    latency = Latency()
    random.Random(seed).shuffle(seconds)
    for one in seconds:
        latency.add(one)
    in_order = sorted(seconds)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        exact = next(s for k, s in enumerate(in_order, 1) if k >= share * len(seconds)) * 1e3
        assert exact - 0.06 <= latency.ms()[name] <= exact * 1.01 + 0.06


def test_nothing_measured_is_no_number():
    assert Latency().ms() == {"p50": None, "p99": None}
