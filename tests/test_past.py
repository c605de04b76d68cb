"""What retraining reads of a history is what a stream would have read of it."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models import covariates, lesson
from models.inputs import LAGS
from models.learner import Learner
from models.past import DEPTH, Past, Scales, chunks, drawn, scales
from pipeline import history, learn, operate
from pipeline.configure import config_of
from pipeline.decode import Decoder, shape_of
from pipeline.history import History, NoHistory
from pipeline.learn import Shard
from pipeline.records import Raw, RawBlock, Source
from pipeline.settings import Settings, SettingsError

ROWS, HOUR = 300, 3_600_000_000
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
GAP = 2 * LAGS + 2  # the input that says how far behind a chain its own carry stands
SOURCE = Source("meters", 0)


def read(**more: str) -> Settings:
    flags = {
        "input.topics": "meters", "series.step": "1h", "series.season": "6,15", "forecast.horizon": "4", "learn.members": "2",
        "learn.truncation": "3", "learn.replay": "50", "input.start": "earliest",
    }  # fmt: skip
    return Settings.read(None, {}, flags | {name.replace("__", "."): value for name, value in more.items()})


def rows(seed: int = 5, gaps: float = 0.05) -> list[tuple[str, int, float | None]]:
    """Three series (name, row, value) with gaps, in order of time; one begins late, one ends early."""
    rng, out = np.random.default_rng(seed), []
    for t in range(ROWS):
        for k, name in enumerate("abc"):
            if (k == 1 and t < 60) or (k == 2 and t > ROWS - 30) or rng.random() < gaps:
                continue
            value = round(10.0 * (k + 1) + 3 * np.sin(2 * np.pi * (t + k) / 6) + rng.normal(0, 0.4), 3)
            out.append((name, t, None if rng.random() < 0.01 else value))
    return out


def at(row: int) -> str:
    return (BEGIN + row * timedelta(hours=1)).isoformat().replace("+00:00", "Z")


def raw(part: list[tuple[str, int, float | None]]) -> RawBlock:
    stamp = int(BEGIN.timestamp() * 1e6) + ROWS * HOUR
    values = [json.dumps({"series": s, "at": at(t), "value": v}).encode() for s, t, v in part]
    return RawBlock(SOURCE, 0, len(part), 0.0, ended=True, records=[Raw(i, stamp, None, v) for i, v in enumerate(values)])


class Records:
    """A reader of one partition, a few records at a time."""

    def __init__(self, block: RawBlock, size: int = 97) -> None:
        self._block, self._size = block, size

    def take(self, source: Source, position: int, limit: int | None) -> RawBlock:
        stop = min(position + self._size, len(self._block.records), limit if limit is not None else 1 << 60)
        return RawBlock(source, position, stop, 0.0, records=self._block.records[position:stop])

    def wait(self, seconds: float) -> None:
        raise AssertionError("it has all there is")


def of_records(settings: Settings, part: list[tuple[str, int, float | None]], folder: Path) -> History:
    folder.mkdir(exist_ok=True)
    block = raw(part)
    return history._gathered(settings, Records(block), {SOURCE: range(len(part))}, folder, told=lambda _: None, kafka=True)


def of_table(settings: Settings, part: list[tuple[str, int, float | None]], folder: Path, kind: str = "parquet") -> History:
    folder.mkdir(exist_ok=True)
    table = pl.DataFrame([{"series": s, "at": at(t), "value": v} for s, t, v in part])
    if kind == "parquet":
        half = len(table) // 2
        (folder / "in").mkdir()
        table[:half].write_parquet(folder / "in/0.parquet")
        table[half:].write_parquet(folder / "in/1.parquet")
        return history.of_file(settings, str(folder / "in"), folder, told=lambda _: None)
    file = folder / f"rows.{kind}"
    table.write_csv(file) if kind == "csv" else table.write_ndjson(file)
    return history.of_file(settings, str(file), folder, told=lambda _: None)


def same(one: Past, other: Past) -> bool:
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def streamed() -> Shard:
    """A stream's shard, once everything has been closed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learn, "BY_REFERENCE", False)
        settings = read()
        shard = Shard(operate.spec_of(settings, (SOURCE,), now=0.0)._replace(close_at_end=True, apart=False))
        part = rows()
        block = raw(part)
        for first in range(0, len(part), 50):
            stop = min(first + 50, len(part))
            few = RawBlock(SOURCE, first, stop, 0.0, ended=stop == len(part), records=block.records[first:stop])
            shard.take(Decoder(shape_of(settings, kafka=True)).decode(few))
        return shard


