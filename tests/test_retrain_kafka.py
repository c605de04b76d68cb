"""From a topic to a challenger, to a champion, to forecasts from its weights: the same log and version, the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.configure import parameters_of
from pipeline.registry import Because, Registry
from tests.instances import AT, Instance, Sample, committed, make_ours, produce, samples, server, settings, until

STEPS, SERIES = 240, 3
MORE = {**AT, "learn__members": "1", "forecast__horizon": "4"}


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with server():
        yield


def said(kafka: str, prefix: str) -> dict[str, bytes]:
    """Forecasts by their ids; each once."""
    lines = [r.value for r in committed(kafka, f"{prefix}.forecasts.v1")]
    found = {json.loads(line)["id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def retrain(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["retrain", *words, "--steps", "12", "--json"])
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def pushed(kafka: str, topic: str, rows: list[Sample]) -> None:
    produce(kafka, topic, rows)


@pytest.mark.kafka
def test_a_topic_becomes_a_challenger_and_a_champion_starts_the_stream(kafka: str, make_topic: Any, name: str, tmp_path: Path) -> None:
    topic = make_topic(2, suffix=".input")
    make_ours(kafka, name)
    rows = samples(SERIES, STEPS)
    pushed(kafka, topic, rows)
    producer = KafkaProducer(bootstrap_servers=kafka, transactional_id=f"{name}-gone")  # what a transaction took back is not there
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, key=b"meter-0", value=Sample("meter-0", 1_767_225_600, 1e6).json())
    producer.flush(30)
    producer.abort_transaction()
    producer.close()
    url = str(tmp_path / "models")
    words = settings(kafka, name, topic, tmp_path, registry__url=url, **MORE)
    first = retrain(*words, "--work", str(tmp_path / "work"))
    assert (first["outcome"], first["series"], first["observations"]) == ("challenger", SERIES, len(rows))
    assert sorted(first["positions"]) == [f"{topic}/0", f"{topic}/1"]
    assert sum(behind - begin for begin, behind in first["positions"].values()) >= len(rows)

    [pointer] = [json.loads(r.value) for r in committed(kafka, f"{name}.models.v1")]
    assert (pointer["role"], pointer["version"], pointer["application"]) == ("challenger", first["version"], name)
    assert pointer["effective_from"] > first["last"]
    [key] = [r.key for r in committed(kafka, f"{name}.models.v1")]
    assert key == f"{name}/default/challenger".encode()

    # the same records from a file are the same history
    file = tmp_path / "rows.ndjson"
    file.write_bytes(b"".join(row.json() + b"\n" for row in rows))
    again = retrain(str(file), *words, "--work", str(tmp_path / "file"))
    assert (again["sha256"], again["version"], again["positions"]) == (first["sha256"], first["version"], {})

    shelf = Registry(url, application=name, model="default", parameters=parameters_of)
    shelf.promote(first["version"], shelf.last(), Because("test", 0, ""))
    run = Instance(tmp_path, "run", "--json", *words)
    whole = len(rows)
    until(lambda: len(said(kafka, name)) >= whole or not run.running(), told=run.said)
    run.kill()
    once = said(kafka, name)
    assert {json.loads(line)["model_version"] for line in once.values()} == {first["version"]}

    # another life from the same log, killed on the way; the champion is another by then, and that is not asked
    other = f"{name}-b"
    make_ours(kafka, other)
    elsewhere = tmp_path / "b"
    elsewhere.mkdir()
    second = settings(kafka, name, topic, elsewhere, registry__url=url, **{**MORE, "output__prefix": other})
    run = Instance(elsewhere, "run", "--json", "--take-over", *second, environ={})
    until(lambda: committed(kafka, f"{other}.forecasts.v1") or not run.running(), told=run.said)
    run.kill()
    newer = retrain(*words, "--work", str(tmp_path / "work"), "--set", "learn.seed=9", "--fresh")
    shelf.promote(newer["version"], shelf.last(), Because("test", 0, ""))
    run = Instance(elsewhere, "run", "--json", "--take-over", *second)
    until(lambda: len(said(kafka, other)) >= whole or not run.running(), told=run.said)
    code, _ = run.stopped()
    assert code == 0, run.said()
    assert said(kafka, other) == once


@pytest.mark.kafka
def test_a_champion_of_other_settings_is_refused_by_name(kafka: str, make_topic: Any, name: str, tmp_path: Path) -> None:
    topic = make_topic(1, suffix=".input")
    make_ours(kafka, name)
    pushed(kafka, topic, samples(2, STEPS))
    url = str(tmp_path / "models")
    words = settings(kafka, name, topic, tmp_path, registry__url=url, **MORE)
    made = retrain(*words, "--work", str(tmp_path / "work"))
    shelf = Registry(url, application=name, model="default", parameters=parameters_of)
    shelf.promote(made["version"], shelf.last(), Because("test", 0, ""))
    run = Instance(tmp_path, "run", "--json", *words, "--set", "forecast.horizon=5")
    assert run.ends() == 2
    assert f"version {made['version']} was made with other settings: horizon 4, not 5" in run.said()
