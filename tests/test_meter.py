"""Metrics of a shard are what its messages say, counted."""

import json
import math
import random
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from models.learner import Config
from pipeline import learn, metrics
from pipeline.decode import Decoder, Shape
from pipeline.events import Rules
from pipeline.flow import decoded
from pipeline.learn import EARLIEST, Shard, Spec
from pipeline.metrics import Metrics, lead_bucket
from pipeline.records import Expert, Raw, RawBlock, Source, rfc3339

HOUR = 3_600_000_000
BEGIN = 500_000 * HOUR
SOURCE = Source("t", 0)
STEPS, SERIES = 60, ("a", "b", "c")


def spec(**more):
    given = {
        "application": "app",
        "rules": Rules(step=HOUR, grid=HOUR, disorder=HOUR),
        "config": Config(horizon=8, season=4, step_us=HOUR, hidden=16, rows=64, min_scores=3),
        "sources": (SOURCE,),
        "layout": "record",
        "publish_from": EARLIEST,
        "rejected_max_bytes": 1000,
        "watched": ("b",),
        "version": "test",
    }
    return Spec(**{**given, **more})


def blocks(series=SERIES, steps=STEPS):
    draw = random.Random(4)
    rows = [(name, t, round(10 * k + draw.gauss(0, 1), 3)) for t in range(steps) for k, name in enumerate(series)]
    rows[50] = ("a", 16, "no number")
    values = [json.dumps({"series": s, "at": rfc3339(BEGIN + t * HOUR), "value": v}).encode() for s, t, v in rows]
    for first in range(0, len(rows), 30):
        records = [Raw(first + i, BEGIN + rows[first + i][1] * HOUR, None, v) for i, v in enumerate(values[first : first + 30])]
        yield RawBlock(SOURCE, first, first + len(records), first / 100, ended=first + 30 >= len(rows), records=records)


@pytest.fixture
def ran(monkeypatch):
    """A registry, and the messages that were counted in it."""
    registry = CollectorRegistry()
    monkeypatch.setattr(metrics, "METRICS", Metrics(registry))
    monkeypatch.setattr(learn, "BY_REFERENCE", False)
    decode, shard, out = Decoder(Shape()).decode, Shard(spec()), []
    for raw in blocks():
        block = decoded(decode, raw)
        for messages in metrics.staged("learn", len(block.at) + len(block.rejected), shard.turns([block])):
            out += messages
    return registry, out, shard


def told(series, steps):
    """All names with their labels that a shard of so many series fills, and their size as text."""
    registry = CollectorRegistry()
    metrics.METRICS = Metrics(registry)
    decode, shard = Decoder(Shape()).decode, Shard(spec())
    for raw in blocks([*SERIES, *(f"meter-{k}" for k in range(series - len(SERIES)))], steps):
        for _ in shard.turns([decoded(decode, raw)]):
            pass
    assert shard.status()["series"] == series
    return {(s.name, *sorted(s.labels.items())) for family in registry.collect() for s in family.samples}, len(generate_latest(registry))