def test_topic_and_files_give_the_same_history(tmp_path: Path) -> None:
    settings, part = read(), rows()
    topic = of_records(settings, part, tmp_path / "topic")
    assert topic.positions == {"meters/0": (0, len(part))}
    for kind in ("parquet", "csv", "ndjson"):
        file = of_table(settings, part, tmp_path / kind, kind)
        assert same(file.past, topic.past), kind
        assert (file.observations, file.sha256, file.positions) == (topic.observations, topic.sha256, {})
    assert topic.observations == sum(v is not None for _, _, v in part)


def test_several_samples_a_step_are_joined_as_the_stream_joins_them(tmp_path: Path) -> None:
    settings = read(series__step="2h", series__season="3", series__samples="many", time__disorder="0s")
    part = rows()
    found = of_table(settings, part, tmp_path / "csv", "csv")
    first = [v for s, t, v in part if s == "a" and t in (0, 1) and v is not None]
    assert found.past.read(np.array([0]), found.past.first[:1, None])[0, 0] == pytest.approx(np.mean(first))
    assert same(of_records(settings, part, tmp_path / "topic").past, found.past)


def test_scales_are_those_of_the_streams_learner(streamed: Shard, tmp_path: Path) -> None:
    past = of_records(read(), rows(), tmp_path / "h").past
    found = scales(past, config_of(read()), until=int(past.last.max()) + 1)
    known = streamed.learner.series(slots(streamed))
    np.testing.assert_array_equal(found.scale, known.scale)
    np.testing.assert_array_equal(found.naive, known.naive)
    np.testing.assert_array_equal(found.lasting, known.lasting)


def slots(shard: Shard) -> np.ndarray:
    """Of the series in the order of their names."""
    return np.array([shard.gather.names[name] for name in "abc"])


def test_windows_are_the_flows(streamed: Shard, tmp_path: Path) -> None:
    """The newest chains of all phases: inputs, masks, bearings, units, labels."""
    settings, learner, of = read(), streamed.learner, slots(streamed)
    past = of_records(settings, rows(), tmp_path / "h").past
    known, end, depth = int(past.last.max()) + 1, int(past.last.min()), learner.config.truncation
    side = Scales(*learner.series(of)[1:])
    compared = 0
    for back in range(LAGS):
        ends = np.full(3, end - back)
        online, origins = lesson.chains(learner.memory, learner.series(of), ends, depth=depth, origins=depth, form=learner.form)
        begin = ends - LAGS * (DEPTH - 1)
        [offline] = chunks(past, side, np.arange(3), begin, form=learner.form, count=1, known=known, since=0)
        tails = [
            np.flatnonzero(offline.whole.row == np.flatnonzero(offline.lane == lane)[0])[-count:]
            for lane, count in zip(origins.asked[np.r_[True, np.diff(origins.asked) > 0]], online.lengths, strict=True)
        ]
        at = np.concatenate(tails)
        for name in ("blend", "paths", "target", "known"):
            np.testing.assert_array_equal(getattr(offline.whole, name)[at], getattr(online, name), err_msg=name)
        starts = offline.whole.lengths.cumsum() - offline.whole.lengths
        x = offline.whole.x[starts[offline.whole.row[at]] + offline.whole.place[at]]
        first = online.place == 0
        np.testing.assert_array_equal(x[~first], online.x[~first])
        np.testing.assert_array_equal(np.delete(x[first], GAP, 1), np.delete(online.x[first], GAP, 1))
        compared += len(at)
    assert compared > 40


def told(part: list[tuple[str, int, float | None]]) -> RawBlock:
    """The same records, with wind, of which two hours are known ahead; some say nothing of it, and one of it alone."""
    block, rng = raw(part), np.random.default_rng(1)
    for one in block.records:
        record = json.loads(one.value or b"")
        now = datetime.fromisoformat(record["at"])
        if rng.random() < 0.9:
            record["wind"] = round(float(rng.normal()), 3)
            later = [now + k * timedelta(hours=1) for k in (1, 2)]
            record["ahead"] = [{"at": t.isoformat().replace("+00:00", "Z"), "wind": round(float(rng.normal()), 3)} for t in later]
        block.records[one.offset] = one._replace(value=json.dumps(record).encode())
    return block


