"""Messages as the pipeline writes them, made up: what readers of our topics are tested with."""

from __future__ import annotations

from pipeline.page.fold import Fold
from pipeline.records import Forecast, LeadForecast, LeadScore, Score, Served, encode, rfc3339

HOUR = 3_600 * 10**6
BEGIN = 1_767_225_600 * 10**6
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
HOSTILE = ("<script>document.title='owned'</script>", "a\nb\r\n\x00", "x" * 500, "\u202eمضخة\u202c", "", "__proto__", "İ" * 9)


def forecast(series, t, *, horizon=4, application="tidecast", base=None):
    """Issued at hour t: lead k says base + k, the quantiles lie one apart around it."""
    base = 10.0 * t if base is None else base
    point = [base + k for k in range(1, horizon + 1)]
    return Forecast(
        id=f"{series}/{t}", application=application, series=series, issued_at=rfc3339(BEGIN + t * HOUR), step="PT1H", horizon=horizon,
        targets=[rfc3339(BEGIN + (t + k) * HOUR) for k in range(1, horizon + 1)], point=point, point_is="mean", levels=LEVELS,
        quantiles=[[p + q for p in point] for q in (-2, -1, 0, 1, 2)], served=[Served(1, horizon, "mixture")],
        model="default", model_version="v", updates=t, cold=False, woken=False, observations=t,
    )  # fmt: skip


def rows_of(whole):
    """The same with `layout = "row"`."""
    for k in range(whole.horizon):
        yield LeadForecast(
            id=f"{whole.id}/{k}", application=whole.application, series=whole.series, issued_at=whole.issued_at, step=whole.step,
            lead=k + 1, target=whole.targets[k], point=whole.point[k], point_is="mean", levels=whole.levels,
            quantiles=[q[k] for q in whole.quantiles],
            by="mixture", reason=None, model="default", model_version="v", updates=0, cold=False, woken=False, observations=0,
        )  # fmt: skip


def score(series, t, *, actual=0.0, error=1.0, baseline=2.0, leads=4, covered=(0.5, 0.9), application="tidecast"):
    scores = [
        LeadScore(k, rfc3339(BEGIN + (t - k) * HOUR), "f", "mixture", actual - error, error, "last_value", baseline, covered, "v")
        for k in range(1, leads + 1)
    ]
    return Score(f"s/{series}/{t}", application, series, rfc3339(BEGIN + t * HOUR), actual, False, scores)


def fed(series="taxi", steps=20):
    """A fold that has seen forecasts and scores of some hours."""
    fold = Fold("tidecast")
    for t in range(steps):
        fold.forecast(encode(forecast(series, t)), 0)
        if t:
            fold.score(encode(score(series, t, actual=100.0 + t)), 0)
    return fold


def status(beat, **more):
    return {
        "application": "tidecast", "instance": "i", "beat": beat, "state": "running", "lag": 5, "commits": beat, "series": 1,
        "ledger": {"consumed": 100 * beat, "used": 100 * beat, "duplicate": 0, "late": 0, "rejected": 0}, "updates": 3,
        "latency_ms": {"p50": 10.0, "p99": None}, "published": {"forecasts": 1},
        "learner": {"skill": {"1": 0.25}, "coverage": {"0.9": 0.9}, "weights": {"lstm 1": [0.7] * 24, "last_value": [0.3] * 24}}, **more,
    }  # fmt: skip