def test_what_is_exported_does_not_grow_with_series(monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", None)
    monkeypatch.setattr(learn, "BY_REFERENCE", False)
    few, small = told(3, 60)
    many, large = told(300, 12)
    assert many == few
    assert large < small + 2_000  # longer numbers


def test_a_run_with_everything_that_has_labels_exports_at_most_300_kb():
    """16 topics of 64 partitions, 25 series one by one, every expert at every lead."""
    registry = CollectorRegistry()
    m = Metrics(registry)
    for topic in range(16):
        m.records_read.labels(topic=f"meters-of-{topic}").inc(1e9)
        for partition in range(64):
            m.consumer_lag_records.labels(topic=f"meters-of-{topic}", partition=str(partition)).set(123_456)
    for name in (f"meter-{k:02}" for k in range(25)):
        m.observed_value.labels(series=name).set(math.pi)
        for lead in metrics.EXPORTED:
            for gauge in (m.forecast_value, m.forecast_made_earlier):
                gauge.labels(series=name, lead=str(lead)).set(math.pi)
    for lead in metrics.LEADS:
        for expert in get_args(Expert):
            m.mixture_weight.labels(expert=expert, lead=lead).set(math.pi)
        for band in metrics.BANDS:
            for counter in (m.interval_evaluated, m.interval_covered):
                counter.labels(band=band, lead=lead).inc(1e9)
    assert 100_000 < len(generate_latest(registry)) <= 300_000


def scores(out):
    return [s for m in out if m.kind == "scores" for s in json.loads(m.value)["scores"]]


def test_scores_by_lead_are_those_of_the_messages(ran):
    registry, out, _ = ran
    by_bucket = {}
    for score in scores(out):
        by_bucket[lead_bucket(score["lead"])] = by_bucket.get(lead_bucket(score["lead"]), 0) + 1
    counted = {lead: registry.get_sample_value("tidecast_scores_total", {"lead": lead}) for lead in by_bucket}
    assert counted == by_bucket
    assert len(by_bucket) == 3


def test_skill_of_a_range_is_that_of_the_messages_in_units_of_the_series(ran):
    """Series of one scale: the skill from the counters is that of the plain errors, nearly."""
    registry, out, _ = ran
    for lead in ("1", "2-6", "7-24"):
        mine = [s for s in scores(out) if lead_bucket(s["lead"]) == lead]
        plain = 1 - sum(abs(s["error"]) for s in mine) / sum(abs(s["baseline_error"]) for s in mine)
        ours = registry.get_sample_value("tidecast_scaled_absolute_error_total", {"lead": lead})
        baseline = registry.get_sample_value("tidecast_baseline_scaled_absolute_error_total", {"lead": lead})
        assert 1 - ours / baseline == pytest.approx(plain, abs=0.05)
        assert 0.2 < ours / len(mine) < 2  # one-step changes of white noise are a deviation and a bit


def test_pinball_loss_is_less_than_half_of_the_absolute_error(ran):
    """Of any forecast whose quantiles lie around its point: at 0.5 it is half, away from it less."""
    registry, *_ = ran
    for lead in ("1", "2-6", "7-24"):
        pinball = registry.get_sample_value("tidecast_pinball_loss_total", {"lead": lead})
        assert 0 < pinball < registry.get_sample_value("tidecast_scaled_absolute_error_total", {"lead": lead}) / 2


def test_a_watched_series_has_its_newest_value_and_forecasts(ran):
    registry, out, _ = ran
    value = registry.get_sample_value
    [*_, forecast] = [json.loads(m.value) for m in out if m.kind == "forecasts" and m.key == b"b"]
    [*_, score] = [json.loads(m.value) for m in out if m.kind == "scores" and m.key == b"b"]
    assert value("tidecast_observed_value", {"series": "b"}) == score["actual"]
    for lead in (1, 6):
        assert value("tidecast_forecast_value", {"series": "b", "lead": str(lead)}) == pytest.approx(forecast["point"][lead - 1])
        assert value("tidecast_forecast_made_earlier", {"series": "b", "lead": str(lead)}) == pytest.approx(
            next(s["point"] for s in score["scores"] if s["lead"] == lead)
        )
    assert value("tidecast_observed_value", {"series": "a"}) is None
    assert value("tidecast_forecast_value", {"series": "b", "lead": "24"}) is None  # beyond the horizon


def test_stages_hand_on_what_they_say(ran):
    registry, out, _ = ran

    def through(way, stage):
        return registry.get_sample_value(f"tidecast_stage_elements_{way}_total", {"stage": stage})

    assert through("in", "decode") == STEPS * len(SERIES)
    assert through("out", "decode") == through("in", "learn") == STEPS * len(SERIES)
    assert through("out", "learn") == len(out)
    assert registry.get_sample_value("tidecast_stage_duration_seconds_sum", {"stage": "learn"}) > 0
    assert registry.get_sample_value("tidecast_last_processed_timestamp_seconds", {"stage": "learn"}) > 1.7e9


def test_windows_and_sequences_are_counted_by_instant(ran):
    registry, _, shard = ran
    assert registry.get_sample_value("tidecast_window_series_count") == registry.get_sample_value("tidecast_train_steps_total")
    assert registry.get_sample_value("tidecast_window_series_sum") == shard.windows
    assert registry.get_sample_value("tidecast_sequence_length_steps_bucket", {"le": "1.0"}) == registry.get_sample_value(
        "tidecast_sequence_length_steps_count"
    )
    assert 0 <= registry.get_sample_value("tidecast_padding_ratio") < 1


def test_updates_that_are_skipped_have_their_reason(ran):
    registry, _, shard = ran
    for kind, cause in (("skip", "loss"), ("rollback_weights", "gradient"), ("fallback", "no_skill")):
        shard.meter.decide(kind, cause, {})
    shard.meter.tell(metrics.METRICS)
    skipped = {r: registry.get_sample_value("tidecast_updates_skipped_total", {"reason": r}) for r in metrics.SKIPPED}
    assert skipped == {"input": 0, "loss": 1, "gradient": 1, "weights": 0}


def test_metrics_show_in_no_message(ran, monkeypatch):
    _, out, _ = ran
    monkeypatch.setattr(metrics, "METRICS", None)
    decode, shard = Decoder(Shape()).decode, Shard(spec(watched=()))
    other = [message for raw in blocks() for messages in shard.turns([decode(raw)]) for message in messages]
    assert [(m.kind, m.value) for m in other] == [(m.kind, m.value) for m in out]


def test_a_recovery_tells_what_it_repeated(monkeypatch):
    registry = CollectorRegistry()
    monkeypatch.setattr(metrics, "METRICS", Metrics(registry))
    for name in ("BY_REFERENCE", "RECOVERY"):
        monkeypatch.setattr(learn, name, None)  # put back, whatever a recovery sets
    read = [Decoder(Shape()).decode(raw) for raw in blocks()]
    live, lost = learn.LiveShard(), Shard(spec())
    for block in read[:2]:
        lost.take(block)
    frozen = lost.freeze()
    for block in read[2:]:
        lost.take(block)
    account = lost.account()

    live.repeat(account)
    shard = learn.wake(spec(), learn.FrozenShard(frozen))
    learn.LIVE[shard.token] = shard
    for block in read[2:]:
        shard.take(block)
    assert live.repeated()
    live.resume(account)
    learn.LIVE.clear()

    repeated = sum(len(block.at) + len(block.rejected) for block in read[2:])
    assert registry.get_sample_value("tidecast_recovery_replayed_observations") == repeated == STEPS * len(SERIES) - 60
