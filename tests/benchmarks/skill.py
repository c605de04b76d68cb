"""How much better than the naive forecasts, on data of five kinds; a row a set and lead in skill.csv.

    TIDECAST_DATA=... python -m tests.benchmarks.skill [SET ...]

From random weights, one pass, the defaults and what is known of the data (step, season, horizon). Skill is 1 - error / error of the
naive forecast that was better in hindsight, per series and lead, in units of the series' own change; `worst` is that of the series
that came off worst. Widths are in the same units: the 90 % band's, and that of a band of the same coverage in hindsight from the
residuals of the better naive forecast.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from models.grid import Matrix, grid, matrix
from models.learner import Config
from models.prequential import Prequential, Result, Split
from models.tally import naive
from tests.benchmarks.rows import SET, write

HORIZON = 24
LEADS = (1, 6, 24)


class Kind(NamedTuple):
    file: str
    time: pl.Expr
    values: tuple[str, ...]  # columns; series side by side
    step: str
    season: int | None
    series: str | None = None  # column that names the series; None: each of `values` is one


def parsed(column: str, how: str) -> pl.Expr:
    return pl.col(column).str.to_datetime(how, time_unit="us")


CALENDAR = pl.datetime("year", "month", "day", "hour", time_unit="us")
TRAILS = ("BGT North of NE 70th Total", "Ped South", "Ped North", "Bike North", "Bike South")
KINDS = {
    "taxi": Kind("nyc_taxi", parsed("timestamp", "%Y-%m-%d %H:%M:%S"), ("value",), "30min", 48),
    "ec2": Kind("nab_ec2_cpu_utilization_5f5533", parsed("timestamp", "%Y-%m-%d %H:%M:%S"), ("value",), "5min", 288),
    "stocks": Kind("stocks_daily_ohlcv_long", parsed("Date", "%Y-%m-%d"), ("AdjClose",), "1b", 5, "Stock"),
    "pm2.5": Kind("beijing_pm25_weather", CALENDAR, ("pm2.5",), "1h", 24),
    "trails": Kind("seattle_trail_counts", parsed("Date", "%Y-%m-%dT%H:%M:%S%.f"), TRAILS, "1h", 24),
}


def load(kind: Kind) -> Matrix:
    table = pl.read_csv(SET / f"{kind.file}.csv.gz", null_values=["NA", ""], infer_schema_length=None).with_columns(at=kind.time)
    cells = grid(kind.step).cells(table["at"].cast(pl.Int64).to_numpy())
    names = list(kind.values) if kind.series is None else table[kind.series].unique(maintain_order=True).to_list()
    values = np.concatenate([table[column].cast(pl.Float64).to_numpy() for column in kind.values])
    if kind.series is None:
        of = np.repeat(np.arange(len(names)), len(table))
    else:
        of = table[kind.series].replace_strict(names, range(len(names)), return_dtype=pl.Int64).to_numpy()
    found, _ = matrix(np.tile(cells, len(kind.values)), of, values, names)
    return found


def config_of(kind: Kind, seed: int, *, device: str = "auto") -> Config:
    return Config(horizon=HORIZON, season=kind.season, step_us=grid(kind.step).step_us, seed=seed, device=device)


def play(found: Matrix, kind: Kind, seed: int) -> Result:
    loop = Prequential(found, config_of(kind, seed), split=Split(), clock=time.perf_counter)
    for _ in loop.play():
        pass
    return loop.result()


def naive_widths(found: Matrix, result: Result) -> np.ndarray:
    """(N, H) widths of bands that hold as many values as ours did, from the residuals of the better naive forecast."""
    tally = result.tally
    coverage = tally.covered / np.maximum(tally.ours.count, 1)
    last, seasonal = (errors.absolute for errors in tally.naive.values())
    residuals = np.full((len(tally.origins), *coverage.shape), np.nan, np.float32)
    for k, row in enumerate(tally.origins):
        at = np.flatnonzero(~np.isnan(found.values[row]))
        said = naive(found.values, row, at, tally.form)
        better = np.where(seasonal[at] < last[at], said.seasonal, said.last)
        residuals[k, at] = found.values[row + tally.form.leads][:, at].T - better
    out = np.full(coverage.shape, np.nan)
    for series, lead in np.ndindex(*coverage.shape):
        known = residuals[:, series, lead][~np.isnan(residuals[:, series, lead])]
        tail = (1 - coverage[series, lead]) / 2
        out[series, lead] = np.quantile(known, 1 - tail) - np.quantile(known, tail)
    return out


def record(name: str, seed: int, found: Matrix, result: Result) -> None:
    tally, unit = result.tally, result.tally.change[:, None]
    skill, each = result.skill(), np.stack([result.skill([k]) for k in range(len(found.names))])
    count = np.maximum(tally.ours.count, 1)
    coverage, width, naively = tally.covered / count, tally.width / count / unit, naive_widths(found, result) / unit
    mixed = tally.served[0] / count
    for lead in LEADS:
        h = lead - 1
        worst = int(each[:, h].argmin())
        row = {"set": name, "series": len(found.names), "steps": len(found.values), "seed": seed, "lead": lead, "skill": float(skill[h])}
        row |= {"worst": float(each[worst, h]), "worst_series": found.names[worst], "served_by_mixture": float(mixed[:, h].mean())}
        row |= {"coverage_90": float(coverage[:, h].mean()), "width": float(width[:, h].mean()), "naive_width": float(naively[:, h].mean())}
        write("skill", {**row, "obs_per_s": round(result.observations / result.seconds)})


def asked(doc: str | None, kinds: Mapping[str, Kind]) -> Iterator[tuple[str, Kind, Matrix, int]]:
    """Names, kinds, values and the seed of the sets that the command line asks for; all, if it names none."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("sets", nargs="*", choices=[[], *kinds])
    parser.add_argument("--steps", type=int, help="of each set, at most")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.sets or kinds:
        found = load(kinds[name])
        yield name, kinds[name], found._replace(values=found.values[: given.steps]), given.seed


def main() -> None:
    for name, kind, found, seed in asked(__doc__, KINDS):
        record(name, seed, found, play(found, kind, seed))


if __name__ == "__main__":
    main()
