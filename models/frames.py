"""Backtests and forecasts of frames in the long form that forecasters use: a row a value, `unique_id`, `ds`, `y`.

Polars and pandas frames alike: all that is asked of one is that its columns can be had by name. What comes out is polars.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from models.grid import Grid, Matrix, beside, grid, matrix
from models.learner import Config, Step
from models.prequential import Prequential, Result, Split

COLUMNS = ("unique_id", "ds", "y")
LOW, HIGH = "lo-90", "hi-90"


@dataclass
class Backtest:
    """What `backtest` returns."""

    totals: Result  # sums by series, lead and time; `totals.json("name")` is what the command prints
    scores: pl.DataFrame  # unique_id, lead, mse, mae, skill, coverage_90; a row a series and lead
    forecasts: pl.DataFrame  # unique_id, ds, lead, y_hat, lo-90, hi-90; `ds` is the time that is forecast, `lead` steps after the issue


def backtest(
    frame: Any,
    *,
    step: str,
    season: int | Sequence[int] | None = None,
    horizon: int = 24,
    warmup: int = 0,
    validation: int = 0,
    test: int | None = None,
    scale: str = "none",
    model: str = Config.model,
    seed: int = 0,
    disorder: int = 1,
    keep: int | None = None,
    covariates: Sequence[str] = (),
    ahead: Sequence[str] = (),
    clock: Callable[[], float] | None = None,
) -> Backtest:
    """The learner over a frame, row by row, as a stream would have met it; ValueError says all that is wrong.

    `step` like 1h, 1d, 1b (business days), 1mo; all counts in steps; `season`: one or several. `keep`: forecasts are kept of every so
    many origins (the horizon unless said: then every time is forecast once). `covariates`: further columns that are known at their own
    time; `ahead`: columns of which each forecast knows the values at all its leads. `clock`: for `totals.seconds`.
    """
    on = grid(step)
    config = asked(on, season, covariates, ahead, horizon=horizon, model=model, seed=seed)
    found, zone = arranged(frame, on, config.covariates)
    loop = Prequential(found, config, split=Split(warmup, validation, test), scale=scale, disorder=disorder, clock=clock)
    kept: list[pl.DataFrame] = []
    origins = loop.tally.origins

    def heard(row: int, at: np.ndarray, step: Step) -> None:
        if row in origins and (row - origins.start) % (keep or horizon) == 0:
            kept.append(issued(found, on, zone, np.full(len(at), row), at, step, config.levels))

    for _ in loop.play(heard=heard):
        pass
    result = loop.result()
    return Backtest(result, scores(result), pl.concat(kept) if kept else nothing(zone))


def forecast(
    frame: Any,
    *,
    step: str,
    season: int | Sequence[int] | None = None,
    horizon: int = 24,
    warmup: int = 0,
    validation: int = 0,
    model: str = Config.model,
    seed: int = 0,
    covariates: Sequence[str] = (),
    ahead: Sequence[str] = (),
) -> pl.DataFrame:
    """What comes after a frame: its history is learnt as a stream would have, and every series is forecast from its last value.

    unique_id, ds, lead, y_hat, lo-90, hi-90; `ds` from one step after the series' own end. Of columns that are known `ahead`, rows
    behind the end tell, whose y is missing.
    """
    on = grid(step)
    config = asked(on, season, covariates, ahead, horizon=horizon, model=model, seed=seed)
    found, zone = arranged(frame, on, config.covariates)
    # forecasts that go beyond the end cannot be scored; a history that is shorter than the horizon is forecast all the same
    short = max(0, warmup + validation + horizon + 1 - len(found.values))
    padded = found._replace(values=np.concatenate([found.values, np.full((short, found.values.shape[1]), np.nan)]))
    loop = Prequential(padded, config, split=Split(warmup, validation), scale="none")
    known = ~np.isnan(found.values)
    last = len(known) - 1 - known[::-1].argmax(0)
    said: list[pl.DataFrame] = []

    def heard(row: int, at: np.ndarray, step: Step) -> None:
        ends = np.flatnonzero(last[at] == row)
        if ends.size:
            said.append(issued(found, on, zone, np.full(len(ends), row), at[ends], chosen(step, ends), config.levels))

    for _ in loop.play(heard=heard):
        pass
    return pl.concat(said).sort("unique_id", "lead") if said else nothing(zone)


def chosen(step: Step, rows: np.ndarray) -> Step:
    """Some rows of what was issued."""
    return step._replace(issued=step.issued[rows], point=step.point[rows], quantiles=step.quantiles[rows])


# In


def asked(on: Grid, season: int | Sequence[int] | None, covariates: Sequence[str], ahead: Sequence[str], **fields: Any) -> Config:
    """The learner of a frame: what is known ahead is a covariate, too; of several seasons the first is the naive forecast's."""
    seasons = () if season is None else tuple(np.atleast_1d(season).tolist())
    if any(steps != int(steps) or steps < 2 for steps in seasons) or len(set(seasons)) < len(seasons):  # noqa: PLR2004 - one step is no season
        raise ValueError(f"season {season}: allowed: a number of steps, 2 at least, or several, each once")
    seasons = tuple(map(int, seasons))
    return Config(
        step_us=on.step_us,
        season=seasons[0] if seasons else None,
        further_seasons=seasons[1:],
        covariates=(*dict.fromkeys([*covariates, *ahead]),),
        ahead=(*dict.fromkeys(ahead),),
        **fields,
    )


