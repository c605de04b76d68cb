"""Values a second that are forecast from and learnt from, one at a time, beside deep-river's LSTM; a row each in speed.csv.

    python -m tests.benchmarks.speed

A series-update is one value of one series: scored, learnt from, and the next steps forecast. Ours learns from all series that have
a value at an instant in one step; deep-river's forecaster is a model for each series. Both in CPU time on one thread, in turns:
median, least, most of the rounds. Ours with 24 leads and their quantiles (the default), deep-river's with 24 and with a single one.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from models.grid import Matrix
from models.learner import Config
from models.prequential import Prequential, Split
from tests.benchmarks.deep_river_lstm import ask
from tests.benchmarks.rows import write

HORIZON = 24
SKIP = 100  # steps until learning has all that it looks back on
COUNTED = {1: 300, 1024: 30}  # steps behind them, by number of series
RIVALS = {1: 300, 1024: 2}


def waves(series: int, steps: int) -> Matrix:
    t = np.arange(steps)[:, None]
    values = np.sin(t / 4 + np.arange(series)) + np.random.default_rng(0).normal(0, 0.3, (steps, series))
    return Matrix(0, values, tuple(f"series-{k}" for k in range(series)))


def ours(model: str, series: int) -> float:
    """Series-updates a second."""
    config = Config(horizon=HORIZON, season=24, model=model)
    loop = Prequential(waves(series, SKIP + COUNTED[series]), config, split=Split())
    began = 0.0
    for row in loop.play():
        if row == SKIP:
            began = time.process_time()
    return series * COUNTED[series] / (time.process_time() - began)


def theirs(horizon: int, series: int) -> float:
    """The same of deep-river's."""
    skip = 20 if series == 1 else 1
    return series * RIVALS[series] / ask(series=series, steps=skip + RIVALS[series], skip=skip, horizon=horizon)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, nargs="+", choices=list(COUNTED), default=list(COUNTED))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-deep-river", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    who: dict[tuple[str, int], Callable[[], float]] = {}
    for series in given.series:
        for model in ("mixture", "lstm"):
            who[f"tidecast, {model}, {HORIZON} leads", series] = partial(ours, model, series)
        for horizon in () if given.without_deep_river else (HORIZON, 1):
            who[f"deep-river LSTM, {horizon} lead{'s' * (horizon > 1)}", series] = partial(theirs, horizon, series)
    rates = {name: [] for name in who}
    for _ in range(given.rounds):
        for name, measure in who.items():
            rates[name].append(measure())
    for (name, series), found in rates.items():
        row = {"who": name, "series": series, "rounds": given.rounds, "updates_per_s_median": round(statistics.median(found))}
        write("speed", {**row, "least": round(min(found)), "most": round(max(found))})


if __name__ == "__main__":
    main()
