"""Recording rules and alerts: names that exist, a runbook for each, and Debian's own tools on the files as they are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from queries import PROMETHEUS, recorded, rules, unknown
from tools import tool

RUNBOOK = (PROMETHEUS.parent / "README.md").read_text(encoding="utf-8")
ALERTS = [rule["alert"] for rule in rules("alerts.yml")]
QUERIES = {rule.get("record") or rule["alert"]: rule["expr"] for file in ("recording.yml", "alerts.yml") for rule in rules(file)}


def promtool(*arguments: str, folder: Path = PROMETHEUS) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", QUERIES)
def test_a_rule_asks_for_what_there_is(name):
    assert unknown(QUERIES[name]) == set()


def test_a_name_that_is_not_exported_is_found():
    assert unknown("rate(tidecast_scores_totals[5m])") == {"tidecast_scores_totals"}
    assert unknown("tidecast_forecast_latency_seconds") == {"tidecast_forecast_latency_seconds"}  # a histogram has only its parts


def test_rules_keep_the_application_and_no_series():
    for name in recorded():
        labels = name.split(":")[0].split("_")
        assert labels[0] == "application"
        assert set(labels) <= {"application", "lead", "band", "expert", "stage"}, name


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_words_a_unit_and_a_runbook(alert):
    [rule] = [rule for rule in rules("alerts.yml") if rule["alert"] == alert]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    said = rule["annotations"]
    assert "{{ $labels.application }}" in said["summary"]
    assert re.search(r"records|observations|humanizePercentage|humanizeDuration|changes|minutes", said["description"])
    file, _, anchor = said["runbook_url"].partition("#")
    assert file == "deploy/README.md"
    [section] = re.findall(rf"^### {alert}\n(.*?)(?=^### |\Z)", RUNBOOK, re.DOTALL | re.MULTILINE)
    assert anchor == alert.lower()
    for part in ("Meaning", "First look", "auses", "hat to do"):
        assert part in section, part


def test_no_runbook_is_without_its_alert():
    assert re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE) == ALERTS


@pytest.mark.system
def test_promtool_and_amtool_find_nothing():
    for arguments in (("check", "rules", "recording.yml", "alerts.yml"), ("check", "config", "prometheus.yml", "compose.yml")):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([tool("amtool"), "check-config", "alertmanager.yml"], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


TESTS = ("alerts.test.yml", "slow.test.yml")


@pytest.mark.system
def test_every_alert_fires_and_is_silent_when_it_should():
    tested = [test["name"] for file in TESTS for test in yaml.safe_load((PROMETHEUS / file).read_text())["tests"]]
    assert {f"{alert} fires" for alert in ALERTS} <= set(tested)
    assert {f"{alert} is silent" for alert in ALERTS} <= set(tested)
    done = promtool("test", "rules", *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.system
@pytest.mark.parametrize("spoilt", ["vector(0) < 0", "vector(1)"])
def test_alerts_that_never_or_always_fire_fail_their_tests(tmp_path, spoilt):
    for file in ("recording.yml", *TESTS):
        (tmp_path / file).write_text((PROMETHEUS / file).read_text())
    alerts = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    for rule in alerts["groups"][0]["rules"]:
        rule["expr"] = f'label_replace({spoilt}, "application", "a", "", "")'
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(alerts))
    done = promtool("test", "rules", *TESTS, folder=tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert [alert for alert in ALERTS if alert not in said] == []
