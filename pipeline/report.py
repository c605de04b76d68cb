"""The page of a backtest: one HTML file with everything in it. It asks no network for anything, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.grid import Grid
from models.prequential import Result, Told

PARTS = Path(__file__).parent / "data"
TRACES = 6  # series with a trace: the first, and the worst by skill
WORST = 50  # rows of the table of series
OURS = "tidecast"
NAMES = {"last_value": "last value", "seasonal_naive": "seasonal naive"}
WIDTHS = {"90 % band": "width_90", "seasonal naive": "seasonal_naive_width_90"}  # lines of a chart, and where they are by lead


class About(NamedTuple):
    """What the numbers themselves do not say."""

    file: str
    sha256: str
    settings: Mapping[str, str]
    notes: Sequence[str]
    interrupted: bool


def page(result: Result, values: np.ndarray, on: Grid, about: About) -> str:
    """The page; `values` (T, N): what was played."""
    style, script = ((PARTS / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    fields = {name: html.escape(text) for name, text in sayings(result, on, about).items()}
    fields |= {
        "warnings": warnings(about),
        "tiles": tiles(result),
        "horizons": horizons(result),
        "worst": worst(result),
        "settings": pairs({**about.settings, "SHA-256 of the file": about.sha256, "version": version("tidecast")}),
        "no_weights": "" if weighed(result) else '<p class="dim">This model serves one expert at a time: there is no mixture.</p>',
        "numbers": embedded(numbers(result, values, on)),
        "style": style,
        "script": script,
        "style_hash": integrity(style),
        "script_hash": integrity(script),
    }
    out = (PARTS / "report.html").read_text(encoding="utf-8")
    before, *rest = out.split("{")
    for piece in rest:  # not str.format: what is put in is never looked at again
        name, _, text = piece.partition("}")
        before += fields[name] + text
    return before


def integrity(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embedded(value: object) -> str:
    r"""JSON that may stand in a script element, whatever texts are in it.

    >>> embedded({"a": "</script>"})
    '{"a":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# What is written


def sayings(result: Result, on: Grid, about: About) -> dict[str, str]:
    """Short texts of the page."""
    origins, series = result.tally.origins, len(result.names)
    scored = origins[: result.tally.scored] if len(origins) else origins
    span = f"{moment(result, on, scored[0])} to {moment(result, on, scored[-1])}" if len(scored) else "nothing scored yet"
    kinds = ", ".join(f"{count:,} x {kind}" for kind, count in sorted(result.decided.items())) or "none"
    shown = f" The first {len(result.decisions):,} are shown." if sum(result.decided.values()) > len(result.decisions) else ""
    took = "" if result.seconds is None else f"It took {duration(result.seconds)} on {result.device}. "
    return {
        "file": about.file,
        "subtitle": f"{series:,} series, {result.forecasts:,} forecasts of one lead scored, issued {span} (UTC).",
        "unit": "In standard deviations of each series' warm-up rows" if result.scale == "warmup" else "In the series' own unit",
        "thinned": thinning(result),
        "decided": f"Who serves when all series are taken together, and what went wrong: {kinds}.{shown}",
        "worst_note": f"The {min(WORST, series):,} of {series:,} with the least skill over all leads.",
        "footer": f"{took}Made by tidecast {version('tidecast')}.",
    }


