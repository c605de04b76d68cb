"""A stream that starts from what a backtest has taught says what the backtest says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from kafka import KafkaProducer
from typer.testing import CliRunner

from models import course
from models.grid import grid
from models.prequential import Split
from pipeline import backtest, configure, learn, operate, taught
from pipeline.__main__ import app
from pipeline.arrange import Asked, arrange
from pipeline.compose import tidy
from pipeline.learn import OtherModel, Shard
from pipeline.records import Source
from pipeline.settings import Settings
from tests.instances import Instance, committed, make_ours, server, settings, until
from tests.test_learn import told

ROWS, SPLIT = 280, Split(180, 20, 80)
BEGIN = datetime(2026, 1, 1)
FLAGS = {
    "input.values": "a,b", "series.season": "6", "forecast.horizon": "4", "forecast.min_scores": "10",
    "learn.members": "2", "forecast.publish_from": "earliest",
}  # fmt: skip
WORDS = [word for name, value in FLAGS.items() for word in ("--set", f"{name}={value}")]
Said = dict[tuple[str, str], tuple[list[float], list[list[float]]]]  # (series, issued at) -> point, quantiles


class Lesson(NamedTuple):
    file: Path  # of rows
    model: Path
    said: Said  # by the backtest, from the last warm-up row on
    version: str


def at(row: int) -> str:
    return (BEGIN + timedelta(hours=row)).isoformat() + "Z"


def values() -> np.ndarray:
    """(T, 2) two waves with noise, that drift; with gaps."""
    rng, t = np.random.default_rng(3), np.arange(ROWS)[:, None]
    wave = np.sin((t + np.array([0, 2])) * 2 * np.pi / 6) + rng.normal(0, 0.2, (ROWS, 2)) + rng.normal(0, 0.1, (ROWS, 2)).cumsum(0)
    return np.where(rng.random((ROWS, 2)) < 0.04, np.nan, np.round(wave + np.array([5, 50]), 3))


def rows() -> list[dict[str, object]]:
    return [
        {"at": at(t), **{c: None if np.isnan(v) else v for c, v in zip("ab", row, strict=True)}} for t, row in enumerate(values().tolist())
    ]


def read(**more: str) -> Settings:
    flags = {
        "input.topics": "rows.csv",
        "series.step": "1h",
        "application": "app",
        **FLAGS,
        **{n.replace("__", "."): v for n, v in more.items()},
    }
    return Settings.read(None, {}, flags)


@pytest.fixture(scope="module", autouse=True)
def _by_value() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learn, "BY_REFERENCE", False)  # put back, whatever a replay sets
        yield


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    folder = tmp_path_factory.mktemp("taught")
    file, model, said = folder / "rows.csv", folder / "model", {}
    pl.DataFrame(rows()).write_csv(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "PASSES", 2)
        loop = backtest.prepared(arrange(Asked(file, values=("a", "b")), grid("1h")), read(), grid("1h"), split=SPLIT, scale="none")

        def heard(row: int, series: np.ndarray, step: backtest.Prequential) -> None:
            for k, s in enumerate(series.tolist() if row >= SPLIT.warmup else []):
                said["ab"[s], at(row)] = tidy(step.point[k]).tolist(), tidy(step.quantiles[k]).tolist()

        for _ in loop.play(warmed=lambda warmth: backtest.keep(model, loop, warmth), heard=heard):
            pass
    return Lesson(file, model, said, loop.learner.version)


def heard_in(lines: list[bytes]) -> Said:
    forecasts = [json.loads(line) for line in lines]
    found = {(f["series"], f["issued_at"]): (f["point"], f["quantiles"]) for f in forecasts}
    assert len(found) == len(forecasts)
    return found


def shard_of(lesson: Lesson, **more: str) -> Shard:
    return Shard.begin(operate.spec_of(read(learn__start_from=str(lesson.model), **more), (Source("t", 0),), now=0.0))


# The same numbers


@pytest.fixture(scope="module")
def replayed(lesson: Lesson, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """What a replay of all rows wrote, and its summary."""
    out = tmp_path_factory.mktemp("replayed")
    call = ["replay", str(lesson.file), "--step", "1h", "--set", f"learn.start_from={lesson.model}", "--out", str(out), "--json", *WORDS]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.stderr
    return out, json.loads(done.stdout)


def test_a_replay_from_a_taught_model_says_what_the_backtest_said(lesson: Lesson, replayed: tuple[Path, dict[str, int]]) -> None:
    lines = (replayed[0] / "forecasts.ndjson").read_bytes().splitlines()
    assert heard_in(lines) == lesson.said
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    assert {first["model_version"], last["model_version"]} == {lesson.version}
    assert (first["updates"], first["woken"], first["cold"]) == (0, False, False)
    assert last["observations"] > SPLIT.warmup
    assert ROWS - SPLIT.warmup - 5 < last["updates"] < ROWS - SPLIT.warmup


def test_what_the_model_has_seen_is_late_and_counted(replayed: tuple[Path, dict[str, int]]) -> None:
    out, ledger = replayed
    assert ledger["late"] == 2 * SPLIT.warmup
    assert ledger["consumed"] == 2 * ROWS == ledger["used"] + ledger["late"]
    late = [json.loads(line) for line in (out / "late.ndjson").read_text().splitlines()]
    assert {round(record["late_seconds"] / 3600) for record in late} == set(range(1, SPLIT.warmup + 1))


@pytest.fixture(scope="module")
def forking() -> Iterator[None]:
    with server():
        yield


@pytest.mark.kafka
@pytest.mark.slow
def test_a_run_from_a_taught_model_says_what_the_backtest_said(
    lesson: Lesson, forking: None, kafka: str, make_topic: Callable[..., str], name: str, tmp_path: Path
) -> None:
    """Half of the topic, a `kill -9` before or after the first snapshot, the rest."""
    topic = make_topic(1, suffix=".input")
    make_ours(kafka, name)
    producer = KafkaProducer(bootstrap_servers=kafka)
    given = settings(
        kafka, name, topic, tmp_path, learn__start_from=str(lesson.model), **{n.replace(".", "__"): v for n, v in FLAGS.items()}
    )

    def said() -> str:
        return run.said()

    def sent(part: list[dict[str, object]], until_there: int) -> None:
        for row in part:
            producer.send(topic, value=json.dumps(row).encode())
        producer.flush(30)
        until(lambda: len(committed(kafka, f"{name}.forecasts.v1")) >= until_there or not run.running(), told=said)

    half = SPLIT.warmup + 30
    run = Instance(tmp_path, "run", "--json", *given)
    sent(rows()[:half], sum(1 for _, when in lesson.said if when < at(half)))
    run.kill()
    run = Instance(tmp_path, "run", "--json", "--take-over", *given)
    sent(rows()[half:], len(lesson.said))
    code, summary = run.stopped()
    producer.close()

    assert code == 0, run.said()
    assert "not, byte for byte" not in run.said()
    assert heard_in([r.value for r in committed(kafka, f"{name}.forecasts.v1")]) == lesson.said
    assert summary["consumed"] == 2 * ROWS == summary["used"] + summary["late"]


# Who goes on, and who is new


def block(shard: Shard, first: int, part: list[tuple[str, int, float]]) -> list[learn.Message]:
    """Samples (series, row, value) as one block of the only partition."""
    from tests import test_learn

    moved = int(BEGIN.timestamp() - datetime(1970, 1, 1).timestamp()) * 1_000_000 - test_learn.START
    made = test_learn.block(Source("t", 0), first, part)
    at = made.at + moved
    return shard.take(replace(made, at=at, stamp=at))


def test_series_that_were_taught_go_on_and_others_begin_anew(lesson: Lesson) -> None:
    shard, model = shard_of(lesson), shard_of(lesson).learner
    block(shard, 0, [("new", SPLIT.warmup, 1.0), ("b", SPLIT.warmup, 2.0), ("a", SPLIT.warmup, 3.0), ("newer", SPLIT.warmup, 4.0)])
    slots, m = shard.gather.names, shard.learner.memory
    assert {slots["a"], slots["b"]} == {0, 1}
    assert {slots["new"], slots["newer"]} == {2, 3}
    assert m["seen"][[slots["a"], slots["b"]]].tolist() == [n + 1 for n in model.memory["seen"][:2].tolist()]
    assert m["seen"][[slots["new"], slots["newer"]]].tolist() == [1, 1]


def test_a_shard_frozen_before_a_taught_series_has_come_still_knows_it(lesson: Lesson) -> None:
    samples = [("a", SPLIT.warmup + t, 1.0 + t) for t in range(4)] + [("b", SPLIT.warmup + t, 2.0 + t) for t in range(4, 9)]
    whole, first = shard_of(lesson), shard_of(lesson)
    said = told([*block(whole, 0, samples[:4]), *block(whole, 4, samples[4:])])
    early = block(first, 0, samples[:4])
    second = Shard.thaw(first.spec._replace(start_from="gone"), first.freeze())
    assert told([*early, *block(second, 4, samples[4:])]) == said
    assert second.account() == whole.account()
    assert second.learner.memory["seen"][1] > SPLIT.warmup // 2


def test_recovery_before_the_first_snapshot_wants_the_same_model(lesson: Lesson, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = shard_of(lesson)
    block(shard, 0, [("a", SPLIT.warmup, 1.0)])
    monkeypatch.setattr(learn, "RECOVERY", json.loads(json.dumps(shard.account())))
    assert learn.wake(shard.spec, None).taught == shard.taught
    with pytest.raises(OtherModel, match=r"another taught model \(SHA-256 [0-9a-f]{64}\) than learn.start_from is now \(None\)"):
        learn.wake(shard.spec._replace(start_from=None), None)


# What does not fit


def test_every_setting_that_differs_is_named(lesson: Lesson) -> None:
    changed = {
        "forecast__horizon": "5", "series__season": "7", "input__values": "b,a", "forecast__levels": "0.1,0.5,0.9",
        "forecast__model": "lstm", "series__step": "2h",
    }  # fmt: skip
    with pytest.raises(taught.NotTaught) as wrong:
        shard_of(lesson, **changed)
    for said in (
        "series.step was 1h and is 2h", "input.values was ['a', 'b'] and is ['b', 'a']", "series.season was 6 and is 7",
        "forecast.horizon was 4 and is 5", "forecast.levels was [0.05", "forecast.model was mixture and is lstm",
    ):  # fmt: skip
        assert said in str(wrong.value)


def test_a_replay_with_a_model_that_does_not_fit_ends_with_2_and_one_line(lesson: Lesson) -> None:
    call = ["replay", str(lesson.file), "--step", "1h", "--set", f"learn.start_from={lesson.model}", *WORDS, "--set", "learn.members=3"]
    done = CliRunner().invoke(app, call)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        f"tidecast: learn.start_from = {lesson.model}: taught with other settings: learn.members was 2 and is 3; allowed: the same\n"
    )


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[:-1], "damaged, its SHA-256"),
        (lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:], "damaged, its SHA-256"),
        (lambda data: data[:20], "not a taught model"),
        (lambda _: b"TIDESNAP" + bytes(100), "not a taught model"),
        (lambda data: data[:8] + bytes([0, 0, 0, 9]) + data[12:], "has format 9, this program reads 1"),
        (None, "No such file"),
    ],
)
def test_a_damaged_file_is_named(lesson: Lesson, tmp_path: Path, spoil: Callable[[bytes], bytes] | None, said: str) -> None:
    if spoil is not None:
        (tmp_path / "model").write_bytes(spoil(lesson.model.read_bytes()))
    with pytest.raises(taught.NotTaught, match=rf"learn.start_from = .*model: {said}"):
        taught.load(tmp_path / "model", configure.config_of(read()), columns=("a", "b"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--save: nothing is taught without warm-up rows; allowed: with --warmup"),
        (("--warmup", "100", "--model", "linear"), "--model linear has none"),
        (("--warmup", "30", "--validation", "2", "--model", "lstm"), "the warm-up rows are too few to train on"),
    ],
)
def test_what_cannot_be_saved_is_said(lesson: Lesson, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(app, ["backtest", str(lesson.file), "--step", "1h", *words, "--save", str(tmp_path / "model")])
    assert done.exit_code == 2
    assert said in done.stderr
    assert not [*tmp_path.iterdir()]


def test_the_verb_writes_the_model(lesson: Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "PASSES", 2)
    words = ["--warmup", str(SPLIT.warmup), "--validation", str(SPLIT.validation), "--test", str(SPLIT.test)]
    done = CliRunner().invoke(
        app, ["backtest", str(lesson.file), "--step", "1h", *words, *WORDS, "--save", str(tmp_path / "model"), "--json"]
    )
    assert done.exit_code == 0, done.stderr
    assert "the taught model is" in done.stderr
    assert (tmp_path / "model").read_bytes() == lesson.model.read_bytes()
    assert [*tmp_path.iterdir()] == [tmp_path / "model"]
