"""What the learner says, as messages for our topics. Pure: arrays and names in, messages out.

Letters: N samples in a step, H lead times, Q quantile levels, B central bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import xxhash

from pipeline.records import (
    DecisionRecord,
    Forecast,
    Late,
    LeadForecast,
    Message,
    Pointer,
    Served,
    Source,
    encode,
    identity,
    instant,
    iso_duration,
    rfc3339,
)


class Voice(NamedTuple):
    """What every message of an application repeats."""

    application: str
    step: int  # us
    horizon: int
    levels: tuple[float, ...]
    model: str
    version: str
    experts: tuple[str, ...]  # names for the indices in a step
    reasons: tuple[str | None, ...]  # likewise; index 0: none
    bands: tuple[float, ...]  # nominal coverage of the central bands, ascending
    layout: str  # "record" or "row"


class Issued(Protocol):
    """The part of a learner's step that is told here; shapes as in models.learner.Step."""

    @property
    def point(self) -> np.ndarray: ...  # (N, H)
    @property
    def quantiles(self) -> np.ndarray: ...  # (N, Q, H)
    @property
    def by(self) -> np.ndarray: ...  # (N, H)
    @property
    def reason(self) -> np.ndarray: ...  # (N, H)
    @property
    def cold(self) -> np.ndarray: ...  # (N,)
    @property
    def observations(self) -> np.ndarray: ...  # (N,)
    @property
    def updates(self) -> np.ndarray: ...  # (N,)


class Told(NamedTuple):
    """Which sample a message is about."""

    row: int  # in the step
    series: str
    cell: int  # us
    value: float
    woken: bool
    stamp: int
    trace: str | None


EXACT = (1e-14, 1e27)  # outside, ten to the places is no exact float: such values are left as they are
TENS = np.power(10.0, np.arange(28))  # looked up: half of the time of rounding went into powers
DIGITS = 7  # what single precision holds; more would be noise in every consumer's storage


def tidy(x: np.ndarray) -> np.ndarray:
    """Round to `DIGITS` significant digits, as float64.

    >>> tidy(np.array([1234.56789, 0.0, -0.0842908312345])).tolist()
    [1234.568, 0.0, -0.08429083]
    """
    size = np.abs(x)
    usual = (size > EXACT[0]) & (size < EXACT[1])
    places = DIGITS - 1 - np.floor(np.log10(np.where(usual, size, 1.0))).astype(np.int64)
    up, down = TENS[np.maximum(places, 0)], TENS[np.maximum(-places, 0)]
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.where(usual, np.round(x * up / down) / up * down, x))


@lru_cache(maxsize=512)
def targets(cell: int, step: int, horizon: int) -> tuple[str, ...]:
    return tuple(instant(cell + k * step) for k in range(1, horizon + 1))


def namer(kind: str, application: str, series: str) -> bytes:
    """What ids of one series begin with: `named(namer(k, a, s), t) == identity(k, a, s, t)`.

    >>> named(namer("forecasts", "tidecast", "taxi"), 5) == identity("forecasts", "tidecast", "taxi", 5)
    True
    """
    return encode([kind, application, series])[:-1]


def named(prefix: bytes, us: int) -> str:
    return xxhash.xxh3_128_hexdigest(prefix + b",%d]" % us)


def served(by: list[int], reason: list[int], voice: Voice) -> list[Served]:
    """Neighbouring leads that one expert served for one reason, as runs."""
    runs: list[Served] = []
    start = 0
    for lead in range(1, len(by) + 1):
        if lead == len(by) or by[lead] != by[start] or reason[lead] != reason[start]:
            runs.append(Served(start + 1, lead, voice.experts[by[start]], voice.reasons[reason[start]]))  # type: ignore[arg-type]
            start = lead
    return runs


def all_served(step: Issued, rows: list[int], voice: Voice) -> list[list[Served]]:
    """Of each row who served its leads; most of them say what another one has said."""
    by, reason = np.ascontiguousarray(step.by[rows], np.int8), np.ascontiguousarray(step.reason[rows], np.int8)
    runs: dict[tuple[bytes, bytes], list[Served]] = {}
    out = []
    for i in range(len(rows)):
        key = by[i].tobytes(), reason[i].tobytes()
        if key not in runs:
            runs[key] = served(by[i].tolist(), reason[i].tolist(), voice)
        out.append(runs[key])
    return out


def headers(trace: str | None) -> Sequence[tuple[str, bytes]]:
    return () if trace is None else (("traceparent", trace.encode()),)


