"""`tidecast backtest`: the learner over a file, a bar meanwhile, a summary behind it. No Kafka, no Beam."""

from __future__ import annotations

import hashlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from models.grid import Grid, grid
from models.learner import Config
from models.prequential import Prequential, Result, Split
from models.warmup import Warmth
from pipeline import report, taught
from pipeline.arrange import Arranged, Asked, Faults, arrange, shown
from pipeline.configure import config_of
from pipeline.settings import Settings, SettingsError
from pipeline.table import plain

SEASONS = {"b": 5, "mo": 12}  # steps of a season by unit, where steps are no durations (those have pipeline.settings.SEASONS)
WORST = 5  # series that the summary names
TOO_WIDE = "the columns are too many for least squares of so many leads to see a whole record: each learns by itself"


class Stopped(Exception):  # noqa: N818  reads as what happened
    """Ctrl-C came during the warm-up."""


def stepping(step: str | None) -> tuple[Grid | None, str | None]:
    """The grid of `--step`, and a step as settings know it. Raises SettingsError."""
    if step is None:
        return None, None
    try:
        found = grid(step)
    except ValueError as wrong:
        raise SettingsError(f"--{wrong}") from None
    return found, f"{found.step_us}us"


def suggested(config: Config, settings: Settings, on: Grid) -> Config:
    """With the season that a step of the calendar suggests, if none has been said."""
    if on.unit not in SEASONS or "series.season" in settings.origins:
        return config
    whole, rest = divmod(SEASONS[on.unit], on.every)
    return replace(config, season=whole if whole > 1 and not rest else None)


