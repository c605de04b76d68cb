"""What the live page's server answers, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from told import HOSTILE, fed, forecast, score

from pipeline.metrics import PortTaken
from pipeline.page import app as app_module
from pipeline.page.app import PARTS, make_app, news
from pipeline.page.fold import Fold
from pipeline.page.watch import hosts, listen
from pipeline.records import encode

# uPlot 1.6.32 as its author publishes it on npm (dist/): whoever updates it says so here
VENDORED = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uPlot.LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}


class Given:
    """A reader that has read what it was given."""

    def __init__(self, fold: Fold) -> None:
        self.fold, self.lock, self.link, self.behind, self.skipped = fold, threading.Lock(), ("reading", time.time(), ""), 0, 0
        self.asked: list[str] = []

    def look_back(self, name: str) -> None:
        self.asked.append(name)


def client(known: Given, *, ticks: int = 1, host: str = "127.0.0.1") -> TestClient:
    """Its streams end after so many ticks."""
    left = iter([False] * ticks)
    return TestClient(make_app(known, hosts=hosts(host), ending=lambda: next(left, True)), base_url="http://127.0.0.1:8464")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(app_module, "TICK_SECONDS", 0.0)


def events(text: str) -> list[tuple[str, object]]:
    return [(kind, json.loads(data)) for kind, data in re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)]


@pytest.mark.parametrize(
    "path", ["/", "/static/page.js", "/static/charts.js", "/static/text.js", "/static/page.css", "/static/report.css", "/api/series"]
)
def test_every_answer_forbids_what_the_page_does_not_do(path):
    answer = client(Given(fed())).get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_holds_no_script_or_style_of_its_own_and_names_no_other_host():
    page = (PARTS / "page.html").read_text()
    assert re.findall(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|javascript:", page) == []
    for path in PARTS.iterdir():
        if path.suffix in {".html", ".js", ".css", ".svg"} and not path.name.startswith("uPlot"):
            found = re.findall(r"https?://[^\s\"')]+", path.read_text())
            assert set(found) <= {"http://www.w3.org/2000/svg"}, path.name


def test_no_script_of_ours_turns_text_into_markup():
    for path in PARTS.glob("*.js"):
        if not path.name.startswith("uPlot"):
            assert (
                re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|DOMParser", path.read_text()) == []
            ), path.name


def test_what_is_not_ours_is_what_its_author_published():
    assert {name: hashlib.sha256((PARTS / name).read_bytes()).hexdigest() for name in VENDORED} == VENDORED
    assert "MIT License" in (PARTS / "uPlot.LICENSE").read_text()


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_series_travels_as_a_parameter_whatever_its_name(name):
    known = Given(fed(name))
    with client(known) as browser:
        listed = browser.get("/api/series", params={"q": name}).json()
        assert [one["id"] for one in listed["series"]] == [name]
        told = events(browser.get("/events", params={"series": name, "lead": 2}).text)
    [shown] = [data for kind, data in told if kind == "series"]
    assert (shown["id"], shown["lead"]) == (name, 2)


def test_a_stream_says_all_there_is_at_first_and_then_what_has_changed():
    known, seen = Given(fed()), {}
    kinds = [[part.split(b"\n")[0] for part in news(known, "taxi", 1, seen, tick)] for tick in range(3)]
    assert kinds == [[b"event: now", b"event: series", b"event: decisions", b"event: history"], [b"event: now"], [b"event: now"]]
    known.fold.forecast(encode(forecast("taxi", 21)), 0)
    assert [part.split(b"\n")[0] for part in news(known, "taxi", 1, seen, 4)] == [b"event: now", b"event: series"]


def test_the_past_of_a_series_is_read_when_somebody_picks_it():
    fold = Fold("tidecast")
    for k in range(60):
        fold.forecast(encode(forecast(f"s{k}", 0)), 0)
        fold.score(encode(score(f"s{k}", 1)), 0)
    known = Given(fold)
    with client(known, ticks=3) as browser:
        browser.get("/events", params={"series": "s59"})
        browser.get("/events", params={"series": "s0"})
    assert known.asked == ["s59"]


@pytest.mark.parametrize("query", ["lead=-1", "lead=x", "lead=99999", "lead=1.5"])
def test_a_lead_that_is_none_is_refused(query):
    assert client(Given(fed())).get(f"/events?series=taxi&{query}").status_code == 400


def test_a_series_that_nobody_knows_is_an_empty_answer():
    [shown] = [data for kind, data in events(client(Given(fed())).get("/events?series=nobody").text) if kind == "series"]
    assert shown is None


def test_an_order_that_there_is_not_is_refused():
    assert client(Given(fed())).get("/api/series?order=best").status_code == 400


@pytest.mark.parametrize(("method", "path"), [("POST", "/"), ("DELETE", "/api/series"), ("PUT", "/events")])
def test_nothing_can_be_changed_from_here(method, path):
    assert client(Given(fed())).request(method, path).status_code == 405


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/app.py"])
def test_no_other_file_is_given(path):
    assert client(Given(fed())).get(path).status_code == 404


def test_a_website_that_points_its_name_here_gets_nothing():
    assert client(Given(fed())).get("/api/series", headers={"host": "evil.example"}).status_code == 400
    assert client(Given(fed())).get("/api/series", headers={"host": "localhost:8464"}).status_code == 200
    assert client(Given(fed()), host="0.0.0.0").get("/api/series", headers={"host": "dashboards.example"}).status_code == 200


def test_streams_are_bounded_and_free_their_place(monkeypatch):
    monkeypatch.setattr(app_module, "MOST_STREAMS", 0)
    with client(Given(fed())) as browser:
        assert browser.get("/events").status_code == 503
        monkeypatch.setattr(app_module, "MOST_STREAMS", 1)
        assert [browser.get("/events").status_code for _ in range(3)] == [200] * 3


def test_a_taken_port_is_named():
    host, first = listen("127.0.0.1:0")
    with first, pytest.raises(PortTaken, match=r"page\.address"):
        listen(f"{host}:{first.getsockname()[1]}")


def test_the_page_says_every_part_that_its_script_looks_for():
    page = (PARTS / "page.html").read_text()
    wanted = set(re.findall(r'\bat\("([a-z-]+)"\)', (PARTS / "page.js").read_text())) | set(
        re.findall(r'\bchart\("([a-z-]+)"', (PARTS / "page.js").read_text())
    )
    assert wanted <= set(re.findall(r'id="([a-z-]+)"', page))
    assert Path(PARTS / "icon.svg").exists()
