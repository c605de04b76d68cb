"""The page of a backtest: everything is in it, nothing is asked of a network, and names are text whatever is in them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from arrivals import small, wavy
from tools import tool

from models.grid import Matrix, grid
from models.learner import Decision
from models.prequential import Prequential, Split, Told
from pipeline.report import About, numbers, page

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "{numbers}&amp;\u2028",
)


class Elements(HTMLParser):
    """What a browser would make of it: elements, and the texts of scripts and all else."""

    def __init__(self, source):
        super().__init__()
        self.found, self.scripts, self.text, self.inside = [], [], "", None
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def played():
    """A small backtest of three series with names that nobody should have."""
    values = wavy(150, 3)
    loop = Prequential(Matrix(400_000, values, HOSTILE), small(members=2), split=Split(0, 20))
    for _ in loop.play():
        pass
    result = loop.result()
    result.decisions.insert(0, Told(30, Decision("drift", "</script><b>", {"leads": [1, 2, 5], "p": 0.01})))
    result.decided["drift"] = 1
    return result, loop.values


def about(**kwargs):
    return About("<b>file</b>.csv", "ab" * 32, {"model": "<i>lstm</i>"}, ("a <note>",), interrupted=False)._replace(**kwargs)


@pytest.fixture(scope="module")
def html(played):
    return page(*played, grid("1h"), about())


def test_nothing_is_asked_of_any_network(html):
    assert re.findall(r"https?:|//[a-z0-9.-]+\.[a-z]{2,}|@import|url\(", html) == []
    elements = Elements(html)
    outside = [(tag, k, v) for tag, attrs in elements.found for k, v in attrs.items() if k in ("src", "href", "action", "srcset", "data")]
    assert outside == [("link", "href", "data:,")]
    [policy] = [attrs["content"] for tag, attrs in elements.found if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_the_policy_allows_this_script_and_this_style_and_no_attribute(html):
    for tag, name in (("script", "script-src"), ("style", "style-src")):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert len(content) == 1
        digest = base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in html
    assert not [k for _, attrs in Elements(html).found for k in attrs if k.startswith("on") or k == "style"]


def test_names_are_text_whatever_is_in_them(html, played):
    elements = Elements(html)
    assert len(elements.scripts) == 2
    assert {"img", "i"} & {tag for tag, _ in elements.found} == set()
    for name in HOSTILE[:2]:
        assert name in elements.text
    data = json.loads(elements.scripts[0])
    assert {t["name"] for t in data["traces"]} == set(HOSTILE)
    assert "<b>file</b>.csv" in elements.text


def test_what_it_was_made_with_is_there(html):
    text = Elements(html).text
    for words in ("ab" * 32, "tidecast 0.", "<i>lstm</i>", "a <note>", "In the series' own unit", "seasonal naive", "1 x drift"):
        assert words in text
    assert "stopped before the end" not in text


def test_one_that_was_interrupted_says_so(played):
    assert "stopped before the end" in Elements(page(*played, grid("1h"), about(interrupted=True))).text


def test_the_charts_have_the_figures_of_the_result(played):
    result, values = played
    data = numbers(result, values, grid("1h"))
    by_lead = list(result.by_lead().values())
    assert {"lstm 1", "linear", "last value"} <= set(data["errors"])
    np.testing.assert_allclose(data["errors"]["tidecast"]["mse"], [one["mse"] for one in by_lead], rtol=1e-6)
    np.testing.assert_allclose(data["by_lead"]["coverage"], [one["coverage_90"] for one in by_lead], rtol=1e-6)
    assert data["widths"]["90 % band"] == [one["width_90"] for one in by_lead]
    assert data["widths"]["seasonal naive"] == [one["seasonal_naive_width_90"] for one in by_lead]
    assert data["leads"] == [1, 3, 6]
    assert data["times"][0] == 400_000 * 3_600_000 + 20 * 3_600_000
    assert all(len(t["said"]) == 3 and len(t["actual"]) == len(data["times"]) for t in data["traces"])
    assert data["decisions"][0] | {"at": 0} == {"at": 0, "kind": "drift", "cause": "</script><b>", "numbers": "leads 1-2 5, p 0.01"}
    json.dumps(data, allow_nan=False)


def test_mixture_weights_are_drawn_where_there_are_some(played):
    result, values = played
    mixed = [(row, {"linear": [0.25] * 6, "lstm 1": [0.75] * 6}) for row, _ in result.weights]
    before, result.weights = result.weights, mixed
    try:
        data = numbers(result, values, grid("1h"))
    finally:
        result.weights = before
    assert list(data["weights"]["by"]) == ["linear", "lstm 1"]
    assert set(data["weights"]["by"]["lstm 1"][2]) == {0.75}
    assert len(data["weights"]["times"]) == result.tally.bins


def test_a_backtest_that_has_scored_nothing_is_a_page_too(played):
    loop = Prequential(Matrix(400_000, wavy(60, 2), ("a", "b")), small(), split=Split())
    text = Elements(page(loop.result(), loop.values, grid("1h"), about(interrupted=True))).text
    assert "nothing scored yet" in text


@pytest.mark.system
def test_a_browser_draws_it_and_runs_no_script_but_its_own(html, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(html, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [tool("chromium"), *options, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "<title>Backtest of &lt;b&gt;file&lt;/b&gt;.csv</title>" in done.stdout
    assert done.stdout.count('class="path k-ours"') >= 8
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
