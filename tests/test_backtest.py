"""`tidecast backtest`: files of every shape become series on a grid, what is wrong is said at once, and the numbers alone are on stdout."""

from __future__ import annotations

import gzip
import json
import signal
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from models import course
from models.grid import grid
from models.prequential import Prequential
from pipeline.__main__ import app
from pipeline.arrange import Asked, arrange
from pipeline.settings import SettingsError

DATA = Path(__file__).parent / "data"
AIRLINE = [str(DATA / "river_airline_passengers.csv.gz"), "--time", "month", "--time-format", "%Y-%m", "--step", "1mo", "--horizon", "6"]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(course, "PASSES", 2)


def call(*words):
    """The verb; with one network unless said: what is said does not depend on how many there are."""
    return CliRunner().invoke(app, ["backtest", *map(str, words), *([] if "--model" in words else ["--model", "lstm"])])


def sets(*windows):
    return [word for window in windows for word in ("--set", f"window.{window}")]


def hourly(count, name="at"):
    return {name: [(datetime(2026, 1, 1) + timedelta(hours=k)).isoformat() for k in range(count)]}


def waves(count, seed=0):
    return np.sin(np.arange(count) * 2 * np.pi / 24) + np.random.default_rng(seed).normal(0, 0.2, count)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """110 hours of two series, wide."""
    file = tmp_path_factory.mktemp("short") / "short.csv"
    pl.DataFrame({**hourly(110), "a": waves(110), "b": 10 + waves(110, 1)}).write_csv(file)
    return file


def test_columns_that_are_too_many_to_see_each_other_are_said(tmp_path):
    file = tmp_path / "wide.csv"
    pl.DataFrame({**hourly(40), **{f"c{k}": waves(40, k) for k in range(35)}}).write_csv(file)
    said = call(file, "--step", "1h", "--horizon", "6", "--model", "linear").stderr
    assert "the columns are too many for least squares of so many leads to see a whole record" in " ".join(said.split())


# The object


