"""Deaths that must not show in the output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.broker import Broker
from tests.faults import kills, suffer
from tests.instances import server

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def forking() -> Iterator[None]:
    with server():
        yield


def test_ten_kills_of_the_process_lose_nothing_double_nothing_and_change_no_byte(broker: Broker, tmp_path: Path) -> None:
    outcome = suffer(broker, tmp_path, kills(10, seed=1), seed=1)

    assert outcome.verdict == (0, 0, 0, {}, [])
    assert len(outcome.recoveries) >= 5


def test_the_process_lives_on_when_its_broker_is_killed_and_comes_back(own_broker: Broker, tmp_path: Path) -> None:
    outcome = suffer(own_broker, tmp_path, [], broker_kills=1, seed=2)

    assert outcome.verdict == (0, 0, 0, {}, [])
