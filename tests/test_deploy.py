"""The examples of a schedule call a command that there is."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from pipeline.__main__ import app
from pipeline.schedule import Cron

DEPLOY = Path(__file__).parents[1] / "deploy"


def unit(name: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#")
    found.optionxform = str  # type: ignore[method-assign,assignment]
    found.read_string((DEPLOY / "systemd" / name).read_text())
    return found


def job() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes/retrain-cronjob.yaml").read_text())
    return found


def of_systemd() -> list[str]:
    return shlex.split(unit("tidecast-retrain.service")["Service"]["ExecStart"])[1:]


def of_kubernetes() -> list[str]:
    [container] = job()["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return [*container["command"], *container["args"]]


@pytest.mark.parametrize("words", [of_systemd, of_kubernetes])
def test_its_words_are_the_commands(words: Any, tmp_path: Path) -> None:
    name, verb, *rest = words()
    assert (name, verb) == ("tidecast", "retrain")
    (tmp_path / "tidecast.toml").write_text("")
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    asked = command.make_context(verb, rest).params
    assert (asked["once"], asked["as_json"], asked["minutes"]) == (True, True, 60.0)


def test_they_come_each_night_and_a_missed_one_late() -> None:
    timer = unit("tidecast-retrain.timer")["Timer"]
    assert (timer["OnCalendar"], timer["Persistent"]) == ("*-*-* 03:00:00 UTC", "true")
    spec = job()["spec"]
    assert Cron(spec["schedule"]).after(0) == 3 * 3_600_000_000
    assert (spec["concurrencyPolicy"], spec["timeZone"], spec["startingDeadlineSeconds"]) == ("Forbid", "Etc/UTC", 43_200)


def test_that_another_one_is_at_it_is_no_failure_to_try_again() -> None:
    assert unit("tidecast-retrain.service")["Service"]["SuccessExitStatus"] == "70"
    [rule] = job()["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2, 70]