def prepared(arranged: Arranged, settings: Settings, on: Grid, *, split: Split, scale: str) -> Prequential:
    """The loop, before its first row. Raises SettingsError."""
    step, window, disorder = settings.series.step, settings.window, settings.time.disorder
    faults = Faults()
    if window.kind == "session":
        faults.append("window.kind = session: a backtest learns every step of all series at once; allowed: fixed, sliding")
    elif (window.every or window.span) != step:
        name = "span" if window.kind == "fixed" else "every"
        faults.append(f"window.{name}: a backtest learns at every step; allowed: to leave it out")
    config = suggested(config_of(settings), settings, on)
    try:
        loop = Prequential(
            arranged.matrix,
            config,
            split=split,
            scale=scale,
            disorder=math.ceil(disorder / step),
            learn_ahead=settings.learn.learn_ahead,
            clock=time.perf_counter,
        )
    except ValueError as wrong:
        faults += str(wrong).split("; ")
    faults.check()
    return loop


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Ctrl-C sets the event; the second one is Python's own."""
    stop = threading.Event()

    def told(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, told)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def bar(console: Console) -> Progress:
    """Rows, observations a second, time gone and left; nothing where nobody looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True)


def play(loop: Prequential, console: Console, save: Path | None) -> bool:
    """To the end, or to Ctrl-C: then True. `save`: where the learner goes once it is taught; raises SettingsError if it is not."""
    series, warmup = len(loop.matrix.names), loop.split.warmup
    with stoppable() as stop, bar(console) as progress:
        task = progress.add_task("rows", total=len(loop.values), rate="")

        def passed(number: int, most: int, loss: float) -> None:
            progress.console.print(f"warm-up pass {number} of at most {most}: loss {loss:.4f}", highlight=False)
            if stop.is_set():
                raise Stopped

        def warmed(warmth: Warmth) -> None:
            if save is not None:
                keep(save, loop, warmth)
                progress.console.print(f"the taught model is {save}", highlight=False, markup=False)

        try:
            for row in loop.play(passed=passed, warmed=warmed):
                online = loop.now - loop.online
                rate = f"{loop.observations / online:,.0f} obs/s" if row > warmup and online > 0 else ""
                what = "looking at the warm-up rows" if row < warmup else "warming up" if row == warmup else f"{series:,} series"
                progress.update(task, completed=row, rate=rate, description=what)
                if stop.is_set():
                    return True
        except Stopped:
            return True
    return False


def keep(file: Path, loop: Prequential, warmth: Warmth) -> None:
    """The learner as the warm-up has left it. Raises SettingsError."""
    if not warmth.passes:
        raise SettingsError(f"--save {file}: the warm-up rows are too few to train on; allowed: more of them")
    matrix, config = loop.matrix, loop.config
    columns = [name.rpartition("/")[2] for name in matrix.names[: matrix.columns]]
    try:
        taught.save(file, loop.learner, columns=columns, until=(matrix.first + loop.split.warmup) * config.step_us)
    except OSError as error:
        raise SettingsError(f"--save {file}: {error.strerror}") from None


def refuse_to_save(file: Path, loop: Prequential, on: Grid) -> None:
    """Raises SettingsError where nothing will be taught that a stream could start from: better now than after the run."""
    faults = Faults()
    if not loop.split.warmup:
        faults.append("--save: nothing is taught without warm-up rows; allowed: with --warmup")
    if not loop.learner.taught:
        faults.append(f"--save: a warm-up teaches networks, and --model {loop.config.model} has none; allowed: another model")
    if on.unit in SEASONS:
        faults.append("--save: the steps of a stream are durations; allowed: with a step like 1h or 1d")
    if not file.parent.is_dir():
        faults.append(f"--save {file}: no such folder")
    faults.check()


def run(
    asked: Asked, settings: Settings, on: Grid | None, *, split: Split, scale: str, out: Path | None, save: Path | None
) -> tuple[dict[str, Any], Result, bool]:
    """The file played to its end or to Ctrl-C: the JSON object, the result, interrupted. Raises SettingsError."""
    console = Console(stderr=True)
    torch.set_num_threads(1)  # small steps wait for each other
    on = on if on is not None else grid(f"{settings.series.step}us")
    arranged = arrange(asked, on)
    for note in arranged.notes:
        console.print(note, highlight=False, markup=False)
    loop = prepared(arranged, settings, on, split=split, scale=scale)
    too_wide = (TOO_WIDE,) if loop.learner.others.too_wide else ()
    for note in too_wide:
        console.print(note, highlight=False, markup=False)
    writable(out)
    if save is not None:
        refuse_to_save(save, loop, on)
    interrupted = play(loop, console, save)
    result = loop.result()
    for note in unusual(result):
        console.print(note, highlight=False, markup=False)
    summary = result.json(str(asked.file))
    if out is not None:
        about = report.About(
            file=asked.file.name,
            sha256=digest(asked.file),
            settings=said(asked, settings, result),
            notes=(*arranged.notes, *too_wide, *unusual(result)),
            interrupted=interrupted,
        )
        out.write_text(report.page(result, loop.values, on, about), encoding="utf-8")
        console.print(f"the report is {out}", highlight=False, markup=False)
    return summary, result, interrupted


def writable(out: Path | None) -> None:
    """Raises SettingsError if the report could not be written: better now than after the run."""
    try:
        if out is not None:
            out.open("a").close()
    except OSError as error:
        raise SettingsError(f"--report {out}: {error.strerror}") from None


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def unusual(result: Result) -> tuple[str, ...]:
    """What whoever reads the figures should know: series that are not counted, a warm-up that was none."""
    names = [str(plain(n)) for n, unit in zip(result.names, result.unit.tolist(), strict=True) if math.isnan(unit)]
    said = [f"without two different values among the warm-up rows, and so not counted: {', '.join(names)}"] if names else []
    if result.warmth is not None and not result.warmth.passes:
        said.append("the warm-up rows are too few to train on: it went online from random weights")
    return tuple(said)


def said(asked: Asked, settings: Settings, result: Result) -> dict[str, str]:
    """What the figures were made with, for people."""
    warmup, validation, test = result.split
    own = {
        "model": result.config.model,
        "step": f"{settings.series.step / 1e6:,.10g} s",
        "season": ", ".join(map(str, (result.config.season or "none", *result.config.further_seasons))),
        "horizon": f"{result.config.horizon}",
        "warm-up, validation, test": f"{warmup:,}, {validation:,}, {'the rest' if test is None else f'{test:,}'} rows",
        "scale": result.scale,
        "disorder": f"{result.disorder} steps",
        "seed": f"{result.config.seed}",
        "device": result.device,
        "time": f"{','.join(asked.time)} as {asked.time_format}" if not asked.wide_rows else f"from {asked.start}",
    }
    return own | {name: value for name, value, origin in settings.shown() if origin != "default" and name not in IN_OWN}


IN_OWN = {"input.topics", "series.step", "series.season", "forecast.horizon", "forecast.model", "learn.seed", "time.disorder"}


# For people


def show(summary: dict[str, Any], result: Result, out: Console) -> None:
    """Errors by horizon beside the others', skill, bands, who served, the worst series."""
    if not result.forecasts:
        out.print("nothing has been scored yet")
        return
    horizons = list(summary["by_horizon"])
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    out.print(f"errors {units(result)}")
    table.add_column("leads")
    for h in horizons:
        table.add_column(f"1-{h} mse" if h != "1" else "1 mse", justify="right")
        table.add_column("mae", justify="right")
    for name, rows in {"tidecast": summary["by_horizon"], **summary["baselines"]}.items():
        table.add_row(plain(name), *(shown(rows[h][kind]) for h in horizons for kind in ("mse", "mae")))
    out.print(table)
    leads = [str(lead) for lead in result.tally.leads.tolist()]
    by_lead = summary["by_lead"]
    out.print()
    out.print(f"skill     {per(leads, by_lead, 'skill', '+.3f')}  (1 - error / better naive error)")
    out.print(f"90 % band {per(leads, by_lead, 'coverage_90', '.1%')} of values held")
    if any(one["seasonal_naive_width_90"] for one in by_lead.values()):
        out.print(f"          {per(leads, beside(by_lead), 'width', '.2f')} of the width that the seasonal naive needed to hold as many")
    out.print("served by " + ", ".join(f"{name} {share:.0%}" for name, share in sorted(summary["served"].items(), key=lambda x: -x[1])))
    worst = [one for one in result.by_series() if one["skill"] is not None][:WORST]
    if len(result.names) > 1:
        out.print("least won ", *[f"{plain(one['name'])} {one['skill']:+.3f} " for one in worst], markup=False)
    rate = f", {summary['updates_per_s']:,.0f} observations per second online" if summary["updates_per_s"] else ""
    out.print(f"{result.forecasts:,} forecasts of one lead scored; {summary['seconds']:,.0f} s{rate} on {result.device}")


def beside(by_lead: dict[str, Any]) -> dict[str, Any]:
    """The band's width as a part of the one that the seasonal naive needed, by lead; None where there is no such width."""
    naive = {lead: one["seasonal_naive_width_90"] for lead, one in by_lead.items()}
    return {lead: {"width": one["width_90"] / naive[lead] if naive[lead] else None} for lead, one in by_lead.items()}


def units(result: Result) -> str:
    return "in standard deviations of each series' warm-up rows" if result.scale == "warmup" else "in the series' unit"


def per(leads: list[str], by_lead: dict[str, Any], name: str, form: str) -> str:
    # + 0.0: no -0.000
    return ", ".join(f"{round(by_lead[k][name], 3) + 0.0:{form}} at {k}" for k in leads if by_lead[k][name] is not None) or "not known"