def test_stdout_is_one_json_object_with_the_names_of_the_contract():
    done = call(*AIRLINE, "--model", "mixture", "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert list(said) == ["file", "rows", "series", "by_lead", "by_horizon", "baselines", "served", "updates_per_s", "seconds"]
    assert (said["rows"], said["series"]) == (144, 1)
    assert list(said["by_lead"]) == [str(k) for k in range(1, 7)]
    names = ["mse", "mae", "skill", "pinball", "crps", "coverage_90", "width_90", "seasonal_naive_width_90"]
    assert list(said["by_lead"]["1"]) == names
    assert list(said["by_horizon"]) == ["1", "6"]
    assert {"last_value", "seasonal_naive", "linear"} <= set(said["baselines"])
    assert list(said["baselines"]["seasonal_naive"]) == ["1", "6"]
    assert sum(said["served"].values()) == pytest.approx(1)
    assert said["by_horizon"]["6"]["mse"] < said["baselines"]["seasonal_naive"]["6"]["mse"]  # a year back, in a series that grows


def test_naive_errors_of_the_protocol_are_the_known_ones():
    file = arrange(Asked(DATA / "ETTh2.csv.gz", ("date",)), grid("1h")).matrix
    assert (file.values.shape, file.names[0]) == ((17420, 7), "HUFL")
    z = (file.values[:14400] - file.values[:2880].mean(0)) / file.values[:2880].std(0)
    origins = np.arange(3599, 14400 - 48)
    leads = [((z[origins + h] - z[origins]) ** 2).mean() for h in range(1, 49)]
    assert [round(np.mean(leads[:h]), 3) for h in (1, 24, 48)] == [0.405, 1.821, 2.852]


def test_people_get_a_summary_beside_the_naive_forecasts(short):
    done = call(short, "--step", "1h", "--horizon", "3")
    assert done.exit_code == 0, done.stderr
    shown = "tidecast", "last_value", "seasonal_naive", "skill", "90 % band", "of the width that the seasonal", "served by", "least won"
    for words in shown:
        assert words in done.stdout


def test_warm_up_says_a_line_a_pass_on_stderr_and_errors_are_in_its_unit(short):
    split = ["--step", "1h", "--horizon", "3", "--warmup", "80", "--validation", "14", "--scale", "warmup"]
    done = call(short, *split, "--json")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("warm-up pass") == 2
    values = pl.read_csv(short).select("a", "b").to_numpy()
    z = values / values[:80].std(0)
    want = np.mean((z[94:108] - z[93:107]) ** 2)
    assert json.loads(done.stdout)["baselines"]["last_value"]["1"]["mse"] == pytest.approx(want)


def test_settings_of_other_verbs_hold_here_too(short):
    done = call(short, "--step", "1h", "--horizon", "3", "--set", "forecast.levels=0.1,0.5,0.9", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["by_lead"]["1"]["coverage_90"] is None


def test_another_seed_is_another_network_and_the_same_one_says_the_same(short):
    said = [call(short, "--step", "1h", "--horizon", "3", "--seed", seed, "--json") for seed in (1, 1, 2)]
    assert [done.exit_code for done in said] == [0, 0, 0]
    errors = [json.loads(done.stdout)["by_lead"] for done in said]
    assert errors[0] == errors[1] != errors[2]


def test_learning_waits_for_the_disorder_that_is_said(short):
    """Of 110 rows the forecasts from the first ones are by weights that have learnt nothing: the later learning begins, the more."""
    steps = {}
    for disorder in (0, 40):
        done = call(short, "--step", "1h", "--horizon", "3", "--disorder", disorder, "--json")
        assert done.exit_code == 0, done.stderr
        steps[disorder] = json.loads(done.stdout)["by_lead"]["1"]["mse"]
    assert steps[0] != steps[40]


def test_one_series_a_row_with_a_start_is_played_as_well(tmp_path):
    values, file = waves(110), tmp_path / "rows.csv"
    rows = [["name", *range(110)], ["a", *values], ["b", *(10 + values[:90]), *[""] * 20]]
    file.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    said = [
        call(file, "--wide-rows", "--start", start, "--step", "1h", "--horizon", "3", "--json") for start in ("2026-01-01", "2026-01-02")
    ]
    found = [json.loads(done.stdout) for done in said]
    assert [(one["rows"], one["series"]) for one in found] == [(110, 2)] * 2
    assert found[0]["by_lead"] != found[1]["by_lead"]  # another day of the week


def test_a_further_season_is_learnt_from(tmp_path):
    file = tmp_path / "shifts.csv"
    hours = np.arange(700)
    shifts = np.random.default_rng(3).normal(0, 5, 10)[hours % 60 // 6]  # ten shifts of six hours, over again
    pl.DataFrame({**hourly(700), "a": 40 + waves(700) + shifts, "b": 10 + waves(700, 1) - shifts}).write_csv(file)
    words = [file, "--step", "1h", "--horizon", "6", "--model", "linear"]
    one, both = ([*words, "--season", season] for season in ("24", "24,60"))
    report = tmp_path / "report.html"
    found = [json.loads(call(*said, "--json").stdout) for said in (one, [*both, "--report", report])]
    assert found[1]["by_lead"]["6"]["skill"] > found[0]["by_lead"]["6"]["skill"] + 0.1
    assert [each["baselines"]["seasonal_naive"] for each in found] == [found[0]["baselines"]["seasonal_naive"]] * 2
    assert "24, 60" in report.read_text()


def test_the_report_is_written_where_it_is_asked_for(short, tmp_path):
    out = tmp_path / "out.html"
    done = call(short, "--step", "1h", "--horizon", "3", "--report", out, "--json")
    assert done.exit_code == 0, done.stderr
    assert "short.csv" in out.read_text()
    json.loads(done.stdout)


def test_ctrl_c_ends_with_the_summary_so_far_and_130(short, monkeypatch):
    whole = Prequential.play

    def pressed(self, **kwargs):
        for row in whole(self, **kwargs):
            if row == 30:
                signal.raise_signal(signal.SIGINT)
            yield row

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Prequential, "play", pressed)
    done = call(short, "--step", "1h", "--horizon", "3", "--json")
    assert done.exit_code == 130
    assert json.loads(done.stdout)["by_lead"]["3"]["mae"] > 0
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_the_warm_up_ends_after_its_pass(short, monkeypatch):
    whole = Prequential._warm

    def pressed(self, passed):
        signal.raise_signal(signal.SIGINT)
        whole(self, passed)

    monkeypatch.setattr(Prequential, "_warm", pressed)
    done = call(short, "--step", "1h", "--horizon", "3", "--warmup", "80", "--validation", "14")
    assert (done.exit_code, done.stdout) == (130, "nothing has been scored yet\n")
    assert done.stderr.count("warm-up pass") == 1


# Files


def arranged(file, step="1h", **kwargs):
    return arrange(Asked(file, **kwargs), grid(step))


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "ndjson", "ndjson.gz"])
def test_every_kind_of_file_gives_the_same_series(tmp_path, kind):
    table = pl.DataFrame({**hourly(30), "series": ["x"] * 30, "value": waves(30)})
    file = tmp_path / f"f.{kind}"
    if kind == "parquet":
        table.with_columns(pl.col("at").str.to_datetime()).write_parquet(file)
    else:
        text = table.write_csv() if "csv" in kind else table.write_ndjson()
        file.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    found = arranged(file).matrix
    assert found.names == ("x",)
    np.testing.assert_array_equal(found.values[:, 0], waves(30))
    assert grid("1h").times(np.array([found.first]))[0] == datetime(2026, 1, 1).timestamp() * 1e6


