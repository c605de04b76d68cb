"""Parts put together: a file through the whole flow in this process."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from models import apart
from models.apart import Apart
from models.learner import Exercise, Learner
from pipeline import learn, operate
from pipeline.records import Source
from pipeline.settings import Settings


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "BY_REFERENCE", False)  # put back, whatever a run sets


def settings(**more: object) -> Settings:
    flags = {"input.topics": "x", "series.step": "1h", "forecast.horizon": 3, "forecast.publish_from": "earliest"}
    return Settings.read(None, {}, {**flags, **{name.replace("__", "."): value for name, value in more.items()}})


def replay(given: Settings, file: Path, out: Path) -> dict:
    return operate.replay(given, file, out=str(out), as_is=False, close=False, wide_rows=False, start=None, dump=False, decisions=None)


def forecasts(out: Path) -> list[tuple[str, str]]:
    return [(f["series"], f["issued_at"]) for f in map(json.loads, (out / "forecasts.ndjson").read_text().splitlines())]


def test_a_wide_table_without_a_series_column_gives_one_series_a_column(tmp_path: Path) -> None:
    file = tmp_path / "wide.csv"
    file.write_text("date,HUFL,OT\n" + "".join(f"2026-01-01 {h:02}:00:00,{h},{-h}\n" for h in range(6)))
    given = settings(input__at="date", input__at_format="%Y-%m-%d %H:%M:%S", input__values=["HUFL", "OT"])
    summary = replay(given, file, tmp_path / "out")
    assert (summary["consumed"], summary["used"], summary["forecasts"]) == (12, 12, 12)
    assert {series for series, _ in forecasts(tmp_path / "out")} == {"HUFL", "OT"}


def test_a_wide_table_with_a_series_column_gives_a_series_per_both(tmp_path: Path) -> None:
    file = tmp_path / "wide.csv"
    file.write_text("at,series,a,b\n" + "".join(f"2026-01-01T{h:02}:00:00Z,s{k},{h},{k}\n" for h in range(4) for k in range(2)))
    given = settings(input__values=["a", "b"], input__series=["series"])
    replay(given, file, tmp_path / "out")
    assert {series for series, _ in forecasts(tmp_path / "out")} == {"s0/a", "s0/b", "s1/a", "s1/b"}


def test_a_missing_column_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    file = tmp_path / "long.csv"
    file.write_text("at,name,value\n2026-01-01T00:00:00Z,a,1\n")
    with pytest.raises(Exception, match=r"no column series; there are at, name, value"):
        replay(settings(), file, tmp_path / "out")


def test_series_are_as_many_as_their_state_has_room_for(tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    rows = [f"2026-01-01T{h:02}:00:00Z,s{k},{h}\n" for h in range(3) for k in range(90)]
    file.write_text("at,series,value\n" + "".join(rows))
    given = settings(learn__state_budget="1MB")
    most = operate.spec_of(given, (Source("f", 0),), now=0.0).rules.quota
    assert 20 < most < 90
    summary = replay(given, file, tmp_path / "out")
    assert (summary["used"], summary["rejected"]) == (3 * most, 3 * (90 - most))
    assert operate.spec_of(settings(series__max_series=7), (Source("f", 0),), now=0.0).rules.quota == 8


@pytest.mark.parametrize(("columns", "said"), [(23, 0), (24, 1)])
def test_columns_that_are_too_many_to_see_each_other_are_said(columns: int, said: int) -> None:
    given = settings(input__values=[f"c{k}" for k in range(columns)], forecast__horizon=48, series__season=24)
    with structlog.testing.capture_logs() as log:
        operate.tell_limits(given)
    assert ["too many for least squares" in line["event"] for line in log].count(True) == said


def test_learning_in_a_process_of_its_own_shows_in_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "long.csv"
    rows = [f"2026-01-{1 + h // 24:02}T{h % 24:02}:00:00Z,s{k},{(h * 7 + k) % 24}\n" for h in range(150) for k in range(3)]
    file.write_text("at,series,value\n" + "".join(rows))
    steps = []

    class Loaded(Apart):
        def __init__(self, learner: Learner) -> None:
            super().__init__(learner)
            until = time.monotonic() + 60
            while not self.ready():
                assert time.monotonic() < until
                time.sleep(0.05)

        def start(self, exercise: Exercise) -> None:
            steps.append(exercise.instant)
            super().start(exercise)

    monkeypatch.setattr(learn, "Apart", Loaded)
    monkeypatch.setattr(learn, "LOADING_SECONDS", 0.05)  # so that it begins here, and goes on there
    monkeypatch.setattr(operate.os, "cpu_count", lambda: 2)
    there = replay(settings(), file, tmp_path / "there")
    monkeypatch.setattr(operate.os, "cpu_count", lambda: 1)
    here = replay(settings(), file, tmp_path / "here")
    assert 50 < len(steps) < 149
    assert there["forecasts"] == here["forecasts"] == 450
    for kind in ("forecasts", "scores", "decisions"):
        assert (tmp_path / "there" / f"{kind}.ndjson").read_bytes() == (tmp_path / "here" / f"{kind}.ndjson").read_bytes(), kind


def test_where_a_process_that_learns_cannot_start_it_is_said_once_and_learning_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "long.csv"
    file.write_text("at,series,value\n" + "".join(f"2026-01-{1 + h // 24:02}T{h % 24:02}:00:00Z,a,{h % 24}\n" for h in range(120)))
    monkeypatch.setattr(apart.sys, "executable", "/bin/false")
    monkeypatch.setattr(learn, "LOADING_SECONDS", 0.0)
    monkeypatch.setattr(operate.os, "cpu_count", lambda: 2)
    summary = replay(settings(), file, tmp_path / "out")
    assert summary["forecasts"] == 120
    assert summary["windows"] > 100
    assert [record.message for record in caplog.records if "process of its own" in record.message] == [
        "a process of its own for learning did not start: it stays in this one and slows forecasts down"
    ]


def test_a_run_is_ready_when_it_runs_has_recovered_and_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(metrics__ready_lag="100")

    def missing(*, serving: bool, repeating: bool | None, lag: int) -> str:
        learner = SimpleNamespace(version="b3c1")
        shard = SimpleNamespace(gather=SimpleNamespace(repeating=repeating), learner=learner)
        monkeypatch.setattr(operate, "SERVING", serving)
        monkeypatch.setattr(learn, "LIVE", {} if repeating is None else {b"a": shard})
        monkeypatch.setattr(operate.consume, "lag", lambda: {Source("t", 0): lag - 1, Source("t", 1): 1})
        return "; ".join(operate.health_of(given).missing)

    assert missing(serving=True, repeating=False, lag=100) == ""
    assert missing(serving=True, repeating=False, lag=101) == "101 records behind, allowed: 100 (metrics.ready_lag)"
    assert missing(serving=True, repeating=True, lag=1).startswith("recovering")
    assert missing(serving=True, repeating=None, lag=1).startswith("no model is loaded")
    assert missing(serving=False, repeating=False, lag=1) == "the engine does not run: it starts, or waits for the brokers"
