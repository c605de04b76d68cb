"""A model lives its whole life on a real broker: what `tests/life.py` tells, held to be so by a client that nobody here wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.configure import rules_of
from pipeline.gather import Gather
from pipeline.quantities import instant
from tests.client import read
from tests.instances import Sample, server
from tests.life import PARTITIONS, SERVING, STRETCHES, Life, live, of_file, of_topic, settings_of


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with server():
        yield


def told(life: Life, kind: str) -> list[dict[str, Any]]:
    return [json.loads(record.value()) for record in read(life.bootstrap, f"{life.name}.{kind}.v1")]


@pytest.mark.kafka
@pytest.mark.slow
def test_a_whole_life(kafka: str, make_topic: Any, name: str, tmp_path: Path) -> None:
    life = live(Life(kafka, name, make_topic(PARTITIONS, suffix=".input"), tmp_path, tell=print))
    assert life.code == 0
    assert "byte for byte" not in life.stream.said(), "what the killed one left was made otherwise"
    decisions, forecasts = told(life, "decisions"), told(life, "forecasts")
    random, retrained, bad, damaged, mistake = (life.versions[one] for one in ("random", "retrained", "bad", "damaged", "mistake"))
    # The first one leaves the shadow since it is proved the worse one, or to make room for the next: which comes first is chance.
    changes = [d for d in decisions if d["kind"] in SERVING and d["version"] != random]

    # what was decided, in this order
    assert [(d["kind"], d["version"], d["from_version"], d["numbers"].get("state")) for d in changes] == [
        ("shadow", retrained, random, "begins"),
        ("promote", retrained, random, None),
        ("switch", retrained, random, None),
        ("shadow", bad, retrained, "begins"),
        ("refuse", bad, retrained, None),
        ("shadow", bad, retrained, "ends"),
        ("refuse", damaged, retrained, None),
        ("switch", mistake, retrained, None),
        ("rollback", retrained, mistake, None),
        ("switch", retrained, mistake, None),
    ]
    assert len({d["id"] for d in decisions}) == len(decisions)
    assert [instant(d["at"]) for d in changes] == sorted(instant(d["at"]) for d in changes)
    promoted = changes[1]["numbers"]
    assert promoted["outcome"] == "promoted"
    assert promoted["evidence"] >= 20, "1 / registry.alpha"
    assert 0 < promoted["lower"] < promoted["difference"]
    assert promoted["instants"] >= 240
    assert promoted["series"] == STRETCHES
    assert "its SHA-256 is not the one that was published" in changes[6]["cause"]

    # every sample has one forecast, by who served then
    fed: list[Sample] = life.log[: life.fed * STRETCHES]
    assert sorted((f["series"], instant(f["issued_at"])) for f in forecasts) == sorted((s.series, s.at * 1_000_000) for s in fed)
    assert len({f["id"] for f in forecasts}) == len(forecasts) == len(fed)
    wanted = Gather(rules_of(settings_of(life), PARTITIONS), []).wanted
    switches = [(d["numbers"]["instant"], d["version"]) for d in changes if d["kind"] == "switch"]
    for f in forecasts:
        passed = [version for since, version in switches if since <= wanted(instant(f["issued_at"]))]
        assert f["model_version"] == [random, *passed][-1], f
    assert [*dict.fromkeys(f["model_version"] for f in sorted(forecasts, key=lambda f: f["issued_at"]))] == [random, retrained, mistake]

    # the registry and the models topic say what was decided last
    assert life.names() == {"champion": retrained, "challenger": None, "previous": None}
    newest = {pointer["role"]: pointer["version"] for pointer in told(life, "models")}
    assert newest == {"champion": retrained, "challenger": None, "previous": None}

    # and what is on record is enough to make all of it again
    for kind in ("forecasts", "scores"):
        assert of_file(life, kind) == of_topic(life, kind)
        assert of_file(life, kind)
    again = {d["id"] for d in map(json.loads, of_file(life, "decisions"))}
    assert again == {d["id"] for d in decisions if d["version"] != damaged}, "who refused it was no judge"