def forecasts(step: Issued, told: Sequence[Told], voice: Voice) -> list[Message]:
    """One message per sample, or with `layout = "row"` one per sample and lead."""
    if not told:
        return []
    rows = [t.row for t in told]
    points, quantiles = tidy(step.point[rows]).tolist(), tidy(step.quantiles[rows]).tolist()
    runs = all_served(step, rows, voice)
    cold, observations, updates = (column[rows].tolist() for column in (step.cold, step.observations, step.updates))
    tell, step_text = _as_rows if voice.layout == "row" else _as_record, iso_duration(voice.step)
    out: list[Message] = []
    for i, t in enumerate(told):
        rest = {
            "application": voice.application,
            "series": t.series,
            "issued_at": instant(t.cell),
            "step": step_text,
            "point_is": "mean",
            "levels": voice.levels,
            "model": voice.model,
            "model_version": voice.version,
            "updates": updates[i],
            "cold": cold[i],
            "woken": t.woken,
            "observations": observations[i],
        }
        out += tell(t, voice, points[i], quantiles[i], runs[i], rest)
    return out


def _as_record(t: Told, voice: Voice, point: list[float], quantiles: list[list[float]], runs: list[Served], rest: Any) -> list[Message]:
    name = named(namer("forecasts", voice.application, t.series), t.cell)
    record = Forecast(
        id=name,
        horizon=voice.horizon,
        targets=targets(t.cell, voice.step, voice.horizon),
        point=point,
        quantiles=quantiles,
        served=runs,
        **rest,
    )
    return [Message("forecasts", t.series.encode(), encode(record), name, t.cell, headers(t.trace), t.stamp)]


def _as_rows(t: Told, voice: Voice, point: list[float], quantiles: list[list[float]], runs: list[Served], rest: Any) -> list[Message]:
    out = []
    for run in runs:
        for lead in range(run.from_lead, run.to_lead + 1):
            name = identity("forecasts", voice.application, t.series, t.cell, lead)
            record = LeadForecast(
                id=name,
                lead=lead,
                target=instant(t.cell + lead * voice.step),
                point=point[lead - 1],
                quantiles=[q[lead - 1] for q in quantiles],
                by=run.by,
                reason=run.reason,
                **rest,
            )
            out.append(Message("forecasts", t.series.encode(), encode(record), name, t.cell, headers(t.trace), t.stamp))
    return out


class Scored(Protocol):
    """The scores of a learner's step, per sample and lead; shapes as in models.learner.Step."""

    @property
    def scored(self) -> np.ndarray: ...  # (N, H)
    @property
    def s_point(self) -> np.ndarray: ...  # (N, H)
    @property
    def s_by(self) -> np.ndarray: ...  # (N, H)
    @property
    def s_baseline(self) -> np.ndarray: ...  # (N, H)
    @property
    def s_baseline_point(self) -> np.ndarray: ...  # (N, H)
    @property
    def covered(self) -> np.ndarray: ...  # (N, H, B)


def scores(
    step: Scored, told: Sequence[Told], voice: Voice, *, since: int, of: tuple[tuple[str, ...], np.ndarray] | None = None
) -> list[Message]:
    """What the forecasts that met their actual value were worth; those issued before `since` were never published.

    `of`: versions, and which of them (N, H) each of these forecasts was made by; None: all by the voice's own.
    """
    if not told:
        return []
    rows = np.array([t.row for t in told])
    actual = np.array([t.value for t in told])
    cells = np.array([t.cell for t in told])
    leads = np.arange(1, voice.horizon + 1)
    counted = step.scored[rows] & (cells[:, None] - leads * voice.step >= since)
    if not counted.any():
        return []  # series that are new, mostly: a burst of them would round numbers that nobody hears
    point, baseline = step.s_point[rows], step.s_baseline_point[rows]
    columns = [tidy(a).tolist() for a in (point, actual[:, None] - point, actual[:, None] - baseline)]
    held = (step.covered[rows] * (1 << np.arange(len(voice.bands)))).sum(-1)
    experts, versions = len(voice.experts), (voice.version,) if of is None else of[0]
    which_one = step.s_by[rows] + experts * (step.s_baseline[rows].astype(np.int64) + experts * (0 if of is None else of[1]))
    codes, words = (held + (1 << len(voice.bands)) * which_one).tolist(), _words(voice, versions)
    outside = np.zeros(len(told), bool)
    if voice.bands:
        outside = counted[:, 0] & ~step.covered[rows, 0, int(np.argmax(voice.bands))]
    out = []
    leads_counted: dict[bytes, list[int]] = {}  # most series have as many
    for i, t in enumerate(told):
        key = counted[i].tobytes()
        which = leads_counted.get(key)
        if which is None:
            which = leads_counted[key] = np.flatnonzero(counted[i]).tolist()
        if which:
            listed = _lead_scores(t, which, [column[i] for column in columns], codes[i], voice, words)
            name = named(namer("scores", voice.application, t.series), t.cell)
            head = _Head(name, voice.application, t.series, instant(t.cell), t.value, bool(outside[i]))
            value = encode(head)[:-1] + b',"scores":[' + b",".join(listed) + b"]}"
            out.append(Message("scores", t.series.encode(), value, name, t.cell, headers(t.trace)))
    return out