def arranged(frame: Any, on: Grid, covariates: Sequence[str] = ()) -> tuple[Matrix, str | None]:
    """A frame as a matrix, and the time zone of its times. ValueError says all that is wrong."""
    table = frame.collect() if isinstance(frame, pl.LazyFrame) else frame
    wanted = (*COLUMNS, *covariates)
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}; wanted are {', '.join(wanted)}, there are {', '.join(map(str, table.columns))}")
    ids, ds = (series(table[name]) for name in COLUMNS[:2])
    faults = []
    if ids.null_count():
        faults.append(f"{ids.null_count():,} rows without unique_id")
    if ds.dtype == pl.String:
        ds = dated(ds)
    if ds.dtype not in (pl.Date, pl.Datetime):
        faults.append(f"ds holds {ds.dtype}; allowed: dates, times, and texts like 2026-01-31 08:00:00")
    elif ds.null_count():
        faults.append(f"{ds.null_count():,} rows without a readable ds")
    values, *known = (numbers(name, series(table[name]), faults) for name in ("y", *covariates))
    if taken := [name for name in covariates if name in COLUMNS]:
        faults.append(f"{', '.join(taken)}: no covariate; allowed: other columns")
    if not len(ids):
        faults.append("no rows")
    if faults:
        raise ValueError("; ".join(faults))
    zone = ds.dtype.time_zone if isinstance(ds.dtype, pl.Datetime) else None
    texts = ids.cast(pl.String)
    names = sorted(set(texts.to_list()))
    codes = texts.replace_strict(names, range(len(names)), return_dtype=pl.Int64).to_numpy()
    cells = on.cells(ds.cast(pl.Datetime("us")).cast(pl.Int64).to_numpy())
    found, _ = matrix(cells, codes, values, names)
    return beside(found, cells, codes, known), zone


def numbers(name: str, column: pl.Series, faults: list[str]) -> np.ndarray:
    """A column as float64, NaN where there is nothing."""
    read = column.cast(pl.Float64, strict=False)
    values = read.to_numpy().astype(np.float64)
    wrong = read.null_count() - column.null_count() + int(np.isinf(values).sum())
    if wrong:
        faults.append(f"{wrong:,} rows whose {name} is no finite number (a missing value is null or NaN)")
    return np.asarray(values)


def dated(texts: pl.Series) -> pl.Series:
    """Texts as times; null where one cannot be read."""
    try:
        return texts.str.to_datetime(time_unit="us", strict=False)
    except pl.exceptions.ComputeError:  # none of the first looks like a time
        return pl.repeat(None, len(texts), dtype=pl.Datetime("us"), eager=True)


def series(column: Any) -> pl.Series:
    """A column of polars, or of anything that numpy can read."""
    if isinstance(column, pl.Series):
        return column
    values = np.asarray(column)
    # objects: texts, and times that know their zone; what is missing among them is no value of their kind
    return pl.Series(values) if values.dtype != object else pl.Series([None if one is None or one != one else one for one in values])  # noqa: PLR0124  NaN


# Out


def issued(
    found: Matrix, on: Grid, zone: str | None, rows: np.ndarray, at: np.ndarray, step: Step, levels: tuple[float, ...]
) -> pl.DataFrame:
    """Forecasts that were issued at (n,) rows for series `at`, a row a lead."""
    fine = np.flatnonzero(step.issued)
    rows, at, point = rows[fine], at[fine], step.point[fine]
    horizon = point.shape[1]
    leads = np.tile(np.arange(1, horizon + 1), len(at))
    us = on.times(found.first + np.repeat(rows, horizon) + leads)
    low, high = (step.quantiles[fine, levels.index(level)].ravel() for level in (0.05, 0.95))
    names = pl.Series([found.names[k] for k in at.tolist()], dtype=pl.String)
    return nothing(zone).vstack(
        pl.DataFrame(
            {
                "unique_id": names.gather(np.repeat(np.arange(len(at)), horizon)),
                "ds": zoned(pl.Series(us).cast(pl.Datetime("us")), zone),
                "lead": pl.Series(leads).cast(pl.Int32),
                "y_hat": point.ravel(),
                LOW: low,
                HIGH: high,
            }
        )
    )


def nothing(zone: str | None) -> pl.DataFrame:
    """No forecasts, in the form that forecasts have."""
    numbers = dict.fromkeys(("y_hat", LOW, HIGH), pl.Float64())
    return pl.DataFrame(schema={"unique_id": pl.String(), "ds": pl.Datetime("us", zone), "lead": pl.Int32(), **numbers})


def zoned(times: pl.Series, zone: str | None) -> pl.Series:
    return times if zone is None else times.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)


def scores(result: Result) -> pl.DataFrame:
    """Errors of each series and lead, in the unit of the scale."""
    t, unit = result.tally, result.unit[:, None]
    count = np.where(t.ours.count > 0, t.ours.count, np.nan) * np.where(np.isnan(unit), np.nan, 1)
    skill = np.stack([result.skill([k]) for k in range(len(result.names))])
    horizon = result.config.horizon
    table = pl.DataFrame(
        {
            "unique_id": [name for name in result.names for _ in range(horizon)],
            "lead": pl.Series(np.tile(np.arange(1, horizon + 1), len(result.names))).cast(pl.Int32),
            "mse": (t.ours.square / unit**2 / count).ravel(),
            "mae": (t.ours.absolute / unit / count).ravel(),
            "skill": skill.ravel(),
            "coverage_90": (t.covered / count).ravel(),
        }
    )
    return table.with_columns(pl.selectors.float().fill_nan(None))
