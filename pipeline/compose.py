"""What the learner says, as messages for our topics. Pure: arrays and names in, messages out.

Letters: N samples in a step, H lead times, Q quantile levels, B central bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import orjson
import xxhash

from pipeline.records import (
    DecisionRecord,
    Forecast,
    Late,
    LeadForecast,
    LeadScore,
    Message,
    Pointer,
    Score,
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


def targets(cell: int, step: int, horizon: int) -> tuple[str, ...]:
    return tuple(instant(cell + k * step) for k in range(1, horizon + 1))


HOLE: Any = msgspec.Raw(b"\0")  # no JSON has such a byte
QUOTED: Any = msgspec.Raw(b'"\0"')


def around(record: msgspec.Struct) -> list[str]:
    """What messages of a kind have in common: the text between the holes of this one.

    Whatever is the same in a block is encoded once for it. Numbers are put in as text: one message at a time costs twice as much.

    >>> around(Served(1, 2, HOLE))
    ['{"from_lead":1,"to_lead":2,"by":', ',"reason":null}']
    """
    return encode(record).decode().split("\0")


def numerals(x: np.ndarray) -> list[str]:
    """JSON of numbers (N, K, H): N times what stands between the outermost brackets of K lists. Powers of ten are as orjson has them.

    >>> numerals(np.array([[[1.5, -2.0], [0.1, 1e-7]], [[0.0, 3.0], [1e22, 4.0]]]))
    ['1.5,-2.0],[0.1,1e-7', '0.0,3.0],[1e+22,4.0']
    """
    return orjson.dumps(x, option=orjson.OPT_SERIALIZE_NUMPY).decode()[3:-3].split("]],[[")


def namer(kind: str, application: str) -> bytes:
    """What ids of one kind begin with: `named(namer(k, a), encode(s), t) == identity(k, a, s, t)`.

    >>> named(namer("forecasts", "tidecast"), encode("taxi"), 5) == identity("forecasts", "tidecast", "taxi", 5)
    True
    """
    return encode([kind, application])[:-1] + b","


def named(prefix: bytes, series: bytes, us: int) -> str:
    return xxhash.xxh3_128_hexdigest(prefix + series + b",%d]" % us)


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
    """Of each row who served its leads; rows that say the same have the same list."""
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
    return (_as_rows if voice.layout == "row" else _as_records)(step, told, voice)


def _as_records(step: Issued, told: Sequence[Told], voice: Voice) -> list[Message]:
    rows = [t.row for t in told]
    numbers = numerals(tidy(np.concatenate([step.point[rows][:, None], step.quantiles[rows]], 1)))
    runs = all_served(step, rows, voice)
    texts = {of: encode(one).decode() for of, one in {id(one): one for one in runs}.items()}
    between = {cell: _forecast_of(voice, cell) for cell in {t.cell for t in told}}
    prefix, truth = namer("forecasts", voice.application), ("false", "true")
    cold, observations, updates = (column[rows].tolist() for column in (step.cold, step.observations, step.updates))
    out = []
    for i, t in enumerate(told):
        series = encode(t.series)
        name = named(prefix, series, t.cell)
        point, _, quantiles = numbers[i].partition("],[")
        b = between[t.cell]
        value = "".join((
            b[0], name, b[1], series.decode(), b[2], point, b[3], quantiles, b[4], texts[id(runs[i])], b[5], str(updates[i]),
            b[6], truth[cold[i]], b[7], truth[t.woken], b[8], str(observations[i]), b[9],
        ))  # fmt: skip
        out.append(Message("forecasts", t.series.encode(), value.encode(), name, t.cell, headers(t.trace), t.stamp))
    return out


@lru_cache(maxsize=512)
def _forecast_of(voice: Voice, cell: int) -> list[str]:
    """The text of all forecasts that are issued at a cell."""
    return around(
        Forecast(
            id=QUOTED,
            application=voice.application,
            series=HOLE,
            issued_at=instant(cell),
            step=iso_duration(voice.step),
            horizon=voice.horizon,
            targets=targets(cell, voice.step, voice.horizon),
            point=[HOLE],
            point_is="mean",
            levels=voice.levels,
            quantiles=[[HOLE]],
            served=HOLE,
            model=voice.model,
            model_version=voice.version,
            updates=HOLE,
            cold=HOLE,
            woken=HOLE,
            observations=HOLE,
        )
    )


def _as_rows(step: Issued, told: Sequence[Told], voice: Voice) -> list[Message]:
    rows = [t.row for t in told]
    points, quantiles = tidy(step.point[rows]).tolist(), tidy(step.quantiles[rows]).tolist()
    cold, observations, updates = (column[rows].tolist() for column in (step.cold, step.observations, step.updates))
    out = []
    for i, (t, runs) in enumerate(zip(told, all_served(step, rows, voice), strict=True)):
        for run in runs:
            for lead in range(run.from_lead, run.to_lead + 1):
                name = identity("forecasts", voice.application, t.series, t.cell, lead)
                record = LeadForecast(
                    id=name,
                    application=voice.application,
                    series=t.series,
                    issued_at=instant(t.cell),
                    step=iso_duration(voice.step),
                    lead=lead,
                    target=instant(t.cell + lead * voice.step),
                    point=points[i][lead - 1],
                    point_is="mean",
                    levels=voice.levels,
                    quantiles=[q[lead - 1] for q in quantiles[i]],
                    by=run.by,
                    reason=run.reason,
                    model=voice.model,
                    model_version=voice.version,
                    updates=updates[i],
                    cold=cold[i],
                    woken=t.woken,
                    observations=observations[i],
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
    any_counted, all_counted = counted.any(1).tolist(), counted.all(1).tolist()
    if not any(any_counted):
        return []  # series that are new, mostly: a burst of them would round numbers that nobody hears
    point, baseline = step.s_point[rows], step.s_baseline_point[rows]
    numbers = numerals(tidy(np.stack([point, actual[:, None] - point, actual[:, None] - baseline], 1)))
    actuals = numerals(actual[:, None, None])
    held = (step.covered[rows] * (1 << np.arange(len(voice.bands)))).sum(-1)
    experts, versions = len(voice.experts), (voice.version,) if of is None else of[0]
    which_one = step.s_by[rows] + experts * (step.s_baseline[rows].astype(np.int64) + experts * (0 if of is None else of[1]))
    codes, words = held + (1 << len(voice.bands)) * which_one, _words(voice, versions)
    outside = np.zeros(len(told), bool)
    if voice.bands:
        outside = counted[:, 0] & ~step.covered[rows, 0, int(np.argmax(voice.bands))]
    between = {cell: _score_of(voice, cell) for cell in {t.cell for t in told}}
    prefix, of_forecast = namer("scores", voice.application), namer("forecasts", voice.application)
    out = []
    for i, t in enumerate(told):
        if not any_counted[i]:
            continue
        which = None if all_counted[i] else tuple(np.flatnonzero(counted[i]).tolist())
        series = encode(t.series)
        leads_told = _lead_scores(t.cell, of_forecast + series, which, numbers[i], codes[i].tolist(), voice, words)
        name = named(prefix, series, t.cell)
        b = between[t.cell]
        anomaly = "true" if outside[i] else "false"
        value = "".join((b[0], name, b[1], series.decode(), b[2], actuals[i], b[3], anomaly, b[4], leads_told, b[5]))
        out.append(Message("scores", t.series.encode(), value.encode(), name, t.cell, headers(t.trace)))
    return out


@lru_cache(maxsize=512)
def _score_of(voice: Voice, cell: int) -> list[str]:
    """The text of all scores of a cell, but for its leads."""
    return around(Score(id=QUOTED, application=voice.application, series=HOLE, at=instant(cell), actual=HOLE, anomaly=HOLE, scores=[HOLE]))


PIECES = 9  # of text in the score of a lead


def _lead_scores(
    cell: int, prefix: bytes, which: tuple[int, ...] | None, numbers: str, codes: list[int], voice: Voice, words: Words
) -> str:
    """`LeadScore` of the leads `which`, None: all of them, as JSON.

    `prefix`: what names of the series' forecasts begin with. `numbers`: points, their errors, the baseline's, of all leads.
    """
    names, pieces = _blank(cell, voice)
    columns, digest = [one.split(",") for one in numbers.split("],[")], xxhash.xxh3_128_hexdigest
    if which is None:
        pieces = pieces.copy()
    else:
        names, codes, columns = [names[h] for h in which], [codes[h] for h in which], [[column[h] for h in which] for column in columns]
        pieces = [piece for h in which for piece in pieces[PIECES * h : PIECES * (h + 1)]]
        pieces[0] = pieces[0].removeprefix(",")
    pieces[1::PIECES] = [digest(prefix + name) for name in names]
    pieces[2::PIECES] = [words.by[code] for code in codes]
    pieces[3::PIECES], pieces[5::PIECES], pieces[7::PIECES] = columns
    pieces[6::PIECES] = [words.baseline[code] for code in codes]
    pieces[8::PIECES] = [words.rest[code] for code in codes]
    return "".join(pieces)


@lru_cache(maxsize=512)
def _blank(cell: int, voice: Voice) -> tuple[list[bytes], list[str]]:
    """For each lead what ends the name of the forecast that was issued then, and the pieces of its score, most of them empty."""
    names: list[bytes] = []
    pieces: list[str] = []
    for h in range(voice.horizon):
        at = cell - (h + 1) * voice.step
        names.append(b",%d,%d]" % (at, h + 1) if voice.layout == "row" else b",%d]" % at)
        begin, _, _, error, *_ = around(LeadScore(h + 1, instant(at), QUOTED, *[HOLE] * 7))
        pieces += ["," * (h > 0) + begin, "", "", "", error, "", "", "", ""]
    return names, pieces


class Words(NamedTuple):
    """Pieces between the numbers of a lead's score, by code of (bands that held, who served, which baseline, which version)."""

    by: list[str]
    baseline: list[str]
    rest: list[str]


@lru_cache(maxsize=8)
def _words(voice: Voice, versions: tuple[str, ...]) -> Words:
    bits, experts = 1 << len(voice.bands), len(voice.experts)
    found = Words([], [], [])
    for code in range(bits * experts * experts * len(versions)):
        held, who = code % bits, code // bits
        bands = [b for k, b in enumerate(voice.bands) if held >> k & 1]
        by: Any = voice.experts[who % experts]
        baseline: Any = voice.experts[who // experts % experts]
        version = versions[who // experts // experts]
        _, *pieces = around(LeadScore(1, "", QUOTED, by, HOLE, HOLE, baseline, HOLE, bands, version))
        for column, piece in zip(found, (pieces[0], pieces[2], pieces[3]), strict=True):
            column.append(piece)
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