def thinning(result: Result) -> str:
    gaps = np.diff(result.tally.trace.rows)
    if not gaps.size or gaps.max() == 1:
        return "every step is kept."
    return f"every {int(gaps.max())}th step is kept, and all of the newest, which are shown first."


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(12.34), duration(754)
    ('12.3 s', '12 min 34 s')
    """
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"  # noqa: PLR2004  a minute


def moment(result: Result, on: Grid, row: int) -> str:
    """When a row of the grid is."""
    at = int(on.times(np.array([result.first + row]))[0])
    text = datetime.fromtimestamp(0, UTC).isoformat() if at == 0 else str(np.datetime64(at, "us").astype("datetime64[s]"))
    return text[:16].replace("T", " ")


def warnings(about: About) -> str:
    said = ["It was stopped before the end of the file: these are the figures so far."] * about.interrupted + list(about.notes)
    return "".join(f'<p class="warn">{html.escape(note)}</p>' for note in said)


def tiles(result: Result) -> str:
    by_lead, leads = result.by_lead(), [str(lead) for lead in result.tally.leads.tolist()]
    said = [(signed(by_lead[k]["skill"]), f"skill at lead {k}") for k in leads]
    held = by_lead[leads[0]]["coverage_90"]
    said.append((percent(held), f"of values in the 90 % band at lead {leads[0]}"))
    served = result.served()
    if served:
        first = max(served, key=lambda name: served[name])
        said.append((percent(served[first]), f"of forecasts served by {first}"))
    return "".join(f"<li><b>{html.escape(figure)}</b>{html.escape(text)}</li>" for figure, text in said)


def horizons(result: Result) -> str:
    ours = result.by_horizon(result.tally.ours)
    head = ["", *(f"{'1' if h == '1' else f'1-{h}'} {kind.upper()}" for h in ours for kind in ("mse", "mae"))]
    rows = [(OURS, ours), *((NAMES.get(name, name), result.by_horizon(e)) for name, e in result.others().items())]
    return table(head, [[name, *(figure(one[h][kind]) for h in ours for kind in ("mse", "mae"))] for name, one in rows], first="ours-row")


def worst(result: Result) -> str:
    leads = [str(lead) for lead in result.tally.leads.tolist()]
    head = ["series", "forecasts", "MAE", "MSE", "skill", *(f"skill at {k}" for k in leads), "in 90 % band"]
    rows = [
        [
            one["name"],
            f"{one['forecasts']:,}",
            figure(one["mae"]),
            figure(one["mse"]),
            signed(one["skill"]),
            *(signed(one["skill_by_lead"][k]) for k in leads),
            percent(one["coverage_90"]),
        ]
        for one in result.by_series()[:WORST]
    ]
    return table(head, rows)


def table(head: Iterable[str], rows: Iterable[Sequence[str]], first: str = "") -> str:
    top = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in head)
    body = ""
    for k, (name, *cells) in enumerate(rows):
        kind = f' class="{first}"' if first and k == 0 else ""
        body += f'<tr{kind}><th scope="row">{html.escape(name)}</th>' + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>"
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def pairs(said: Mapping[str, str]) -> str:
    body = "".join(f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>' for name, value in said.items())
    return f'<table class="pairs"><tbody>{body}</tbody></table>'


def figure(x: float | None) -> str:
    return "–" if x is None else f"{x:,.4g}" if abs(x) < 1e4 else f"{x:,.0f}" if abs(x) < 1e9 else f"{x:.3e}"  # noqa: PLR2004, RUF001  a dash; digits that an eye takes in


def signed(x: float | None) -> str:
    return "–" if x is None else f"{round(x, 3) + 0.0:+.3f}"  # noqa: RUF001  + 0.0: no -0.000


def percent(x: float | None) -> str:
    return "–" if x is None else f"{x:.1%}"  # noqa: RUF001


# What is drawn


def numbers(result: Result, values: np.ndarray, on: Grid) -> dict[str, Any]:
    """All that the charts show; None: nothing there."""
    t, by_lead = result.tally, list(result.by_lead().values())
    errors = {OURS: t.ours, **result.others()}
    return {
        "ours": OURS,
        "leads": t.leads.tolist(),
        "errors": {NAMES.get(name, name): errors_by_lead(result, one) for name, one in errors.items()},
        "by_lead": {"skill": [one["skill"] for one in by_lead], "coverage": [one["coverage_90"] for one in by_lead]},
        "widths": {name: [one[key] for one in by_lead] for name, key in WIDTHS.items() if any(one[key] is not None for one in by_lead)},
        "bins": moments(result, on, [t.origins.start + k * len(t.origins) // t.bins for k in range(t.bins)]),
        "over_time": over_time(result),
        "weights": weights(result, on),
        "decisions": [decision(result, on, told) for told in result.decisions],
        "times": moments(result, on, t.trace.rows.tolist()),
        "traces": [traced(result, values, k) for k in looked_at(result)] if t.band is not None else [],
    }


def errors_by_lead(result: Result, errors: Any) -> dict[str, list[float | None]]:
    mse, mae = result.means(errors)
    return {"mse": rounded(mse), "mae": rounded(mae)}


def over_time(result: Result) -> dict[str, list[list[float | None]]]:
    """By what is shown, by lead: a number a bin."""
    t = result.tally
    names = ["ours", "last_value", "seasonal_naive"][: 2 + (result.config.season is not None)]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = t.over_time[1:] / t.over_time[0]
        held = t.covered_over_time / t.counted_over_time
    return {name: [rounded(column) for column in means[k].T] for k, name in enumerate(names)} | {"coverage": [rounded(c) for c in held.T]}


def weighed(result: Result) -> bool:
    return any(by for _, by in result.weights)


def weights(result: Result, on: Grid) -> dict[str, Any] | None:
    """Times, and by expert and shown lead its weight at each of them."""
    if not weighed(result):
        return None
    names = list(dict.fromkeys(name for _, by in result.weights for name in by))
    shown = (result.tally.leads - 1).tolist()
    return {
        "times": moments(result, on, [row for row, _ in result.weights]),
        "by": {
            NAMES.get(name, name): [rounded([by[name][k] if name in by else np.nan for _, by in result.weights]) for k in shown]
            for name in names
        },
    }


def decision(result: Result, on: Grid, told: Told) -> dict[str, Any]:
    made = told.decision
    found = ({"leads": list(range(made.leads[0], made.leads[1] + 1))} if made.leads else {}) | made.numbers
    said = ", ".join(f"{name} {spans(value) if isinstance(value, list) else value}" for name, value in found.items())
    return {"at": moments(result, on, [told.row])[0], "kind": made.kind, "cause": made.cause, "numbers": said}


def spans(numbers: Sequence[int]) -> str:
    """Whole numbers as spans.

    >>> spans([1, 2, 3, 7])
    '1-3 7'
    """
    ends = [k for k, n in enumerate(numbers) if k + 1 == len(numbers) or numbers[k + 1] != n + 1]
    starts = [0, *(k + 1 for k in ends[:-1])] if numbers else []
    return " ".join(str(numbers[a]) if a == b else f"{numbers[a]}-{numbers[b]}" for a, b in zip(starts, ends, strict=True))


def looked_at(result: Result) -> list[int]:
    """The series with a trace: the first, and the worst by skill."""
    worst_first = [one["series"] for one in result.by_series() if one["forecasts"]]
    return list(dict.fromkeys([0, *worst_first]))[:TRACES]


def traced(result: Result, values: np.ndarray, k: int) -> dict[str, Any]:
    trace = result.tally.trace
    said = [
        dict(zip(("point", "low", "high"), (rounded(column) for column in trace.said[:, lead, k].T), strict=True))
        for lead in range(len(trace.leads))
    ]
    return {"name": result.names[k], "actual": rounded(values[trace.rows, k]), "said": said}


def moments(result: Result, on: Grid, rows: Sequence[int]) -> list[int]:
    """Rows as milliseconds since the epoch."""
    return (on.times(result.first + np.array(rows, np.int64)) // 1_000).tolist() if len(rows) else []


def rounded(x: Any) -> list[float | None]:
    """Seven digits of each number, None where there is none: what a screen can show, in half the bytes."""
    return [float(f"{v:.7g}") if np.isfinite(v) else None for v in np.asarray(x, np.float64).tolist()]
