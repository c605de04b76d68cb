"""What the live page remembers of the topics: the right things, in bounded memory, whatever names and numbers are in them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from told import BEGIN, HOSTILE, HOUR, LEVELS, fed, forecast, rows_of, score, status

from pipeline.page import fold as folding
from pipeline.page.app import event
from pipeline.page.fold import FADING, IN_DETAIL, MOST_BEATS, MOST_DECISIONS, Fold
from pipeline.page.timeline import Timeline
from pipeline.page.trace import CELLS, LEAST_ROWS, MOST_ROWS
from pipeline.records import DecisionRecord, encode, rfc3339


def test_the_newest_forecast_is_the_fan():
    ahead = fed().shown("taxi", 1)["fan"]
    assert ahead["issued_at"] == (BEGIN + 19 * HOUR) // 1_000
    assert ahead["point"] == [191.0, 192.0, 193.0, 194.0]
    assert ahead["quantiles"][0] == [189.0, 190.0, 191.0, 192.0]
    assert ahead["times"][0] - ahead["issued_at"] == 3_600_000


@pytest.mark.parametrize("lead", [1, 3])
def test_what_was_said_k_steps_earlier_stands_beside_what_came(lead):
    shown = fed().shown("taxi", lead)
    at = {time: k for k, time in enumerate(shown["times"])}
    k = at[(BEGIN + 12 * HOUR) // 1_000]
    assert shown["actual"][k] == 112.0
    assert shown["point"][k] == 10.0 * (12 - lead) + lead
    assert shown["quantiles"][0][k] == shown["point"][k] - 2
    assert shown["times"][-1] == (BEGIN + (19 + lead) * HOUR) // 1_000, "what has been said of times to come is there"
    assert shown["actual"][-1] is None


def test_a_lead_that_there_is_not_is_cut():
    assert fed().shown("taxi", 999)["lead"] == 4


def test_forecasts_lead_by_lead_come_to_the_same():
    whole, rows = fed(), Fold("tidecast")
    for t in range(20):
        for row in rows_of(forecast("taxi", t)):
            rows.forecast(encode(row), 0)
        if t:
            rows.score(encode(score("taxi", t, actual=100.0 + t)), 0)
    for lead in (1, 4):
        one, other = whole.shown("taxi", lead), rows.shown("taxi", lead)
        assert {**one, "served": 0} == {**other, "served": 0}
    assert [run["from_lead"] for run in rows.shown("taxi", 1)["served"]] == [1, 2, 3, 4]


def test_order_between_topics_and_partitions_does_not_show():
    forward, backward = fed(), Fold("tidecast")
    for t in reversed(range(20)):
        backward.forecast(encode(forecast("taxi", t)), 0)
    for t in reversed(range(1, 20)):
        backward.score(encode(score("taxi", t, actual=100.0 + t)), 0)
    assert forward.shown("taxi", 2) == backward.shown("taxi", 2)
    assert forward.history()["skill"] == backward.history()["skill"]


def test_skill_and_coverage_of_a_series_are_those_of_its_scores():
    fold = fed(steps=50)
    shown = fold.shown("taxi", 1)
    assert shown["skill_by_group"] == [0.5, 0.5, None, None]
    assert shown["coverage_by_group"][:2] == [1.0, 1.0]
    assert shown["skill"][-2] == 0.5, "at the newest step that was scored"
    [line] = fold.listed("", "worst", 10)["series"]
    assert (line["skill"], line["coverage"]) == (0.5, 1.0)


def test_what_was_long_ago_fades():
    fold = Fold("tidecast")
    for t in range(1, 400):
        fold.score(encode(score("taxi", t, error=1.0 if t > 200 else 9.0, covered=())), 0)
    [line] = fold.listed("", "worst", 10)["series"]
    old = (FADING**199 - FADING**399) / (1 - FADING**399)
    assert line["skill"] == pytest.approx(1 - (1.0 + 8.0 * old) / 2, abs=1e-3)
    assert line["coverage"] == 0.0


def test_the_worst_come_first_and_who_is_not_known_yet_last():
    fold = Fold("tidecast")
    for name, error, covered in (("good", 0.5, (0.5, 0.9)), ("bad", 3.0, (0.9,)), ("fair", 1.5, ())):
        for t in range(1, 40):
            fold.score(encode(score(name, t, error=error, covered=covered)), 0)
    fold.score(encode(score("new", 1, leads=1)), 0)
    assert [line["id"] for line in fold.listed("", "worst", 10)["series"]] == ["bad", "fair", "good", "new"]
    assert fold.listed("", "band", 10)["series"][0]["id"] == "fair"
    assert [line["id"] for line in fold.listed("", "name", 2)["series"]] == ["bad", "fair"]


def test_search_finds_parts_of_names_whatever_their_case():
    fold = Fold("tidecast")
    for name in ("Pump-7/Load", "pump-8", "straße"):
        fold.forecast(encode(forecast(name, 0)), 0)
    assert {line["id"] for line in fold.listed("PUMP", "name", 10)["series"]} == {"Pump-7/Load", "pump-8"}
    assert [line["id"] for line in fold.listed("STRASSE", "name", 10)["series"]] == ["straße"]
    assert fold.listed("none", "name", 10) == {"total": 3, "found": 0, "series": []}


def test_a_series_that_comes_after_a_look_is_in_its_place():
    fold = Fold("tidecast")
    for name, expected in (("b", "b"), ("d", "bd"), ("a", "abd"), ("c", "abcd")):
        fold.forecast(encode(forecast(name, 0)), 0)
        assert [line["id"] for line in fold.listed("", "name", 10)["series"]] == list(expected)


def test_over_all_series_no_large_one_rules():
    fold = Fold("tidecast")
    for t in range(1, 30):
        fold.score(encode(score("small", t, error=1.0, baseline=2.0)), 0)
        fold.score(encode(score("large", t, error=2e6, baseline=1e6)), 0)
    assert fold.history()["skill"][0][-1] == pytest.approx(1 - (0.5 + 2.0) / 2)


def test_a_perfect_baseline_is_no_division_by_zero():
    fold = Fold("tidecast")
    for t in range(1, 50):
        fold.score(encode(score("flat", t, error=0.0, baseline=0.0)), 0)
    assert fold.listed("", "worst", 1)["series"][0]["skill"] is None
    assert set(fold.history()["skill"][0]) == {None}


# Bounds


def test_detail_goes_to_those_looked_at_and_no_further():
    fold = Fold("tidecast")
    for k in range(IN_DETAIL + 5):
        fold.forecast(encode(forecast(f"s{k}", 0)), k % 4)
    assert len(fold.traces) == IN_DETAIL
    assert fold.shown(f"s{IN_DETAIL + 1}", 1)["fan"] is None
    assert fold.pick(f"s{IN_DETAIL + 1}"), "its past is to be read"
    assert not fold.pick(f"s{IN_DETAIL + 1}")
    assert not fold.pick("unheard of")
    fold.look_back(f"s{IN_DETAIL + 1}", encode(forecast(f"s{IN_DETAIL + 1}", 0)), kind=0)
    assert fold.shown(f"s{IN_DETAIL + 1}", 1)["fan"] is not None
    assert len(fold.traces) == IN_DETAIL


def test_what_a_look_back_brings_is_not_counted_twice():
    fold = fed(steps=40)
    before = fold.history(), fold.listed("", "worst", 1)
    fold.look_back("taxi", encode(score("taxi", 7, actual=-1.0)), kind=1)
    assert (fold.history(), fold.listed("", "worst", 1)) == before
    assert -1.0 in fold.shown("taxi", 1)["actual"]


@pytest.mark.parametrize("horizon", [1, 24, 1_000])
def test_a_trace_is_bounded_whatever_the_horizon(horizon):
    fold = Fold("tidecast")
    for t in range(700 if horizon < 100 else 80):
        fold.forecast(encode(forecast("taxi", t, horizon=horizon)), 0)
    [trace] = fold.traces.values()
    assert LEAST_ROWS <= len(trace.at) <= MOST_ROWS
    assert trace.size < max(4.5 * CELLS, LEAST_ROWS * horizon * 4 * (len(LEVELS) + 5))
    assert len(fold.shown("taxi", 1)["times"]) <= MOST_ROWS + 1


def test_more_series_than_there_is_room_for_are_counted(monkeypatch):
    monkeypatch.setattr(folding, "MOST_SERIES", 3)
    fold = Fold("tidecast")
    for k in range(5):
        fold.forecast(encode(forecast(f"s{k}", 0)), 0)
    assert (len(fold.names), fold.turned_away) == (3, 2)
    assert fold.now()["turned_away"] == 2


def test_beats_and_decisions_are_bounded():
    fold = Fold("tidecast")
    for k in range(MOST_BEATS + 50):
        fold.status(json.dumps(status(k)).encode(), k * 10**6, k * 10**6)
    for k in range(MOST_DECISIONS + 50):
        fold.decision(encode(DecisionRecord(str(k), "tidecast", rfc3339(BEGIN), "drift", numbers={"p": 0.01})))
    assert (len(fold.beats), len(fold.weights), len(fold.decisions)) == (MOST_BEATS, MOST_BEATS, MOST_DECISIONS)
    assert len(fold.history()["run"]["times"]) <= 300


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60), st.integers(1, 50))
def test_a_timeline_keeps_every_sum_in_its_bin_whatever_the_order(times, width):
    line = Timeline((1,), bins=8)
    for at in times:
        line.add(at, np.ones(1), width=width)
    assert line.sums.sum() == len(times)
    ends = np.append(line.times(), line.start + 8 * line.width)
    assert np.histogram(times, ends)[0].tolist() == line.sums[:, 0].tolist()
    at, each, sums = line.coarse(3)
    assert sums.sum() == len(times)
    assert len(at) == len(sums) <= 3
    assert each % line.width == 0


# Heartbeats


def test_a_heartbeat_says_how_the_run_is():
    fold = Fold("tidecast")
    assert fold.now()["status"] is None
    for beat in range(1, 6):
        fold.status(json.dumps(status(beat)).encode(), beat * 10**6, 7)
    now = fold.now()
    assert now["heard"] == 0
    assert (now["status"]["rate"], now["status"]["lag"], now["status"]["skill"]) == (100.0, 5, {"1": 0.25})
    run = fold.history()["run"]
    assert run["rate"] == [None, 100.0, 100.0, 100.0, 100.0]
    assert fold.history()["weights"]["by"][1][0] == [0.3] * 5


def test_the_first_heartbeats_say_nothing_yet():
    fold = Fold("tidecast")
    fold.status(b'{"application": "tidecast", "instance": "i", "beat": 1, "state": "running", "lag": 0, "commits": 0}', 0, 0)
    assert fold.now()["status"]["rate"] is None
    assert fold.history()["weights"]["by"] == []


def test_another_instance_and_another_mixture_begin_anew():
    fold = Fold("tidecast")
    fold.status(json.dumps(status(50)).encode(), 10**6, 0)
    fold.status(json.dumps(status(1, instance="j", learner={"weights": {"gru 1": [1.0] * 24}})).encode(), 2 * 10**6, 0)
    assert fold.history()["run"]["rate"] == [None, None]
    assert fold.history()["weights"]["experts"] == ("gru 1",)
    assert len(fold.history()["weights"]["times"]) == 1


# Whatever comes


def test_another_applications_records_are_left_alone_and_told_of():
    fold = Fold("tidecast")
    fold.forecast(encode(forecast("taxi", 0, application="other")), 0)
    fold.score(encode(score("taxi", 0, application="other")), 0)
    assert (fold.names, fold.now()["others"], fold.unreadable) == ([], ["other"], 0)


@pytest.mark.parametrize(
    "spoil",
    [
        {"quantiles": [[1.0]]}, {"point": []}, {"point": [1.0]}, {"targets": []}, {"levels": [0.5]}, {"issued_at": "yesterday"},
        {"issued_at": "9999-12-31T23:00:00Z"}, {"series": 5}, {"series": "x" * 5_000}, {"targets": ["2026-01-01T01:00:00"] * 4},
    ],
    ids=lambda spoil: ",".join(f"{k}={str(v)[:20]}" for k, v in spoil.items()),
)  # fmt: skip
def test_a_record_that_is_none_of_ours_is_counted_and_nothing_else(spoil):
    fold = Fold("tidecast")
    fold.forecast(json.dumps({**json.loads(encode(forecast("taxi", 0))), **spoil}).encode(), 0)
    assert fold.unreadable == 1
    fold.forecast(encode(forecast("taxi", 0)), 0)
    assert fold.shown("taxi", 1)["fan"]["point"] == [1.0, 2.0, 3.0, 4.0]


@given(
    st.sampled_from(("forecast", "score", "decision", "status")),
    st.binary(max_size=60) | st.text().map(lambda t: json.dumps({"a": t}).encode()),
)
def test_no_bytes_are_too_strange(kind, value):
    fold = Fold("tidecast")
    act = getattr(fold, kind)
    act(value, *{"forecast": (0,), "score": (0,), "decision": (), "status": (0, 0)}[kind])
    assert fold.unreadable == 1


@given(st.sampled_from([1e308, -1e308, 1e39, 1e-320, 0.0]), st.sampled_from([1e308, 0.0, 1e-320]))
def test_no_number_is_too_large(value, baseline):
    fold = Fold("tidecast")
    for t in range(40):
        fold.forecast(encode(forecast("taxi", t, base=value)), 0)
        fold.score(encode(score("taxi", t, actual=value, error=value, baseline=baseline)), 0)
    json.loads(event("series", fold.shown("taxi", 1)).split(b"data: ")[1])
    json.loads(event("history", fold.history()).split(b"data: ")[1])


@given(st.lists(st.text(max_size=40) | st.sampled_from(HOSTILE), min_size=1, max_size=8, unique=True), st.data())
def test_names_are_data(names, data):
    """Any name that is UTF-8 is found, picked and told as it is."""
    fold = Fold("tidecast")
    for name in names:
        fold.forecast(encode(forecast(name, 0)), 0)
    assert sorted(line["id"] for line in fold.listed("", "name", 100)["series"]) == sorted(names)
    for name in names:
        told = event("series", fold.shown(name, 1))
        assert told.count(b"\n") == 3, "one event, in one line of data"
        assert json.loads(told.split(b"data: ")[1])["id"] == name
        part = data.draw(st.integers(0, len(name)))
        assert name in {line["id"] for line in fold.listed(name[part:], "name", 100)["series"]}