def test_nested_fields_are_columns(tmp_path):
    file = tmp_path / "f.ndjson"
    file.write_text("".join(json.dumps({"t": k, "load": {"of": {"pump": k * 2.0}}}) + "\n" for k in range(5)))
    found = arranged(file, step="1s", time=("t",), time_format="s", values=("load.of.pump",)).matrix
    assert (found.names, found.first, found.values.ravel().tolist()) == (("load.of.pump",), 0, [0, 2, 4, 6, 8])


def test_series_columns_and_value_columns_make_a_series_each(tmp_path):
    file = tmp_path / "f.csv"
    file.write_text("at,site,room,x,y\n" + "".join(f"2026-01-01T{h:02}:00:00Z,s{k},r,{h},{k}\n" for h in range(3) for k in range(2)))
    assert arranged(file, series=("site", "room")).matrix.names == ("s0/r/x", "s0/r/y", "s1/r/x", "s1/r/y")
    assert arranged(file, series=("site",), values=("y",)).matrix.names == ("s0", "s1")
    assert arranged(file, series=("site",)).matrix.columns == 2
    assert arranged(file, series=("site",), values=("y",)).matrix.columns == 0


def test_without_a_series_column_all_columns_of_numbers_are_series(tmp_path):
    file = tmp_path / "f.csv"
    file.write_text("at,word,x,y\n" + "".join(f"2026-01-01T{h:02}:00:00Z,w,{h},{-h}\n" for h in range(3)))
    assert arranged(file).matrix.names == ("x", "y")


def test_times_in_several_columns_and_missing_values(tmp_path):
    file = tmp_path / "f.csv"
    file.write_text("year,month,day,hour,v\n2010,1,1,0,NA\n2010,1,1,1,5\n2010,1,1,4,7\n")
    found = arranged(file, time=("year", "month", "day", "hour"), time_format="%Y %m %d %H", values=("v",))
    np.testing.assert_array_equal(found.matrix.values[:, 0], [np.nan, 5, np.nan, np.nan, 7])
    assert found.notes == ("2 of 5 values are missing between a series' first and its last; nothing is put in their place",)


def test_wide_rows_begin_at_start_and_end_where_they_end(tmp_path):
    file = tmp_path / "f.csv"
    file.write_text('"V1","V2","V3","V4","V5"\n"H1","1","2",NA,NA\n"H2","5","6","7",NA\n')
    found = arranged(file, wide_rows=True, start="2015-07-01").matrix
    assert found.names == ("H1", "H2")
    np.testing.assert_array_equal(found.values, [[1, 5], [2, 6], [np.nan, 7]])
    assert grid("1h").times(np.array([found.first]))[0] == datetime(2015, 7, 1).timestamp() * 1e6


