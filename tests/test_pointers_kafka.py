"""A stream that runs is told of other models by the models topic: it takes them up, refuses them, and is killed meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from tests.instances import AT, Instance, committed, make_ours, produce, samples, server, settings, until

STEPS, SERIES = 320, 3
MORE = {**AT, "learn__members": "1", "forecast__horizon": "4", "registry__promote": "hand"}


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with server():
        yield


def command(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def changes(kafka: str, name: str) -> list[dict[str, Any]]:
    """Decisions on who serves."""
    told = [json.loads(r.value) for r in committed(kafka, f"{name}.decisions.v1")]
    return [d for d in told if d["kind"] in ("switch", "shadow", "promote", "rollback", "refuse")]


@pytest.mark.kafka
def test_pointers_are_followed_through_a_kill_and_bad_ones_refused(kafka: str, make_topic: Any, name: str, tmp_path: Path) -> None:
    topic = make_topic(2, suffix=".input")
    make_ours(kafka, name)
    rows = samples(SERIES, STEPS)
    steps = iter(range(SERIES * 240, SERIES * 300, SERIES))
    produce(kafka, topic, rows[: SERIES * 240])
    url = str(tmp_path / "models")
    words = settings(kafka, name, topic, tmp_path, registry__url=url, **MORE)

    run = Instance(tmp_path, "run", "--json", *words)
    until(lambda: committed(kafka, f"{name}.forecasts.v1") or not run.running(), told=run.said)
    asked = ("--steps", "6", "--fresh", "--work", str(tmp_path / "work"))
    made = [command("retrain", *words, *asked, "--set", f"learn.seed={seed}")["version"] for seed in (3, 4)]

    def going_on(true: Callable[[], bool]) -> None:
        """Wait, and let time go on: what is planned is planned for an instant that has not passed."""

        def look() -> bool:
            found = true() or not run.running()
            if not found and (at := next(steps, None)) is not None:
                produce(kafka, topic, rows[at : at + SERIES])
                time.sleep(0.3)
            return found

        until(look, told=run.said)

    going_on(lambda: [d["version"] for d in changes(kafka, name)][-1:] == made[1:])
    run.kill()

    weights = tmp_path / "models" / name / "default/versions" / made[0] / "weights.safetensors"
    command("models", "promote", made[1], *words)
    run = Instance(tmp_path, "run", "--json", "--take-over", *words)
    going_on(lambda: [d["kind"] for d in changes(kafka, name)][-1:] == ["switch"])
    unheard = [word for pair in zip(words[::2], words[1::2], strict=True) if "kafka.bootstrap" not in pair[1] for word in pair]
    assert command("models", "promote", made[0], *unheard)["told"] is False
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")  # after it was looked at
    assert command("models", "promote", made[0], *words)["told"] is True
    until(lambda: [d["kind"] for d in changes(kafka, name)][-1:] == ["refuse"] or not run.running(), told=run.said)
    produce(kafka, topic, rows[next(steps, SERIES * 300) :])
    until(lambda: len(committed(kafka, f"{name}.forecasts.v1")) >= len(rows) or not run.running(), told=run.said)
    code, _ = run.stopped()
    assert code == 0, run.said()

    shadow, switch, refused = changes(kafka, name)[-3:]  # before them, of the first challenger, where the stream was quick to see it
    assert (shadow["kind"], switch["kind"], refused["kind"]) == ("shadow", "switch", "refuse")
    assert (shadow["version"], switch["version"], refused["version"]) == (made[1], made[1], made[0])
    assert "its SHA-256 is not the one that was published" in refused["cause"]
    forecasts = [json.loads(r.value) for r in committed(kafka, f"{name}.forecasts.v1")]
    assert len({f["id"] for f in forecasts}) == len(forecasts) == len(rows)
    assert [*dict.fromkeys(f["model_version"] for f in sorted(forecasts, key=lambda f: f["issued_at"]))] == [
        shadow["from_version"],
        made[1],
    ]