class _Head(msgspec.Struct, frozen=True):
    """A Score but for its leads, in its order: those are joined from bytes, ten times a message's other cost otherwise."""

    id: str
    application: str
    series: str
    at: str
    actual: float
    anomaly: bool


def _lead_scores(
    t: Told, which: list[int], columns: list[list[float]], codes: list[int], voice: Voice, words: Mapping[int, Words]
) -> list[bytes]:
    """`LeadScore` of each lead as JSON, byte for byte what encoding the type gives (a test holds it)."""
    prefix = namer("forecasts", voice.application, t.series)
    digest = xxhash.xxh3_128_hexdigest
    begins = _begins(t.cell, voice.step, voice.horizon, voice.layout)
    point, error, baseline_error = (encode(column)[1:-1].split(b",") for column in columns)
    out = []
    for h in which:
        cell, start = begins[h]
        by, covered = words[codes[h]]
        out.append(
            b"".join((start, digest(prefix + cell).encode(), by[0], point[h], b',"error":', error[h], by[1], baseline_error[h], covered))
        )
    return out


@lru_cache(maxsize=512)
def _begins(cell: int, step: int, horizon: int, layout: str) -> list[tuple[bytes, bytes]]:
    """For each lead: what ends the name of the forecast that was issued then, and how its score begins."""
    out = []
    for lead in range(1, horizon + 1):
        at = cell - lead * step
        name = b",%d,%d]" % (at, lead) if layout == "row" else b",%d]" % at
        out.append((name, b'{"lead":%d,"issued_at":"%s","forecast_id":"' % (lead, instant(at).encode())))
    return out


Words = tuple[tuple[bytes, bytes], bytes]


@lru_cache(maxsize=8)
def _words(voice: Voice, versions: tuple[str, ...]) -> dict[int, Words]:
    """By code of (bands that held, who served, which baseline, which version): the words between the numbers of a lead's score."""
    bits, experts = 1 << len(voice.bands), len(voice.experts)
    found = {}
    for code in range(bits * experts * experts * len(versions)):
        held, who = code % bits, code // bits
        bands = [b for k, b in enumerate(voice.bands) if held >> k & 1]
        by, baseline = encode(voice.experts[who % experts]), encode(voice.experts[who // experts % experts])
        version = versions[who // experts // experts]
        words = b'","by":' + by + b',"point":', b',"baseline":' + baseline + b',"baseline_error":'
        found[code] = words, b',"covered":' + encode(bands) + b',"model_version":' + encode(version) + b"}"
    return found


def late(source: Source, offset: int, series: str, at: int, value: float, behind: int, voice: Voice) -> Message:
    name = identity("late", voice.application, source.topic, source.partition, offset, series)
    record = Late(
        id=name,
        application=voice.application,
        series=series,
        at=rfc3339(at),
        value=None if np.isnan(value) else value,
        late_seconds=behind / 1e6,
        topic=source.topic,
        partition=source.partition,
        offset=offset,
    )
    return Message("late", series.encode(), encode(record), name, at)


def decision(
    kind: str,
    at: int,
    voice: Voice,
    *,
    cause: str,
    numbers: dict[str, Any],
    identified_by: Sequence[object],
    version: str | None,
    from_version: str | None = None,
    leads: tuple[int, int] | None = None,
) -> Message:
    name = identity("decisions", voice.application, kind, *identified_by)
    record = DecisionRecord(
        id=name,
        application=voice.application,
        at=rfc3339(max(at, 0)),
        kind=kind,
        model=voice.model,
        version=version,
        from_version=from_version,
        from_lead=leads[0] if leads else None,
        to_lead=leads[1] if leads else None,
        cause=cause,
        numbers=numbers,
    )
    return Message("decisions", voice.application.encode(), encode(record), name, max(at, 0))


def pointer(record: Pointer, at: int) -> Message:
    """Who has a role from an instant on."""
    name = identity("models", record.application, record.model, record.role, record.version, record.effective_from)
    return Message("models", f"{record.application}/{record.model}/{record.role}".encode(), encode(record), name, max(at, 0))