def test_business_days_have_no_weekends_and_newest_first_is_as_good(tmp_path):
    days = [d for d in (datetime(2026, 11, 2) + timedelta(k) for k in range(28)) if d.weekday() < 5]
    file = tmp_path / "f.csv"
    file.write_text("Date,Stock,Close\n" + "".join(f"{d:%Y-%m-%d},{s},{k}\n" for k, d in reversed([*enumerate(days)]) for s in ("B", "A")))
    found = arranged(file, step="1b", time=("Date",), series=("Stock",)).matrix
    np.testing.assert_array_equal(found.values, np.repeat(np.arange(20.0)[:, None], 2, 1))


def test_months_are_steps_and_ordinal_days_are_times(tmp_path):
    found = arranged(DATA / "river_airline_passengers.csv.gz", step="1mo", time=("month",), time_format="%Y-%m").matrix
    assert (found.values.shape, np.isnan(found.values).any()) == ((144, 1), False)
    found = arranged(DATA / "river_trump_approval.csv.gz", step="1d", time=("ordinal_date",), time_format="ordinal").matrix
    assert str(np.datetime64(found.first, "D")) == "2017-03-01"


def test_series_of_different_starts_and_lengths_stand_side_by_side(tmp_path):
    file = tmp_path / "f.csv"
    rows = [("a", h, h) for h in range(5)] + [("b", h, -h) for h in range(3, 9)]
    file.write_text("at,series,value\n" + "".join(f"2026-01-01T{h:02}:00:00Z,{s},{v}\n" for s, h, v in rows))
    values = arranged(file).matrix.values
    assert np.isnan(values).tolist() == [[h >= 5, h < 3] for h in range(9)]


def test_of_two_rows_for_a_cell_the_last_counts_and_it_is_said(tmp_path):
    file = tmp_path / "f.csv"
    file.write_text("at,value\n2026-01-01T00:00:00Z,1\n2026-01-01T00:30:00Z,2\n2026-01-01T01:00:00Z,3\n")
    found = arranged(file)
    assert found.matrix.values.ravel().tolist() == [2, 3]
    assert found.notes == ("1 values were overruled by a later row for the same step (rows 1)",)


# What is wrong


def test_all_faults_are_said_at_once_and_the_exit_code_is_2(short):
    done = call(short, "--step", "1h", "--time", "when", "--values", "a,c", "--series", "who")
    assert (done.exit_code, done.stdout) == (2, "")
    for words in ("no column when (--time); there are at, a, b", "no column who (--series)", "no column c (--values)"):
        assert words in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--step", "1h", "--warmup", "2000"], "110 rows (steps from the first to the last time) are fewer than 2,000 warm-up"),
        (["--step", "1h", "--scale", "warmup"], "there are no warm-up rows"),
        (["--step", "1 fortnight"], "--step is '1 fortnight'; allowed:"),
        ([], "series.step is required"),
        (["--step", "1h", "--model", "oracle"], "forecast.model = oracle (flag): not known; allowed: mixture, nets"),
        (["--step", "1h", "--report", "/no/such/folder/x.html"], "--report /no/such/folder/x.html: No such file or directory"),
        (["--step", "1h", "--wide-rows"], "--wide-rows needs --start"),
        (["--step", "1h", "--time-format", "%Q"], "--time-format %Q:"),
        (["--step", "1h", "--time-format", "ms"], "at is no time as --time-format ms has it (row 1: 2026-01-01T00:00:00"),
        (["--step", "1us"], "is the step right?"),
        (["--step", "1h", "--set", "window.span=2h"], "a backtest learns at every step"),
        (["--step", "1h", *sets("kind=session", "gap=2h", "max_span=1d")], "window.kind = session: a backtest learns every step"),
        (["--step", "1h", *sets("kind=sliding", "span=6h", "every=2h")], "window.every: a backtest learns at every step"),
    ],
)
def test_wrong_usage_is_named_and_exits_2(short, words, said):
    done = call(short, *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("at,value\n2026-01-01T00:00:00Z,1\nsoon,2\n", r"at is no time as --time-format rfc3339 has it \(row 2: soon\)"),
        ("at,value\n2026-01-01T00:00:00Z,1\n,2\n", r"at is no time .*\(row 2: None\)"),
        ("at,value\n", "no rows"),
        ("at,word\n2026-01-01T00:00:00Z,x\n", "no column of numbers; say with --values"),
        ("at,series,value\n2026-01-01T00:00:00Z,,1\n", r"no series in series \(row 1: None\)"),
        ("at,value\n2026-01-01T00:00:00Z,inf\n", r"value is not finite \(row 1: inf\)"),
        ("", "not csv"),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path, text, said):
    file = tmp_path / "f.csv"
    file.write_text(text)
    with pytest.raises(SettingsError, match=said):
        arranged(file)


