"""The live page in a real browser, beside a pipeline that runs on a real broker, fed by a stranger with names that nobody should have."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from confluent_kafka import Producer
from conftest import create_topic
from playwright.sync_api import Browser, Page, expect, sync_playwright
from told import HOSTILE

from pipeline.broker import Broker
from tests.instances import AT, BEGIN, HOUR, Instance, make_ours, server, settings, until

pytestmark = [pytest.mark.kafka, pytest.mark.system, pytest.mark.slow]

WAIT_MS = 60_000  # on a machine that is busy with other things
NAMES = ("meter-0", "meter-1", *(name for name in HOSTILE if name))
HISTORY = 60  # steps that are there before anybody looks
SHOWN = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "has_touch": True},
}


class Stranger:
    """Produces a step of all series again and again, until it is told to stop."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._producer, self._topic, self._t, self._stop = (
            Producer({"bootstrap.servers": bootstrap, "linger.ms": 5}),
            topic,
            0,
            threading.Event(),
        )
        for _ in range(HISTORY):
            self.step()
        assert self._producer.flush(30) == 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def step(self) -> None:
        for k, name in enumerate(NAMES):
            value = round(10 * (k + 1) + 3 * math.sin(2 * math.pi * (self._t + k) / 6) + math.sin(7.0 * self._t * (k + 1)), 3)
            sample = {"series": name, "at": 1_000 * (BEGIN + self._t * HOUR), "value": value}
            self._producer.produce(self._topic, key=name, value=json.dumps(sample))
        self._producer.poll(0)
        self._t += 1

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self.step()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._producer.flush(10)


class Stage:
    """A broker, a stranger, the pipeline, and the page."""

    def __init__(self, broker: Broker, watch: Instance) -> None:
        self.broker, self.watch = broker, watch
        self.url = until(lambda: next((word for word in watch.said().split() if word.startswith("http://")), None), told=watch.said)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("page")
    with server(), Broker(folder / "kafka", die_with_parent=True) as broker:
        create_topic(broker.bootstrap, "meters", 2, {})
        make_ours(broker.bootstrap, "page")
        stranger = Stranger(broker.bootstrap, "meters")
        given = settings(broker.bootstrap, "page", "meters", folder, **AT)
        run = Instance(folder, "run", *given)
        watch = Instance(folder, "watch", *given, "--address", "127.0.0.1:0")
        try:
            yield Stage(broker, watch)
            assert run.running(), run.said()
        finally:
            broker.go_on()
            stranger.stop()
            codes = [one.stopped_quietly() for one in (watch, run)]
        assert codes == [0, 0], watch.said() + run.said()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium is not None, "this test drives Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield running
        running.close()


Opened = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, stage: Stage) -> Iterator[Opened]:
    """`opened("dark", hash)` is the page in a browser of its own; at the end, nothing went wrong in it and nobody else was asked."""
    contexts, wrong, asked = [], [], set()

    def open_page(shown: str = "light", fragment: str = "") -> Page:
        context = browser.new_context(**SHOWN[shown])
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        page.goto(stage.url + fragment)
        return page

    expect.set_options(timeout=WAIT_MS)
    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
    assert asked == {urlsplit(stage.url).netloc}


def live(page: Page) -> Page:
    """The page, once it shows a forecast of a run that lives."""
    expect(page.locator("#state-text")).to_have_text("Live")
    expect(page.locator("#fan canvas")).to_be_visible()
    return page


def drawn(page: Page, chart: str) -> int:
    """Pixels of a chart that are not empty."""
    return page.locator(f"#{chart} canvas").evaluate(
        "c => new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer).filter((p) => p).length"
    )


def newest(page: Page) -> str:
    return page.locator("#fan .plot").get_attribute("aria-label") or ""


@pytest.mark.parametrize("shown", SHOWN)
def test_forecasts_appear_and_move_and_everybody_can_use_it(opened: Opened, shown: str, tmp_path: Path) -> None:
    page = live(opened(shown))
    expect(page.locator("#ledger")).to_contain_text("it adds up")
    expect(page.locator("#skill canvas")).to_be_visible()
    before = newest(page)
    until(lambda: newest(page) != before)
    page.screenshot(path=tmp_path / f"{shown}.png", full_page=True)

    for chart in ("fan", "earlier", "own-skill", "skill", "held", "weights", "weights-time", "rate", "lag"):
        assert drawn(page, chart) > 1_000, chart
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    found = Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "meter-0"], ids=ascii)
def test_any_series_is_found_picked_and_shown_as_text(opened: Opened, name: str) -> None:
    page = live(opened())
    title = page.title()
    page.get_by_label("Search").fill(name.partition("\n")[0][:40])
    expect(page.locator("#list button")).to_have_count(1)
    page.locator("#list button").click()
    expect(page.locator("#list button[aria-current=true]")).to_have_count(1)
    expect(page.locator("#fan canvas")).to_be_visible()
    until(lambda: page.evaluate("new URLSearchParams(location.hash.slice(1)).get('series')") == name)
    shown = page.locator("#series-name").text_content()
    assert shown is not None
    assert len(shown) == len(name)
    assert not {"\n", "\x00", "\u202e"} & {*shown}
    assert page.locator("#series-name *, #list bdi *").count() == 0, "a name is text"
    assert page.title() == title


def test_the_slider_shows_what_was_forecast_so_many_steps_earlier(opened: Opened) -> None:
    page = live(opened(fragment="#series=meter-0"))
    expect(page.locator("#lead-shown")).to_have_text("1 step (1 hour)")
    slider = page.get_by_role("slider")
    expect(slider).to_have_attribute("max", "6")
    slider.focus()
    page.keyboard.press("End")
    expect(page.locator("#lead-shown")).to_have_text("6 steps (6 hours)")
    expect(page.locator("#earlier .legend")).to_contain_text("made 6 steps earlier")


def test_keys_alone_read_a_chart_and_choose_a_decision(opened: Opened) -> None:
    page = live(opened(fragment="#series=meter-0"))
    page.locator("#fan .plot").focus()
    page.keyboard.press("Home")
    expect(page.locator("#fan .readout")).to_contain_text("actual")
    page.keyboard.press("End")
    expect(page.locator("#fan .readout")).to_contain_text("90 % band")
    page.locator("#fan summary").press("Enter")
    expect(page.locator("#fan table")).to_be_visible()
    dot = page.locator("#timeline button[tabindex='0']")
    expect(dot).to_have_count(1)
    dot.press("Enter")
    expect(page.locator("#decision")).to_contain_text("cause")
    page.locator("#timeline button[tabindex='0']").press("ArrowLeft")
    expect(page.locator("#timeline button[aria-pressed=true]")).to_have_count(1)


def test_it_says_that_the_broker_is_away_and_recovers(opened: Opened, stage: Stage) -> None:
    page = live(opened())
    stage.broker.pause()
    try:
        expect(page.locator("#state-text")).to_have_text("Broker away")
        expect(page.locator("#trouble")).to_contain_text("does not answer since")
        before = newest(page)
    finally:
        stage.broker.go_on()
    live(page)
    expect(page.locator("#trouble")).to_be_hidden()
    until(lambda: newest(page) != before)


def test_it_says_that_its_own_program_is_away_and_recovers(opened: Opened, stage: Stage) -> None:
    page = live(opened())
    stage.watch.tell(signal.SIGSTOP)
    try:
        expect(page.locator("#state-text")).to_have_text("Page not connected")
    finally:
        stage.watch.tell(signal.SIGCONT)
    live(page)