def test_what_was_known_of_covariates_is_what_the_stream_knew(tmp_path: Path) -> None:
    """Of each cell that the stream's ring still holds, from a topic and from a file of the same records."""
    settings = read(input__covariates="wind", input__ahead="wind")
    block = told(rows())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learn, "BY_REFERENCE", False)
        shard = Shard(operate.spec_of(settings, (SOURCE,), now=0.0)._replace(close_at_end=True, apart=False))
        for first in range(0, len(block.records), 50):
            stop = min(first + 50, len(block.records))
            few = RawBlock(SOURCE, first, stop, 0.0, ended=stop == len(block.records), records=block.records[first:stop])
            shard.take(Decoder(shape_of(settings, kafka=True)).decode(few))
    (tmp_path / "topic").mkdir()
    sources = {SOURCE: range(len(block.records))}
    found = history._gathered(settings, Records(block), sources, tmp_path / "topic", told=lambda _: None, kafka=True)
    (tmp_path / "file").mkdir()
    lines = tmp_path / "file.ndjson"
    lines.write_bytes(b"\n".join(one.value or b"" for one in block.records))
    again = history.of_file(settings, str(lines), tmp_path / "file", told=lambda _: None)
    assert same(again.past, found.past)
    assert again.sha256 == found.sha256 != of_records(read(), rows(), tmp_path / "bare").sha256
    m, of, compared = shard.learner.memory, slots(shard), 0
    for k, slot in enumerate(of.tolist()):
        for cell, outlook in zip(m["outlook_of"][slot].tolist(), m["outlook"][slot], strict=True):
            if cell >= found.past.first[k]:
                np.testing.assert_array_equal(found.past.outlook(np.array([k]), np.array([[cell]]))[0, 0], outlook)
                compared += 1
    assert compared > 200
    assert np.isfinite(np.asarray(found.past.outlooks, np.float32)).mean() > 0.5


def test_nothing_behind_the_cut_is_seen(tmp_path: Path) -> None:
    """Values behind it are others: chunks before it are the same, byte for byte."""
    past = of_records(read(), rows(), tmp_path / "h").past
    learner, cut = Learner(config_of(read())), int(past.first.min()) + 200
    side = scales(past, learner.config, until=cut)
    cells = past.first.repeat(np.diff(past.start)) + np.arange(past.start[-1]) - past.start[:-1].repeat(np.diff(past.start))
    spoilt = past._replace(values=np.where(cells >= cut, 1e6, past.values))
    for again, one in zip(side, scales(spoilt, learner.config, until=cut), strict=True):
        np.testing.assert_array_equal(again, one)
    lanes = drawn(past, np.random.default_rng(0), 40, begin=int(past.first.min()), until=cut)
    pairs = zip(*(list(chunks(one, side, *lanes, form=learner.form, count=3, known=cut)) for one in (past, spoilt)), strict=True)
    seen = 0
    for one, other in pairs:
        seen += int(one.whole.known.sum())
        for a, b in zip(one.whole, other.whole, strict=True):
            np.testing.assert_array_equal(a, b)
    assert seen > 500


def test_a_lane_in_chunks_is_the_lane_in_one(tmp_path: Path) -> None:
    """Carries handed on from chunk to chunk say what one long chunk says."""
    import torch

    from models.network import Ensemble

    past = of_records(read(), rows(gaps=0.1), tmp_path / "h").past
    learner = Learner(config_of(read()))
    side, end = scales(past, learner.config, until=int(past.last.max()) + 1), int(past.last.max()) + 1
    network = Ensemble(**learner.plan()["network"])
    begin = past.first.min() + np.arange(3)

    def last(depth: int, count: int, patch: pytest.MonkeyPatch) -> torch.Tensor:
        patch.setattr("models.past.DEPTH", depth)
        carry = torch.zeros(3, 4, learner.config.hidden)
        for chunk in chunks(past, side, np.arange(3), begin, form=learner.form, count=count, known=end, since=0):
            lane, before = torch.from_numpy(chunk.lane), torch.from_numpy(chunk.whole.carry[:, :1].astype(np.float32))
            carry[lane] = lesson.carried(network, chunk.whole, learner.levels, carry[lane] * before)[1]
        return carry

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        torch.testing.assert_close(last(30, 1, patch), last(6, 5, patch), rtol=1e-5, atol=1e-6)
        assert last(30, 1, patch).abs().sum() > 1