def test_words_among_the_numbers_are_named(tmp_path):
    file = tmp_path / "f.csv"
    file.write_text("at,value\n2026-01-01T00:00:00Z,1\n2026-01-01T01:00:00Z,\x1b[31m?\n")
    with pytest.raises(SettingsError, match=r"value is no number \(row 2: \\x1b\[31m\?\)"):
        arranged(file, values=("value",))


@pytest.mark.parametrize(
    ("name", "said"), [("gone.csv", "No such file"), ("f.xlsx", "what is it"), ("f.csv.gz", "f.csv.gz"), ("f.parquet", "not parquet")]
)
def test_files_that_are_not_what_they_seem_are_named(tmp_path, name, said):
    if name != "gone.csv":
        (tmp_path / name).write_bytes(b"at,value\n1,2\n")
    with pytest.raises(SettingsError, match=said):
        arranged(tmp_path / name)


def test_two_wide_rows_of_one_name_are_named(tmp_path):
    file = tmp_path / "f.csv"
    file.write_text("n,1,2\nH1,1,2\nH1,3,4\n")
    with pytest.raises(SettingsError, match=r"that of a row before it \(row 2: H1\)"):
        arranged(file, wide_rows=True, start="2026-01-01")


def test_a_first_wide_row_is_not_taken_for_the_names_of_columns(tmp_path):
    file = tmp_path / "f.csv"
    file.write_text("H1,1.5,2\nH2,3,4\n")
    with pytest.raises(SettingsError, match="put a line of names above it"):
        arranged(file, wide_rows=True, start="2026-01-01")


def test_the_help_has_examples():
    done = call("--help")
    assert done.exit_code == 0
    assert done.stdout.count("Example: tidecast backtest") == 5


# Covariates


@pytest.fixture(scope="module")
def caused(tmp_path_factory):
    """400 hours of a noisy walk, which follows three times a plan; text beside."""
    rng = np.random.default_rng(2)
    plan = rng.normal(0, 1, 400).cumsum()
    file = tmp_path_factory.mktemp("caused") / "caused.csv"
    pl.DataFrame({**hourly(400), "y": rng.normal(0, 1, 400).cumsum() + 3 * plan, "plan": plan, "note": ["x"] * 400}).write_csv(file)
    return file


def test_what_is_known_ahead_helps(caused):
    skill = {}
    for name, words in {"without": ("--values", "y"), "past": ("--covariates", "plan"), "ahead": ("--ahead", "plan")}.items():
        done = call(caused, *words, "--step", "1h", "--season", "none", "--horizon", "4", "--model", "linear", "--json")
        assert done.exit_code == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["series"] == 1
        assert ("linear covariates" in said["baselines"]) == (name != "without")
        skill[name] = [said["by_lead"][lead]["skill"] for lead in ("1", "4")]
    assert max(*skill["without"], *skill["past"]) < 0.05
    assert min(skill["ahead"]) > 0.3


def test_what_is_wrong_with_covariates_is_said_at_once(caused, short):
    done = call(caused, "--covariates", "rain", "--values", "wind", "--step", "1h")
    assert done.exit_code == 2
    assert "no column wind (--values)" in done.stderr
    assert "no column rain (--covariates)" in done.stderr
    assert "note is no number" in call(caused, "--covariates", "note", "--step", "1h").stderr
    assert "--wide-rows has no columns of covariates" in call(short, "--wide-rows", "--covariates", "a", "--step", "1h").stderr
