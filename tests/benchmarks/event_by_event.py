"""Event by event beside river's and deep-river's forecasters: forecast three values, score, learn; rows in event_by_event.csv.

    uv run --group bench python -m tests.benchmarks.event_by_event

Two short series, monthly airline passengers and a daily approval rating. The rivals have the settings of deep-river's own
forecasting benchmark (three steps ahead, scored from the 13th value on, a season of 12 for both), ours are the defaults and what
is known of the data: step, season, horizon.

That benchmark, as river's own evaluation, has a model forecast *before* it learns the newest value and holds its first forecast
against the value after that one, so that all are late by a step. "published" repeats it, to show that these are the rivals it
names; "aligned" has them learn the newest value first. Ours are aligned: nothing else exists of them. The targets are the same.
"""

import argparse
import datetime as dt
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch

from models import backtest
from tests.benchmarks.deep_river_lstm import ask
from tests.benchmarks.rows import write

DATA = Path(__file__).parent.parent / "data"
HORIZON = 3
GRACE = 12  # values that are learnt before the first forecast counts


def passengers() -> tuple[pl.DataFrame, dict]:
    table = pl.read_csv(DATA / "river_airline_passengers.csv.gz")
    return frame(table["month"] + "-01", table["passengers"]), {"step": "1mo", "season": 12}


def approval() -> tuple[pl.DataFrame, dict]:
    table = pl.read_csv(DATA / "river_trump_approval.csv.gz")
    days = [dt.date.fromordinal(day) for day in table["ordinal_date"].to_list()]
    return frame(pl.Series(days), table["five_thirty_eight"]), {"step": "1d", "season": 7}


def frame(ds: pl.Series, y: pl.Series) -> pl.DataFrame:
    return pl.DataFrame({"unique_id": ["one"] * len(y), "ds": ds, "y": y.cast(pl.Float64)})


SETS = {"airline_passengers": passengers, "trump_approval": approval}


def rivals() -> dict[str, Callable]:
    try:
        from river import linear_model, optim, preprocessing, time_series
    except ImportError as missing:
        raise SystemExit(f"{missing}: run it with `uv run --group bench`") from None

    def snarimax():
        scaled = preprocessing.StandardScaler() | linear_model.LinearRegression(optimizer=optim.SGD(0.01))
        return time_series.SNARIMAX(p=1, d=1, q=0, m=12, sp=1, sd=0, sq=0, regressor=scaled)

    return {
        "river SNARIMAX": snarimax,
        "river Holt-Winters": partial(time_series.HoltWinters, alpha=0.3, beta=0.1, gamma=0.1, seasonality=12),
        "river Holt-Winters, multiplicative, gamma 0.6": partial(  # the setting of river's own documentation, for the passengers
            time_series.HoltWinters, alpha=0.3, beta=0.1, gamma=0.6, seasonality=12, multiplicative=True
        ),
    }


def origins(count: int) -> range:
    """Places of the values that forecasts count from.

    >>> len(origins(144)), len(origins(1001))
    (129, 986)
    """
    return range(GRACE, count - HORIZON)


def of_rival(make: Callable, y: np.ndarray, *, aligned: bool) -> np.ndarray:
    """(origins, HORIZON) forecasts of the values behind each origin."""
    if make is ask:
        return np.array(ask(values=y.tolist(), horizon=HORIZON, grace=GRACE, aligned=aligned))
    model, said = make(), []
    for at, value in enumerate(y.tolist()):
        if not aligned and at in origins(len(y)):
            said.append(model.forecast(HORIZON))
        model.learn_one(value)
        if aligned and at in origins(len(y)):
            said.append(model.forecast(HORIZON))
    return np.array(said)


def naive(y: np.ndarray, season: int | None) -> np.ndarray:
    """Last value, or seasonal naive: the last value where there is no season before."""
    at = np.array(origins(len(y)))[:, None]
    back = at if season is None else at + np.arange(1, HORIZON + 1) - season
    return np.broadcast_to(np.where(back < 0, y[at], y[np.maximum(back, 0)]), (len(at), HORIZON))


def of_ours(table: pl.DataFrame, known: dict, *, horizon: int, seed: int) -> np.ndarray:
    """(origins, horizon) forecasts of the learner; one for each origin."""
    said = backtest(table, horizon=horizon, seed=seed, keep=1, **known).forecasts.sort("ds", "lead")
    lead = said["lead"].to_numpy()
    by_lead = [said["y_hat"].to_numpy()[lead == k] for k in range(1, horizon + 1)]  # each in the order of its origins
    return np.stack([points[GRACE : GRACE + len(origins(len(table)))] for points in by_lead], 1)


def errors(said: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(leads,) mean absolute errors."""
    at = np.array(origins(len(y)))[:, None]
    return np.abs(said - y[at + np.arange(1, said.shape[1] + 1)]).mean(0)


def record(data: str, who: str, protocol: str, off: np.ndarray, seconds: float) -> None:
    leads = {f"mae_{k + 1}": float(off[k]) if k < len(off) else "" for k in range(HORIZON)}
    mean = float(off.mean()) if len(off) == HORIZON else ""
    write("event_by_event", {"set": data, "who": who, "protocol": protocol, "mae": mean, **leads, "seconds": round(seconds, 1)})


def timed(make: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    began = time.perf_counter()
    return make(), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of ours")
    parser.add_argument("--without-deep-river", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for data, load in SETS.items():
        table, known = load()
        y = table["y"].to_numpy()
        for who, make in {**rivals(), **({} if given.without_deep_river else {"deep-river LSTM": ask})}.items():
            for protocol in ("published", "aligned"):
                said, seconds = timed(partial(of_rival, make, y, aligned=protocol == "aligned"))
                record(data, who, protocol, errors(said, y), seconds)
        record(data, "last value", "aligned", errors(naive(y, None), y), 0)
        record(data, "seasonal naive", "aligned", errors(naive(y, known["season"]), y), 0)
        for seed in range(given.seeds):
            for horizon in (HORIZON, 1):
                said, seconds = timed(partial(of_ours, table, known, horizon=horizon, seed=seed))
                record(data, f"tidecast, horizon {horizon}, seed {seed}", "aligned", errors(said, y), seconds)


if __name__ == "__main__":
    main()
