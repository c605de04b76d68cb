"""Retraining beside neuralforecast's LSTM on the same history, with as many hidden units and as much time; rows in retrained.csv.

    TIDECAST_DATA=... uv run --group bench python -m tests.benchmarks.retrained ETTm1
    TIDECAST_DATA=... uv run --group bench python -m tests.benchmarks.retrained M4

A history is cut by time: rows to train on, rows behind them that say when to stop (to both), and rows behind those to forecast, frozen, 48
steps ahead from every 24th of them (M4: the competition's own 48 hours). Both have 64 hidden units, one thread and the same seconds; the
rival looks every 50 steps and keeps its last weights, as it does by itself. Ours are the three networks of `forecast.model = "nets"` alone,
weighed and served as the rows that were watched say. Errors are mean absolute ones in units of each series' mean
seasonal difference before the rows that are forecast, so that no series outweighs another.
"""

import argparse
import logging
import time
import warnings
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from pytorch_lightning import Callback

from models.course import Begin, Budget, train
from models.grid import Matrix
from models.learner import Config, Learner
from models.past import Past, scales
from models.prequential import Prequential, Split
from models.training import fit
from models.warmup import History, Warmth, serve
from tests.benchmarks import m4
from tests.benchmarks.rows import SET, write

HORIZON, HIDDEN, EVERY = 48, 64, 24


class Set(NamedTuple):
    values: np.ndarray  # (T, N), NaN before a series begins
    season: int
    step_us: int
    train: int  # rows
    watch: int  # rows behind them


def load(name: str) -> Set:
    if name == "ETTm1":
        table = pl.read_csv(SET / "ETTm1.csv.gz").drop("date").to_numpy()
        return Set(table[: 14_400 + 2_880 + HORIZON], 96, 900_000_000, 11_520, 2_880)
    train, test = m4.load()
    longest = max(map(len, train))
    table = np.full((longest + HORIZON, len(train)), np.nan)
    for k, row in enumerate(train):
        table[longest - len(row) : longest, k] = row
    table[longest:] = test.T
    return Set(table, m4.SEASON, 3_600_000_000, longest - 2 * HORIZON, 2 * HORIZON)


class Frozen(Prequential):
    """Weights that have been trained say what comes, and learn nothing."""

    trained: Any

    def _warm(self, passed: Any) -> Warmth:
        del passed
        until = self.split.warmup
        self._close_before(until)
        serve(self.learner, History(self.matrix.first, self.values[:until], self.slots), self.trained, until=until)
        return Warmth(0, 0, 0.0)

    def _close(self, row: int, *, learn: bool) -> None:
        del learn
        super()._close(row, learn=False)


def ours(data: Set, seconds: float, seed: int, origins: np.ndarray) -> tuple[np.ndarray, int]:
    """Forecasts (O, N, H), and how many steps were taken."""
    end = data.train + data.watch
    columns = [column[~np.isnan(column)] for column in data.values[:end].T]
    first = np.array([end - len(column) for column in columns])
    keys = np.arange(1, len(columns) + 1, dtype=np.uint64)
    past = Past(keys, first, np.concatenate([[0], np.cumsum([len(c) for c in columns])]), np.concatenate(columns))
    config = Config(
        horizon=HORIZON, season=data.season, step_us=data.step_us, hidden=HIDDEN, model="nets", seed=seed, device="cpu"
    )  # fmt: skip
    began = time.perf_counter()
    of = scales(past, config, until=data.train)
    begin: Begin | None = None
    left = seconds - (time.perf_counter() - began)
    trained = train(
        Learner(config), past, of, until=data.train, begin=begin, budget=Budget(None, left), clock=time.perf_counter, resume=None,
        saved=lambda _: None, told=lambda _: None, go=fit,
    )  # fmt: skip
    assert trained is not None
    names = tuple(f"{k:03}" for k in range(len(columns)))
    loop = Frozen(Matrix(0, data.values, names), config, split=Split(data.train, 0, len(data.values) - data.train), disorder=0)
    loop.trained = trained
    said = np.full((len(origins), len(columns), HORIZON), np.nan)
    where = {int(row): k for k, row in enumerate(origins)}

    def heard(row: int, at: np.ndarray, step: Any) -> None:
        if row in where:
            said[where[row], at] = step.point

    for _ in loop.play(heard=heard):
        pass
    return said, trained.steps


class Counted(Callback):
    steps = 0  # of the class: what counts is a copy of what was handed over

    def on_train_batch_end(self, *_: Any) -> None:
        Counted.steps += 1


def rival(data: Set, seconds: float, seed: int, origins: np.ndarray) -> tuple[np.ndarray, int]:
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MAE
    from neuralforecast.models import LSTM

    Counted.steps = 0
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    model = LSTM(
        h=HORIZON, input_size=240, encoder_hidden_size=HIDDEN, decoder_hidden_size=HIDDEN, max_steps=1_000_000, val_check_steps=50,
        early_stop_patience_steps=10, loss=MAE(), random_seed=seed, accelerator="cpu", devices=1, scaler_type="robust",
        max_time={"seconds": seconds}, callbacks=[Counted()], **quiet,
    )  # fmt: skip
    end = data.train + data.watch
    forecaster = NeuralForecast(models=[model], freq=1)
    forecaster.fit(table(data, end), val_size=data.watch)
    said = np.stack([answer(forecaster, data, int(row) + 1) for row in origins])
    return said, Counted.steps


def answer(forecaster: Any, data: Set, end: int) -> np.ndarray:
    return forecaster.predict(df=table(data, end)).sort("unique_id", "ds")["LSTM"].to_numpy().reshape(-1, HORIZON)


def table(data: Set, end: int) -> pl.DataFrame:
    parts = []
    for k, column in enumerate(data.values[:end].T):
        there = np.flatnonzero(~np.isnan(column))
        parts.append(pl.DataFrame({"unique_id": [f"{k:03}"] * len(there), "ds": there, "y": column[there]}))
    return pl.concat(parts)


def error(data: Set, said: np.ndarray, origins: np.ndarray) -> float:
    before = data.values[: data.train + data.watch]
    unit = np.nanmean(np.abs(before[data.season :] - before[: -data.season]), 0)
    actual = data.values[origins[:, None] + 1 + np.arange(HORIZON)].transpose(0, 2, 1)
    return float(np.nanmean(np.abs(said - actual) / unit[:, None]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=("ETTm1", "M4"))
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0, 240.0])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the rival's
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    data = load(given.set)
    first = data.train + data.watch - 1
    origins = np.arange(first, len(data.values) - HORIZON, EVERY)
    naive = np.stack([data.values[row + 1 - data.season + np.arange(HORIZON) % data.season].T for row in origins])
    for seconds in given.seconds:
        row: dict[str, Any] = {"set": given.set, "seconds": seconds, "origins": len(origins), "seasonal_naive": error(data, naive, origins)}
        for name, one in (("ours", ours), ("neuralforecast", rival)):
            began = time.perf_counter()
            said, steps = one(data, seconds, given.seed, origins)
            row |= {name: error(data, said, origins), f"{name}_steps": steps, f"{name}_took_s": time.perf_counter() - began}
        write("retrained", row)


if __name__ == "__main__":
    main()
