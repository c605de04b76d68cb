"""Messages: what a consumer reads is what the learner said."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compose import Told, Voice, decision, forecasts, late, numerals, scores, served, tidy
from pipeline.records import Forecast, LeadForecast, Score, Source, encode

HOUR = 3_600_000_000
H, Q = 3, 3


def voice(layout="record"):
    return Voice(
        "app", HOUR, H, (0.05, 0.5, 0.95), "default", "v1", ("lstm", "last_value", "seasonal_naive"), (None, "no_skill"), (0.9,), layout
    )


def step(n=1, **changes):
    base = {
        "point": np.arange(n * H, dtype=float).reshape(n, H) + 0.5,
        "quantiles": np.sort(np.random.default_rng(0).normal(size=(n, Q, H)), axis=1),
        "by": np.zeros((n, H), np.int8),
        "reason": np.zeros((n, H), np.int8),
        "cold": np.zeros(n, bool),
        "observations": np.arange(1, n + 1),
        "updates": np.full(n, 7),
        "scored": np.ones((n, H), bool),
        "s_point": np.full((n, H), 2.0),
        "s_by": np.zeros((n, H), np.int8),
        "s_baseline": np.ones((n, H), np.int8),
        "s_baseline_point": np.full((n, H), 1.0),
        "covered": np.ones((n, H, 1), bool),
    }
    return SimpleNamespace(**{**base, **changes})


def told(row=0, series="s", cell=10 * HOUR, value=3.0, *, woken=False):
    return Told(row, series, cell, value, woken, 5, None)


def test_a_forecast_names_its_targets_and_its_issue_time():
    [message] = forecasts(step(), [told()], voice())
    record = msgspec.json.decode(message.value, type=Forecast)
    assert record.issued_at == "1970-01-01T10:00:00Z"
    assert record.targets == ["1970-01-01T11:00:00Z", "1970-01-01T12:00:00Z", "1970-01-01T13:00:00Z"]
    assert (record.point, record.updates, record.step, record.horizon) == ([0.5, 1.5, 2.5], 7, "PT1H", 3)
    assert message.key == b"s"
    assert message.id == record.id


def test_a_forecast_joined_from_text_is_what_encoding_its_type_gives():
    numbers = np.random.default_rng(1).normal(size=(2, 1 + Q, H)) * 10.0 ** np.random.default_rng(2).integers(-9, 9, (2, 1 + Q, H))
    said = step(
        2, point=numbers[:, 0], quantiles=numbers[:, 1:], by=np.array([[0, 1, 1], [2, 2, 2]]), reason=np.array([[0, 1, 1], [1, 1, 1]])
    )
    messages = forecasts(said, [told(0, 'a"\n\0'), told(1, "b", 11 * HOUR, woken=True)], voice())
    for message in messages:
        assert encode(msgspec.json.decode(message.value, type=Forecast)) == message.value
    assert [msgspec.json.decode(m.value)["observations"] for m in messages] == [1, 2]


def test_leads_served_by_another_say_why():
    by, reason = np.array([[0, 1, 1]]), np.array([[0, 1, 1]])
    [message] = forecasts(step(by=by, reason=reason), [told()], voice())
    runs = msgspec.json.decode(message.value)["served"]
    assert runs == [
        {"from_lead": 1, "to_lead": 1, "by": "lstm", "reason": None},
        {"from_lead": 2, "to_lead": 3, "by": "last_value", "reason": "no_skill"},
    ]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=H, max_size=H))
def test_runs_of_leads_cover_every_lead_once(codes):
    runs = served([b for b, _ in codes], [r for _, r in codes], voice())
    leads = [lead for run in runs for lead in range(run.from_lead, run.to_lead + 1)]
    assert leads == [1, 2, 3]


def test_rows_have_one_record_a_lead_and_other_ids():
    messages = forecasts(step(), [told()], voice("row"))
    rows = [msgspec.json.decode(m.value, type=LeadForecast) for m in messages]
    assert [r.lead for r in rows] == [1, 2, 3]
    assert [r.target for r in rows] == ["1970-01-01T11:00:00Z", "1970-01-01T12:00:00Z", "1970-01-01T13:00:00Z"]
    assert len({r.id for r in rows}) == 3


def test_a_score_points_to_the_forecast_it_is_about():
    [forecast] = forecasts(step(), [told(cell=9 * HOUR)], voice())
    [score] = scores(step(), [told()], voice(), since=0)
    record = msgspec.json.decode(score.value, type=Score)
    assert record.scores[0].forecast_id == forecast.id
    assert (record.scores[0].error, record.scores[0].baseline_error, record.scores[0].baseline) == (1.0, 2.0, "last_value")
    assert record.scores[0].covered == [0.9]


def test_with_a_row_for_each_lead_a_score_points_to_the_row_it_is_about():
    rows = {lead: forecasts(step(), [told(cell=(10 - lead) * HOUR)], voice("row"))[lead - 1] for lead in (1, 2, 3)}
    [score] = scores(step(), [told()], voice("row"), since=0)
    assert {s.lead: s.forecast_id for s in msgspec.json.decode(score.value, type=Score).scores} == {lead: m.id for lead, m in rows.items()}


def test_a_score_joined_from_text_is_what_encoding_its_type_gives():
    rng = np.random.default_rng(1)
    numbers = {name: rng.normal(size=(2, H)) * 10.0 ** rng.integers(-9, 9, (2, H)) for name in ("s_point", "s_baseline_point")}
    codes = {"s_by": rng.integers(0, 3, (2, H)), "s_baseline": rng.integers(1, 3, (2, H))}
    messages = scores(step(2, covered=rng.random((2, H, 1)) < 0.5, **numbers, **codes), [told(0, 'a"\n'), told(1, "b")], voice(), since=0)
    for message in messages:
        assert encode(msgspec.json.decode(message.value, type=Score)) == message.value


def test_forecasts_that_were_never_published_are_not_scored_in_public():
    [score] = scores(step(), [told()], voice(), since=9 * HOUR)
    assert [s.lead for s in msgspec.json.decode(score.value, type=Score).scores] == [1]
    assert scores(step(), [told()], voice(), since=10 * HOUR) == []


def test_outside_the_widest_band_at_lead_one_is_an_anomaly():
    covered = np.ones((1, H, 1), bool)
    covered[0, 0] = False
    [score] = scores(step(covered=covered), [told()], voice(), since=0)
    assert msgspec.json.decode(score.value)["anomaly"]


def test_the_same_record_has_one_id_and_another_record_another():
    ids = {forecasts(step(), [told(series=s, cell=c)], voice())[0].id for s in ("a", "b") for c in (0, HOUR)}
    assert len(ids) == 4
    assert forecasts(step(), [told()], voice())[0].id == forecasts(step(), [told()], voice())[0].id
    source = Source("t", 0)
    assert late(source, 1, "a", 0, 1.0, 5, voice()).id != late(source, 2, "a", 0, 1.0, 5, voice()).id
    assert (
        decision("wake", 1, voice(), cause="", numbers={}, version=None, identified_by=(1,)).id
        != decision("wake", 1, voice(), cause="", numbers={}, version=None, identified_by=(2,)).id
    )


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_rounding_keeps_seven_digits_and_never_makes_a_number_infinite(values):
    x = np.array(values)
    assert np.isfinite(tidy(x)).all()
    np.testing.assert_allclose(tidy(x), x, rtol=1e-6, atol=0)


@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=4, max_size=4), min_size=1))
def test_numbers_that_are_read_are_those_that_were_told(values):
    x = np.array(values).reshape(-1, 2, 2)
    assert msgspec.json.decode(f"[[[{']],[['.join(numerals(x))}]]]") == x.tolist()


def test_rounded_numbers_are_short():
    assert [repr(v) for v in tidy(np.array([0.1 + 0.2, 1 / 3, 12345678.9])).tolist()] == ["0.3", "0.3333333", "12345680.0"]


@pytest.mark.parametrize("series", ["ünïcode", "a\nb", "<script>", "\u202eright", '"quoted"'])
def test_hostile_names_stay_text(series):
    [message] = forecasts(step(), [told(series=series)], voice())
    assert message.key == series.encode()
    assert msgspec.json.decode(message.value)["series"] == series