def test_lanes_from_before_there_is_anything_begin_where_it_does(tmp_path: Path) -> None:
    past = of_records(read(), rows(), tmp_path / "h").past
    learner, known = Learner(config_of(read())), int(past.last.max()) + 1
    side = scales(past, learner.config, until=known)
    found = list(chunks(past, side, np.array([1]), past.first[1:2] - LAGS * DEPTH, form=learner.form, count=2, known=known, since=0))
    assert [chunk.begins for chunk in found] == [True]


def test_with_each_cell_comes_what_was_known_of_covariates_there(tmp_path: Path) -> None:
    past = of_records(read(), rows(gaps=0.0), tmp_path / "h").past
    config = dataclasses.replace(config_of(read()), covariates=("wind",), ahead=("wind",))
    known, plan, end = Learner(config).form, Learner(config).form.known, int(past.last.max()) + 1
    outlooks = np.random.default_rng(0).normal(size=(past.start[-1], plan.width)).astype(np.float16)
    told = past._replace(outlooks=outlooks)
    side = scales(past, config, until=end)
    series, begin = np.array([0, 2]), past.first[[0, 2]]
    chunk = next(chunks(told, side, series, begin, form=known, count=1, known=end, since=0))
    first = 0
    for lane, length in zip(chunk.lane.tolist(), chunk.whole.lengths.tolist(), strict=True):
        cells = begin[lane] + LAGS * np.arange(DEPTH)
        there = ~np.isnan(past.read(series[lane : lane + 1], cells[None])[0])
        of = told.outlook(series[lane : lane + 1], cells[None][:, there])[0]
        columns = np.concatenate(covariates.features(plan, of), 1)
        x = chunk.whole.x[first : first + length]
        assert any(np.array_equal(x[:, at : at + columns.shape[1]], columns) for at in range(known.features))
        np.testing.assert_array_equal(chunk.whole.paths[first : first + length, -plan.paths :], covariates.paths(plan, of))
        first += length
    assert first == len(chunk.whole.x) > 30


def test_every_value_is_as_likely(tmp_path: Path) -> None:
    past = of_records(read(), rows(), tmp_path / "h").past
    begin, until = int(past.first.min()), int(past.first.min()) + 200
    series, cell = drawn(past, np.random.default_rng(1), 4_000, begin=begin, until=until)
    assert ((cell >= past.first[series]) & (cell < until)).all()
    share = np.bincount(series, minlength=3) / 4_000
    np.testing.assert_allclose(share, np.array([200, 140, 200]) / 540, atol=0.03)


def test_nothing_to_learn_from_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoHistory, match="no observation could be used"):
        of_records(read(), [], tmp_path / "h")
    (tmp_path / "t").mkdir()
    with pytest.raises(NoHistory):
        of_table(read(), [("a", 0, None)], tmp_path / "t", "csv")


@pytest.mark.parametrize(
    ("file", "more", "said"),
    [
        ("a.csv", {}, "no column value; there are series, at, x"),
        ("a.csv", {"input__series": "meter"}, "no column meter, value"),
        ("a.txt", {}, "what is it"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, file: str, more: dict[str, str], said: str) -> None:
    (tmp_path / file).write_text("series,at,x\na,2026-01-01T00:00:00Z,1\n")
    with pytest.raises(SettingsError, match=said):
        history.of_file(read(**more), str(tmp_path / file), tmp_path, told=lambda _: None)


def test_rows_that_cannot_be_used_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [
        "series,at,value",
        "a,2026-01-01T00:00:00Z,1",
        "a,no time,2",
        "a,2026-01-01T02:00:00Z,1e39",
        "a,1980-01-01T00:00:00Z,1",
        "b,2026-01-01T03:00:00Z,4",
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    found = history.of_file(read(input__exclude="b"), str(tmp_path / "a.csv"), tmp_path, told=lambda _: None)
    assert (found.observations, found.left_out, len(found.past.key)) == (1, 3, 1)


def test_wide_rows_are_a_series_a_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("at,x,y\n2026-01-01T00:00:00Z,1,2\n2026-01-01T01:00:00Z,3,\n")
    found = history.of_file(read(input__values="x,y"), str(tmp_path / "a.csv"), tmp_path, told=lambda _: None)
    assert found.past.values.tolist() == [1.0, 3.0, 2.0]
