"""Long frames in, long frames out: polars and pandas alike, the same figures as the loop and the command."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pytest

import models
from models.frames import LOW, asked, backtest, forecast
from models.grid import Matrix, grid
from models.learner import Config
from models.prequential import Prequential, Split

HOURS = [dt.datetime(2026, 1, 1) + dt.timedelta(hours=k) for k in range(60)]
SAY = {"step": "1h", "season": 8, "horizon": 4, "model": "lstm"}


def waves(seed=0):
    return np.sin(np.arange(60) * 2 * np.pi / 8) * 3 + np.random.default_rng(seed).normal(0, 0.3, 60)


@pytest.fixture(scope="module")
def frame():
    """Two series, the second from its 20th hour on, rows in no order."""
    late = {"unique_id": ["b"] * 40, "ds": HOURS[20:], "y": waves(1)[20:]}
    table = pl.concat([pl.DataFrame({"unique_id": ["a"] * 60, "ds": HOURS, "y": waves()}), pl.DataFrame(late)])
    return table.sample(fraction=1, shuffle=True, seed=1)


@pytest.fixture(scope="module")
def done(frame):
    return backtest(frame, **SAY, keep=1)


def test_it_is_the_loop_over_the_same_matrix(done):
    values = np.stack([waves(), np.where(np.arange(60) < 20, np.nan, waves(1))], 1)
    first = int((HOURS[0] - dt.datetime(1970, 1, 1)).total_seconds()) // 3600
    loop = Prequential(Matrix(first, values, ("a", "b")), Config(horizon=4, season=8, model="lstm"), split=Split())
    for _ in loop.play():
        pass
    assert done.totals.json("x") == loop.result().json("x")


@pytest.mark.parametrize(
    ("season", "first", "further"), [(None, None, ()), ((), None, ()), (8, 8, ()), ([8], 8, ()), ((8, 20, 30), 8, (20, 30))]
)
def test_a_season_is_one_or_several(season, first, further):
    config = asked(grid("1h"), season, (), ())
    assert (config.season, config.further_seasons) == (first, further)


def test_forecasts_are_long_and_their_errors_are_those_that_were_counted(done, frame):
    assert done.forecasts.columns == ["unique_id", "ds", "lead", "y_hat", "lo-90", "hi-90"]
    joined = done.forecasts.join(frame, on=["unique_id", "ds"], how="inner")
    mae = joined.with_columns((pl.col("y_hat") - pl.col("y")).abs().alias("e")).group_by("unique_id", "lead").agg(pl.col("e").mean())
    both = done.scores.join(mae, on=["unique_id", "lead"], how="inner")
    assert len(both) == 8
    np.testing.assert_allclose(both["mae"], both["e"])
    assert (joined[LOW] <= joined["y_hat"] + 1e-9).all()


def test_unless_said_every_time_is_forecast_once(frame):
    kept = backtest(frame.filter(pl.col("unique_id") == "a"), **SAY).forecasts
    assert kept["ds"].is_unique().all()
    assert set(kept["lead"].to_list()) == {1, 2, 3, 4}


def test_pandas_frames_are_as_good(done, frame):
    given = pd.DataFrame({name: frame[name].to_list() for name in frame.columns})
    assert given["ds"].dtype.kind == "M"
    again = backtest(given, **SAY, keep=1)
    assert again.forecasts.equals(done.forecasts)
    assert again.scores.equals(done.scores)


@pytest.mark.parametrize("kind", ["lazy", "texts", "categories", "numbers for names"])
def test_other_spellings_are_the_same(done, frame, kind):
    rows = frame.filter(pl.col("ds") < HOURS[40])
    want = forecast(rows, **SAY)
    given = {
        "lazy": rows.lazy(),
        "texts": rows.with_columns(pl.col("ds").dt.strftime("%Y-%m-%d %H:%M:%S")),
        "categories": pd.DataFrame({n: rows[n].to_list() for n in rows.columns}).astype({"unique_id": "category"}),
        "numbers for names": rows.with_columns(pl.col("unique_id").replace_strict({"a": 1, "b": 2})),
    }[kind]
    have = forecast(given, **SAY)
    if kind != "numbers for names":
        assert have.equals(want)
    else:
        assert have["unique_id"].unique().sort().to_list() == ["1", "2"]


def test_a_time_zone_comes_back(frame):
    rows = frame.filter(pl.col("unique_id") == "a").with_columns(
        pl.col("ds").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo")
    )
    given = pd.DataFrame({"unique_id": rows["unique_id"].to_list(), "ds": pd.DatetimeIndex(rows["ds"].to_list()), "y": rows["y"].to_list()})
    assert given["ds"].dt.tz is not None
    have = forecast(given, **SAY)
    assert have["ds"].dtype.time_zone is not None
    assert have["ds"].dt.convert_time_zone("UTC")[0].replace(tzinfo=None) == dt.datetime(2026, 1, 3, 12)


def test_what_comes_next_begins_a_step_after_each_series_own_end(frame):
    rows = frame.filter((pl.col("unique_id") == "b") | (pl.col("ds") < HOURS[50]))
    have = forecast(rows, **SAY)
    assert len(have) == 8
    assert have.group_by("unique_id", maintain_order=True).agg(pl.col("ds").min())["ds"].to_list() == [
        HOURS[50],
        HOURS[59] + dt.timedelta(hours=1),
    ]


def test_a_history_shorter_than_the_horizon_is_forecast_all_the_same():
    short = pl.DataFrame({"unique_id": ["a"] * 3, "ds": HOURS[:3], "y": [1.0, 2.0, 3.0]})
    assert len(forecast(short, step="1h", horizon=12)) == 12
    assert forecast(short.with_columns(y=pl.lit(None, pl.Float64)), step="1h", horizon=12).is_empty()


def test_business_days_are_forecast_for_business_days():
    days = [d for d in (dt.date(2026, 11, 2) + dt.timedelta(k) for k in range(26)) if d.weekday() < 5]
    frame = pl.DataFrame({"unique_id": ["a"] * len(days), "ds": days, "y": [float(k) for k in range(len(days))]})
    have = forecast(frame, step="1b", season=5, horizon=5)
    assert [d.strftime("%a %d") for d in have["ds"]] == ["Mon 30", "Tue 01", "Wed 02", "Thu 03", "Fri 04"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"y": None}, "no column y; wanted are unique_id, ds, y"),
        ({"ds": ["soon"] * 100}, "100 rows without a readable ds"),
        ({"ds": [1.5] * 100}, "ds holds Float64; allowed: dates, times"),
        ({"unique_id": [None, *["a"] * 99]}, "1 rows without unique_id"),
        ({"y": ["x", *["1"] * 99]}, "1 rows whose y is no finite number"),
        ({"y": [np.inf, *[1.0] * 99]}, "1 rows whose y is no finite number"),
    ],
)
def test_what_is_wrong_is_named(frame, change, said):
    [(name, values)] = change.items()
    given = frame.drop(name) if values is None else frame.with_columns(pl.Series(name, values))
    with pytest.raises(ValueError, match=said):
        backtest(given, **SAY)


def test_all_that_is_wrong_with_the_rows_is_said_at_once(frame):
    with pytest.raises(ValueError, match=r"fewer than 90 warm-up; scale is 'max'"):
        backtest(frame, **SAY, warmup=90, scale="max")


def test_the_package_has_both_and_says_what_it_has_not():
    assert (models.backtest, models.forecast) == (backtest, forecast)
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        models.fit  # noqa: B018


def caused(rows, told):
    """A walk and three times `load`, which is there for `told` hours more."""
    rng = np.random.default_rng(3)
    load = rng.normal(0, 1, rows + told)
    y = rng.normal(0, 0.3, rows).cumsum() + 3 * load[:rows]
    ds = [dt.datetime(2026, 1, 1) + dt.timedelta(hours=k) for k in range(rows + told)]
    return pl.DataFrame({"unique_id": "a", "ds": ds, "y": [*y, *[None] * told], "load": load})


def test_rows_behind_the_end_tell_of_columns_that_are_known_ahead():
    frame = caused(450, 4)
    said = {
        name: forecast(frame, **(SAY | {"season": None, "model": "linear"}), **columns)
        for name, columns in {"past": {"covariates": ["load"]}, "ahead": {"ahead": ["load"]}}.items()
    }
    later = frame["load"].to_numpy()[450:]
    for one in said.values():
        assert one["ds"].to_list() == frame["ds"].to_list()[450:]
    course = {name: np.corrcoef(one["y_hat"].to_numpy(), later)[0, 1] for name, one in said.items()}
    assert course["ahead"] > 0.9
    assert np.ptp(said["ahead"]["y_hat"].to_numpy()) > 2 * np.ptp(said["past"]["y_hat"].to_numpy())


def test_columns_of_covariates_are_asked_for_by_name():
    frame = caused(40, 0)
    with pytest.raises(ValueError, match="no column wind; wanted are unique_id, ds, y, load, wind"):
        backtest(frame, **SAY, covariates=["load"], ahead=["wind"])
    with pytest.raises(ValueError, match="40 rows whose load is no finite number"):
        backtest(frame.with_columns(load=pl.lit("high")), **SAY, covariates=["load"])
    with pytest.raises(ValueError, match="y: no covariate"):
        backtest(frame, **SAY, covariates=["y"])
