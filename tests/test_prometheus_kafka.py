"""A real Prometheus scrapes a pipeline that runs on a real broker, for two minutes: every recording rule and every query of the boards has
an answer, and no scrape fails. Beside it stays a retraining, which has a run and is scraped, too."""

from __future__ import annotations

import json
import math
import runpy
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import retraining
from queries import recorded, rules

from models.learner import Learner
from pipeline.broker import free_port
from pipeline.configure import config_of, shape_of
from pipeline.operate import announce, versions_of
from pipeline.registry import Because, Data
from pipeline.scraper import RULES, NoPrometheus, prometheus
from pipeline.settings import Settings
from pipeline.taught import registry_of
from tests.conftest import create_topic
from tests.instances import AT, Instance, Sample, make_ours, produce, samples, server, settings, until
from tests.tools import tool

pytestmark = [pytest.mark.kafka, pytest.mark.system, pytest.mark.slow]
BOARDS = runpy.run_path(str(Path(__file__).parents[1] / "deploy" / "grafana" / "build.py"))["BOARDS"]
QUERIES = {
    f"{board.uid}: {panel.title}: {query.legend}": query.expression for board in BOARDS for panel in board.panels for query in panel.queries
}
NAME, RETRAINED = "observed", "retrained"
SECONDS, EVERY = 120, 2  # of scraping; it also gives up after as long as it waits from one scrape to the next
WITHIN = 60.0  # s


class Observed(NamedTuple):
    prometheus: str
    exporter: str  # host:port
    instance: Instance

    def answer(self, path: str, **asked: str) -> Any:
        with urllib.request.urlopen(f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(asked)}", timeout=20) as found:
            return json.load(found)["data"]

    def values(self, expression: str) -> list[float]:
        """Numbers, and no others, that an expression has now."""
        plain = expression.replace("$__rate_interval", "20s")
        for name in ("application", "lead", "series"):
            plain = plain.replace(f"${name}", ".*")
        found = [float(line["value"][1]) for line in self.answer("query", query=plain)["result"]]
        return [value for value in found if math.isfinite(value)]

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.exporter}{path}", timeout=20) as found:
            return found.read().decode()


