"""M4 hourly, 48 hours ahead: the learner online over the training part, beside seasonal naive and neuralforecast's LSTM; rows in m4.csv.

    TIDECAST_DATA=... uv run --group bench python -m tests.benchmarks.m4

414 series of 700 or 960 hours. Ours plays them hour by hour, once, from random weights, with their ends at the same hour, and says
the 48 hours behind it; defaults, season (the day alone, and the week beside it) and horizon. The rival trains on the same part with its
own defaults (1,000 steps of 32 series with 128 windows, an input of three horizons, two layers of 128 units, absolute error), on one
CPU. MASE is in units of the training part's mean seasonal difference, sMAPE in per cent, both as the M4 competition has them.
"""

import argparse
import datetime as dt
import logging
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import polars as pl
import torch

from models import forecast
from tests.benchmarks.rows import SET, write

HORIZON, SEASON = 48, 24
END = dt.datetime(2020, 1, 1)


def load() -> tuple[list[np.ndarray], np.ndarray]:
    """Training parts (N of differing length), and the hours behind them (N, HORIZON)."""
    tables = (pl.read_csv(SET / f"m4_hourly_{part}.csv.gz", infer_schema_length=None) for part in ("train", "test"))
    train, test = (table.drop("V1").cast(pl.Float64).to_numpy() for table in tables)
    return [row[~np.isnan(row)] for row in train], test


def mase(said: np.ndarray, actual: np.ndarray, train: list[np.ndarray]) -> float:
    """
    >>> mase(np.array([[3.0, 3.0]]), np.array([[1.0, 2.0]]), [np.arange(50.0)])
    0.0625
    """
    scale = np.array([np.abs(y[SEASON:] - y[:-SEASON]).mean() for y in train])
    return float((np.abs(said - actual).mean(1) / scale).mean())


def smape(said: np.ndarray, actual: np.ndarray) -> float:
    """
    >>> smape(np.array([[3.0, 3.0]]), np.array([[1.0, 3.0]]))
    50.0
    """
    return float((200 * np.abs(said - actual) / (np.abs(said) + np.abs(actual))).mean())


def seasonal_naive(train: list[np.ndarray]) -> np.ndarray:
    return np.stack([np.tile(y[-SEASON:], HORIZON // SEASON) for y in train])


def long(train: list[np.ndarray], ds: Callable[[int], pl.Series]) -> pl.DataFrame:
    """A row a value; names sort as the series are numbered."""
    rows = [pl.DataFrame({"unique_id": [f"{k:03}"] * len(y), "ds": ds(len(y)), "y": y}) for k, y in enumerate(train)]
    return pl.concat(rows)


def ended(count: int) -> pl.Series:
    return pl.datetime_range(END - dt.timedelta(hours=count - 1), END, "1h", eager=True)


def ours(train: list[np.ndarray], *, seasons: tuple[int, ...], seed: int) -> np.ndarray:
    said = forecast(long(train, ended), step="1h", season=seasons, horizon=HORIZON, seed=seed)
    return said.sort("unique_id", "lead")["y_hat"].to_numpy().reshape(-1, HORIZON)


def lstm(train: list[np.ndarray], *, steps: int, seed: int) -> np.ndarray:
    try:
        from neuralforecast import NeuralForecast
        from neuralforecast.models import LSTM
    except ImportError as missing:
        raise SystemExit(f"{missing}: run it with `uv run --group bench`") from None
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    model = LSTM(h=HORIZON, max_steps=steps, random_seed=seed, accelerator="cpu", devices=1, **quiet)
    forecaster = NeuralForecast(models=[model], freq=1)
    forecaster.fit(long(train, lambda count: pl.Series(range(count))))
    return forecaster.predict().sort("unique_id", "ds")["LSTM"].to_numpy().reshape(-1, HORIZON)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1000, help="that neuralforecast trains")
    parser.add_argument("--only", default="", help="those whose name has this in it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the rival's
    train, actual = load()
    who: dict[str, Callable[[], np.ndarray]] = {"seasonal naive": partial(seasonal_naive, train)}
    for seed in range(given.seeds):
        who[f"tidecast, seed {seed}"] = partial(ours, train, seasons=(SEASON,), seed=seed)
        who[f"tidecast, day and week, seed {seed}"] = partial(ours, train, seasons=(SEASON, 7 * SEASON), seed=seed)
        who[f"neuralforecast LSTM, {given.steps} steps, seed {seed}"] = partial(lstm, train, steps=given.steps, seed=seed)
    for name, forecaster in who.items():
        if given.only not in name:
            continue
        began, cpu = time.perf_counter(), time.process_time()
        said = forecaster()
        row = {"who": name, "series": len(train), "mase": mase(said, actual, train), "smape": smape(said, actual)}
        write("m4", {**row, "seconds": round(time.perf_counter() - began), "cpu_seconds": round(time.process_time() - cpu)})


if __name__ == "__main__":
    main()