@pytest.fixture(scope="module")
def observed(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """Eight series in two partitions that get five steps in two seconds, and sixteen seconds' worth to begin with; and a challenger."""
    retrained = f"127.0.0.1:{free_port()}"
    folder, exporter, topic = tmp_path_factory.mktemp("observed"), f"127.0.0.1:{free_port()}", f"{NAME}.input"
    create_topic(kafka, topic, 2, {})
    make_ours(kafka, NAME)
    rows = samples(8, 4_000, ragged=False)
    over = threading.Event()
    asked = {**AT, "metrics__address": exporter, "metrics__series": "meter-0,meter-1", "forecast__min_scores": "5"}
    asked |= {"registry__url": str(folder / "models"), "registry__alpha": "1e-12", "registry__shadow_for": "300d"}  # it stays
    with server(), prometheus(folder / "prometheus", {NAME: exporter, RETRAINED: retrained}, every=f"{EVERY}s") as at:
        produce(kafka, topic, rows[: 8 * 40])
        sender = threading.Thread(target=send, args=(kafka, topic, rows[8 * 40 :], over))
        instance = Instance(folder, "run", "--json", *settings(kafka, NAME, topic, folder, **asked))
        retraining.rows(folder)
        beside = Instance(folder, *retraining.words(folder, "--every", "1d", "--metrics", retrained))
        challenge(kafka, topic, folder, asked)
        sender.start()
        try:
            yield Observed(at, exporter, instance)
        finally:
            over.set()
            sender.join()
            beside.stopped_quietly()
            instance.stopped()


def challenge(kafka: str, topic: str, folder: Path, asked: dict[str, str]) -> None:
    """A version, and a pointer to it: from then on there is a shadow."""
    words = settings(kafka, NAME, topic, folder, **asked)[1::2]
    chosen = Settings.read(None, {}, dict(word.split("=", 1) for word in words))
    shelf, config = registry_of(versions_of(chosen)), replace(config_of(chosen), seed=1)
    began = Data("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", 0)
    weights = Learner(config).descent.weights.cpu().numpy()
    made = shelf.publish(weights, shape_of(config), seed=1, data=began, metrics={}, parent=None, at=0)
    shelf.nominate(made.version, shelf.last(), Because("test", 0, ""))
    announce(chosen, role="challenger", version=made.version, effective_from=0, by="test", reason="")


def send(kafka: str, topic: str, rows: list[Sample], over: threading.Event) -> None:
    """A step at a time, with one record every two seconds that cannot be used, until told to stop."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=kafka, linger_ms=5)
    for k in range(0, len(rows), 8):
        for row in rows[k : k + 8]:
            producer.send(topic, key=row.series.encode(), value=row.json())
        if not k % 40:
            producer.send(topic, key=b"meter-0", value=b"not JSON")
        if over.wait(0.4):
            break
    producer.close()


def all_answered(observed: Observed, expressions: dict[str, str], told: Callable[[], str]) -> None:
    """Each has had a number at some time within the patience of a test."""
    waiting = dict(expressions)

    def none_left() -> bool:
        for name in [name for name, expression in waiting.items() if observed.values(expression)]:
            del waiting[name]
        return not waiting

    until(none_left, within=WITHIN, told=lambda: f"no number for {json.dumps(waiting, indent=1)}\n{told()}")


def test_every_recording_rule_and_every_query_of_the_boards_has_data(observed: Observed) -> None:
    names = {name: name for name in recorded()}
    all_answered(observed, names | QUERIES, observed.instance.said)


def test_prometheus_finds_no_fault_in_rules_and_target(observed: Observed) -> None:
    until(lambda: observed.values('up{job="tidecast"}') == [1.0, 1.0], told=observed.instance.said)
    until(lambda: observed.values("application:tidecast_state:ratio"), told=observed.instance.said)
    groups = observed.answer("rules")["groups"]
    health = {rule["name"]: (rule["health"], rule.get("lastError")) for group in groups for rule in group["rules"]}
    assert set(health) == recorded() | {rule["alert"] for rule in rules("alerts.yml")}
    assert {state for state, _ in health.values()} == {"ok"}, health
    targets = {target["labels"]["application"]: target["health"] for target in observed.answer("targets")["activeTargets"]}
    assert targets == {NAME: "up", RETRAINED: "up"}


def test_no_alert_fires_at_a_pipeline_that_is_well(observed: Observed) -> None:
    until(lambda: observed.values("application:tidecast_forecasts_published:rate1m"), told=observed.instance.said)
    assert [alert for alert in observed.answer("alerts")["alerts"] if alert["state"] == "firing"] == []


def test_the_ledger_closes_in_what_was_scraped(observed: Observed) -> None:
    """A scrape may come between two counters of one block: of twenty, most must not."""
    total = "sum(tidecast_observations_{}_total)"
    ledger = "+".join(total.format(name) for name in ("used", "duplicate", "late", "rejected"))
    until(lambda: observed.values(f"{total.format('rejected')} > 5"), told=observed.instance.said)
    assert observed.values(f"quantile_over_time(0.5, ({total.format('consumed')} - ({ledger}))[20s:1s])") == [0.0]
    assert 1 <= observed.values('max(tidecast_observed_value{series="meter-0"})')[0] <= 20


def test_promtool_finds_nothing_in_the_metrics_and_they_are_small(observed: Observed) -> None:
    until(lambda: observed.values("tidecast_forecasts_published_total > 100"), told=observed.instance.said)
    began = time.monotonic()
    text = observed.text("/metrics")
    assert time.monotonic() - began < 1
    assert len(text) < 300_000
    done = subprocess.run([tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_is_ready_once_it_has_caught_up(observed: Observed) -> None:
    until(lambda: observed.values("tidecast_forecasts_published_total > 100"), told=observed.instance.said)
    said = json.loads(observed.text("/readyz"))
    assert said["ready"], said
    assert said["model_version"] == json.loads(observed.text("/version"))["model_version"]
    assert observed.values(f'tidecast_model_info{{version="{said["model_version"]}"}}') == [1.0]


def test_for_two_minutes_no_scrape_fails_and_everything_goes_on(observed: Observed) -> None:
    """Whatever the others take of the time, if they come before, need not be waited for here."""
    up = f'up{{application="{NAME}"}}'
    until(lambda: observed.values(f"count_over_time({up}[{SECONDS + 60}s]) >= {SECONDS // EVERY}"), within=SECONDS + WITHIN)
    assert observed.values(f"min_over_time({up}[{SECONDS - 20}s])") == [1.0]  # the first seconds are those of its start
    for name in ("observations_consumed", "forecasts_published", "commits", "train_steps", "scores"):
        least = f"min_over_time(sum(rate(tidecast_{name}_total[20s]))[{SECONDS // 2}s:5s])"
        assert observed.values(f"{least} > 0"), f"tidecast_{name}_total stood still:\n{observed.instance.said()}"
    assert observed.values(f"max_over_time(application:tidecast_consumer_lag_records:sum[{SECONDS // 2}s])")[0] < 1_000
    all_answered(observed, {name: name for name in recorded()} | QUERIES, observed.instance.said)
    assert [alert for alert in observed.answer("alerts")["alerts"] if alert["state"] == "firing"] == []


def test_without_a_program_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoPrometheus, match="apt-get install prometheus"), prometheus(tmp_path, {}):
        pass


def test_a_configuration_that_cannot_be_is_told_with_the_log(tmp_path: Path) -> None:
    with pytest.raises(NoPrometheus, match=r"did not start[^\n]*\n.*duration"), prometheus(tmp_path, {}, every="soon"):
        pass


def test_the_rules_are_those_of_deploy() -> None:
    assert (RULES / "recording.yml").is_file()
